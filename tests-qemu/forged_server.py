#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes the place of netdump-server without having seen any traffic: answers a START_NETDUMP with every request there is, under
cookies that somebody could guess. Prints how many were sent, and each answer that is not another START_NETDUMP. Runs in a
guest, with what Debian's python3-minimal has.
"""

import os
import socket
import struct
import sys
import time

START = 8  # code of the reply START_NETDUMP
COMMANDS = [*range(1, 14), 0x4E440001]
GUESSES = [0, 1, 0x1111111111111111, 0x1BADCAFE5EEDF00D, 0x5EEDF00D1BADCAFE, (1 << 64) - 1]


def main() -> int:
    """Until the client has been silent for 20 s, or never came."""
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind(("", 6666))
    end.settimeout(float(sys.argv[1]))
    starts = sent = answers = 0
    while True:
        try:
            datagram, peer = end.recvfrom(65536)
        except TimeoutError:
            break
        if datagram[:1] not in (b"\x04", b"\x05"):
            continue  # console text
        code = struct.unpack(">I", datagram[5:9])[0] if len(datagram) >= 9 else -1
        if code != START:
            # netlog is a reply as well, and no answer to anything: number 0, code 0 … only memory and the like count.
            if struct.unpack(">I", datagram[1:5])[0] >= 1 << 16:
                answers += 1
                print(f"ANSWER code {code}, {len(datagram)} bytes: {datagram[:16].hex()}", flush=True)
            continue
        starts += 1
        if starts == 1:
            end.settimeout(20)
        for cookie in [*GUESSES, *(int.from_bytes(os.urandom(8), "big") for _ in range(20))]:
            for command in COMMANDS:
                # Numbers that no netlog packet has.
                end.sendto(struct.pack(">QIIII", cookie, 1 << 16 | sent & 0xFFFF, command, 0, 1), peer)
                sent += 1
        time.sleep(0.2)
    print(f"starts {starts} sent {sent} answers {answers}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
