/* Process 1 of a sandbox: takes one job over the socket at fd 0, runs it, ends whatever it left, reports.
 *
 * It is the only trusted program inside. It is not dumpable, so a job of the same uid can neither open /proc/1/fd nor
 * attach to it; and as process 1 it cannot be killed from inside. The job's files come and go through it, so the host
 * never opens a path that a job has made.
 */
#define _GNU_SOURCE
#include "wire.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/capability.h>
#include <time.h>
#include <unistd.h>
#include "init.h"

int control = -1;

static struct { char *at, *end; } input;

static uint64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void put(const void *data, size_t size)
{
	const char *p = data;
	while (size) {
		ssize_t n = write(control, p, size);
		if (n < 0 && errno == EINTR) continue;
		if (n <= 0) _exit(1);
		p += n, size -= n;
	}
}

static int get(void *data, size_t size)
{
	char *p = data;
	while (size) {
		ssize_t n = read(control, p, size);
		if (n < 0 && errno == EINTR) continue;
		if (n <= 0) return -1;
		p += n, size -= n;
	}
	return 0;
}

/* The sandbox itself failed: say so and end. */
void fail(const char *form, ...)
{
	char text[512];
	int saved = errno;
	va_list args;
	va_start(args, form);
	int n = vsnprintf(text, sizeof text - 64, form, args);
	va_end(args);
	n += snprintf(text + n, 64, ": %s", strerror(saved));
	struct tail tail = {.magic = MAGIC, .exit_code = -1, .error = (uint32_t)n};
	put(&tail, sizeof tail);
	put(text, (size_t)n);
	_exit(1);
}

static void take(void *data, size_t size)
{
	if ((size_t)(input.end - input.at) < size) { errno = EPROTO; fail("short request"); }
	memcpy(data, input.at, size);
	input.at += size;
}

static struct blob take_blob(void)
{
	struct blob b;
	take(&b.size, sizeof b.size);
	if ((size_t)(input.end - input.at) < b.size) { errno = EPROTO; fail("short request"); }
	b.data = input.at;
	input.at += b.size;
	return b;
}

/* A list of blobs as a NULL-terminated array of strings. */
static char **take_strings(uint32_t *count)
{
	take(count, sizeof *count);
	char **list = calloc(*count + 1, sizeof *list);
	for (uint32_t i = 0; i < *count; i++) {
		struct blob b = take_blob();
		list[i] = strndup(b.data, b.size);
	}
	return list;
}

/* The job's input as a sealed file in memory: it can be read and nothing else. */
static int input_file(struct blob text)
{
	int fd = memfd_create("stdin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0) fail("cannot make the job's input");
	for (size_t done = 0; done < text.size;) {
		ssize_t n = write(fd, text.data + done, text.size - done);
		if (n <= 0) fail("cannot write the job's input");
		done += (size_t)n;
	}
	fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

void drop_capabilities(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
	if (syscall(SYS_capset, &head, none)) fail("cannot drop capabilities");
}

static void limit(int what, uint64_t soft, uint64_t hard)
{
	struct rlimit r = {soft, hard};
	if (setrlimit(what, &r)) _exit(126);
}

/* In the child: limits and filter. Everything after this runs as the job. */
static void confine(const struct head *head, struct blob filter)
{
	uint64_t cpu = head->cpu_us / 1000000 + 1;
	struct sock_fprog program = {.len = (unsigned short)(filter.size / 8), .filter = (struct sock_filter *)filter.data};
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* as after an exec: its own /proc files are its own */
	int adjust = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (adjust < 0 || write(adjust, "1000", 4) != 4) _exit(126); /* under pressure the kernel takes the job, not its neighbours */
	close(adjust);
	if (head->processes) limit(RLIMIT_NPROC, head->processes + 1, head->processes + 1); /* init counts as well */
	limit(RLIMIT_CPU, cpu, cpu + 1);
	limit(RLIMIT_FSIZE, head->disk, head->disk);
	limit(RLIMIT_CORE, 0, 0);
	limit(RLIMIT_NOFILE, 512, 512);
	limit(RLIMIT_MSGQUEUE, 0, 0);
	limit(RLIMIT_SIGPENDING, 256, 256);
	limit(RLIMIT_MEMLOCK, 0, 0);
	limit(RLIMIT_STACK, 64 << 20, 64 << 20);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0)) _exit(126);
}

