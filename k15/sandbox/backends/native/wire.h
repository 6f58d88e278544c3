/* The conversation between Backend.run and init over one socket; native byte order, both ends are on one machine.
 *
 * request: u64 length, then struct head, then blobs (u32 length, bytes): filter, stdin, and four lists (u32 count, blobs):
 *          argv, env, files (path, content, path, content, ...), keep.
 * while it runs: the byte STOP_OUTPUT ends the job for too much output; end of file ends it without a report.
 * report:  struct tail, then the error text (tail.error bytes), then for each kept file u32 index, u64 length, bytes.
 */
#ifndef K15_WIRE_H
#define K15_WIRE_H
#include <stdint.h>

#define MAGIC 0x3531356bu
#define STOP_OUTPUT 'o'

enum { MOUNT_TMP = 1 }; /* head.flags: init mounts the bounded tmpfs itself and then drops its capabilities */
enum { NONE, WALL, CPU, MEMORY, OUTPUT, DISK };

struct head {
	uint32_t magic, flags;
	uint64_t wall_us, cpu_us;
	uint64_t memory;    /* bytes of all processes and of the tmpfs; 0: a cgroup holds the limit, do not watch */
	uint64_t disk;      /* bytes of the tmpfs */
	uint64_t inodes;
	uint32_t processes; /* RLIMIT_NPROC; 0: a cgroup holds the limit */
	uint32_t tick_us;   /* how often processor time and memory are looked at */
};

struct tail {
	uint32_t magic;
	int32_t exit_code, signal; /* -1 and 0 where not set */
	uint32_t limit;
	uint64_t wall_us, cpu_us, memory;
	uint32_t error, kept;
};
#endif
