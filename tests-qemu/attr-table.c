// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * attr-table: does what the lines on its standard input say, and answers each with one line: what the kernel answered.
 * Words are separated by tabs, data is in hexadecimal. The answer is the name of the error, or `ok` and what there is to say.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROOM 65536

static unsigned char data[ROOM];

static size_t from_hex(const char *hex)
{
	size_t n = 0;
	unsigned int byte;

	for (; n < ROOM - 1 && sscanf(hex, "%2x", &byte) == 1; hex += 2)
		data[n++] = byte;
	data[n] = 0;
	return n;
}

static const char *name_of(int error)
{
	static char other[32];
	const char *name = strerrorname_np(error);

	if (name)
		return name;
	/* Some errors are the kernel's own, and have no name here. */
	snprintf(other, sizeof(other), "errno%d", error);
	return other;
}

static void answer(int failed, const char *what)
{
	if (failed)
		printf("%s%s\n", what, name_of(errno));
	else
		printf("ok\n");
}

static ssize_t contents(const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return -1;
	n = read(fd, data, ROOM - 1);
	close(fd);
	if (n >= 0)
		data[n] = 0;
	return n;
}

static void write_to(const char *path, const char *hex)
{
	size_t length = from_hex(hex);
	int fd = open(path, O_WRONLY);
	ssize_t n;

	if (fd < 0) {
		answer(1, "open ");
		return;
	}
	n = write(fd, data, length);
	if (n < 0)
		answer(1, "");
	else
		printf("ok %zd\n", n);
	/* What is only done at the end. */
	close(fd);
}

static void read_from(const char *path)
{
	ssize_t n = contents(path);

	if (n < 0) {
		answer(1, "");
		return;
	}
	printf("ok ");
	for (ssize_t i = 0; i < n; i++)
		printf("%02x", data[i]);
	printf("\n");
}

/* Until the file has the contents; the milliseconds are a deadline. */
static void wait_for(const char *path, const char *hex, long milliseconds)
{
	size_t length = from_hex(hex);
	char wanted[256];

	memcpy(wanted, data, length < sizeof(wanted) ? length : sizeof(wanted));
	for (; milliseconds > 0; milliseconds -= 20) {
		if (contents(path) == (ssize_t)length && !memcmp(data, wanted, length)) {
			printf("ok\n");
			return;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	printf("timeout\n");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void list(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, by_name);

	if (n < 0) {
		answer(1, "");
		return;
	}
	printf("ok");
	for (int i = 0; i < n; i++)
		printf(" %s", names[i]->d_name);
	printf("\n");
}

static void load(const char *path, const char *hex)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	from_hex(hex);
	answer(fd < 0 || syscall(SYS_finit_module, fd, data, 0), "");
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	static char line[3 * ROOM];
	struct stat status;

	while (fgets(line, sizeof(line), stdin)) {
		char *op, *path, *hex, *more, *rest = line;

		line[strcspn(line, "\n")] = 0;
		op = strsep(&rest, "\t");
		path = strsep(&rest, "\t");
		hex = strsep(&rest, "\t");
		more = strsep(&rest, "\t");
		path = path ? path : "";
		hex = hex ? hex : "";
		if (!strcmp(op, "write")) {
			write_to(path, hex);
		} else if (!strcmp(op, "read")) {
			read_from(path);
		} else if (!strcmp(op, "wait")) {
			wait_for(path, hex, more ? atol(more) : 0);
		} else if (!strcmp(op, "mkdir")) {
			answer(mkdir(path, 0755), "");
		} else if (!strcmp(op, "rmdir")) {
			answer(rmdir(path), "");
		} else if (!strcmp(op, "create")) {
			int fd = open(path, O_WRONLY | O_CREAT, 0644);

			answer(fd < 0, "");
			if (fd >= 0)
				close(fd);
		} else if (!strcmp(op, "unlink")) {
			answer(unlink(path), "");
		} else if (!strcmp(op, "symlink")) {
			from_hex(hex);
			answer(symlink((char *)data, path), "");
		} else if (!strcmp(op, "rename")) {
			from_hex(hex);
			answer(rename(path, (char *)data), "");
		} else if (!strcmp(op, "mode")) {
			if (stat(path, &status))
				answer(1, "");
			else
				printf("ok %o\n", status.st_mode);
		} else if (!strcmp(op, "list")) {
			list(path);
		} else if (!strcmp(op, "load")) {
			load(path, hex);
		} else if (!strcmp(op, "unload")) {
			answer(syscall(SYS_delete_module, path, O_NONBLOCK), "");
		} else if (!strcmp(op, "shell")) {
			from_hex(hex);
			printf("ok %d\n", system((char *)data));
		} else {
			printf("unknown operation %s\n", op);
		}
		fflush(stdout);
	}
	return 0;
}
