/* init as a library of a warm interpreter: the job goes on in a fork of it instead of executing a program.
 *
 * Every job has namespaces of its own, user namespace included: nothing that it does is seen by the interpreter it came from.
 */
#define _GNU_SOURCE
#include "init.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

char **job_words, **job_environment;

int run_inside(char **argv, char **env)
{
	job_environment = env;
	job_words = argv;
	return 1;
}

static void write_map(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0) fail("%s", path);
	close(fd);
}

/* 1 in the job's own process, 0 in the interpreter that waits for the next job, -1 where no process can be made. */
int enter(int from, int out, int err)
{
	char map[64];
	unsigned uid = getuid(), gid = getgid();
	signal(SIGCHLD, SIG_IGN);
	long pid = syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP | SIGCHLD,
			   0, 0, 0, 0);
	if (pid) return pid < 0 ? -1 : 0;
	signal(SIGCHLD, SIG_DFL);
	control = from; /* so that a failure from here on is told */
	write_map("/proc/self/setgroups", "deny");
	snprintf(map, sizeof map, "%u %u 1", uid, uid), write_map("/proc/self/uid_map", map);
	snprintf(map, sizeof map, "%u %u 1", gid, gid), write_map("/proc/self/gid_map", map);
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) fail("cannot mount /proc");
	if (dup2(out, 1) < 0 || dup2(err, 2) < 0 || dup2(from, 0) < 0) fail("dup2");
	syscall(SYS_close_range, 3, ~0u, 0);
	serve(0);
	return 1;
}
