/* A job as a fork of a process that waits in a sandbox of its own (warm.c: an interpreter; wait.c: init itself).
 *
 * Every job has namespaces of its own, user namespace included: nothing that it does is seen by the process it came from. The
 * network namespace alone, which costs as much as all others together, serves one job after another: the waiting sandbox's,
 * which belongs to a user namespace above the job's. It is used by one job at a time, and only while no socket is left in it.
 */
#define _GNU_SOURCE
#include "init.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void write_map(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0) fail("%s", path);
	close(fd);
}

/* Forks into fresh namespaces; in the child all is set up but the disk. */
static long apart(int told)
{
	char map[64];
	unsigned uid = getuid(), gid = getgid();
	long flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
	long pid = syscall(SYS_clone, flags | (sockets_left() ? CLONE_NEWNET : 0) | SIGCHLD, 0, 0, 0, 0);
	if (pid) return pid;
	signal(SIGCHLD, SIG_DFL);
	control = told; /* so that a failure from here on is told */
	write_map("/proc/self/setgroups", "deny");
	snprintf(map, sizeof map, "%u %u 1", uid, uid), write_map("/proc/self/uid_map", map);
	snprintf(map, sizeof map, "%u %u 1", gid, gid), write_map("/proc/self/gid_map", map);
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) fail("cannot mount /proc");
	return 0;
}

/* Whether a process here may have namespaces of its own at all. */
int can_enter(void)
{
	int status;
	long pid = apart(2);
	if (!pid) _exit(0);
	return pid > 0 && waitpid((pid_t)pid, &status, 0) == pid && status == 0;
}

/* Says over the job's socket why it got no process; whoever waits here goes on, so nothing of this may block or end it. */
static void refuse(int fd)
{
	char said[sizeof(struct tail) + 160], *text = said + sizeof(struct tail);
	int n = snprintf(text, 160, "the sandbox cannot start the job's process: %s", strerror(errno));
	struct tail tail = {.magic = MAGIC, .exit_code = -1, .error = (uint32_t)n};
	memcpy(said, &tail, sizeof tail);
	send(fd, said, sizeof tail + (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Nonzero in the job's own process, and only where run_inside lets it go on; 0 in the one that waits. */
static int enter(const int *fds)
{
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR) {} /* the last job, its processes and their sockets are gone */
	long pid = apart(fds[0]);
	if (pid < 0) refuse(fds[0]);
	if (pid) return 0;
	if (dup2(fds[1], 1) < 0 || dup2(fds[2], 2) < 0 || dup2(fds[0], 0) < 0) fail("dup2");
	syscall(SYS_close_range, 3, ~0u, 0);
	serve(0);
	return 1;
}

/* Over the socket at fd 0 come one job after another: its own socket and its two output streams. Returns 1 in a job's own process
 * (see enter), 0 when whoever asks has gone. No Python runs between jobs: each page that it wrote to would be copied for each.
 */
int wait_for_jobs(void)
{
	char word;
	union { char bytes[CMSG_SPACE(3 * sizeof(int))]; struct cmsghdr align; } extra;
	struct iovec one = {&word, 1};
	signal(SIGCHLD, SIG_IGN);
	if (write(0, "r", 1) != 1) return 0;
	for (;;) {
		int fds[3];
		struct msghdr message = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = extra.bytes, .msg_controllen = sizeof extra};
		ssize_t n = recvmsg(0, &message, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR) continue;
		struct cmsghdr *head = n <= 0 ? NULL : CMSG_FIRSTHDR(&message);
		if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof fds)) return 0;
		memcpy(fds, CMSG_DATA(head), sizeof fds);
		if (enter(fds)) return 1;
		for (int i = 0; i < 3; i++) close(fds[i]);
	}
}
