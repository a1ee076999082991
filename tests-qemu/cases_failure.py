# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests in which something fails: no server, a server that dies, one that never ends, one that comes late."""

import contextlib
import json
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import initramfs
import panic_run
import truth
from cache import REPOSITORY
from cases import Context, add
from guest import HOST_ADDRESS, Guest, Machine
from judges import must
from server import MAGIC1, MAGIC2, Server

SIM = REPOSITORY / "build/bin/netdump-sim"
EXT, VOLATILE = 0x4E440001, 3  # docs/protocol.md


def ended(guest: Guest, why: str, timeout: float) -> float:
    """Waits for the module's word that a timeout of so many seconds ended the dump; for how long it dumped, by the
    guest's printk clock (the TSC, whatever the clocksource is)."""
    begun = guest.wait_console(r"\[ *([\d.]+)\].*netdump activated", 60)
    over = guest.wait_console(rf"\[ *([\d.]+)\].*the dump ends: .*\({why}\)", timeout * 3 + 60)
    return float(over[1]) - float(begun[1])


def in_time(seconds: float, timeout: float, what: str) -> None:
    """A timeout came neither early nor late: hpet's wrap after 43 s, once lost, doubles 50 s."""
    must(timeout * 0.95 < seconds < timeout * 1.5 + 5, f"{what}: {seconds:.1f} s instead of {timeout}")


def no_server(context: Context, clocksource: str = "", timeout: int = 10, panic: int = 2) -> list[str]:
    """Nobody answers: the client gives up after handshake_timeout, says so, and kernel.panic decides."""
    found = context.lab()
    append = f"panic={panic}" + (f" clocksource={clocksource}" if clocksource else "")
    with Guest(found, panic_run.with_module(found, Machine(append=append)), context.directory) as guest:
        guest.wait_ready()
        used = guest.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
        must(not clocksource or used == clocksource, f"the guest uses {used}, not {clocksource}")
        panic_run.arm(guest, f"handshake_timeout={timeout}")
        guest.send(panic_run.PANIC)
        guest.wait_console("netdump activated", 60)
        in_time(ended(guest, "handshake_timeout", timeout), timeout, f"handshake_timeout by {used}")
        if panic == 0:
            guest.wait_console("end Kernel panic", 30)
            must(guest.qmp.status() == "running", "the guest restarted although kernel.panic is 0")
            return [f"gave up by {used}; kernel.panic=0: the machine stays"]
        reason = guest.wait_held(panic * 5 + 60)
        must(reason == "guest-reset", f"the guest stopped for {reason}")
        return [f"gave up after {timeout} s by {used}, then restarted"]


def restarts_for_real(context: Context) -> list[str]:
    """After a dump the machine really boots again."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine(hold=False))
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        panic_run.arm(guest)
        guest.send(panic_run.PANIC)
        _, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(meta["complete"], f"the dump is not complete: {meta['dump']}")
        guest.wait_restart(60)
        guest.wait_ready(again=False)
        panic_run.arm(guest)
        return ["dumped, restarted, armed again"]


def kernel_restarts(context: Context) -> list[str]:
    """reboot=kernel: after a complete dump kernel.panic decides."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine(append="panic=0"))
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        panic_run.arm(guest, "reboot=kernel")
        guest.send(panic_run.PANIC)
        _, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(meta["complete"], f"the dump is not complete: {meta['dump']}")
        guest.wait_console("end Kernel panic", 60)
        must(guest.qmp.status() == "running", "the guest restarted although kernel.panic is 0")
        return ["complete; reboot=kernel and kernel.panic=0: the machine stays"]


def volatile_of(guest: Guest) -> list[dict]:
    """What the client says of the memory that it changes, asked in the place of the server that is gone."""
    item, total = b"", 32
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind((HOST_ADDRESS, 6666))
        door.settimeout(0.2)
        deadline = time.monotonic() + 20
        while len(item) < total:
            must(time.monotonic() < deadline, "the client does not say what it changes")
            door.sendto(struct.pack(">IIIIII", MAGIC2, MAGIC1, len(item), EXT, VOLATILE, len(item)), (guest.machine.address, 6666))
            with contextlib.suppress(TimeoutError):
                reply = door.recv(2048)
                _, number, code, offset = struct.unpack_from(">BIII", reply)
                if code == EXT and number == offset == len(item):
                    (total,) = struct.unpack_from(">I", reply, 13)
                    item += reply[17:]
    entries = [struct.unpack_from(">QQ16s", item, at) for at in range(0, total, 32)]
    return [{"start": start, "end": end, "label": label.rstrip(b"\0").decode()} for start, end, label in entries]


