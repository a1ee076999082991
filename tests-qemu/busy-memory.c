// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * busy-memory DISK: puts page frames to every use that there is, says "ready", and stays.
 * DISK is a directory of a file system on a disk; /tmp is one in memory.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define PAGE 4096UL

static int told[2];

static void die(const char *what)
{
	fprintf(stderr, "busy-memory: %s: %s\n", what, strerror(errno));
	_exit(1);
}

/* Words that are never zero and differ from page to page: neither KSM nor a zero page may take them for something else. */
static void fill(void *at, size_t bytes, uint64_t seed)
{
	uint64_t *word = at;

	for (size_t i = 0; i < bytes / 8; i++)
		word[i] = ((seed + 1) * 0x9e3779b97f4a7c15UL ^ i * 0xbf58476d1ce4e5b9UL) | 1;
}

static void *memory(size_t bytes, int flags, int fd)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	if (at == MAP_FAILED)
		die("mmap");
	return at;
}

static void write_all(int fd, const void *at, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = write(fd, (const char *)at + done, bytes - done);

		if (n <= 0)
			die("write");
		done += n;
	}
}

static void small_pages(void)
{
	void *at = memory(12 * MIB, MAP_PRIVATE, -1);

	madvise(at, 12 * MIB, MADV_NOHUGEPAGE);
	fill(at, 12 * MIB, getpid());
}

static void huge_pages(void)
{
	/* Aligned, so that the kernel takes transparent huge pages. */
	char *at = memory(18 * MIB, MAP_PRIVATE, -1);

	at = (char *)(((uintptr_t)at + 2 * MIB - 1) & -(2 * MIB));
	madvise(at, 16 * MIB, MADV_HUGEPAGE);
	fill(at, 16 * MIB, getpid());
}

static void locked(void)
{
	void *at = memory(8 * MIB, MAP_PRIVATE, -1);

	if (mlock(at, 8 * MIB))
		die("mlock");
	fill(at, 8 * MIB, getpid());
}

static void hugetlb(void)
{
	fill(memory(8 * MIB, MAP_PRIVATE | MAP_HUGETLB, -1), 8 * MIB, getpid());
}

static void mergeable(void)
{
	char *at = memory(4 * MIB, MAP_PRIVATE, -1);

	if (madvise(at, 4 * MIB, MADV_MERGEABLE))
		die("MADV_MERGEABLE");
	madvise(at, 4 * MIB, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < 4 * MIB; i += PAGE)
		fill(at + i, PAGE, i / PAGE % 16);
}

static void swapped(void)
{
	char *at = memory(8 * MIB, MAP_PRIVATE, -1);
	unsigned char sum = 0;

	madvise(at, 8 * MIB, MADV_NOHUGEPAGE);
	fill(at, 8 * MIB, getpid());
	if (madvise(at, 8 * MIB, MADV_PAGEOUT))
		die("MADV_PAGEOUT");
	/* What went to the disk comes back: only read, it stays in the swap cache as well. */
	for (size_t i = 5 * MIB; i < 8 * MIB; i += PAGE)
		sum += *(volatile char *)(at + i);
}

static void shared(void)
{
	int id = shmget(IPC_PRIVATE, 4 * MIB, IPC_CREAT | 0600), fd = memfd_create("busy", 0);
	void *at = id < 0 ? (void *)-1 : shmat(id, NULL, 0);

	if (at == (void *)-1 || fd < 0 || ftruncate(fd, 4 * MIB))
		die("shared memory");
	fill(at, 4 * MIB, getpid());
	fill(memory(4 * MIB, MAP_SHARED, fd), 4 * MIB, getpid() + 1);
}

/* Whoever breaks his own memory is killed: a process of its own does. */
static void broken(void)
{
	char *at = memory(4 * PAGE, MAP_PRIVATE, -1);
	int status;

	if (fork() == 0) {
		fill(at, 4 * PAGE, getpid());
		madvise(at + PAGE, PAGE, MADV_HWPOISON);
		_exit(1);
	}
	if (wait(&status) < 0 || !WIFSIGNALED(status) || WTERMSIG(status) != SIGBUS)
		die("MADV_HWPOISON");
}

static void pipes(void)
{
	static char data[60000];

	for (int i = 0; i < 24; i++) {
		int ends[2];

		if (pipe(ends))
			die("pipe");
		fill(data, sizeof(data), i);
		write_all(ends[1], data, sizeof(data));
	}
	/* Pages of a process, given to a pipe. */
	for (int i = 0; i < 8; i++) {
		struct iovec given = { memory(8 * PAGE, MAP_PRIVATE, -1), 8 * PAGE };
		int ends[2];

		fill(given.iov_base, given.iov_len, i);
		if (pipe(ends) || vmsplice(ends[1], &given, 1, SPLICE_F_GIFT) < 0)
			die("vmsplice");
	}
}

