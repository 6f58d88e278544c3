/* launch [-c CGROUP_PROCS]... [-m MOUNT_NAMESPACE] [-u UID] -- COMMAND...
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
#include <unistd.h>

static void must(int failed, const char *what)
{
	if (!failed) return;
	fprintf(stderr, "k15 sandbox launch: %s: %s\n", what, strerror(errno));
	exit(125);
}

/* -M: a mount namespace of its own in which no cgroup2 mount hides cgroup v1 (crun refuses the mixture); waits for EOF. */
static int keep_namespaces(void)
{
	char byte;
	must(unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare");
	must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
	umount2("/sys/fs/cgroup/unified", MNT_DETACH);
	must(write(1, "r", 1) != 1, "ready");
	return read(0, &byte, 1) < 0;
}

int main(int argc, char **argv)
{
	int option, fd;
	unsigned uid = 0;
	while ((option = getopt(argc, argv, "+c:m:u:M")) != -1) {
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
		case 'M':
			return keep_namespaces();
		default:
			return 125;
		}
	}
	if (uid) {
		must(setgroups(0, NULL), "setgroups");
		must(setresgid(uid, uid, uid), "setresgid");
		must(setresuid(uid, uid, uid), "setresuid");
	}
	must(optind >= argc, "no command");
	execv(argv[optind], argv + optind);
	must(1, argv[optind]);
	return 125;
}