static void run_child(const struct head *head, struct blob filter, int in, char **argv, char **env)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < 32; s++) signal(s, SIG_DFL);
	setsid();
	if (dup2(in, 0) < 0) _exit(126);
	if (syscall(SYS_close_range, 3, ~0u, 0))
		for (int fd = 3; fd < 1024; fd++) close(fd);
	confine(head, filter);
	environ = env;
	if (run_inside(argv, env)) return;
	execvp(argv[0], argv);
	dprintf(2, "k15 sandbox: cannot run %s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

struct end { int done, status; uint32_t limit; uint64_t memory; int full; };

/* Reaps what has ended; remembers how the job's own process did. */
static void reap(pid_t child, struct end *end, int flags)
{
	int status;
	struct rusage use;
	for (pid_t pid; (pid = wait4(-1, &status, flags, &use)) > 0;) {
		if (pid == child) end->done = 1, end->status = status;
		if ((uint64_t)use.ru_maxrss * 1024 > end->memory) end->memory = (uint64_t)use.ru_maxrss * 1024;
	}
}

static struct end watch(const struct head *head, pid_t child, int signals, uint64_t started)
{
	struct end end = {0};
	struct pollfd wait_for[2] = {{control, POLLIN, 0}, {signals, POLLIN, 0}};
	uint64_t next = started + head->tick_us, deadline = started + head->wall_us;
	while (!end.done && !end.limit) {
		uint64_t now = now_us(), until = next < deadline ? next : deadline, left = until > now ? until - now : 0;
		struct timespec pause = {(time_t)(left / 1000000), (long)(left % 1000000) * 1000};
		if (ppoll(wait_for, 2, &pause, NULL) < 0 && errno != EINTR) fail("poll");
		if (wait_for[0].revents) {
			char word;
			if (read(control, &word, 1) != 1) _exit(1); /* whoever asked is gone: process 1 takes all with it */
			end.limit = OUTPUT;
		}
		if (wait_for[1].revents) {
			struct signalfd_siginfo info[8];
			if (read(signals, info, sizeof info) < 0 && errno != EAGAIN) fail("signalfd");
			reap(child, &end, WNOHANG);
		}
		now = now_us();
		if (!end.done && now >= deadline) end.limit = WALL;
		if (!end.done && !end.limit && now >= next) {
			uint64_t memory = survey(0);
			if (head->memory && memory > head->memory) memory = survey(1);
			if (memory > end.memory) end.memory = memory;
			if (head->memory && memory > head->memory) end.limit = MEMORY;
			else if (cpu_used() > head->cpu_us) end.limit = CPU;
			end.full |= disk_full();
			next = now_us() + head->tick_us;
		}
	}
	return end;
}

static void report(const struct head *head, const struct end *end, uint64_t wall, char **keep, uint32_t count)
{
	struct tail tail = {.magic = MAGIC, .exit_code = -1, .limit = end->limit, .wall_us = wall, .memory = end->memory};
	tail.cpu_us = cpu_used();
	if (end->done && WIFEXITED(end->status)) tail.exit_code = WEXITSTATUS(end->status);
	if (end->done && WIFSIGNALED(end->status)) tail.signal = WTERMSIG(end->status);
	if (tail.signal == SIGXCPU || (!tail.limit && tail.cpu_us > head->cpu_us)) tail.limit = CPU;
	if (tail.signal == SIGXFSZ || (tail.exit_code && !tail.limit && (end->full || disk_full()))) tail.limit = DISK;
	int *files = open_kept(keep, count, &tail.kept);
	put(&tail, sizeof tail);
	send_kept(files, count);
}

/* Where the network namespace has had another job, a socket of which the kernel may not have collected yet (crun). */
static void await_no_sockets(void)
{
	for (int i = 0; sockets_left(); i++) {
		if (i == 2000) { errno = EBUSY; fail("sockets of the last job are left"); }
		usleep(1000);
	}
}

/* Takes the job from `from` and sees it through. Returns only in the job's own process, and only where run_inside says so. */
void serve(int from)
{
	struct head head;
	uint64_t total;
	sigset_t all;
	control = fcntl(from, F_DUPFD_CLOEXEC, 100);
	if (control < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || get(&total, sizeof total)) _exit(1);
	if (dup2(open("/dev/null", O_RDONLY | O_CLOEXEC), from) < 0) fail("/dev/null");
	char *body = malloc(total);
	if (!body || get(body, total)) _exit(1);
	input.at = body, input.end = body + total;
	take(&head, sizeof head);
	if (head.magic != MAGIC) { errno = EPROTO; fail("this is no request"); }
	if (!(head.flags & MOUNT_TMP)) await_no_sockets();
	prepare_disk(&head);
	struct blob filter = take_blob(), text = take_blob();
	uint32_t count, kept, files;
	char **argv = take_strings(&count), **env = take_strings(&kept);
	take(&files, sizeof files);
	for (uint32_t i = 0; i < files / 2; i++) {
		struct blob path = take_blob(), content = take_blob();
		write_file(path, content);
	}
	char **keep = take_strings(&kept);
	int in = input_file(text);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	sigset_t ended;
	sigemptyset(&ended), sigaddset(&ended, SIGCHLD);
	int signals = signalfd(-1, &ended, SFD_CLOEXEC | SFD_NONBLOCK);
	if (open_survey() || signals < 0 || !count) fail("cannot watch the job");
	uint64_t started = now_us();
	pid_t child = fork();
	if (child < 0) fail("cannot start the job");
	if (!child) {
		run_child(&head, filter, in, argv, env);
		return;
	}
	close(in), free(body);
	close(1), close(2);
	struct end end = watch(&head, child, signals, started);
	uint64_t wall = now_us() - started;
	if (end.limit) survey(0);
	kill(-1, SIGKILL);
	int was = end.done;
	reap(child, &end, 0);
	if (!was) end.done = 0; /* it was killed from here: the limit says why */
	report(&head, &end, wall, keep, kept);
	_exit(0);
}
