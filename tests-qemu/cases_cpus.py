# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests in which a CPU is in a bad way when the machine panics, or gets into one while it is dumped."""

import contextlib
import re
import socket
import threading
import time

import panic_run
from cases import Context, add
from guest import Guest, Machine
from judges import must
from server import Server


def all_but_cpu0(guest: Guest) -> None:
    """Every interrupt that can be moved goes to CPU 1, and the shell to CPU 0."""
    guest.run("for irq in /proc/irq/[0-9]*; do echo 2 >$irq/smp_affinity; done 2>/dev/null; taskset -p 1 $$")


def flood(guest: Guest) -> None:
    """Keeps the guest's poll function busy until it panics."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        while not guest.panicked() and guest.process.poll() is None:
            for _ in range(2000):
                with contextlib.suppress(OSError):
                    out.sendto(bytes(64), (guest.machine.address, 9002))


def waits_for_console(context: Context, nic: str) -> list[str]:
    """A CPU is interrupted in the driver's poll function by the serial port, whose handler waits for the console that
    the panic occupies. It must be let out of there, else the driver is stuck with it. (Typing goes on, so that the CPU may
    be waiting again when all are stopped; nothing of the driver's is lost by then.)"""
    machine = Machine(nic=nic, typing=True, memory_mib=256)

    def before(guest: Guest, _: Server) -> None:
        all_but_cpu0(guest)
        threading.Thread(target=flood, args=(guest,), daemon=True).start()
        guest.type_for_ever()
        time.sleep(2)

    lines = panic_run.panic_run(context.lab(), machine, context.directory, before_panic=before)
    console = (context.directory / "console").read_text(errors="replace")
    must("the network device was in use" not in console, "a poll function was left half way")
    return lines


# When the panic begins CPU 1 (thread 2) goes on alone until it is idle, and is made to halt with interrupts off.
DEAD_CPU = """hbreak sysrq_handle_crash
continue
delete
thread 2
set $halt = (unsigned char *)pv_native_safe_halt
if $rip < (unsigned long)$halt || $rip >= (unsigned long)$halt + 16
  set scheduler-locking on
  hbreak *pv_native_safe_halt
  continue
  delete
  set scheduler-locking off
end
while *$halt != 0xf4
  set $halt = $halt + 1
end
set $rip = $halt
set $eflags = $eflags & ~0x200"""


def no_interrupts(context: Context) -> list[str]:
    """A CPU that takes no interrupt for ever is stopped by NMI, its registers are in the dump, and the console says so."""
    machine = Machine(debugger=True, append="nokaslr")

    def panic(guest: Guest) -> None:
        guest.run("taskset -p 1 $$")
        # At the last moment: a kernel does not get far with such a CPU.
        guest.debug(DEAD_CPU, meanwhile=lambda: guest.send(panic_run.PANIC))

    lines = panic_run.panic_run(context.lab(), machine, context.directory, trigger=panic)
    console = (context.directory / "console").read_text(errors="replace")
    must(re.search(r"CPU 1 was not taking interrupts and was stopped by NMI in \w", console), "the console does not say so")
    return lines


def nested_fault(context: Context) -> list[str]:
    """A fault in the middle of the dump ends it: the module says so, and kernel.panic decides."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine(memory_mib=1024, append="panic=1", debugger=True))
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        panic_run.arm(guest)
        guest.send("taskset -p 1 $$ >/dev/null; " + panic_run.PANIC)
        server.wait_text(r"received [1-5]0% of pages", 120)
        guest.debug("thread 1\nset $rip = 0")
        guest.wait_console("netdump: fault while dumping, giving up", 30)
        must(guest.wait_held(60) == "guest-reset", "the machine did not restart")
        (path,) = server.directories()
        must((path / "vmcore-incomplete").exists() and not (path / "vmcore").exists(), f"no vmcore-incomplete in {path}")
        (path / "vmcore-incomplete").unlink()
    return ["a fault in mid-dump: it was given up, the machine restarted"]


add("waits-for-console", waits_for_console, tiers=("test", "full"), nic="virtio-net-pci")
add("waits-for-console-e1000", waits_for_console, flavour="amd64", nic="e1000")
add("no-interrupts", no_interrupts, tiers=("test", "full"))
add("nested-fault", nested_fault, tiers=("test", "full"))
