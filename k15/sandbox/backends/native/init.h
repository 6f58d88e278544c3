/* What the parts of init share: init.c (the job), disk.c (its files), survey.c (its use of the machine), and what they are
 * parts of: main.c, wait.c, warm.c (the last two with enter.c). */
#ifndef K15_INIT_H
#define K15_INIT_H
#include "wire.h"
#include <stddef.h>

struct blob { char *data; uint32_t size; };

extern char **environ;
extern int control; /* the socket to whoever asked */

/* init.c */
void serve(int from);
void put(const void *data, size_t size);
void fail(const char *form, ...) __attribute__((format(printf, 1, 2), noreturn));
void drop_capabilities(void);

/* disk.c */
void prepare_disk(const struct head *head);
void write_file(struct blob path, struct blob content);
int *open_kept(char **keep, uint32_t count, uint32_t *found);
void send_kept(const int *files, uint32_t count);
uint64_t disk_used(void);
int disk_full(void);

/* survey.c */
int open_survey(void); /* nonzero: /proc cannot be read */
uint64_t survey(int exact);
uint64_t cpu_used(void);
int sockets_left(void);

/* enter.c */
int can_enter(void);
int wait_for_jobs(void);

/* main.c, wait.c, warm.c: nonzero where the job goes on in this very process instead of executing argv */
int run_inside(char **argv, char **env);
#endif
