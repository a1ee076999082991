# SPDX-License-Identifier: GPL-2.0-or-later
"""One panic from beginning to end: a guest with the module, a server, the panic, the dump, the judges and ground truth."""

import contextlib
import os
import re
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import judges
import lab as lab_module
import truth
from cache import HERE, REPOSITORY
from guest import HOST_ADDRESS, Guest, Machine
from judges import must
from server import MAGIC1, MAGIC2, Server

# Bytes in 2 s, each way and to the disk: far below what there is, far above what there is without.
LEAST_LOAD = 200_000
PANIC = "echo c >/proc/sysrq-trigger"


def module_path(lab) -> Path:
    """Our module for the lab's kernel."""
    path = REPOSITORY / "build" / lab["KVER"] / "netdump.ko"
    if not path.exists():
        raise FileNotFoundError(f"{path}: run 'make modules' first (FLAVOUR= as in the test)")
    return path


def guest_program(name: str) -> Path:
    """A small program for a guest, made in the build root from NAME.c."""
    path = REPOSITORY / "build" / name
    source = HERE / f"{name}.c"
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([*lab_module.in_root("build"), "gcc", "-Wall", "-O2", "-static", "-o", str(path), str(source)], check=True)
    return path


def receive_ring(machine: Machine, load: bool) -> int:
    """The receive ring that a test sets; 0 leaves the driver's own.

    The buffers of a ring all change under load, and the list of what may differ is bounded: vmxnet3's default ring alone
    is 1,024 buffers of 2 KiB for each CPU, each replaced as it is used.
    """
    return 128 if machine.nic == "vmxnet3" or load else 0


def with_module(lab, machine: Machine) -> Machine:
    """The machine with netdump.ko in its initramfs."""
    machine.extra = {"/netdump.ko": module_path(lab), **machine.extra}
    return machine


def arm(guest: Guest, parameters: str = "", target: str = "", seconds: float = 60, magic: bool = True) -> str:
    """Loads the module and waits until it says that it is armed; its status."""
    target = target or f"@{guest.machine.address}/eth0,@{HOST_ADDRESS}/"
    cookie = f"magic1={MAGIC1} magic2={MAGIC2}" if magic else ""
    guest.run(f"insmod /netdump.ko netdump={target} {cookie} {parameters}")
    deadline = time.monotonic() + seconds
    while True:
        status = guest.run("cat /sys/module/netdump/parameters/status")
        if status.startswith("armed"):
            return status
        if time.monotonic() > deadline:
            raise guest.fail(f"the module does not arm itself: {status}")
        time.sleep(0.2)


def break_off(connection: socket.socket) -> None:
    """Nothing is sent again once this connection is closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Load:
    """Disk and network load on a guest, from both sides, until it panics or the block ends.

    After the panic a trickle of small frames goes on. Each large one would have its buffer replaced by another, which
    nobody knows of until a large one comes in that, and the list of what may differ is bounded.
    """

    def __init__(self, guest: Guest):
        self.guest, self.stop, self.panicked = guest, threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def __enter__(self):
        g = self.guest
        if g.machine.disk_mib:
            # Short: what is written goes to the disk when dd closes it.
            g.run("(while :; do dd if=/dev/zero of=/dev/vda bs=1M count=4; dd if=/dev/vda of=/dev/null bs=64k count=256; done) >/dev/null 2>&1 &")
        # What waits in a socket is no longer the driver's, but counts among the pages of its pool.
        g.run("sysctl -w net.ipv4.tcp_rmem='4096 32768 65536'")
        g.run("(while :; do nc -l -p 9000 >/dev/null; done) >/dev/null 2>&1 &")
        g.run(f"(while :; do nc {HOST_ADDRESS} 9001 </dev/zero; sleep 1; done) >/dev/null 2>&1 &")
        for work in (self.watch, self.udp, self.tcp, self.sink):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self.threads.append(thread)
        before = self.done()
        time.sleep(2)
        grown = {what: count - before[what] for what, count in self.done().items()}
        must(all(count > LEAST_LOAD for count in grown.values()), f"there is no load on the guest: {grown} bytes in 2 s")
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.panicked.set()
        for thread in self.threads:
            thread.join(5)

    def done(self) -> dict[str, int]:
        """Bytes received, sent, and written to the disk so far."""
        counters = {f"{way}_bytes": f"$(cat /sys/class/net/eth0/statistics/{way}_bytes)" for way in ("rx", "tx")}
        if self.guest.machine.disk_mib:
            counters["disk"] = "$(awk '{print $7 * 512}' /sys/block/vda/stat)"
        text = self.guest.run("echo " + " ".join(counters.values()))
        return {what: int(count) for what, count in zip(counters, text.split(), strict=True)}

    def watch(self) -> None:
        """Notices the panic."""
        while not (self.panicked.wait(0.02) or self.stop.is_set()):
            if self.guest.panicked():
                self.panicked.set()

    def udp(self) -> None:
        """Datagrams of all sizes at a port that nobody listens on: about 2000/s, and 10/s after the panic."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            size = 0
            while not self.stop.wait(0.1 if self.panicked.is_set() else 0.01):
                for _ in range(1 if self.panicked.is_set() else 20):
                    size = (size + 97) % (64 if self.panicked.is_set() else 1400)
                    with contextlib.suppress(OSError):
                        out.sendto(bytes(size), (self.guest.machine.address, 9002))

    def tcp(self) -> None:
        """A stream into the guest, for as long as it takes it."""
        while not (self.stop.wait(0.2) or self.panicked.is_set()):
            with contextlib.suppress(OSError), socket.create_connection((self.guest.machine.address, 9000), timeout=1) as out:
                break_off(out)
                while not self.panicked.is_set():
                    out.sendall(bytes(65536))

    def sink(self) -> None:
        """Takes what the guest sends."""
        with socket.create_server(("", 9001)) as door:
            door.settimeout(0.2)
            while not self.stop.is_set():
                with contextlib.suppress(OSError):
                    taker, _ = door.accept()
                    with taker:
                        break_off(taker)
                        taker.settimeout(0.2)
                        while not self.panicked.is_set() and taker.recv(1 << 20):
                            pass


