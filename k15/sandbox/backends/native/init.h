/* What init shares with the ways of running a job. */
#ifndef K15_INIT_H
#define K15_INIT_H
extern char **environ;
extern int control;
void serve(int from);
void fail(const char *form, ...) __attribute__((format(printf, 1, 2), noreturn));
int run_inside(char **argv, char **env); /* nonzero: the job goes on in this very process instead of executing argv */
#endif
