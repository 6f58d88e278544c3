/* What the processes of the job use, from /proc: for limits that no cgroup holds, and for the report. */
#define _GNU_SOURCE
#include "init.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static DIR *processes_dir;

int open_survey(void)
{
	processes_dir = opendir("/proc");
	return processes_dir == NULL;
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

/* Microseconds of processor and bytes of private memory of all processes but init, from /proc, and of the tmpfs. */
void survey(uint64_t *cpu_us, uint64_t *memory, int exact)
{
	struct dirent *entry;
	struct rusage gone;
	long tick = sysconf(_SC_CLK_TCK);
	char text[1024];
	getrusage(RUSAGE_CHILDREN, &gone);
	*cpu_us = (uint64_t)(gone.ru_utime.tv_sec + gone.ru_stime.tv_sec) * 1000000 + gone.ru_utime.tv_usec + gone.ru_stime.tv_usec;
	*memory = 0;
	rewinddir(processes_dir);
	while ((entry = readdir(processes_dir))) {
		int pid = atoi(entry->d_name);
		unsigned long u = 0, s = 0;
		long cu = 0, cs = 0;
		if (pid < 2) continue;
		if (read_proc(pid, "stat", text, sizeof text) <= 0) continue;
		char *rest = strrchr(text, ')');
		if (rest && sscanf(rest + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %ld %ld", &u, &s, &cu, &cs) == 4)
			*cpu_us += (u + s + (unsigned long)(cu + cs)) * 1000000ull / (unsigned long)tick;
		*memory += memory_of(pid, exact);
	}
	*memory += disk_used();
}
