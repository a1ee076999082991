# SPDX-License-Identifier: GPL-2.0-or-later
"""Level 31 on an idle and on a busy machine: what is left out is what an independent look at the memory says, and nothing that
crash and drgn read is missing."""

import os
import time

import panic_run
import selection
from cases import Context, add
from cases_version6 import spoken
from guest import Guest, Machine
from judges import must
from server import Server

# What a busy guest has beside busy-memory.c: file systems on a disk and in memory, swap in memory and, once that is full, on the disk,
# huge pages, merged pages.
BUSY = """mkdir -p /disk /tmp /mem
mount -t tmpfs -o size=128m mem /tmp
busybox mke2fs -q /dev/vda
mount -t ext4 /dev/vda /disk
echo 4M >/sys/block/zram0/disksize
busybox mkswap /dev/zram0 >/dev/null
busybox swapon /dev/zram0
dd if=/dev/zero of=/disk/swap bs=1M count=24 2>/dev/null
busybox mkswap /disk/swap >/dev/null
busybox swapon /disk/swap
sysctl -q -w vm.nr_hugepages=8
echo 100000 >/sys/kernel/mm/ksm/pages_to_scan
echo 20 >/sys/kernel/mm/ksm/sleep_millisecs
echo 1 >/sys/kernel/mm/ksm/run"""
SLEEPERS = 20
BALLOON = 32  # MiB that the guest gives back
USES = ("free", "free, a CPU's", "cache", "private cache", "anonymous", "ksm", "hugetlb", "broken", "offline", "slab", "table", "zsmalloc")


def make_busy(guest: Guest) -> list[str]:
    """Puts the guest's memory to every use that there is; what there is of each, for the report. All of it must be there."""
    for line in BUSY.splitlines():
        guest.run(line)
    guest.run(f"for n in $(seq {SLEEPERS}); do sleep 100000 & done")
    guest.run("/busy-memory /disk >/busy 2>&1 &")
    guest.run("while [ ! -s /busy ]; do sleep 1; done; cat /busy; grep -q ready /busy", 300)
    guest.run("sync; while [ $(cat /sys/kernel/mm/ksm/pages_sharing) -lt 500 ]; do sleep 1; done; echo 0 >/sys/kernel/mm/ksm/run", 300)
    guest.qmp.command("balloon", value=guest.machine.memory_mib - BALLOON << 20)
    deadline = time.monotonic() + 120
    while guest.qmp.command("query-balloon")["actual"] > guest.machine.memory_mib - BALLOON << 20:
        must(time.monotonic() < deadline, "the guest gives no memory back")
        time.sleep(0.2)
    facts = {}
    for line in guest.run("cat /proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        facts[name] = int(value.split()[0])
    for name in ("AnonPages", "AnonHugePages", "Mlocked", "Shmem", "SwapCached", "Buffers", "HugePages_Total", "HardwareCorrupted"):
        must(facts[name] > 0, f"the guest is not busy: {name} is {facts[name]}")
    must(facts["SReclaimable"] > 8 << 10, f"the guest is not busy: {facts}")
    names = "AnonPages AnonHugePages Mlocked Cached Buffers Shmem SwapCached HardwareCorrupted HugePages_Total SReclaimable SUnreclaim"
    return ["busy: " + ", ".join(f"{name} {facts[name]}" for name in names.split())]


def level_31(context: Context, busy=False) -> list[str]:
    """A guest is dumped at level 31, and the dump held against the memory of the guest as QEMU wrote it."""
    lab = context.lab()
    machine = panic_run.with_module(lab, Machine())
    # With this device QEMU's picture has the kernel's VMCOREINFO.
    machine.devices, machine.modules = ("-device", "vmcoreinfo"), ("qemu_fw_cfg",)
    if busy:
        machine.memory_mib, machine.disk_mib = 768, 128
        machine.modules += ("zram", "virtio_balloon", "tun", "vfat", "loop")
        machine.devices += ("-device", "virtio-balloon-pci")
        machine.extra["/busy-memory"] = panic_run.guest_program("busy-memory")
    lines = []
    # Pages of zeroes are written too: then the holes of the file are the frames that were left out, and no others.
    server = Server(context.directory, secure=0, codec="lz4", skip_zero="false")
    with Guest(lab, machine, context.directory) as guest, server:
        guest.wait_ready()
        panic_run.arm(guest, "level=31", magic=False)
        if busy:
            lines += make_busy(guest)
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(guest.wait_held(60) == "guest-reset", "the guest did not restart")
        picture = context.directory / "truth"
        guest.dump_memory(picture)
    spoken(meta, sealed=False)
    must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
    # What an idle guest has none of.
    wanted, empty = (USES, ()) if busy else ((), ("drgn: sockets", "drgn: pipes"))
    lines += selection.judge(lab, path / "vmcore", picture, meta, [panic_run.module_path(lab)], wanted, empty)
    if not os.environ.get("NETDUMP_KEEP"):
        (path / "vmcore").unlink()
        picture.unlink()
    return lines


add("six-selection-31", level_31, seconds=900)
add("six-selection-31-busy", level_31, busy=True, seconds=1500)
