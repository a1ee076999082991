# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests in which a dump must be complete and true: NICs, CPUs, memory sizes, load, layouts, kinds of crash."""

import lzma

import judges
import panic_run
import test_modules
from cache import REPOSITORY
from cases import Context, add
from guest import CLOUD_NICS, Guest, Machine
from judges import must
from server import Server


def dump(context: Context, nic="virtio-net-pci", cpus=2, memory_mib=512, load=False, all_judges=False, **more) -> list[str]:
    """One panic, judged by drgn and ground truth."""
    fields = {key: more.pop(key) for key in ("append", "cpu", "modules") if key in more}
    found = context.lab()
    modules = {f"/{name}.ko": test_modules.build(found, name) for name in more.pop("ours", ())}
    machine = Machine(nic=nic, cpus=cpus, memory_mib=memory_mib, extra=modules, **fields)
    return panic_run.panic_run(found, machine, context.directory, load=load, all_judges=all_judges, **more)


def layout_of_2005(context: Context) -> list[str]:
    """format=netdump: the one-segment layout of the original opens in crash."""
    found = context.lab()
    machine = panic_run.with_module(found, Machine())
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address], format="netdump") as server:
        guest.wait_ready()
        panic_run.arm(guest)
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(meta["complete"] and meta["dump"]["format"] == "netdump", f"no complete dump in the layout of 2005: {meta['dump']}")
        guest.wait_held(60)
    options = judges.options_of_2005(found, path / "vmcore", (path / "log").read_text(errors="replace"))
    text = judges.check_crash(found, path / "vmcore", machine.cpus, options=options)
    (path / "vmcore").unlink()
    return text[0].splitlines()[:4]


def made_by_dkms(context: Context) -> list[str]:
    """The module that netdump-dkms has made out of Debian's headers and source (tests-qemu/packages.py --only dkms) dumps."""
    found = context.lab()
    packed = REPOSITORY / "build" / found["KVER"] / "dkms/netdump.ko.xz"
    if not packed.exists():
        raise FileNotFoundError(f"{packed}: `make test-full` has it made first")
    module = context.directory / "netdump.ko"
    module.write_bytes(lzma.decompress(packed.read_bytes()))
    machine = Machine(extra={"/netdump.ko": module})
    with Guest(found, machine, context.directory) as guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        panic_run.arm(guest)
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(guest.wait_held(60) == "guest-reset", "the guest did not restart")
    must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
    judges.check_crash(found, path / "vmcore", machine.cpus)
    judges.check_drgn(found, path / "vmcore", machine.cpus)
    return [f"{meta['dump']['memory_bytes'] >> 20} MiB, complete"]


def nmi(guest: Guest) -> None:
    """A hard lockup as far as the panic code is concerned."""
    guest.nmi()


def nmi_in_timers(guest: Guest) -> None:
    """It comes upon the holder of a lock that parts of drivers want."""
    guest.run("insmod /crash_in.ko how=timers")
    guest.nmi()


# Every pair of (NIC, CPUs), (NIC, memory) and (CPUs, memory) occurs; every second row is under load.
TABLE_NICS = ("virtio-net-pci", "e1000e", "vmxnet3", "e1000")
TABLE_CPUS = (1, 2, 4)
TABLE_MEMORY = (256, 1024, 4096)
ROUNDS = 3

add("default", dump, tiers=("test",), all_judges=True)
add("default-under-load", dump, tiers=("test",), load=True)
add("layout-2005", layout_of_2005, tiers=("test", "full"))
add("one-cpu-vmxnet3", dump, tiers=("test",), nic="vmxnet3", cpus=1, memory_mib=256)
add("four-cpus", dump, tiers=("test",), cpus=4, memory_mib=1024)
add(
    "nmi-panic", dump, tiers=("test", "full"), append="unknown_nmi_panic=1", trigger=nmi, in_stack="nmi_panic",
)  # fmt: skip
add("made-by-dkms", made_by_dkms, flavour="amd64")
for nic in ("virtio-net-pci", "e1000e"):
    for number in range(1, ROUNDS + 1):
        add(
            f"nmi-timers-{nic}-{number}", dump, tiers=("full",), append="unknown_nmi_panic=1", trigger=nmi_in_timers, in_stack="nmi_panic",
            ours=("crash_in",), nic=nic, flavour="cloud-amd64" if nic in CLOUD_NICS else "amd64",
        )  # fmt: skip
add(
    "five-level-page-tables", dump, tiers=("full",), cpu="max", all_judges=True,
)  # fmt: skip
for number in range(1, 21):
    add(f"default-{number:02}-of-20", dump, tiers=("full",), all_judges=number == 1)
for i, nic in enumerate(TABLE_NICS):
    for j, cpus in enumerate(TABLE_CPUS):
        memory = TABLE_MEMORY[(i + j) % len(TABLE_MEMORY)]
        load = (i * len(TABLE_CPUS) + j) % 2 == 1
        for number in range(1, ROUNDS + 1):
            add(
                f"table-{nic}-{cpus}cpu-{memory}m{'-load' if load else ''}-{number}", dump, tiers=("full",),
                seconds=240 + memory // 4, flavour="cloud-amd64" if nic in CLOUD_NICS else "amd64",
                nic=nic, cpus=cpus, memory_mib=memory, load=load,
            )  # fmt: skip
