// SPDX-License-Identifier: GPL-2.0-or-later
/* set-ring DEVICE COUNT: sets a network device's receive ring, as ethtool -G does; the guests have no ethtool. */
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct ethtool_ringparam ring = { .cmd = ETHTOOL_GRINGPARAM };
	struct ifreq request = { .ifr_data = (void *)&ring };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 3 || fd < 0) {
		fprintf(stderr, "set-ring DEVICE COUNT\n");
		return 2;
	}
	strncpy(request.ifr_name, argv[1], IFNAMSIZ - 1);
	if (ioctl(fd, SIOCETHTOOL, &request)) {
		perror("set-ring: get");
		return 1;
	}
	ring.cmd = ETHTOOL_SRINGPARAM;
	ring.rx_pending = strtoul(argv[2], NULL, 10);
	if (ioctl(fd, SIOCETHTOOL, &request)) {
		perror("set-ring: set");
		return 1;
	}
	return 0;
}
