# SPDX-License-Identifier: GPL-2.0-or-later
"""Our modules on a kernel that watches its memory, locks and leaks (debug-kernel.config): loaded and unloaded, their NIC
taken out, moved and switched, under traffic; and a dump. The kernel must find no fault, and nothing may be left over.
"""

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import judges
import panic_run
import selftests
from cache import REPOSITORY
from cases import Context, add
from debug_kernel import FLAVOUR
from guest import HOST_ADDRESS, Guest, Machine
from judges import must
from panic_run import guest_program
from server import Server
from splats import splats

NICS = ("virtio-net-pci", "e1000e")
ROOT = "/sys/kernel/config/netconsole"
KMEMLEAK = "/sys/kernel/debug/kmemleak"
# kmemleak takes no object for lost that is younger.
LEAST_AGE = 6
# Seconds that a guest may take for anything: such a kernel is slow under emulation, the more so on a busy host.
PATIENCE = 900
TOGGLES = 1000
LOADS = 20
PLUGS = 5


def watched(lab, **options) -> Machine:
    """A machine with this kernel and our modules; KASAN's shadow alone takes an eighth of the memory."""
    extra = {"/netdump.ko": panic_run.module_path(lab), "/netconsole.ko": netconsole_path(lab), "/attr-table": guest_program("attr-table")}
    return Machine(memory_mib=1024, boot_seconds=300, extra=extra, **options)


def netconsole_path(lab) -> Path:
    """Our netconsole.ko (or the module that NETDUMP_NETCONSOLE names, to see what the stock one does)."""
    named = os.environ.get("NETDUMP_NETCONSOLE")
    path = Path(named) if named else REPOSITORY / "build" / lab["KVER"] / "netconsole.ko"
    must(path.exists(), f"{path}: run 'make test-debug'")
    return path


class Patient(Guest):
    """A guest that is given time."""

    def run(self, line: str, seconds: float = PATIENCE, check: bool = True) -> str:
        return super().run(line, seconds, check)


class Watch:
    """What the kernel finds from its beginning to its end; raises at the end when it has found anything."""

    def __init__(self, guest: Guest):
        self.guest = guest

    def __enter__(self):
        run = self.guest.run
        run("mkdir -p /sys/kernel/config && mount -t configfs config /sys/kernel/config; mount -t debugfs debug /sys/kernel/debug")
        # What the boot has lost is none of ours; it is shown all the same.
        time.sleep(LEAST_AGE)
        run(f"echo scan >{KMEMLEAK}", PATIENCE)
        self.lost_before = run(f"cat {KMEMLEAK}", PATIENCE).count("unreferenced object")
        run(f"echo clear >{KMEMLEAK}")
        self.said_before = len(splats(self.guest.console()))
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            return
        run = self.guest.run
        # RCU callbacks and work items may still hold what will be freed; two scans, since one may meet an object on its way.
        for _ in range(2):
            time.sleep(LEAST_AGE)
            run(f"echo scan >{KMEMLEAK}", PATIENCE)
        lost = run(f"cat {KMEMLEAK}", PATIENCE)
        (self.guest.directory / "kmemleak").write_text(lost)
        said = splats(self.guest.console())[self.said_before :]
        count = lost.count("unreferenced object")
        must(not said and not lost.strip(), f"the kernel found {len(said)} faults and {count} lost objects: {said[:5]}\n{lost[:4000]}")

    def line(self) -> str:
        """For the report."""
        return f"no splat, nothing lost (at boot, before our modules: {self.said_before} splats, {self.lost_before} objects)"


