// SPDX-License-Identifier: Apache-2.0
// actor plays what attackers do to run a program: `actor HOW PROGRAM`.
// Built twice by the tests: static, and as a dynamic program and a library.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef LIBRARY

__attribute__((constructor)) static void loaded(void) {}

#else

#define IMPOSSIBLE 77 /* this kernel has no such way */

extern char **environ;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int contents(const char *path, char **body)
{
	int fd = open(path, O_RDONLY);
	off_t n = lseek(fd, 0, SEEK_END);

	if (fd < 0 || n < 0)
		die(path);
	*body = mmap(0, n, PROT_READ, MAP_PRIVATE, fd, 0);
	if (*body == MAP_FAILED)
		die("mmap");
	close(fd);
	return n;
}

static void run(int fd)
{
	char *argv[] = { "actor", "exit", 0 };

	/* A ring's worker may still hold what it closed: busy for a moment. */
	for (int tries = 0; tries < 2000; tries++) {
		syscall(SYS_execveat, fd, "", argv, environ, AT_EMPTY_PATH);
		if (errno != ETXTBSY)
			break;
		usleep(1000);
	}
	die("execveat");
}

/* Opens and writes a file without one open(2) or write(2) of its own. */
static int written_by_uring(const char *path, const char *body, int n)
{
	struct io_uring_params p = {};
	int ring = syscall(SYS_io_uring_setup, 4, &p);
	char *sq, *cq;
	struct io_uring_sqe *sqes;
	int fd = -1;

	if (ring < 0)
		die("io_uring_setup");
	sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(0, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqes = mmap(0, p.sq_entries * sizeof(*sqes), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED)
		die("mmap of the ring");
	for (int step = 0; step < 3; step++) {
		unsigned tail = *(unsigned *)(sq + p.sq_off.tail), mask = *(unsigned *)(sq + p.sq_off.ring_mask), head;
		struct io_uring_sqe *e = &sqes[tail & mask];
		struct io_uring_cqe *done;

		memset(e, 0, sizeof(*e));
		if (step == 0) {
			e->opcode = IORING_OP_OPENAT;
			e->fd = AT_FDCWD;
			e->addr = (unsigned long)path;
			e->open_flags = O_WRONLY | O_CREAT | O_TRUNC;
			e->len = 0755;
		} else if (step == 1) {
			e->opcode = IORING_OP_WRITE;
			e->fd = fd;
			e->addr = (unsigned long)body;
			e->len = n;
		} else {
			e->opcode = IORING_OP_CLOSE;
			e->fd = fd;
		}
		((unsigned *)(sq + p.sq_off.array))[tail & mask] = tail & mask;
		__atomic_store_n((unsigned *)(sq + p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
		if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
			die("io_uring_enter");
		head = *(unsigned *)(cq + p.cq_off.head);
		done = (struct io_uring_cqe *)(cq + p.cq_off.cqes) + (head & *(unsigned *)(cq + p.cq_off.ring_mask));
		if (done->res < 0) {
			errno = -done->res;
			die("io_uring");
		}
		if (step == 0)
			fd = done->res;
		__atomic_store_n((unsigned *)(cq + p.cq_off.head), head + 1, __ATOMIC_RELEASE);
	}
	close(ring);
	return open(path, O_PATH | O_CLOEXEC);
}

/* Runs PROGRAM n times as files of other bytes, each of which unlinks itself at once. */
static void storm(const char *program, const char *dir, int n, int distinct)
{
	char *body, path[256], number[16];
	int size = contents(program, &body);

	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/storm%d", dir, distinct ? i : 0);
		if (distinct || i == 0) {
			int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);

			snprintf(number, sizeof(number), "%08d", i);
			if (fd < 0 || write(fd, body, size) != size || write(fd, number, 8) != 8)
				die(path);
			close(fd);
		}
		pid_t child = vfork();
		if (!child) {
			execl(path, path, distinct ? "unlink" : "exit", (char *)0);
			_exit(127);
		}
		int status;
		waitpid(child, &status, 0);
		if (status)
			die("a program of the storm");
	}
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int shorter(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;

	return (x > y) - (x < y);
}

/* Forks, runs and waits for PROGRAM n times, and prints how long it took in all, and the
   median of one, in nanoseconds. */
static void loop(const char *program, int n)
{
	long long *took = calloc(n, sizeof(*took)), from = now();

	for (int i = 0; i < n; i++) {
		long long began = now();
		pid_t child = vfork();
		int status;

		if (!child) {
			execl(program, program, "exit", (char *)0);
			_exit(127);
		}
		waitpid(child, &status, 0);
		took[i] = now() - began;
		if (status)
			die(program);
	}
	from = now() - from;
	qsort(took, n, sizeof(*took), shorter);
	printf("%lld %lld\n", from, took[n / 2]);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "exit";
	char *body, path[64];
	int fd, n;

	if (!strcmp(how, "exit"))
		_exit(0);
	if (!strcmp(how, "unlink")) {
		unlink(argv[0]);
		_exit(0);
	}
	if (argc < 3)
		return 2;
	if (!strcmp(how, "storm"))
		storm(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
	else if (!strcmp(how, "loop"))
		loop(argv[2], atoi(argv[3]));
	else if (!strcmp(how, "memfd")) {
		n = contents(argv[2], &body);
		fd = memfd_create("hidden", 0);
		if (write(fd, body, n) != n)
			die("write");
		run(fd);
	} else if (!strcmp(how, "jit")) { /* as compilers at run time do: one place to write, one to run */
		fd = memfd_create(argv[2], 0);
		if (ftruncate(fd, 4096) || mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ||
		    mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0) == MAP_FAILED)
			die("map twice");
	} else if (!strcmp(how, "tmpfile")) {
		n = contents(argv[2], &body);
		fd = open("/tmp", O_TMPFILE | O_RDWR, 0755);
		if (fd < 0 && errno == EOPNOTSUPP)
			return IMPOSSIBLE; /* overlayfs before Linux 6.3 */
		if (fd < 0 || write(fd, body, n) != n)
			die("O_TMPFILE");
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		int again = open(path, O_RDONLY | O_CLOEXEC);
		close(fd);
		run(again);
	} else if (!strcmp(how, "execveat"))
		run(open(argv[2], O_PATH | O_CLOEXEC));
	else if (!strcmp(how, "uring")) {
		n = contents(argv[2], &body);
		run(written_by_uring(argv[3], body, n));
	} else if (!strcmp(how, "unlinked")) {
		fd = open(argv[2], O_RDONLY | O_CLOEXEC);
		unlink(argv[2]);
		run(fd);
	} else if (!strcmp(how, "dlopen")) {
#ifdef DYNAMIC
		if (!dlopen(argv[2], RTLD_NOW)) {
			fprintf(stderr, "%s\n", dlerror());
			return 1;
		}
#else
		return 3;
#endif
	} else
		return 2;
	return 0;
}
#endif
