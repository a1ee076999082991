// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * write-key FILE DEVICE: writes FILE, each byte inverted, to DEVICE in one write, and leaves no copy of what it wrote. So the
 * bytes themselves are in the guest's memory only where the module put them. The exit status is the errno.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static unsigned char bytes[4096];
	ssize_t length, written;
	int file, device, error;

	if (argc != 3 || (file = open(argv[1], O_RDONLY)) < 0 || (device = open(argv[2], O_WRONLY)) < 0)
		return errno ? errno : 255;
	length = read(file, bytes, sizeof(bytes));
	for (ssize_t i = 0; i < length; i++)
		bytes[i] ^= 0xff;
	written = write(device, bytes, length);
	error = errno;
	explicit_bzero(bytes, sizeof(bytes));
	return written == length ? 0 : written < 0 ? error : 254;
}