def judge(lab, guest: Guest, path: Path, meta: dict, iomem: str, all_judges: bool, in_stack="sysrq_handle_crash") -> list[str]:
    """Ground truth and drgn, and the others when asked; lines for the report."""
    vmcore, modules = path / "vmcore", [module_path(lab)]
    must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
    must(vmcore.exists() and not (path / "vmcore-incomplete").exists(), f"{path} has no vmcore")
    picture = guest.directory / "truth"
    guest.dump_memory(picture)
    report = truth.compare(lab, vmcore, picture, meta, iomem, modules)
    (guest.directory / "truth.txt").write_text(report.text() + "\n")
    must(report.good(), report.text())
    if not os.environ.get("NETDUMP_KEEP"):
        picture.unlink()
    cpus = guest.machine.cpus
    seen = judges.check_drgn(lab, vmcore, cpus, modules, in_stack)
    # The log buffer is on the list of what may differ: what was in it is held against the console.
    said, _, _ = guest.console().partition("netdump activated")
    said = [line.rstrip() for line in said.splitlines()[:-1] if re.match(r"\[ *\d+\.\d{6}\] \S", line)]
    # The console repeats the time for each line of a record.
    lost = [line for line in said if line.partition("] ")[2] not in seen["dmesg"]]
    # Somebody who types is echoed in the middle of it.
    must(guest.machine.typing or len(said) > 100 and not lost, f"{len(lost)} of {len(said)} console lines are not in the vmcore's log: {lost[:5]}")
    lines = [report.text().splitlines()[0]]
    if all_judges:
        judges.check_crash(lab, vmcore, cpus, in_stack)
        judges.check_gdb(lab, vmcore, cpus)
        lines.append(judges.check_makedumpfile(lab, vmcore))
    dump = meta["dump"]
    lines.append(
        f"dump: {dump['memory_bytes'] >> 20} MiB in {dump['memory_seconds']:.1f} s ({dump['bytes_per_second'] / 1e6:.0f} MB/s), "
        f"{dump['datagrams']['retransmissions']} requests again"
    )
    return lines


def dump_seconds(machine: Machine) -> float:
    """A deadline for a dump, far above what it takes."""
    return 120 + machine.memory_mib / 4


def panic_run(
    lab, machine: Machine, directory: Path, load=False, parameters="", trigger=PANIC, all_judges=False, in_stack="sysrq_handle_crash",
    settings=None, before_panic=None, dumped=None, target="", magic=True,
) -> list[str]:
    """A whole run that must end with a complete and true dump and a restart; lines for the report. `magic`: both ends have a
    cookie, and nothing else."""
    if load:
        machine.disk_mib = machine.disk_mib or 64
    ring = receive_ring(machine, load)
    if ring:
        machine.extra = {"/set-ring": guest_program("set-ring"), **machine.extra}
    guest = Guest(lab, with_module(lab, machine), directory)
    server = Server(directory, [machine.address] if magic else [], **(settings or {}))
    with guest, server:
        guest.wait_ready()
        iomem = guest.run("cat /proc/iomem")
        if ring:
            guest.run(f"/set-ring eth0 {ring}")
        arm(guest, parameters, target, magic=magic)
        with Load(guest) if load else contextlib.nullcontext():
            if before_panic:
                before_panic(guest, server)
            if callable(trigger):
                trigger(guest)
            else:
                guest.send(trigger)
            path, meta = server.wait_dump(dump_seconds(machine), guest=guest)
            if dumped:
                dumped(server)
        reason = guest.wait_held(60)
        must(reason == "guest-reset", f"the guest stopped for '{reason}', it should have restarted")
        lines = judge(lab, guest, path, meta, iomem, all_judges, in_stack)
    must(server.status == 0, f"the server ended with {server.status}")
    if not os.environ.get("NETDUMP_KEEP"):
        (path / "vmcore").unlink(missing_ok=True)
        (directory / "initramfs").unlink(missing_ok=True)
    return lines
