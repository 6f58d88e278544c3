/* init as a library of a warm interpreter: the job goes on in a fork of it instead of executing a program. */
#include "init.h"

char **job_words, **job_environment;

int run_inside(char **argv, char **env)
{
	job_environment = env;
	job_words = argv;
	return 1;
}
