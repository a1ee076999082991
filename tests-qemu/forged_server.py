#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes the place of netdump-server without the key: answers a START_NETDUMP or START6 with every request there is, under
cookies that somebody could guess, and with acknowledgements and grants of version 6, in clear and with MACs of its own.
Prints how many were sent, and each answer that is not another START_NETDUMP. Runs in a guest, with what Debian's
python3-minimal has.
"""

import os
import socket
import struct
import sys
import time

START = 8  # code of the reply START_NETDUMP
COMMANDS = [*range(1, 14), 0x4E440001]
GUESSES = [0, 1, 0x1111111111111111, 0x1BADCAFE5EEDF00D, 0x5EEDF00D1BADCAFE, (1 << 64) - 1]


def forged_6(start: bytes) -> list[bytes]:
    """ACK6 of each suite, without a MAC and with a random one, and behind each a GRANT and an ASK in clear."""
    client, server = start[113:119], os.urandom(6)
    out = []
    for suite in (0, 1):
        for mac in (bytes(16), os.urandom(16)):
            body = struct.pack(">QIIIIHBB", 0, 0, 7, 6, 0, 124, suite, 0) + client + server + os.urandom(32) + bytes(32)
            out.append(body + struct.pack(">HH", 1416, 0) + mac)
            grant = struct.pack(">IQBBBBB", 1, 1 << 20, 0, 0, 16, 1, 1) + struct.pack(">IQQB", 1, 0, 1 << 20, 0)
            for kind, text in ((1, grant), (3, struct.pack(">IIHH", 1, 0, 1024, 32))):
                out.append(bytes([6, kind]) + client + bytes(8) + text)
    return out


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
        if datagram[:1] not in (b"\x04", b"\x05", b"\x06"):
            continue  # console text
        if datagram[0] == 6 and datagram[1] != 0:
            answers += 1
            print(f"ANSWER kind {datagram[1]:#x}, {len(datagram)} bytes: {datagram[:16].hex()}", flush=True)
            continue
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
        for forged in forged_6(datagram) if datagram[0] == 6 else []:
            end.sendto(forged, peer)
            sent += 1
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
