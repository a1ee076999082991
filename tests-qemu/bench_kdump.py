#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A dump of level 31, beside kdump over ssh in the same guest: time, bytes on the wire, and the memory that each takes.

Time is from the trigger (`echo c >/proc/sysrq-trigger`) until the whole vmcore has its name on the host, looked for in the
same way for both. The guest is idle, with the same initramfs either way. Runs of the two alternate, results are medians.

kdump has what makes it fast: the crash kernel is quiet, its initramfs has nothing but the network driver, makedumpfile and
ssh, and the flattened file is taken as it comes (`makedumpfile -F -l -d 31 /proc/vmcore | ssh host 'cat >file'`). Ours is
sealed, since ssh is. Ours runs without crashkernel=, which it does not need.

Bytes on the wire are those of all Ethernet frames of the dump, both ways, beside the file that `makedumpfile -l` makes of the
very pages that are in our vmcore, page by page: both are counted. Resident memory is what is no longer free once the module is
armed, beside what crashkernel= takes.

makedumpfile 1.7.8 does not know where 7.x kernels say that a page is the tail of a larger one (VMCOREINFO has page.compound_info
for page.compound_head). The first tail of each large slab looks to it like memory of a process, and level 8 leaves it out: of
what it makes with -d 31, crash reads the log but no slabs. The time is that of -d 31 all the same, which is the shorter one. To
show that the crash kernel, ssh and the rest do as they should, there is one dump first with -d 23, all of which crash reads.

A third of the pages of an idle guest are free ones that the CPUs keep for themselves (per-CPU lists): neither can tell that they are
free. How many of them are not all zeroes differs from boot to boot by some thousands, so the numbers of pages are in the rows.

Results: build/bench/kdump.json, rows with ours, other, ratio, unit. Needs root: sshd changes its user.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import cache
import initramfs
import judges
import lab
import panic_run
from cache import REPOSITORY, Failure
from enrolment import Enrolment
from guest import GUEST_ADDRESS, HOST_ADDRESS, Guest, GuestError, Machine, no_tap_left
from judges import JudgeError, must
from server import Server, ServerError

HOME = REPOSITORY / "build/bench"
FLAVOUR = "cloud-amd64"
PORT = 2222
# Without what makedumpfile gets wrong on this kernel: the memory of processes.
LEVEL, SOUND_LEVEL = 31, 23
CODECS = ("zstd", "lz4", "auto")
# Ours / kdump, and ours / makedumpfile, at most.
MOST_TIME, MOST_WIRE = 0.2, 1.05
# A guest is idle so many seconds before the trigger.
SETTLE = 5
PATIENCE = 900
LOADS = 10
# What the crash kernel runs, out of the lab's root.
SAID = "Kernel panic - not syncing"
PROGRAMS = ("/usr/bin/ssh", "/usr/bin/makedumpfile")

# What Debian's kdump-tools gives to the crash kernel, and what our guests need (guest.py).
CRASH_WORDS = (
    "console=ttyS0,115200 quiet panic=5 no_timer_check net.ifnames=0 reset_devices nr_cpus=1 irqpoll usbcore.nousb "
    f"nd.ip={GUEST_ADDRESS} nd.prefix=24 nd.level="
)
# The crash kernel's whole user space. The report of makedumpfile goes to the console: how many pages there were.
CRASH_INIT = """#!/bin/sh
export PATH=/bin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec >/dev/console 2>&1
while read -r module; do insmod "/modules/$module"; done </modules/order
for word in $(cat /proc/cmdline); do
    case $word in
    nd.ip=*) address=${word#nd.ip=} ;;
    nd.prefix=*) prefix=${word#nd.prefix=} ;;
    nd.level=*) level=${word#nd.level=} ;;
    esac
done
until [ -d /sys/class/net/eth0 ]; do usleep 10000; done
ip addr add "$address/$prefix" dev eth0
ip link set eth0 up
chmod 600 /key
set -o pipefail
makedumpfile -F -l -d "$level" --message-level 20 /proc/vmcore | ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes \
    -o UserKnownHostsFile=/known_hosts -i /key -p PORT root@HOST "cat >PART && mv PART WHOLE"
echo "kdump: ended with $?"
reboot -f
"""
# sshd of the lab's root, with a /run and users of its own in this mount namespace: nothing of the host's root is looked at or changed.
SSHD = """set -e
passwd=$1
shift
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd /run/home
printf 'root:*:0:0::/run/home:/bin/sh\\nsshd:*:65533:65534::/run/sshd:/usr/sbin/nologin\\n' >/run/passwd
mount --bind /run/passwd "$passwd"
exec "$@"
"""