def server_killed(context: Context) -> list[str]:
    """The server dies in mid-dump: idle_timeout ends it, vmcore-incomplete stays and is true as far as it goes."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine(memory_mib=1024, append="panic=1"))
    server = Server(context.directory, [machine.address])
    with Guest(found, machine, context.directory) as guest, contextlib.ExitStack() as stack:
        server.start()
        stack.callback(server.stop)
        guest.wait_ready()
        panic_run.arm(guest, "idle_timeout=5")
        guest.send(panic_run.PANIC)
        server.wait_text(r"received [3-9]0% of pages", 120)
        server.stop(signal.SIGKILL)
        volatile = volatile_of(guest)
        asked = time.monotonic()
        ended(guest, "idle_timeout", 5)
        in_time(time.monotonic() - asked, 5, "idle_timeout")
        must(guest.wait_held(60) == "guest-reset", "the machine did not restart")
        (path,) = server.directories()
        vmcore = path / "vmcore-incomplete"
        must(vmcore.exists() and not (path / "vmcore").exists(), f"no vmcore-incomplete in {path}")
        picture = context.directory / "truth"
        guest.dump_memory(picture)
        meta = json.loads((path / "meta.json").read_text())
        must(not meta["complete"], "meta.json says that it is complete")
        meta["volatile"] = volatile  # a server that lives asks for it last
        report = truth.compare(found, vmcore, picture, meta, modules=[panic_run.module_path(found)], only_written=True)
        picture.unlink()
        written = vmcore.stat().st_blocks * 512
        must(written > 16 << 20, f"only {written} bytes were written")
        must(not report.wrong and report.pages, report.text())
        vmcore.unlink()
        return [f"vmcore-incomplete with {written >> 20} MiB, all of it true"]


def hello_for_ever(context: Context) -> list[str]:
    """A peer that acknowledges and then says HELLO for ever: total_timeout ends it."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine(append="panic=1"))
    with Guest(found, machine, context.directory) as guest, open(context.directory / "hello.log", "wb") as log:
        guest.wait_ready()
        # Without the HELLOs idle_timeout would end it.
        panic_run.arm(guest, "total_timeout=12 idle_timeout=4 handshake_timeout=60")
        command = [SIM, "hello-server", "--bind", f"{HOST_ADDRESS}:6666", "--cookie", f"{MAGIC2:08x}{MAGIC1:08x}", "--time", "200s"]
        peer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            guest.send(panic_run.PANIC)
            guest.wait_console("handshake completed", 60)
            in_time(ended(guest, "total_timeout", 12), 12, "total_timeout")
            must(guest.wait_held(60) == "guest-reset", "the machine did not restart")
        finally:
            peer.kill()
            peer.wait()
    return ["total_timeout ended it, the machine restarted"]


def late_server(context: Context) -> list[str]:
    """The server dies before the panic and comes back while the client looks for it: the dump completes."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine())
    server = Server(context.directory, [machine.address])
    with Guest(found, machine, context.directory) as guest, contextlib.ExitStack() as stack:
        server.start()
        guest.wait_ready()
        iomem = guest.run("cat /proc/iomem")
        panic_run.arm(guest, "handshake_timeout=120")
        server.stop(signal.SIGKILL)
        guest.send(panic_run.PANIC)
        guest.wait_console("netdump activated", 60)
        time.sleep(3)
        server.start()
        stack.callback(server.stop)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        guest.wait_held(60)
        lines = panic_run.judge(found, guest, path, meta, iomem, all_judges=False)
        (path / "vmcore").unlink()
        return lines


def unload_armed(context: Context) -> list[str]:
    """rmmod while armed, many times, under load: the network goes on, and a panic then is nobody's business."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine(append="panic=1"))
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        with panic_run.Load(guest):
            for _ in range(10):
                panic_run.arm(guest)
                guest.run("rmmod netdump")
        guest.run(f"ping -c 3 -W 5 {HOST_ADDRESS}")
        warned = [line for line in guest.run("dmesg").splitlines() if re.search(r"WARNING|BUG:|Oops|Call Trace", line)]
        must(not warned, "the kernel complains: " + "; ".join(warned))
        guest.send(panic_run.PANIC)
        must(guest.wait_held(60) == "guest-reset", "the machine did not restart")
        must(server.meta() is None, "a dump was made without the module")
    return ["10 times armed and unloaded under load"]


def kdump(context: Context, first: bool) -> list[str]:
    """With a kdump image loaded: kdump comes first and netdump is not asked, or (crash_kexec_post_notifiers) netdump dumps
    and kdump follows."""
    found = context.lab()
    image = context.directory / "kdump-initramfs"
    initramfs.build(image, Path(found["MODULES"]), [])
    machine = panic_run.with_module(found, Machine(memory_mib=1024, append="crashkernel=256M" + ("" if first else " crash_kexec_post_notifiers")))
    machine.extra |= {"/load-kdump": panic_run.guest_program("load-kdump"), "/vmlinuz": Path(found["VMLINUZ"]), "/kdump": image}
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        guest.run("/load-kdump /vmlinuz /kdump 'console=ttyS0,115200 nr_cpus=1 reset_devices'")
        must(guest.run("cat /sys/kernel/kexec_crash_loaded").strip() == "1", "the kdump image is not loaded")
        panic_run.arm(guest, "reboot=kernel")
        guest.wait_console("netdump: a kdump image is loaded", 10)
        guest.send(panic_run.PANIC)
        if not first:
            _, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
            must(meta["complete"], f"the dump is not complete: {meta['dump']}")
        guest.wait_console("Run /init as init process", 120, count=2)
        activated = "netdump activated" in guest.console()
        must(activated != first, "netdump was asked before kdump" if first else "netdump was not asked")
        must(not first or server.meta() is None, "a dump was begun")
    return ["kdump's kernel runs, netdump was not asked" if first else "dumped, then kdump's kernel runs"]


add("kdump-first", kdump, tiers=("test", "full"), first=True)
add("kdump-after-netdump", kdump, tiers=("full",), first=False)
add("no-server", no_server, tiers=("test", "full"))
add("no-server-kernel-panic-0", no_server, tiers=("full",), panic=0)
# Longer than the counters take to wrap: 43 s and 4.7 s.
add("no-server-hpet", no_server, tiers=("test", "full"), clocksource="hpet", timeout=50)
add("no-server-acpi_pm", no_server, tiers=("test", "full"), clocksource="acpi_pm", timeout=10)
add("restarts-for-real", restarts_for_real, tiers=("test", "full"))
add("reboot-kernel", kernel_restarts, tiers=("full",))
add("server-killed", server_killed, tiers=("test", "full"))
add("hello-for-ever", hello_for_ever, tiers=("test", "full"))
add("late-server", late_server, tiers=("test", "full"))
add("unload-armed", unload_armed, tiers=("test", "full"))
