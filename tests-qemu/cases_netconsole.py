# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of netconsole.ko on the stock kernel: formats, configfs, and both modules on one network card."""

import re
import socket
import threading
import time
from pathlib import Path

from cache import REPOSITORY
from cases import Context, add
from guest import GUEST_ADDRESS, HOST_ADDRESS, Guest, Machine
from judges import must

CONFIGFS = "/sys/kernel/config/netconsole"


class Receiver:
    """A UDP port of the host that keeps what comes from the guest."""

    def __init__(self, port: int):
        self.port, self.got = port, []
        self.stop = threading.Event()

    def __enter__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        so_rcvbufforce = 33
        self.socket.setsockopt(socket.SOL_SOCKET, so_rcvbufforce, 16 << 20)
        self.socket.bind(("", self.port))
        self.socket.settimeout(0.2)
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(5)
        self.socket.close()

    def work(self) -> None:
        """Takes datagrams until the block ends."""
        while not self.stop.is_set():
            try:
                self.got.append(self.socket.recv(65536))
            except TimeoutError:
                continue

    def text(self) -> str:
        """All of it, one after the other."""
        return b"".join(self.got).decode(errors="replace")

    def wait(self, pattern: str, seconds: float = 30) -> re.Match:
        """Waits until a pattern has come."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text(), re.M)
            if found:
                return found
            must(time.monotonic() < deadline, f"port {self.port}: no '{pattern}' within {seconds:.0f} s; it got {self.text()[-2000:]!r}")
            time.sleep(0.1)


def module_path(lab) -> Path:
    """netconsole.ko for the lab's kernel."""
    path = REPOSITORY / "build" / lab["KVER"] / "netconsole.ko"
    if not path.exists():
        raise FileNotFoundError(f"{path}: run 'make modules' first (FLAVOUR= as in the test)")
    return path


def with_netconsole(lab, machine: Machine) -> Machine:
    """The machine with netconsole.ko in its initramfs, and what that needs."""
    machine.extra = {"/netconsole.ko": module_path(lab), **machine.extra}
    machine.modules = ("configfs", *machine.modules)
    return machine


def must_be_well(guest: Guest) -> None:
    """The kernel has complained about nothing."""
    complaints = [line for line in guest.console().splitlines() if re.search(r"WARNING:|BUG:|Oops|Call Trace", line)]
    must(not complaints, f"the kernel complains: {complaints}")


def formats(context: Context) -> list[str]:
    """Basic and extended targets from the parameter, with the log that was there; user data; changes by configfs; rmmod."""
    lab = context.lab()
    guest = Guest(lab, with_netconsole(lab, Machine()), context.directory)
    with guest, Receiver(6666) as basic, Receiver(6667) as extended, Receiver(6668) as third:
        guest.wait_ready()
        guest.run("mount -t configfs none /sys/kernel/config")
        strings = f"@/,@{HOST_ADDRESS}/;+r6000@{GUEST_ADDRESS}/eth0,6667@{HOST_ADDRESS}/"
        guest.run(f"insmod /netconsole.ko 'netconsole={strings}'")
        for receiver in (basic, extended):
            receiver.wait("Linux version")  # the log as it was
            receiver.wait("network logging started")
        guest.run("echo '<4>one line' >/dev/kmsg")
        basic.wait(r"^\[ *\d+\.\d+\] one line$|^one line$")
        release = guest.run("uname -r").strip()
        extended.wait(rf"^{re.escape(release)},12,\d+,\d+,-[^;]*;one line$")

        third_target = f"{CONFIGFS}/third"
        guest.run(f"mkdir {third_target}")
        must(guest.run(f"cat {third_target}/dev_name {third_target}/remote_mac").split() == ["eth0", "ff:ff:ff:ff:ff:ff"], "defaults")
        for name, value in {"remote_ip": HOST_ADDRESS, "remote_port": 6668, "extended": 1}.items():
            guest.run(f"echo {value} >{third_target}/{name}")
        guest.run(f"mkdir {third_target}/userdata/key && echo value >{third_target}/userdata/key/value")
        guest.run(f"for i in cpu_nr taskname release msgid; do echo 1 >{third_target}/userdata/${{i}}_enabled; done")
        guest.run(f"echo 1 >{third_target}/enabled")
        must(guest.run(f"cat {third_target}/local_ip").strip() == GUEST_ADDRESS, "the local address is not filled in")
        refused = guest.run(f"echo 6669 >{third_target}/remote_port", check=False)
        must("Invalid argument" in refused, f"changed while enabled: {refused}")
        guest.run("echo '<4>another line' >/dev/kmsg")
        third.wait(rf"another line\n key=value\n cpu=\d+\n taskname=sh\n release={re.escape(release)}\n msgid=\d+\n")
        must("one line" not in third.text().split("another line")[0], "an older record came to a target that did not ask for it")

        # More than 1000 bytes go out in pieces.
        for number in range(9):
            guest.run(f"mkdir {third_target}/userdata/k{number} && echo {'v' * 150} >{third_target}/userdata/k{number}/value")
        before = len(third.got)
        guest.run("echo '<4>long line' >/dev/kmsg")
        third.wait("k8=v+\n cpu")
        pieces = [piece.decode() for piece in third.got[before:] if b"long line" in piece or b"ncfrag" in piece]
        must(len(pieces) > 1 and all(len(piece) <= 1000 and ",ncfrag=" in piece.split(";")[0] for piece in pieces), f"pieces: {pieces}")
        body = "".join(piece.split(";", 1)[1] for piece in pieces)
        total = int(re.search(r",ncfrag=0/(\d+)$", pieces[0].split(";")[0]).group(1))
        must(len(body) == total and body.startswith("long line\n key=value\n k0="), f"{len(body)} of {total}: {body}")

        guest.run(f"echo 0 >{third_target}/enabled && rmdir {third_target}/userdata/k* && rmdir {third_target}")
        guest.run(f"mkdir {CONFIGFS}/cmdline0")
        must(guest.run(f"cat {CONFIGFS}/cmdline0/enabled").strip() == "1", "the target of the parameter is not enabled")
        must(guest.run("rmmod netconsole", check=False) != "", "rmmod although a target is in use")
        guest.run(f"rmdir {CONFIGFS}/cmdline0")
        count = len(basic.got)
        guest.run("echo '<4>last line' >/dev/kmsg")
        extended.wait("last line")
        must(len(basic.got) == count, "a target that is removed gets text")
        guest.run("rmmod netconsole")
        must_be_well(guest)
    return [f"{len(basic.got)}, {len(extended.got)} and {len(third.got)} datagrams"]


add("netconsole-formats", formats, tiers=("test", "full"))
