/* init as a library of a warm interpreter: the job goes on in a fork of it instead of executing a program.
 *
 * What the interpreter does between its fork and the job's first line is done here as far as it can be: each line of Python would
 * copy pages that the fork shares with the interpreter.
 */
#include "init.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* Of the interpreter that loads this. */
extern void PyOS_BeforeFork(void), PyOS_AfterFork_Child(void);
extern void *PyBytes_FromStringAndSize(const char *, ssize_t);

static char *told;
static size_t told_size;

int run_inside(char **argv, char **env)
{
	FILE *all = open_memstream(&told, &told_size);
	int count = 0;
	while (argv[count]) count++;
	if (!all) _exit(126);
	fprintf(all, "%d", count);
	for (int i = 0; argv[i]; i++) fputc(0, all), fputs(argv[i], all);
	for (int i = 0; env[i]; i++) fputc(0, all), fputs(env[i], all);
	if (fclose(all)) _exit(126);
	signal(SIGPIPE, SIG_IGN); /* as the interpreter has them, and says so to whoever asks */
	signal(SIGXFSZ, SIG_IGN);
	return 1;
}

/* In the job's own process, never in the one that waits: how many words the command has, they, and the environment, as bytes with
 * zeros between them.
 */
void *next_job(void)
{
	PyOS_BeforeFork();
	if (wait_for_jobs() != 1) _exit(0);
	PyOS_AfterFork_Child();
	return PyBytes_FromStringAndSize(told, (ssize_t)told_size);
}
