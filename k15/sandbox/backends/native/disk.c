/* The job's disk, which is one bounded tmpfs, and the files that come and go. No path that the job made is ever followed. */
#define _GNU_SOURCE
#include "init.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int tmp_fd = -1, shm_fd = -1, work_fd = -1;

void prepare_disk(const struct head *head)
{
	if (head->flags & MOUNT_TMP) {
		char options[128];
		snprintf(options, sizeof options, "size=%llu,nr_inodes=%llu,mode=0755", (unsigned long long)head->disk,
			 (unsigned long long)head->inodes);
		if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options)) fail("cannot mount the job's disk");
		drop_capabilities();
	}
	umask(0022);
	tmp_fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mkdirat(tmp_fd, "shm", 0755);
	mkdirat(tmp_fd, "work", 0755);
	shm_fd = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* the same disk, or under crun a second one like it */
	work_fd = openat(tmp_fd, "work", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (tmp_fd < 0 || work_fd < 0 || fchdir(work_fd)) fail("cannot open the working directory");
}

/* The directory of a relative path, no link followed; makes what is missing where asked. *name is set to the last part. */
static int open_parent(char *path, char **name, int make)
{
	int dir = dup(work_fd);
	char *save = NULL, *part = strtok_r(path, "/", &save), *next;
	for (; part && (next = strtok_r(NULL, "/", &save)); part = next) {
		if (!strcmp(part, "..")) { close(dir); errno = EINVAL; return -1; }
		if (make) mkdirat(dir, part, 0755);
		int down = openat(dir, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		close(dir);
		if (down < 0) return -1;
		dir = down;
	}
	if (!part || !strcmp(part, "..")) { close(dir); errno = EINVAL; return -1; }
	*name = part;
	return dir;
}

void write_file(struct blob path, struct blob content)
{
	char *copy = strndup(path.data, path.size), *name = NULL;
	int dir = open_parent(copy, &name, 1);
	int fd = dir < 0 ? -1 : openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0755);
	if (fd < 0) fail("cannot make the job's file %.*s", (int)path.size, path.data);
	for (size_t done = 0; done < content.size;) {
		ssize_t n = write(fd, content.data + done, content.size - done);
		if (n <= 0) fail("cannot write the job's file %.*s", (int)path.size, path.data);
		done += (size_t)n;
	}
	close(fd), close(dir), free(copy);
}

/* Descriptors of the files to be kept, -1 where there is none; only regular files below the working directory. */
int *open_kept(char **keep, uint32_t count, uint32_t *found)
{
	int *files = calloc(count + 1, sizeof *files);
	for (uint32_t i = 0; i < count; i++) {
		char *name = NULL, *copy = strdup(keep[i]);
		struct stat st;
		int dir = open_parent(copy, &name, 0);
		files[i] = dir < 0 ? -1 : openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (files[i] >= 0 && (fstat(files[i], &st) || !S_ISREG(st.st_mode))) close(files[i]), files[i] = -1;
		if (files[i] >= 0) ++*found;
		if (dir >= 0) close(dir);
		free(copy);
	}
	return files;
}

void send_kept(const int *files, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct stat st;
		if (files[i] < 0 || fstat(files[i], &st)) continue;
		uint64_t size = (uint64_t)st.st_size;
		put(&i, sizeof i), put(&size, sizeof size);
		while (size) {
			char part[65536];
			ssize_t n = read(files[i], part, sizeof part < size ? sizeof part : size);
			if (n <= 0) _exit(1); /* nobody else is left who could have cut it short */
			put(part, (size_t)n);
			size -= (uint64_t)n;
		}
	}
}

uint64_t disk_used(void)
{
	struct statvfs disk;
	return fstatvfs(tmp_fd, &disk) ? 0 : (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
}

int disk_full(void)
{
	struct statvfs disk;
	for (int i = 0; i < 2; i++)
		if (!fstatvfs(i ? shm_fd : tmp_fd, &disk) && (disk.f_bfree * disk.f_frsize < 65536 || disk.f_ffree == 0)) return 1;
	return 0;
}
