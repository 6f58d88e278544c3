/* What init shares with the ways of running a job. */
#ifndef K15_INIT_H
#define K15_INIT_H
extern char **environ;
void serve(int from);
int run_inside(char **argv); /* nonzero: the job goes on in this very process instead of executing argv */
#endif
