#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the kernel's own selftests of netconsole, unmodified, against the stock module and against ours.

Each script runs once with each module, in a guest of its own. It has passed when both runs end with PASS: a SKIP is a
failure, and so are a fault that the kernel reports of itself, and a module that cannot be unloaded afterwards. Run it
through `isolated`; results are in build/selftests/.
"""

import argparse
import fnmatch
import lzma
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import lab as lab_module
from cache import REPOSITORY, Failure
from guest import Guest, GuestError, Machine
from splats import splats

RESULTS = REPOSITORY / "build/selftests"
TESTS = "/usr/src/linux/tools/testing/selftests/drivers/net"
SCRIPTS = [
    *(f"netconsole/netcons_{name}.sh" for name in ("basic", "cmdline", "fragmented_msg", "overflow", "resume", "sysdata", "torture",
        "userdata")),
    "bonding/netcons_over_bonding.sh",
    "netpoll_basic.py",
]  # fmt: skip
MODULES = ("stock", "ours")
# netpoll_basic.py waits for a driver that has no room to send, which netdevsim's never is: it gets eth0, and eth1 at its
# other end is the peer, in a namespace of its own.
REAL_NIC = "netpoll_basic.py"
FIRST_NIC = "hubport,id=n0,hubid=0"
SECOND_NIC = ("-netdev", "hubport,id=n1,hubid=0", "-device", "virtio-net-pci,netdev=n1,mac=52:54:00:4e:44:03,romfile=")
PEER = (
    "ip netns add peer && ip link set eth1 netns peer && ip -n peer addr add 10.77.0.3/24 dev eth1 && ip -n peer link set eth1 up",
    # The traffic leaves bpftrace the time that it needs to start under emulation. A server refuses what is for clients.
    "printf '#!/bin/sh\\ncase $1 in -s) exec /usr/bin/iperf3 \"$@\" ;; esac\\n' >/usr/local/bin/iperf3 && "
    "printf 'exec nice -n 19 /usr/bin/iperf3 \"$@\" -b 2M\\n' >>/usr/local/bin/iperf3 && chmod +x /usr/local/bin/iperf3",
    "bpftrace -e 'BEGIN { exit(); }'",
)
PEER_SETTINGS = "NETIF=eth0 LOCAL_V4=10.77.0.2 REMOTE_V4=10.77.0.3 REMOTE_TYPE=netns REMOTE_ARGS=peer"
BUILD_ID = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"  # the head of the ELF note
# The longest takes two minutes under emulation on an idle machine.
SECONDS = 1200
VERDICTS = {0: "PASS", 1: "FAIL", 2: "XFAIL", 4: "SKIP"}


@dataclass
class Result:
    """How one run ended."""

    verdict: str
    identity: str = ""
    why: str = ""
    runs: int = 0

    def text(self) -> str:
        return f"{self.verdict} ({self.identity or 'nothing loaded'})"


def our_module(lab) -> Path:
    """Our netconsole.ko for the lab's kernel."""
    return REPOSITORY / "build" / lab["KVER"] / "netconsole.ko"


def stock_module(lab) -> Path:
    """The kernel's own."""
    return next(Path(lab["MODULES"]).glob("kernel/drivers/net/netconsole.ko*"))


def identity_of(module: Path) -> str:
    """What tells a module from another: its srcversion, and where a kernel has none (Debian's), its build ID."""
    data = lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
    srcversion = re.search(rb"\0srcversion=([0-9A-F]+)\0", data)
    if srcversion:
        return f"srcversion {srcversion[1].decode()}"
    note = data.index(BUILD_ID) + len(BUILD_ID)
    return f"build ID {data[note : note + 20].hex()[:16]}"


