# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes console text off the network: a UDP socket for each port, every datagram kept with the time at which it came."""

import contextlib
import select
import socket
import struct
import threading
import time

from guest import HOST_ADDRESS

SO_TIMESTAMPNS, SO_RXQ_OVFL = 35, 40


class Receiver:
    """Sockets of this namespace that take what comes. Use as a context manager."""

    def __init__(self, ports, address: str = HOST_ADDRESS):
        self.ports, self.address = tuple(ports), address
        # port -> [(seconds, datagram)], by the host's clock as the datagram came in
        self.got: dict[int, list[tuple[float, bytes]]] = {port: [] for port in self.ports}
        self.dropped: dict[int, int] = {}
        self.over = threading.Event()
        self.last = time.monotonic()

    def __enter__(self):
        self.sockets: dict[socket.socket, int] = {}
        for port in self.ports:
            # Every address: the guest's interface may not be there yet.
            door = socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET, socket.SOCK_DGRAM)
            self.sockets[door] = port
            door.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: nothing may be lost here
            door.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            door.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
            door.bind(("", port))
            door.setblocking(False)
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(5)
        for door in self.sockets:
            door.close()

    def work(self) -> None:
        """Reads until the block ends."""
        while not self.over.is_set():
            for door in select.select(list(self.sockets), [], [], 0.1)[0]:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        self.take(door, self.sockets[door])

    def take(self, door: socket.socket, port: int) -> None:
        """One datagram."""
        data, ancillary, _, _ = door.recvmsg(65536, 256)
        at = time.time()
        for _, kind, value in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("qq", value[:16])
                at = seconds + nanoseconds / 1e9
            elif kind == SO_RXQ_OVFL:
                (self.dropped[port],) = struct.unpack("I", value[:4])
        self.got[port].append((at, data))
        self.last = time.monotonic()

    def datagrams(self, port: int) -> list[bytes]:
        """All datagrams of a port, in the order in which they came."""
        return [data for _, data in list(self.got[port])]

    def wait(self, port: int, text: bytes, seconds: float) -> bool:
        """Waits until some datagram of a port has a text in it; whether it came."""
        deadline, seen = time.monotonic() + seconds, 0
        while True:
            now = len(self.got[port])
            if any(text in data for _, data in self.got[port][seen:now]):
                return True
            if time.monotonic() > deadline:
                return False
            seen = now
            time.sleep(0.02)

    def wait_quiet(self, quiet: float, seconds: float) -> None:
        """Waits until nothing has come for so long."""
        start = time.monotonic()
        while time.monotonic() < start + seconds and time.monotonic() < max(self.last, start) + quiet:
            time.sleep(0.05)
