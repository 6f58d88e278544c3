/* What the processes of the job use: for limits that no cgroup holds, and for the report.
 *
 * Processor time has two ways to hide from wait(): a parent that ignores SIGCHLD has its children's time thrown away by the
 * kernel. A task clock that every process inherits counts it all the same, exactly. Where the kernel gives none (Debian's
 * perf_event_paranoid=3), what was last seen of each process in /proc is added up: short of at most one tick a process.
 */
#define _GNU_SOURCE
#include "init.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct seen { int pid; unsigned long long started; uint64_t cpu_us; };

static DIR *processes_dir;
static int clock_fd = -1;
static uint64_t own_before, vanished_us, most_us;
static struct seen lists[2][1024]; /* this survey's and the last one's, in turn */
static struct seen *seen = lists[0];
static size_t seen_count;

static uint64_t own_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Before the job is forked, so that it inherits the clock. */
int open_survey(void)
{
	struct perf_event_attr clock = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof clock, .config = PERF_COUNT_SW_TASK_CLOCK, .inherit = 1, .exclude_kernel = 1, .exclude_hv = 1,
	};
	clock_fd = (int)syscall(SYS_perf_event_open, &clock, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
	own_before = own_us();
	processes_dir = opendir("/proc");
	return processes_dir == NULL;
}

static uint64_t waited_us(void)
{
	struct rusage gone;
	getrusage(RUSAGE_CHILDREN, &gone);
	return (uint64_t)(gone.ru_utime.tv_sec + gone.ru_stime.tv_sec) * 1000000 + gone.ru_utime.tv_usec + gone.ru_stime.tv_usec;
}

static void at_least(uint64_t cpu_us)
{
	if (cpu_us > most_us) most_us = cpu_us;
}

/* Microseconds of processor that the job has used, as far as is known. */
uint64_t cpu_used(void)
{
	uint64_t nanoseconds, own = own_us() - own_before;
	at_least(waited_us());
	if (clock_fd >= 0 && read(clock_fd, &nanoseconds, sizeof nanoseconds) == sizeof nanoseconds && nanoseconds / 1000 > own)
		at_least(nanoseconds / 1000 - own);
	return most_us;
}

static ssize_t read_proc(int pid, const char *name, char *text, size_t size)
{
	char path[64];
	snprintf(path, sizeof path, "%d/%s", pid, name);
	int fd = openat(dirfd(processes_dir), path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
	if (fd >= 0) close(fd);
	text[n > 0 ? n : 0] = 0;
	return n;
}

/* Bytes of private memory of a process: `exact` shares out what forks have in common, which the kernel counts slowly. */
static uint64_t memory_of(int pid, int exact)
{
	char text[2048];
	unsigned long resident = 0, shared = 0, kb = 0;
	if (exact && read_proc(pid, "smaps_rollup", text, sizeof text) > 0) {
		char *line = strstr(text, "Pss_Anon:");
		if (line && sscanf(line, "Pss_Anon: %lu", &kb) == 1) return (uint64_t)kb * 1024;
	}
	if (read_proc(pid, "statm", text, sizeof text) > 0 && sscanf(text, "%*u %lu %lu", &resident, &shared) == 2 && resident > shared)
		return (uint64_t)(resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
	return 0;
}

/* A process's own processor time, exact to the nanosecond where it has one thread; `children`: of those it has waited for. */
static int time_of(int pid, struct seen *found, uint64_t *children)
{
	unsigned long user = 0, system = 0;
	long child_user = 0, child_system = 0;
	unsigned long long running = 0;
	char text[1024];
	if (read_proc(pid, "stat", text, sizeof text) <= 0) return 0;
	char *rest = strrchr(text, ')');
	if (!rest || sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld %*d %*d %*d %*d %llu", &user, &system,
			    &child_user, &child_system, &found->started) != 5) return 0;
	uint64_t tick_us = 1000000ull / (unsigned long)sysconf(_SC_CLK_TCK);
	found->pid = pid;
	found->cpu_us = (user + system) * tick_us;
	*children = (uint64_t)(child_user + child_system) * tick_us;
	if (read_proc(pid, "schedstat", text, sizeof text) > 0 && sscanf(text, "%llu", &running) == 1 && running / 1000 > found->cpu_us)
		found->cpu_us = running / 1000;
	return 1;
}

/* The time of those that were there and are no more, as it was last seen. Both lists are in order of number, as /proc is. */
static void remember(struct seen *now, size_t count)
{
	for (size_t i = 0, j = 0; i < seen_count; i++) {
		while (j < count && now[j].pid < seen[i].pid) j++;
		if (j == count || now[j].pid != seen[i].pid || now[j].started != seen[i].started) vanished_us += seen[i].cpu_us;
	}
	seen = now, seen_count = count;
}

/* Looks at all processes but init: returns the bytes of their private memory and of the tmpfs; cpu_used knows more afterwards. */
uint64_t survey(int exact)
{
	struct dirent *entry;
	struct seen *now = lists[seen == lists[0]], one;
	size_t count = 0;
	uint64_t memory = 0, own = 0, children = 0, its, waited = waited_us(); /* before: a process that ends now is missed, not counted twice */
	rewinddir(processes_dir);
	while ((entry = readdir(processes_dir))) {
		int pid = atoi(entry->d_name);
		if (pid < 2) continue;
		if (time_of(pid, &one, &its)) {
			own += one.cpu_us, children += its;
			if (count < sizeof lists[0] / sizeof one) now[count++] = one;
		}
		memory += memory_of(pid, exact);
	}
	remember(now, count);
	at_least(waited + own + children);
	at_least(vanished_us + own);
	return memory + disk_used();
}

/* Whether this network namespace has a socket (of AF_UNIX: the filter lets a job have no other), or nobody can tell. The kernel may
 * be late with one that was on its way inside another when its process ended.
 */
int sockets_left(void)
{
	char list[256];
	int fd = open("/proc/self/net/unix", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, list, sizeof list), more = n <= 0 ? -1 : read(fd, list + n, sizeof list - (size_t)n);
	if (fd >= 0) close(fd);
	return more != 0 || memchr(list, '\n', (size_t)n) != list + n - 1; /* its first line is there always */
}