def programs(wanted) -> dict[str, Path]:
    """Programs of the lab's root and the libraries that they are linked with, by their paths in a guest."""
    root = cache.directory() / "roots/kdump"
    shown = subprocess.run(lab.in_root("kdump", "ldd", *wanted), capture_output=True, text=True, check=True).stdout
    names = {*wanted, *re.findall(r"^\t(?:\S+ => )?(/\S+) \(0x", shown, re.M)}
    found = {}
    for name in names:
        # Links in the root are to be followed there, not on the host: /lib is one to usr/lib.
        path = root / name.lstrip("/")
        found[name] = path if path.is_file() else root / "usr" / name.lstrip("/")
    return found


class Ssh:
    """A real sshd on the host's side, with keys that are good for this run only. Use as a context manager."""

    def __init__(self, directory: Path):
        must(os.geteuid() == 0 and re.match(r"\s*0\s+0\s+4294967295\s", Path("/proc/self/uid_map").read_text()),
             "kdump over ssh is to be measured as root: sshd changes its user")  # fmt: skip
        self.directory = cache.empty(directory)
        self.directory.chmod(0o700)
        for name in ("host", "key"):
            path = self.directory / name
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path]
            subprocess.run(lab.in_root("kdump", *words), check=True, stdin=subprocess.DEVNULL)
        host = " ".join((self.directory / "host.pub").read_text().split()[:2])
        (self.directory / "known_hosts").write_text(f"[{HOST_ADDRESS}]:{PORT} {host}\n")
        (self.directory / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        self.log = self.directory / "sshd.log"

    def files(self) -> dict[str, Path]:
        """What the client needs."""
        return {"/key": self.directory / "key", "/known_hosts": self.directory / "known_hosts", "/etc/passwd": self.directory / "passwd"}

    def __enter__(self):
        options = {
            "HostKey": self.directory / "host", "AuthorizedKeysFile": self.directory / "key.pub", "StrictModes": "no", "UsePAM": "no",
            "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no", "PidFile": "none",
        }  # fmt: skip
        words = ["-D", "-f", "/dev/null", "-p", str(PORT), "-E", self.log]
        for key, value in options.items():
            words += ["-o", f"{key}={value}"]
        with open(self.directory / "sshd.out", "wb") as out:
            command = ["unshare", "--mount", "sh", "-c", SSHD, "sshd", cache.directory() / "roots/kdump/etc/passwd"]
            command += lab.in_root("kdump", "/usr/sbin/sshd", *words)
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + 60
        while not re.search(rf":{PORT:04X} \S+ 0A ", Path("/proc/net/tcp").read_text()):
            said = (self.directory / "sshd.out").read_text()
            must(self.process.poll() is None and time.monotonic() < deadline, f"sshd does not listen: {said}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


class Bench:
    """The guest that both halves run in, and the runs."""

    def __init__(self, found: dict[str, str], arguments):
        self.found, self.arguments = found, arguments
        self.home = HOME / "kdump"
        self.whole = self.home / "ssh-vmcore"
        self.home.mkdir(parents=True, exist_ok=True)
        self.ssh = Ssh(self.home / "ssh")
        self.enrolment = Enrolment(self.home, GUEST_ADDRESS)
        image = self.home / "crash-initramfs"
        part = f"{self.whole}.part"
        init = CRASH_INIT
        names = {"PORT": str(PORT), "HOST": HOST_ADDRESS, "PART": shlex.quote(part), "WHOLE": shlex.quote(str(self.whole))}
        for name, text in names.items():
            init = re.sub(rf"\b{name}\b", text, init)
        initramfs.build(image, Path(found["MODULES"]), ["virtio_pci", "virtio_net"], {**programs(PROGRAMS), **self.ssh.files()}, init)
        self.crash_initramfs = image
        # One initramfs for both: what it takes is the same.
        self.extra = {
            "/netdump.ko": panic_run.module_path(found), **self.enrolment.files(), **programs(["/usr/sbin/kexec"]),
            "/vmlinuz": Path(found["VMLINUZ"]), "/crash-initramfs": image,
        }  # fmt: skip

    def machine(self, memory_mib: int, reserved: bool) -> Machine:
        """The guest, with or without memory set aside for a crash kernel."""
        append = f"crashkernel={self.arguments.crashkernel}" if reserved else ""
        return Machine(memory_mib=memory_mib, append=append, extra=dict(self.extra))

    def load_kdump(self, guest: Guest, level: int) -> int:
        """Loads the crash kernel; MiB that are set aside for it."""
        guest.run(f"/usr/sbin/kexec -p -s /vmlinuz --initrd=/crash-initramfs --command-line='{CRASH_WORDS}{level}'", 120)
        must(guest.run("cat /sys/kernel/kexec_crash_loaded").strip() == "1", "the crash kernel is not loaded")
        return int(guest.run("cat /sys/kernel/kexec_crash_size")) >> 20

    def trigger(self, guest: Guest, look, gone_wrong: str) -> tuple[float, Path, dict]:
        """The panic: seconds until `look` finds the vmcore, the vmcore, and bytes of frames by way."""
        time.sleep(SETTLE)
        before, start, looked = frames(guest.machine.tap), time.monotonic(), 0.0
        guest.send(panic_run.PANIC)
        while not (path := look()):
            took = time.monotonic() - start
            # Reading the console takes time from the guest.
            if took > looked + 2:
                looked = took
                if wrong := re.search(gone_wrong, guest.console(), re.M):
                    raise guest.fail(f"no dump: {wrong[0][-200:]}")
            if took > PATIENCE:
                raise guest.fail(f"no dump within {PATIENCE} s")
            time.sleep(0.01)
        took = time.monotonic() - start
        after = frames(guest.machine.tap)
        return took, path, {way: after[way] - before[way] for way in after}

    def kdump(self, directory: Path, level: int = LEVEL) -> dict:
        """One dump by kdump over ssh."""
        self.whole.unlink(missing_ok=True)
        machine = self.machine(self.arguments.memory, reserved=True)
        with no_tap_left(machine.tap), Guest(self.found, machine, directory) as guest, self.ssh:
            guest.wait_ready()
            self.load_kdump(guest, level)
            took, path, wire = self.trigger(
                guest, lambda: self.whole if self.whole.exists() else None, r"kdump: ended with [1-9].*|(?s:Kernel panic.*Kernel panic)"
            )
            must(guest.wait_held(120) == "guest-reset", "the crash kernel did not restart the guest")
        console = guest.console()
        must("kdump: ended with 0" in console, f"makedumpfile or ssh failed: see {guest.console_path}")
        vmcore = directory / "vmcore"
        with open(path, "rb") as flat:
            done = judges.call([self.found["MAKEDUMPFILE"], "-R", vmcore], stdin=flat)
        must(done.returncode == 0, f"makedumpfile -R refuses what came: {done.stdout[-500:]}{done.stderr[-500:]}")
        if level == SOUND_LEVEL:
            judges.check_crash(self.found, vmcore, machine.cpus, said=SAID)
        else:
            (log,) = judges.crash(self.found, vmcore, "log", options=["--minimal"])
            must(SAID in log and "sysrq_handle_crash" in log, f"crash does not find the panic in kdump's log: {log[-500:]}")
        copying = [float(seconds) for seconds in re.findall(r"STEP \[Copying data *\] : ([0-9.]+) s", console)]
        row = {
            "seconds": took, "wire": wire, "bytes": vmcore.stat().st_size, "flattened": path.stat().st_size, "pages": stored(vmcore),
            "copying": sum(copying),
        }  # fmt: skip
        self.away(vmcore, path, directory / "initramfs")
        return row

    def netdump(self, directory: Path, codec: str) -> dict:
        """One dump of ours."""
        machine = self.machine(self.arguments.memory, reserved=False)
        # What was there before is not to be taken for this run's.
        shutil.rmtree(directory / "crash", ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        server = Server(directory, codec=codec, **self.enrolment.settings())
        with no_tap_left(machine.tap), Guest(self.found, machine, directory) as guest, server:
            guest.wait_ready()
            self.arm(guest)
            took, vmcore, wire = self.trigger(
                guest, lambda: next(server.crash.glob(f"{machine.address}-*/vmcore"), None), r"netdump: (?:the dump ends:|.*no dump).*"
            )
            _, meta = server.wait_dump(60, guest=guest)
            must(guest.wait_held(120) == "guest-reset", "the guest did not restart")
        dump = meta["dump"]
        must(meta["complete"] and meta["authenticated"], f"the dump is not complete, or not sealed: {dump.get('failure')}")
        judges.check_crash(self.found, vmcore, machine.cpus)
        small = directory / "small"
        # What we left out reads as zeroes, and SOUND_LEVEL has the bit for pages of zeroes.
        done = judges.call([self.found["MAKEDUMPFILE"], "-l", "-d", str(SOUND_LEVEL), vmcore, small])
        must(done.returncode == 0, f"makedumpfile refuses our vmcore: {done.stdout[-500:]}{done.stderr[-500:]}")
        written, theirs = dump["pages"]["written"], stored(small)
        must(written == theirs, f"we sent {written} pages, and makedumpfile wrote {theirs} of them")
        row = {
            "seconds": took, "wire": wire, "pages": dump["pages"], "left_out": dump["left_out"], "memory_seconds": dump["memory_seconds"],
            "makedumpfile": small.stat().st_size,
        }  # fmt: skip
        self.away(vmcore, small, directory / "initramfs")
        return row

    @staticmethod
    def away(*paths: Path) -> None:
        """Large files that are not to stay."""
        if not os.environ.get("NETDUMP_KEEP"):
            for path in paths:
                path.unlink()

    def rounds(self) -> tuple[dict[str, list[dict]], list[dict]]:
        """All dumps: ours by codec, and kdump's."""
        sound = self.kdump(self.home / "sound", SOUND_LEVEL)
        print(f"  kdump with -d {SOUND_LEVEL}: crash opens it; {sound['pages']} pages in {sound['seconds']:.1f} s, not counted", flush=True)
        ours: dict[str, list[dict]] = {codec: [] for codec in CODECS}
        other: list[dict] = []
        for number in range(1, self.arguments.rounds + 1):
            # kdump's turn is between two of ours; the first is as the server does it by itself.
            for what in (CODECS[0], "kdump", *CODECS[1:]):
                directory = self.home / f"{number:02}-{what}"
                row = self.kdump(directory) if what == "kdump" else self.netdump(directory, what)
                (other if what == "kdump" else ours[what]).append(row)
                print(f"  round {number}, {what}: {row['seconds']:.1f} s, {both_ways(row['wire']) / 1e6:.1f} MB on the wire", flush=True)
        return ours, other

    def resident(self, memory_mib: int) -> dict[str, dict]:
        """MiB that the armed module takes, by MTU, and that crashkernel= takes, in a guest of some size."""
        directory = self.home / f"resident-{memory_mib}"
        machine = self.machine(memory_mib, reserved=False)
        figures: dict[str, dict] = {}
        with no_tap_left(machine.tap), Guest(self.found, machine, directory) as guest:
            guest.wait_ready()
            for mtu in (1500, 9000):
                subprocess.run(["ip", "link", "set", machine.tap, "mtu", str(mtu)], check=True)
                guest.run(f"ip link set eth0 mtu {mtu}")
                before = available(guest)
                taken = [self.load(guest) for _ in range(LOADS)]
                figures[f"{memory_mib} MiB, MTU {mtu}"] = {
                    "ours": round(statistics.median(taken), 2), "loads": [round(mib, 2) for mib in taken],
                    "not free again after all loads": round(before - available(guest), 2),
                }  # fmt: skip
            without = available(guest)
        machine = self.machine(memory_mib, reserved=True)
        # Where the kernel lies is chance, and may leave no piece of a small memory that is large enough.
        machine.append += " nokaslr"
        with no_tap_left(machine.tap), Guest(self.found, machine, self.home / f"reserved-{memory_mib}") as guest:
            guest.wait_ready()
            size = self.load_kdump(guest, LEVEL)
            other = without - available(guest)
        for figure in figures.values():
            figure |= {"other": round(other, 1), "kexec_crash_size": size}
        return figures

    @staticmethod
    def arm(guest: Guest) -> None:
        """Loads the module, waits until it is armed, and gives it its key."""
        panic_run.arm(guest, f"level={LEVEL}", magic=False)
        guest.run("/write-key /key /dev/netdump")

    def load(self, guest: Guest) -> float:
        """Loads the module, arms it, and unloads it; MiB that are not free meanwhile."""
        before = available(guest)
        self.arm(guest)
        armed = available(guest)
        guest.run("rmmod netdump")
        return before - armed


def available(guest: Guest) -> float:
    """MiB of free memory, with nothing in caches that can be given up.

    MemFree leaves out the free pages that each CPU keeps for itself, and is brought up to date from each CPU's counters
    now and then only: both are up to a MiB or two.
    """
    drop = "sync; echo 3 >/proc/sys/vm/drop_caches; "
    count = """awk '$1 == "count:" {n += $2} END {print n}' /proc/zoneinfo"""
    shown = guest.run(f"{drop}{drop}sleep 1; cat /proc/sys/vm/stat_refresh; grep MemFree: /proc/meminfo; {count}")
    free, pages = re.search(r"MemFree: +(\d+) kB\s+(\d+)\s*$", shown).groups()
    return (int(free) + 4 * int(pages)) / 1024


def frames(device: str) -> dict[str, int]:
    """Ethernet frames that a device of this namespace has seen, from and to the guest, and their bytes."""
    (line,) = [line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith(f"{device}:")]
    numbers = line.split(":")[1].split()
    return {
        "bytes from the guest": int(numbers[0]), "bytes to the guest": int(numbers[8]),
        "frames from the guest": int(numbers[1]), "frames to the guest": int(numbers[9]),
    }  # fmt: skip


def both_ways(wire: dict[str, int]) -> int:
    """Bytes of all frames."""
    return wire["bytes from the guest"] + wire["bytes to the guest"]


def payload(wire: dict[str, int]) -> int:
    """Bytes from the guest without Ethernet, IP and UDP headers, where all frames have them."""
    return wire["bytes from the guest"] - wire["frames from the guest"] * (14 + 20 + 8)


def stored(path: Path) -> int:
    """Pages that a file of makedumpfile has with their bytes; those of zeroes share one."""
    with open(path, "rb") as file:
        head = file.read(444)
        must(head[:8] == b"KDUMP   ", f"{path} is not what makedumpfile writes")
        block, header_blocks, bitmap_blocks = struct.unpack_from("<iiI", head, 428)
        start, size = (1 + header_blocks) * block, bitmap_blocks * block
        # Two bitmaps: memory that there is, and memory that is in the file.
        file.seek(start + size // 2)
        pages = int.from_bytes(file.read(size // 2), "little").bit_count()
        entries = file.read(24 * pages)
    places = [place for place, *_ in struct.iter_unpack("<qIIQ", entries)]
    must(len(places) == pages, f"{path} is cut off")
    once = set(places)
    return len(once) - (len(once) < pages)


def median(rows: list[dict], of) -> float:
    return statistics.median(of(row) for row in rows)


def rows_of(ours: dict[str, list[dict]], other: list[dict], arguments) -> dict[str, dict]:
    """The rows of time and of bytes."""
    slow = median(other, lambda row: row["seconds"])
    rows = {}
    for codec, runs in ours.items():
        fast = median(runs, lambda row: row["seconds"])
        rows["vs_kdump" if codec == CODECS[0] else f"vs_kdump_{codec}"] = {
            "ours": round(fast, 2), "other": round(slow, 2), "ratio": round(fast / slow, 4), "unit": "s", "most": MOST_TIME,
            "times faster": round(slow / fast, 2),
            "ours is": f"level {LEVEL}, {codec}, sealed, without crashkernel=: trigger until vmcore has its name",
            "other is": f"crashkernel={arguments.crashkernel}, makedumpfile -F -l -d {LEVEL} through ssh: trigger until the file has its name",
            "guest": f"{FLAVOUR}, {Machine().cpus} CPUs, {arguments.memory} MiB, {Machine().nic}",
            "runs": {"ours": [round(row["seconds"], 2) for row in runs], "other": [round(row["seconds"], 2) for row in other]},
            "memory phase of ours": [round(row["memory_seconds"], 2) for row in runs],
            "makedumpfile's copying, of kdump": [round(row["copying"], 2) for row in other],
            "pages": {"ours": [row["pages"]["written"] for row in runs], "other": [row["pages"] for row in other]},
            "vmcore of kdump": [row["bytes"] for row in other],
        }  # fmt: skip
        wire, file = median(runs, lambda row: both_ways(row["wire"])), median(runs, lambda row: row["makedumpfile"])
        data = median(runs, lambda row: payload(row["wire"]))
        rows["wire_vs_makedumpfile" if codec == CODECS[0] else f"wire_vs_makedumpfile_{codec}"] = {
            "ours": round(wire), "other": round(file), "ratio": round(wire / file, 4), "unit": "bytes", "most": MOST_WIRE,
            "ours is": f"all Ethernet frames of a dump, both ways, {codec}, sealed, MTU 1500",
            "other is": "the file that makedumpfile -l makes of the same pages",
            "ratio without headers": round(data / file, 4),
            "runs": {"ours": [row["wire"] for row in runs], "other": [row["makedumpfile"] for row in runs]},
            "pages": [row["pages"]["written"] for row in runs], "left out": [row["left_out"] for row in runs],
            "kdump over ssh": [row["wire"] for row in other],
        }  # fmt: skip
    return rows


def resident_row(figures: dict[str, dict], arguments) -> dict[str, dict]:
    """The row of memory: its first figure is that of the guest that is dumped, at the usual MTU."""
    first = figures[f"{arguments.memory} MiB, MTU 1500"]
    return {
        "resident_vs_crashkernel": {
            "ours": first["ours"], "other": first["other"], "ratio": round(first["ours"] / first["other"], 4), "unit": "MiB",
            "ours is": f"memory that is not free once the module is armed and has its key, median of {LOADS} loads",
            "other is": f"memory that is not free with crashkernel={arguments.crashkernel} and a crash kernel loaded",
            "guests": figures,
        }
    }  # fmt: skip


def save(rows: dict[str, dict]) -> None:
    """Adds rows to those that are there. What took long is safe before the next begins."""
    path = HOME / "kdump.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **rows}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="dumps of each kind; 0 leaves them out")
    parser.add_argument("--memory", type=int, default=2048, help="MiB of the guest that is dumped")
    parser.add_argument("--crashkernel", default="256M", help="memory set aside for kdump (the least that was seen to do: 128M)")
    parser.add_argument("--no-resident", action="store_true", help="leave out the memory that each takes")
    arguments = parser.parse_args()
    found = lab.prepare(FLAVOUR, extra=["kdump"])
    bench = Bench(found, arguments)
    rows: dict[str, dict] = {}
    if arguments.rounds:
        rows |= rows_of(*bench.rounds(), arguments)
        save(rows)
    if not arguments.no_resident:
        figures: dict[str, dict] = {}
        for memory in sorted({512, arguments.memory}):
            figures |= bench.resident(memory)
        rows |= resident_row(figures, arguments)
    save(rows)
    behind = []
    for name, row in rows.items():
        print(f"{name}: {row['ours']} {row['unit']}, other {row['other']} {row['unit']}, ratio {row['ratio']}")
        if row["ratio"] > row.get("most", row["ratio"]):
            behind.append(f"{name}: ratio {row['ratio']} is above {row['most']}")
    for line in behind:
        print(f"bench: {line}", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, ServerError, JudgeError, FileNotFoundError) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