class Userland:
    """Debian's user space in a guest: the image of the selftests below /mnt, entered by chroot."""

    def __init__(self, guest: Guest):
        self.guest = guest

    @staticmethod
    def machine(lab, netdev: str = "user,id=n0,restrict=on", **options) -> Machine:
        """A machine that has it, and nobody at its NIC's other end who answers."""
        return Machine(image=Path(lab["SELFTESTS"]), memory_mib=1024, netdev=netdev, boot_seconds=300, **options)

    def enter(self) -> None:
        """Mounts it."""
        run = self.guest.run
        run("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
        run("mount -t proc proc /mnt/proc && mount -t sysfs sys /mnt/sys && mount -t devtmpfs dev /mnt/dev")
        run("mkdir -p /mnt/dev/pts && mount -t devpts pts /mnt/dev/pts")
        run("mount -t tmpfs run /mnt/run && mount -t tmpfs tmp /mnt/tmp && chmod 1777 /mnt/tmp")
        run("mount -t debugfs debug /mnt/sys/kernel/debug && mount -t tracefs trace /mnt/sys/kernel/tracing", check=False)
        # What udev and an init system would have made.
        run("cd /mnt/dev && ln -s /proc/self/fd fd && ln -s fd/0 stdin && ln -s fd/1 stdout && ln -s fd/2 stderr; cd /")
        self.run("modprobe configfs; mount -t configfs config /sys/kernel/config")

    def run(self, line: str, seconds: float = 60, check: bool = True) -> str:
        """Runs a line of bash in it; its output."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return self.guest.run(f"PATH={path} HOME=/root chroot /mnt /usr/bin/bash -c {shlex.quote(line)}", seconds, check)

    def use_netconsole(self, module: Path | None) -> None:
        """What `modprobe netconsole` loads from now on: a file that is in the guest as /netconsole.ko, or the stock one."""
        release = self.guest.lab["KVER"]
        updates = f"/mnt/lib/modules/{release}/updates"
        self.guest.run(f"rm -rf {updates}")
        if module:
            self.guest.run(f"mkdir {updates} && cp /netconsole.ko {updates}/")
        self.run("depmod -a", 120)

    def identity(self) -> str:
        """Of the netconsole that is loaded, as `identity_of` has it; nothing when none is."""
        return self.guest.run(
            "(cd /sys/module/netconsole 2>/dev/null || exit 0; if [ -e srcversion ]; then echo srcversion $(cat srcversion); "
            "else echo build ID $(od -An -v -tx1 -j16 notes/.note.gnu.build-id | tr -d ' \\n' | cut -c1-16); fi)"
        ).strip()


def ksft_verdict(status: int, output: str) -> str:
    """A Python test exits with 0 also when it skipped or was expected to fail; its totals say so."""
    totals = re.search(r"# Totals: pass:(\d+) fail:(\d+) xfail:(\d+) xpass:(\d+) skip:(\d+) error:(\d+)", output)
    if totals:
        passed, failed, xfailed, _, skipped, errors = map(int, totals.groups())
        if failed or errors:
            return "FAIL"
        if skipped or xfailed:
            return "SKIP" if skipped else "XFAIL"
        return "PASS" if passed and status == 0 else "FAIL"
    return VERDICTS.get(status, f"FAIL {status}") if status else "FAIL (no totals)"


def run_script(guest: Guest, user: Userland, script: str, words: str = "") -> tuple[str, str]:
    """Runs one script as it is; its verdict and what it said."""
    directory, _, name = script.rpartition("/")
    settings = ""
    if name == REAL_NIC:
        settings = f"export {PEER_SETTINGS}; "
        for step in PEER:
            user.run(step, 120)
    line = f"{settings}cd {TESTS}/{directory} && exec ./{name} {words}"
    output = user.run(f"({line}) 2>&1; echo \"@status $?\"", SECONDS, check=False)
    (guest.directory / "output").write_text(output)
    output, _, status = output.rpartition("@status ")
    code = int(status)
    verdict = ksft_verdict(code, output) if name.endswith(".py") else VERDICTS.get(code, f"FAIL {code}")
    return verdict, output


def judge(lab, script: str, which: str, words: str = "", directory: Path | None = None, minutes: float = 0) -> Result:
    """One script against one module, in a guest of its own; again and again until so many minutes are over."""
    ours = our_module(lab) if which == "ours" else None
    if ours and not ours.exists():
        return Result("FAIL", "", f"there is no {ours.relative_to(REPOSITORY)}")
    expected = identity_of(ours or stock_module(lab))
    directory = directory or RESULTS / Path(script).stem / which
    nics = {"netdev": FIRST_NIC, "devices": SECOND_NIC} if script == REAL_NIC else {}
    machine = Userland.machine(lab, extra={"/netconsole.ko": ours} if ours else {}, **nics)
    with Guest(lab, machine, directory) as guest:
        guest.wait_ready()
        user = Userland(guest)
        user.enter()
        user.use_netconsole(ours)
        user.run("modprobe netconsole")
        loaded = user.identity()
        if loaded != expected:
            return Result("FAIL", loaded, f"modprobe loaded another module than {expected}")
        begin, runs, verdict = time.monotonic(), 0, "PASS"
        while verdict == "PASS" and (not runs or time.monotonic() < begin + 60 * minutes):
            verdict, output = run_script(guest, user, script, words)
            runs += 1
        why = "" if verdict == "PASS" else "\n".join(output.strip().splitlines()[-6:])
        left = user.run("modprobe netconsole", check=False) + user.identity()
        unloaded = user.run("rmmod netconsole && { ! test -e /sys/module/netdevsim || rmmod netdevsim; } && echo unloaded", 120,
            check=False).strip()
        if (left, unloaded) != (expected, "unloaded"):
            verdict, why = "FAIL", f"{why}\nafterwards: {left}, {unloaded}"
        said = splats(guest.console() + guest.run("dmesg", 60))
        if said:
            verdict, why = "FAIL", f"{why}\nthe kernel: {said[0]} ({len(said)} lines in all)"
        return Result(verdict, loaded, why.strip(), runs)


def judge_safely(lab, script: str, which: str, words: str) -> Result:
    """The same; a guest that is lost is a failure."""
    try:
        return judge(lab, script, which, words)
    except (GuestError, subprocess.SubprocessError, OSError) as error:
        return Result("FAIL", "", str(error))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavour", default="cloud-amd64", choices=["cloud-amd64", "amd64", "debug"])
    parser.add_argument("--only", default="*", help="names of scripts, with * and ?")
    parser.add_argument("--module", choices=MODULES, help="only this module")
    parser.add_argument("--words", default="", help="arguments for the scripts")
    arguments = parser.parse_args()
    lab = lab_module.prepare(arguments.flavour, vmlinux=False, judges=False, selftests=True)
    scripts = [script for script in SCRIPTS if fnmatch.fnmatch(Path(script).name, arguments.only)]
    which = [arguments.module] if arguments.module else MODULES
    passed = 0
    for script in scripts:
        start = time.monotonic()
        results = {module: judge_safely(lab, script, module, arguments.words) for module in which}
        good = all(result.verdict == "PASS" for result in results.values())
        passed += good
        row = "   ".join(f"{module} {result.text()}" for module, result in results.items())
        print(f"{Path(script).name:28} {row}   {time.monotonic() - start:.0f} s", flush=True)
        for module, result in results.items():
            for line in result.why.splitlines():
                print(f"    {module}: {line}", flush=True)
    print(f"{passed} passed, {len(scripts) - passed} failed")
    return 0 if scripts and passed == len(scripts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
