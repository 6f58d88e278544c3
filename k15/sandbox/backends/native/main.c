/* init as a program: the job is a command. */
#include "init.h"

int run_inside(char **argv, char **env)
{
	(void)argv, (void)env;
	return 0;
}

int main(void)
{
	serve(0);
	return 1;
}