static void sockets(void)
{
	struct sockaddr_in place = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(place);
	static char data[32768];

	for (int i = 0; i < 16; i++) {
		int ends[2];

		if (socketpair(AF_UNIX, i % 2 ? SOCK_STREAM : SOCK_DGRAM, 0, ends))
			die("socketpair");
		fill(data, sizeof(data), i);
		write_all(ends[0], data, sizeof(data));
	}
	int door = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(door, (void *)&place, len) || listen(door, 16) || getsockname(door, (void *)&place, &len))
		die("listen");
	for (int i = 0; i < 8; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (void *)&place, len) || accept(door, NULL, NULL) < 0)
			die("connect");
		fcntl(fd, F_SETFL, O_NONBLOCK);
		/* Until both ends are full: nobody reads. */
		for (int n = 0; n < 32; n++) {
			fill(data, sizeof(data), n);
			if (write(fd, data, sizeof(data)) < 0)
				break;
		}
	}
	int in = socket(AF_INET, SOCK_DGRAM, 0), out = socket(AF_INET, SOCK_DGRAM, 0);
	place.sin_port = 0;
	len = sizeof(place);
	if (bind(in, (void *)&place, len) || getsockname(in, (void *)&place, &len))
		die("bind");
	for (int i = 0; i < 12; i++) {
		fill(data, 8000, i);
		if (sendto(out, data, 8000, 0, (void *)&place, len) < 0)
			die("sendto");
	}
}

static void many_files(const char *where, int count, int size, int kept_open)
{
	static char data[65536];
	char name[200];

	for (int i = 0; i < count; i++) {
		if (i % 500 == 0) {
			snprintf(name, sizeof(name), "%s/d%d", where, i / 500);
			mkdir(name, 0755);
		}
		snprintf(name, sizeof(name), "%s/d%d/a-file-with-a-name-that-is-longer-than-what-a-dentry-holds-%d", where, i / 500, i);
		int fd = open(name, O_RDWR | O_CREAT, 0644);
		if (fd < 0)
			die(name);
		if (size) {
			fill(data, size, i);
			write_all(fd, data, size);
		}
		if (i >= kept_open)
			close(fd);
	}
}

static const char *disk;

static void files_in_memory(void)
{
	many_files("/tmp", 4000, 0, 100);
	mkdir("/tmp/big", 0755);
	many_files("/tmp/big", 200, 65536, 20);
}

static void files_on_disk(void)
{
	struct stat facts;
	char name[200];

	many_files(disk, 1000, 16384, 100);
	snprintf(name, sizeof(name), "%s/mapped", disk);
	int fd = open(name, O_RDWR | O_CREAT, 0644);
	if (fd < 0 || ftruncate(fd, 4 * MIB) || fstat(fd, &facts))
		die(name);
	fill(memory(4 * MIB, MAP_SHARED, fd), 4 * MIB, 1);
	fsync(fd);
	/* Again, so that there is dirty cache too; and private copies of some. */
	fill(memory(2 * MIB, MAP_SHARED, fd), 2 * MIB, 2);
	fill(memory(1 * MIB, MAP_PRIVATE, fd), 1 * MIB, 3);
}

static void *sleeper(void *none)
{
	pause();
	return none;
}

static void threads(void)
{
	for (int i = 0; i < 24; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, sleeper, NULL))
			die("pthread_create");
	}
}

static void nothing(void)
{
}

/* A child that cannot do its work ends, and with it all: nobody waits for what does not come. */
static void child_ended(int signal)
{
	static const char text[] = "busy-memory: a process ended\n";

	(void)!write(2, text, sizeof(text) - 1);
	_exit(signal);
}

static void child(void (*work)(void))
{
	if (fork() == 0) {
		signal(SIGCHLD, SIG_DFL);
		work();
		write_all(told[1], "x", 1);
		for (;;)
			pause();
	}
}

int main(int argc, char **argv)
{
	static void (*const works[])(void) = {
		small_pages, small_pages, small_pages, huge_pages, huge_pages, locked, hugetlb, mergeable, mergeable, swapped, shared,
		broken, pipes, sockets, files_in_memory, files_on_disk, threads, nothing, nothing, nothing, nothing, nothing, nothing,
	};
	struct rlimit many = { 4096, 4096 };
	size_t count = sizeof(works) / sizeof(*works);
	char byte;

	if (argc != 2 || pipe(told)) {
		fprintf(stderr, "busy-memory DISK\n");
		return 2;
	}
	disk = argv[1];
	setrlimit(RLIMIT_NOFILE, &many);
	signal(SIGCHLD, child_ended);
	for (size_t i = 0; i < count; i++)
		child(works[i]);
	for (size_t i = 0; i < count; i++)
		if (read(told[0], &byte, 1) != 1)
			die("read");
	printf("ready\n");
	fflush(stdout);
	for (;;)
		pause();
}