class Traffic:
    """Frames to and from the guest, and lines in its log, until the end of the block."""

    def __init__(self, guest: Guest, lines: bool = True, dies: bool = False):
        self.guest, self.lines, self.dies, self.stop = guest, lines, dies, threading.Event()

    def __enter__(self):
        if self.lines:
            self.guest.run("(while :; do echo '<6>traffic' >/dev/kmsg; usleep 20000; done) >/dev/null 2>&1 & echo $! >/tmp/lines")
        self.guest.run(f"ping -s 1000 {HOST_ADDRESS} >/dev/null 2>&1 & echo $! >/tmp/pings")
        self.thread = threading.Thread(target=self.frames, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(5)
        if not self.dies:
            with contextlib.suppress(Exception):
                self.guest.run("kill $(cat /tmp/lines /tmp/pings 2>/dev/null)", check=False)

    def frames(self) -> None:
        """Datagrams of all sizes at a port that nobody listens on: about 500/s."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            size = 0
            while not self.stop.wait(0.02):
                for _ in range(10):
                    size = (size + 97) % 1400
                    with contextlib.suppress(OSError):
                        out.sendto(bytes(size), (self.guest.machine.address, 9002))


def enable(guest: Guest, name: str = "here", device: str = "eth0", extended: bool = True) -> str:
    """A target in configfs, switched on; its directory."""
    path = f"{ROOT}/{name}"
    guest.run(f"mkdir {path} && echo {device} >{path}/dev_name && echo {HOST_ADDRESS} >{path}/remote_ip && echo {int(extended)} >{path}/extended")
    guest.run(f"echo 1 >{path}/enabled")
    return path


def wait_enabled(guest: Guest, path: str, value: int, seconds: float = PATIENCE) -> None:
    """Waits until a target is on, or off."""
    deadline = time.monotonic() + seconds
    while guest.run(f"cat {path}/enabled").strip() != str(value):
        must(time.monotonic() < deadline, f"{path}/enabled does not become {value} within {seconds:.0f} s")
        time.sleep(0.2)


def wait_armed(guest: Guest, armed: bool, seconds: float = PATIENCE) -> None:
    """Waits until netdump.ko says that it is armed, or not."""
    deadline = time.monotonic() + seconds
    while (status := guest.run("cat /sys/module/netdump/parameters/status")).startswith("armed") != armed:
        must(time.monotonic() < deadline, f"netdump.ko is not {'' if armed else 'un'}armed within {seconds:.0f} s: {status}")
        time.sleep(0.5)


def bring_up(guest: Guest) -> None:
    """eth0, as at boot, when it is there (again)."""
    m = guest.machine
    guest.run("n=0; while [ ! -d /sys/class/net/eth0 ] && [ $n -lt 600 ]; do n=$((n + 1)); usleep 100000; done; [ -d /sys/class/net/eth0 ]", PATIENCE)
    guest.run(f"ip addr add {m.address}/24 dev eth0; ip link set eth0 up && ip route replace default via {HOST_ADDRESS}")


def loads(context: Context, order: str) -> list[str]:
    """Both modules loaded and unloaded many times, in either order."""
    lab = context.lab()
    with Patient(lab, watched(lab), context.directory) as guest:
        guest.wait_ready()
        netconsole = f"insmod /netconsole.ko 'netconsole=@/eth0,@{HOST_ADDRESS}/;+@/eth0,6667@{HOST_ADDRESS}/'"
        with Watch(guest) as watch, Traffic(guest):
            for _ in range(LOADS):
                if order == "netdump-first":
                    panic_run.arm(guest, seconds=PATIENCE)
                    guest.run(netconsole)
                else:
                    guest.run(netconsole)
                    panic_run.arm(guest, seconds=PATIENCE)
                guest.run("rmmod netdump && rmmod netconsole" if order == "netdump-last" else "rmmod netconsole && rmmod netdump", PATIENCE)
    return [f"{LOADS} loads and unloads of both", watch.line()]


def toggles(context: Context, extended: bool) -> list[str]:
    """A target switched on and off a thousand times while lines are printed and frames come and go."""
    lab = context.lab()
    machine = watched(lab)
    path = f"{ROOT}/here/enabled"
    context.directory.mkdir(parents=True, exist_ok=True)
    steps = context.directory / "steps"
    steps.write_text(f"write\t{path}\t30\nwrite\t{path}\t31\n" * TOGGLES)
    machine.extra["/steps"] = steps
    with Patient(lab, machine, context.directory) as guest:
        guest.wait_ready()
        with Watch(guest) as watch:
            panic_run.arm(guest, seconds=PATIENCE)
            guest.run("insmod /netconsole.ko")
            target = enable(guest, extended=extended)
            with Traffic(guest):
                answers = guest.run("/attr-table </steps", 4 * PATIENCE).split("\n")
            bad = [answer for answer in answers if answer and answer != "ok 1"]
            must(not bad and len(answers) >= 2 * TOGGLES, f"{len(bad)} of {len(answers)} writes failed: {bad[:3]}")
            errors = guest.run(f"cat {target}/transmit_errors").strip()
            guest.run(f"rmdir {target} && rmmod netconsole && rmmod netdump", PATIENCE)
    return [f"{TOGGLES} times off and on, {errors} transmit errors", watch.line()]


def replug(context: Context, nic: str) -> list[str]:
    """The NIC taken out and put back while both modules use it; they go on with the new one."""
    lab = context.lab()
    with Patient(lab, watched(lab, nic=nic, hotplug=True), context.directory) as guest:
        guest.wait_ready()
        with Watch(guest) as watch:
            panic_run.arm(guest, seconds=PATIENCE)
            guest.run("insmod /netconsole.ko")
            target = enable(guest)
            for _ in range(PLUGS):
                with Traffic(guest):
                    time.sleep(1)
                    guest.unplug(PATIENCE)
                    wait_enabled(guest, target, 0)
                    wait_armed(guest, False)
                guest.plug()
                bring_up(guest)
                wait_enabled(guest, target, 1)
                wait_armed(guest, True)
            # And once for good, with the modules unloaded while there is none.
            guest.unplug(PATIENCE)
            guest.run(f"rmdir {target} && rmmod netconsole && rmmod netdump", PATIENCE)
    return [f"{PLUGS} times out and in: on and armed again each time", watch.line()]


def namespaces(context: Context) -> list[str]:
    """The NIC moved to another network namespace and back, under both modules."""
    lab = context.lab()
    with Patient(lab, watched(lab), context.directory) as guest:
        guest.wait_ready()
        # busybox has no `ip netns`: a process keeps the namespace.
        guest.run("unshare -n sleep 100000 & echo $! >/tmp/space; sleep 1")
        with Watch(guest) as watch:
            panic_run.arm(guest, seconds=PATIENCE)
            guest.run("insmod /netconsole.ko")
            target = enable(guest)
            for _ in range(PLUGS):
                with Traffic(guest):
                    guest.run("ip link set eth0 netns $(cat /tmp/space)", PATIENCE)
                    wait_enabled(guest, target, 0)
                    wait_armed(guest, False)
                guest.run("nsenter -t $(cat /tmp/space) -n ip link set eth0 netns 1", PATIENCE)
                bring_up(guest)
                # As with the stock module, the device of that name in the other namespace was tried, once and in vain.
                guest.run(f"echo 1 >{target}/enabled", check=False)
                wait_enabled(guest, target, 1)
                wait_armed(guest, True)
            # The namespace ends with the NIC in it, which comes back by itself.
            guest.run("ip link set eth0 netns $(cat /tmp/space); kill $(cat /tmp/space); sleep 2", PATIENCE)
            bring_up(guest)
            wait_armed(guest, True)
            guest.run(f"rmdir {target} && rmmod netconsole && rmmod netdump", PATIENCE)
    return [f"{PLUGS} times to another namespace and back, and once with the namespace ended", watch.line()]


def masters(context: Context) -> list[str]:
    """Devices on top of devices: the NIC under a bond and out of it, targets on a bond, a VLAN device and a bridge."""
    lab = context.lab()
    with Patient(lab, watched(lab), context.directory) as guest:
        guest.wait_ready()
        with Watch(guest) as watch:
            guest.run("insmod /netconsole.ko")
            target = enable(guest)
            for _ in range(PLUGS):
                guest.run("echo +bond7 >/sys/class/net/bonding_masters; ip link set eth0 down")
                guest.run("ip link set eth0 master bond7; ip link set bond7 up")
                wait_enabled(guest, target, 0)
                guest.run(f"ip addr add 10.77.0.5/24 dev bond7; echo bond7 >{target}/dev_name && echo 1 >{target}/enabled")
                guest.run("echo '<4>by way of the bond' >/dev/kmsg")
                guest.run("echo -bond7 >/sys/class/net/bonding_masters", PATIENCE)
                wait_enabled(guest, target, 0)
                bring_up(guest)
                guest.run("ip link add link eth0 name eth0.5 type vlan id 5 && ip addr add 10.77.5.2/24 dev eth0.5 && ip link set eth0.5 up")
                guest.run(f"echo eth0.5 >{target}/dev_name && echo 1 >{target}/enabled && echo '<4>tagged' >/dev/kmsg")
                guest.run("ip link del eth0.5", PATIENCE)
                wait_enabled(guest, target, 0)
                guest.run("brctl addbr br7 2>/dev/null || ip link add br7 type bridge; ip link set eth0 master br7; ip link set br7 up")
                guest.run(f"ip addr add 10.77.0.6/24 dev br7; echo br7 >{target}/dev_name && echo 1 >{target}/enabled")
                guest.run("echo '<4>bridged' >/dev/kmsg")
                guest.run("ip link set eth0 nomaster; ip link del br7", PATIENCE)
                wait_enabled(guest, target, 0)
                guest.run(f"echo 0 >{target}/enabled; echo eth0 >{target}/dev_name && echo 1 >{target}/enabled", check=False)
                wait_enabled(guest, target, 1)
            guest.run(f"rmdir {target} && rmmod netconsole", PATIENCE)
    return [f"{PLUGS} times bond, VLAN and bridge", watch.line()]


def dump(context: Context, nic: str) -> list[str]:
    """A panic with both modules in use: a complete dump that drgn opens, every CPU's stack in it, and no fault on the way."""
    lab = context.lab()
    machine = watched(lab, nic=nic)
    guest = Patient(lab, machine, context.directory)
    server = Server(context.directory, [machine.address])
    with guest, server:
        guest.wait_ready()
        guest.run("mkdir -p /sys/kernel/config && mount -t configfs config /sys/kernel/config")
        panic_run.arm(guest, seconds=PATIENCE)
        guest.run("insmod /netconsole.ko")
        enable(guest)
        with Traffic(guest, lines=False, dies=True):
            guest.send(panic_run.PANIC)
            path, meta = server.wait_dump(1800, guest=guest)
        guest.wait_held(PATIENCE)
        must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
        judges.check_drgn(lab, path / "vmcore", machine.cpus, [panic_run.module_path(lab)], "sysrq_handle_crash")
        # The crash itself is one.
        said = [line for line in splats(guest.console()) if "sysrq triggered crash" not in line]
        must(not said, f"the kernel found {len(said)} faults: {said[:5]}")
    (path / "vmcore").unlink()
    figures = meta["dump"]
    return [f"{figures['memory_bytes'] >> 20} MiB in {figures['memory_seconds']:.0f} s, complete; drgn has every CPU", "no splat"]


def selftest(context: Context, script: str) -> list[str]:
    """One of the kernel's selftests, whose aim is such a kernel, with our module."""
    lab = context.lab(selftests=True)
    result = selftests.judge(lab, script, "ours", directory=context.directory)
    must(result.verdict == "PASS", f"{result.text()}\n{result.why}")
    return [result.text()]


SETTINGS = {"tiers": ("debug",), "flavour": FLAVOUR, "seconds": 7200}
for order in ("netdump-first", "netconsole-first", "netdump-last"):
    add(f"debug-loads-{order}", loads, order=order, **SETTINGS)
add("debug-toggles-extended", toggles, extended=True, **SETTINGS)
add("debug-toggles-basic", toggles, extended=False, **SETTINGS)
for nic in NICS:
    add(f"debug-replug-{nic}", replug, nic=nic, **SETTINGS)
    add(f"debug-dump-{nic}", dump, nic=nic, **SETTINGS)
add("debug-namespaces", namespaces, **SETTINGS)
add("debug-masters", masters, **SETTINGS)
for script in ("netconsole/netcons_torture.sh", "netconsole/netcons_userdata.sh", "netconsole/netcons_resume.sh", "bonding/netcons_over_bonding.sh"):
    add(f"debug-{Path(script).stem}", selftest, script=script, selftests=True, **SETTINGS)
