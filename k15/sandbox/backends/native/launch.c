/* launch [-c CGROUP_PROCS]... [-m MOUNT_NAMESPACE] [-u UID] -- COMMAND...   enters and executes
 * launch [-c CGROUP_PROCS]... [-m MOUNT_NAMESPACE] -w                       enters and starts one command after another
 * launch -M STATE                                                            makes namespaces, a tmpfs on STATE, and holds them
 *
 * Outside the sandbox, between the service and the runtime: enters the cgroups, the mount namespace, drops to an ordinary
 * uid without groups or capabilities, executes. In C because the service has threads and cannot run Python after a fork.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int failed, const char *what)
{
	if (!failed) return;
	fprintf(stderr, "k15 sandbox launch: %s: %s\n", what, strerror(errno));
	exit(125);
}

/* -M: a mount namespace of its own in which no cgroup2 mount hides cgroup v1 (crun refuses the mixture), and the runtime's
 * notes are in memory wherever they lie on the host; a network namespace. Waits for EOF.
 */
static int keep_namespaces(const char *state)
{
	char byte;
	must(unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare");
	must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
	must(mount("tmpfs", state, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700,size=64m"), state);
	umount2("/sys/fs/cgroup/unified", MNT_DETACH);
	must(write(1, "r", 1) != 1, "ready");
	return read(0, &byte, 1) < 0;
}

static void start(char *words, size_t size, const int *fds)
{
	char *argv[256];
	int count = 0;
	for (char *word = words; word < words + size && count < 255; word += strlen(word) + 1) argv[count++] = word;
	argv[count] = NULL;
	setsid();
	int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); /* before the launcher, after the job (1000) */
	if (score >= 0 && write(score, "500", 3) != 3) {} /* raising is always allowed; else the kernel chooses */
	if (score >= 0) close(score);
	for (int i = 0; i < 3; i++) must(dup2(fds[i], i) < 0, "dup2");
	must(count == 0 || count == 255, "too few or too many words");
	execv(argv[0], argv);
	must(1, argv[0]);
}

/* -w: over the socket at fd 0 come commands, with what shall be their input, output and errors; back goes how each ended. It sits in
 * the groups where they run: entering makes a process wait for all processors (RCU), being born there does not.
 */
static int start_one_after_another(void)
{
	static char words[65536];
	union { char bytes[CMSG_SPACE(3 * sizeof(int))]; struct cmsghdr align; } extra;
	must(write(0, "r", 1) != 1, "ready");
	for (;;) {
		int fds[3], status;
		struct iovec all = {words, sizeof words - 1};
		struct msghdr message = {.msg_iov = &all, .msg_iovlen = 1, .msg_control = extra.bytes, .msg_controllen = sizeof extra};
		ssize_t n = recvmsg(0, &message, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR) continue;
		struct cmsghdr *head = n <= 0 ? NULL : CMSG_FIRSTHDR(&message);
		if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof fds)) return 0;
		memcpy(fds, CMSG_DATA(head), sizeof fds);
		words[n] = 0;
		pid_t pid = fork();
		if (!pid) start(words, (size_t)n, fds);
		if (pid < 0) dprintf(fds[2], "k15 sandbox launch: %s\n", strerror(errno));
		for (int i = 0; i < 3; i++) close(fds[i]);
		while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
		if (pid < 0) status = 125 << 8;
		if (send(0, &status, sizeof status, MSG_NOSIGNAL) < 0) return 0;
	}
}

int main(int argc, char **argv)
{
	int option, fd, waits = 0;
	unsigned uid = 0;
	while ((option = getopt(argc, argv, "+c:m:u:wM:")) != -1) {
		switch (option) {
		case 'c':
			fd = open(optarg, O_WRONLY | O_CLOEXEC);
			must(fd < 0 || write(fd, "0", 1) != 1, optarg);
			close(fd);
			break;
		case 'm':
			fd = open(optarg, O_RDONLY | O_CLOEXEC);
			must(fd < 0 || setns(fd, CLONE_NEWNS), optarg);
			close(fd);
			break;
		case 'u':
			uid = (unsigned)strtoul(optarg, NULL, 10);
			break;
		case 'w':
			waits = 1;
			break;
		case 'M':
			return keep_namespaces(optarg);
		default:
			return 125;
		}
	}
	if (uid) {
		must(setgroups(0, NULL), "setgroups");
		must(setresgid(uid, uid, uid), "setresgid");
		must(setresuid(uid, uid, uid), "setresuid");
	}
	if (waits) return start_one_after_another();
	must(optind >= argc, "no command");
	execv(argv[optind], argv + optind);
	must(1, argv[optind]);
	return 125;
}
