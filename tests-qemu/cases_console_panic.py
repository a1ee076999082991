# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of netconsole.ko in a panic: every line of the serial console must arrive, whatever the panic is. The stock
module goes through the same, so that the judge is seen to say no, and for the table."""

import json
from pathlib import Path

import console_run
import panic_run
from cases import Context, add
from console_receiver import Receiver
from console_run import PORTS, TRIGGERS, Verdict
from guest import CLOUD_NICS, Guest, Machine
from judges import must
from server import Server

# What the stock module delivers nothing of (kernel.panic is not 0).
STOCK_LOSES = "sysrq-panic5"


def one(context: Context, which: str, trigger: str, nic: str, number: int, formats, way=console_run.WAYS["plain"]) -> tuple[bool, list[Verdict]]:
    """One guest; whether all has arrived."""
    directory = context.directory / f"{which}-{trigger}-{number:02}"
    verdicts = console_run.deliver(context.lab(), which, trigger, nic, formats, directory, way)
    complete = all(verdict.complete() for verdict in verdicts)
    for verdict in verdicts:
        if which == "ours" and not verdict.complete():
            print(f"{nic}, {trigger}, round {number}: {verdict.text()}", flush=True)
    return complete, verdicts


def formats_of_round(known: tuple[str, ...], number: int) -> tuple[str, ...]:
    """All formats at once in odd rounds, each alone in turn in even ones."""
    return console_run.together(known) if number % 2 else (known[number // 2 % len(known)],)


def delivered(context: Context, which: str, trigger: str, nic: str, rounds: int) -> dict:
    """So many guests with one module; the counts."""
    known = console_run.formats_of(which)
    row = {"rounds": rounds, "complete": 0, "lines": 0, "arrived": 0}
    for number in range(1, rounds + 1):
        complete, verdicts = one(context, which, trigger, nic, number, formats_of_round(known, number))
        row["complete"] += complete
        row["lines"] += sum(verdict.panic.lines for verdict in verdicts)
        row["arrived"] += sum(verdict.panic.lines - len(verdict.panic.missing) for verdict in verdicts)
    return row


def said(row: dict) -> str:
    """A cell of the table."""
    return f"{row['complete']} of {row['rounds']}, {row['arrived']} of {row['lines']} lines"


def panics(context: Context, trigger: str, nic: str, rounds: int, stock: int) -> list[str]:
    """Rounds of one kind of panic on one NIC."""
    rows = {"stock": delivered(context, "stock", trigger, nic, stock), "ours": delivered(context, "ours", trigger, nic, rounds)}
    (context.directory / "row.json").write_text(json.dumps({"nic": nic, "trigger": trigger, **rows}))
    must(trigger != STOCK_LOSES or not rows["stock"]["complete"], f"the stock module delivers this: the test proves nothing ({said(rows['stock'])})")
    must(rows["ours"]["complete"] == rounds, f"only {said(rows['ours'])} of the panic")
    return [f"stock: {said(rows['stock'])}; ours: {said(rows['ours'])}"]


def quick(context: Context, triggers: tuple[str, ...]) -> list[str]:
    """One guest for each kind of panic, and one with the stock module."""
    lost = delivered(context, "stock", STOCK_LOSES, "virtio-net-pci", 1)
    must(not lost["complete"], f"the stock module delivers {STOCK_LOSES}: the test proves nothing ({said(lost)})")
    lines, failed = [f"stock, {STOCK_LOSES}: {said(lost)}"], []
    for trigger in triggers:
        row = delivered(context, "ours", trigger, "virtio-net-pci", 1)
        lines.append(f"ours, {trigger}: {said(row)}")
        if not row["complete"]:
            failed.append(lines[-1])
    must(not failed, "not all has arrived:\n" + "\n".join(failed))
    return lines


def table(context: Context, names: tuple[str, ...]) -> list[str]:
    """The table of what was delivered, stock and ours, of the tests before it."""
    lines = [f"{'NIC':<15} {'panic':<14} {'stock: rounds with all lines, lines':<38} ours"]
    for name in names:
        path: Path = context.directory.parent / name / "row.json"
        must(path.exists(), f"{name} has not been run")
        row = json.loads(path.read_text())
        lines.append(f"{row['nic']:<15} {row['trigger']:<14} {said(row['stock']):<38} {said(row['ours'])}")
    return lines


def with_dump(context: Context, first: str, nic: str) -> list[str]:
    """netdump.ko and netconsole.ko on one NIC, loaded in either order: the dump is complete and true, and all text arrives."""
    found = context.lab()
    machine = console_run.prepare(found, panic_run.with_module(found, Machine(nic=nic, memory_mib=256)), "ours", TRIGGERS["sysrq-panic5"])
    formats = console_run.together(console_run.formats_of("ours"))
    server = Server(context.directory, [machine.address])
    with Receiver([PORTS[name] for name in formats]) as receiver, Guest(found, machine, context.directory) as guest, server:
        guest.wait_ready()
        iomem = guest.run("cat /proc/iomem")
        if first == "netdump":
            panic_run.arm(guest)
        console_run.load(guest, receiver, formats)
        if first == "netconsole":
            panic_run.arm(guest)
        console_run.fire(guest, TRIGGERS["sysrq-panic5"])
        _, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(guest.wait_held(60) == "guest-reset", "the guest did not restart")
        receiver.wait_quiet(0.5, 10)
        path = server.directories()[-1]
        lines = panic_run.judge(found, guest, path, meta, iomem, all_judges=False)
        verdicts = console_run.judge(guest, receiver, formats)
        must(all(verdict.complete() for verdict in verdicts), "\n".join(verdict.text() for verdict in verdicts))
    (path / "vmcore").unlink(missing_ok=True)
    return [*lines, *(verdict.text() for verdict in verdicts)]


def ways(context: Context, way: str) -> list[str]:
    """Panics whose text takes another way than an IPv4 datagram from a physical device."""
    lines, formats = [], console_run.together(console_run.formats_of("ours"))
    for number, trigger in enumerate(("sysrq-panic5", "sysrq-panic0", "softirq-oops", "nmi"), 1):
        complete, verdicts = one(context, "ours", trigger, "virtio-net-pci", number, formats, console_run.WAYS[way])
        must(complete, f"{trigger}: " + "; ".join(verdict.text() for verdict in verdicts))
        lines.append(f"{trigger}: all lines in {len(formats)} formats")
    return lines


QUICK = ("sysrq-panic5", "sysrq-panic-1", "softirq-oops", "nmi", "burst")
ROUNDS, STOCK_ROUNDS = 20, 2
FEWER = {"hardirq-oops": 5, "nmi-timers": 10, "burst": 5, "storm": 5}
add("console-panic", quick, tiers=("test",), seconds=900, triggers=QUICK)
add("console-and-dump", with_dump, seconds=600, first="netconsole", nic="virtio-net-pci")
add("dump-and-console", with_dump, seconds=600, tiers=("full",), first="netdump", nic="virtio-net-pci")
add("console-and-dump-e1000e", with_dump, seconds=600, flavour="amd64", first="netconsole", nic="e1000e")
add("dump-and-console-e1000e", with_dump, seconds=600, flavour="amd64", first="netdump", nic="e1000e")
for name in console_run.WAYS:
    if name != "plain":
        add(f"console-way-{name}", ways, tiers=("full",), seconds=900, way=name)
matrix = []
for card in ("virtio-net-pci", "e1000e"):
    for kind in TRIGGERS:
        matrix.append(f"console-{kind}-{card}")
        add(
            matrix[-1], panics, seconds=3600, flavour="cloud-amd64" if card in CLOUD_NICS else "amd64",
            trigger=kind, nic=card, rounds=FEWER.get(kind, ROUNDS), stock=STOCK_ROUNDS,
        )  # fmt: skip
add("console-table", table, names=tuple(matrix))
