#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What netconsole.ko costs and reaches, ours beside the stock one: both in one guest, in turn, many times, in several guests.

The cost is that of a printk() as its caller sees it, timed call by call by modules/printk_bench.c: many calls in a row, and
single calls that find the console's thread asleep. The speed is that of bursts of lines on their way to one target, in
stretches of 100 lines from datagram to datagram by the host's clock: what a busy host takes away then falls into some of
them. The serial console is off, so that only netconsole prints.

Given are the medians, the ratio of medians ours / stock, and the upper end of its one-sided 95 % interval, from a
bootstrap that draws whole guests, and of each whole turns: what was measured in one of them has something in common. One
guest's ratio differs from the next one's by some per cent, either way, and stays for as long as it runs. For the ratio the
figures of two turns next to each other are divided by their common level, so that what drifts in the guest or on the host drops
out. Results: build/bench/console.json.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import lab
import test_modules
from cache import REPOSITORY, Failure
from console_receiver import Receiver
from console_run import module_file
from guest import HOST_ADDRESS, Guest, GuestError, Machine, no_tap_left
from judges import JudgeError, must

HOME = REPOSITORY / "build/bench"
MOST = 1.05
PORT = 6701
# A burst fits the log buffer, so that no line is lost when the console is slower than its caller.
BURST, LOG_BUFFER = 3000, "4M"
STRETCH = 100
# QEMU sends vmxnet3's frames as the guest's CPU hands them over; virtio-net's wait for a thread of QEMU's, which is then
# what is measured where cores are scarce.
NIC = "vmxnet3"
SINGLE, GAP = 100, 1000
DRAWS = 2000
# Guests of a format that may stop without an answer. Each is said.
MOST_LOST = 2
TARGET = "/sys/kernel/config/netconsole/bench"


@dataclass
class Turn:
    """What was measured while one module was loaded once."""

    printk: list[float] = field(default_factory=list)  # ns a call in a row, the median of a burst
    single: list[float] = field(default_factory=list)  # ns a call alone, the median of a burst
    line: list[float] = field(default_factory=list)  # us a line on the network, a stretch


def load(guest: Guest, which: str, extended: bool, gateway: str) -> None:
    """Loads a module and makes a target, by configfs: the old log is not sent then."""
    values = {"extended": int(extended), "dev_name": "eth0", "local_ip": guest.machine.address, "remote_ip": HOST_ADDRESS,
              "remote_port": PORT, "remote_mac": gateway}  # fmt: skip
    words = [f"insmod /{which}.ko", f"mkdir {TARGET}", *(f"echo {value} >{TARGET}/{name}" for name, value in values.items())]
    guest.run(" && ".join([*words, f"echo 1 >{TARGET}/enabled"]))


def unload(guest: Guest) -> None:
    guest.run(f"echo 0 >{TARGET}/enabled && rmdir {TARGET} && rmmod netconsole")


def run_burst(guest: Guest, receiver: Receiver, calls: int, gap: int) -> tuple[float, list[float]]:
    """One burst: median ns of a call, us a line on the network in each stretch."""
    receiver.got[PORT].clear()
    home = "/sys/module/printk_bench/parameters"
    text = guest.run(f"echo {gap} >{home}/gap; echo {calls} >{home}/run; cat {home}/result")
    must(receiver.wait(PORT, f"line {calls - 1} of {calls},".encode(), 60), f"of {calls} lines {len(receiver.got[PORT])} datagrams came")
    came = list(receiver.got[PORT])
    numbers = [int(found[1]) for _, data in came for found in re.finditer(rb"line (\d+) of", data)]
    must(numbers == list(range(calls)), f"of {calls} lines {len(numbers)} came, or not in their order")
    times = [at for at, _ in came[::STRETCH]]
    return float(text.split()[2]), [(end - begin) * 1e6 / STRETCH for begin, end in zip(times, times[1:])]


def turn(guest: Guest, receiver: Receiver, which: str, extended: bool, gateway: str, bursts: int) -> Turn:
    """One turn of one module."""
    load(guest, which, extended, gateway)
    result = Turn()
    run_burst(guest, receiver, BURST // 10, 0)  # what is cold warms up
    for _ in range(bursts):
        cost, stretches = run_burst(guest, receiver, BURST, 0)
        result.printk.append(cost)
        result.line += stretches
        result.single.append(run_burst(guest, receiver, SINGLE, GAP)[0])
    unload(guest)
    return result


Pair = tuple[list[float], list[float]]


def level(pair: Pair) -> Pair:
    """The figures of two turns next to each other, divided by the mean of their medians."""
    common = (statistics.median(pair[0]) + statistics.median(pair[1])) / 2
    return [value / common for value in pair[0]], [value / common for value in pair[1]]


def ratio(pairs: list[Pair]) -> float:
    """Ours / other, of medians."""
    ours, other = ([value for pair in pairs for value in pair[n]] for n in (0, 1))
    return statistics.median(ours) / statistics.median(other)


def drawn_ratio(guests: list[list[Pair]], draw: random.Random) -> float:
    """The ratio of as many guests, drawn with replacement, and as many turns of each, likewise."""
    return ratio([pair for guest in draw.choices(guests, k=len(guests)) for pair in draw.choices(guest, k=len(guest))])


def row(raw: list[list[Pair]], unit: str) -> dict:
    """The row of one figure, from the turns of each guest."""
    ours, other = (statistics.median(value for guest in raw for pair in guest for value in pair[n]) for n in (0, 1))
    guests, draw = [[level(pair) for pair in guest] for guest in raw], random.Random(1)
    pairs = [pair for guest in guests for pair in guest]
    drawn = sorted(drawn_ratio(guests, draw) for _ in range(DRAWS))
    return {
        "ours": round(ours, 3), "other": round(other, 3), "ratio": round(ratio(pairs), 4),
        "upper 95 %": round(drawn[int(DRAWS * 0.95)], 4), "unit": unit,
        "other is": "the stock netconsole.ko in the same guest, in turn", "turns": len(pairs), "guests": [round(ratio(guest), 4) for guest in guests],
        "measured": sum(len(pair[0]) for pair in pairs), "most": MOST,
    }  # fmt: skip


def measure(found, which: tuple[str, str], extended: bool, turns: int, bursts: int, directory: Path) -> list[tuple[Turn, Turn]]:
    """The turns of one guest."""
    files = {f"/module{n}.ko": module_file(found, name) for n, name in enumerate(which)}
    files["/printk_bench.ko"] = test_modules.build(found, "printk_bench")
    machine = Machine(nic=NIC, append=f"log_buf_len={LOG_BUFFER}", modules=("configfs",), extra=files)
    pairs: list[tuple[Turn, Turn]] = []
    with no_tap_left(machine.tap), Receiver([PORT]) as receiver, Guest(found, machine, directory) as guest:
        guest.wait_ready()
        shown = subprocess.run(["ip", "-j", "link", "show", machine.tap], capture_output=True, check=True).stdout
        gateway = json.loads(shown)[0]["address"]
        guest.run("mount -t configfs none /sys/kernel/config && echo N >/sys/class/tty/ttyS0/console && insmod /printk_bench.ko")
        for number in range(turns):
            done: dict[int, Turn] = {}
            for n in (0, 1) if number % 2 else (1, 0):
                done[n] = turn(guest, receiver, f"module{n}", extended, gateway, bursts)
            pairs.append((done[0], done[1]))
        must(not any(receiver.dropped.values()), f"the host lost datagrams: {receiver.dropped}")
    return pairs


def rows_of(guests: list[list[tuple[Turn, Turn]]], extended: bool) -> dict:
    """The rows of one format."""
    name = "extended" if extended else "basic"
    rows = {
        f"printk, {name}, {BURST} calls in a row": row([[(a.printk, b.printk) for a, b in pairs] for pairs in guests], "ns a call"),
        f"printk, {name}, a call alone": row([[(a.single, b.single) for a, b in pairs] for pairs in guests], "ns a call"),
        f"one target, {name}": row([[(a.line, b.line) for a, b in pairs] for pairs in guests], "us a line"),
    }
    speed = rows[f"one target, {name}"]
    speed["lines/s"] = {"ours": round(1e6 / speed["ours"]), "other": round(1e6 / speed["other"])}
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10, help="of each module in each guest")
    parser.add_argument("--guests", type=int, default=10, help="of each format")
    parser.add_argument("--bursts", type=int, default=2, help="in each turn")
    parser.add_argument("--against-itself", action="store_true", help="the stock module in both places: what the method finds where nothing is")
    arguments = parser.parse_args()
    found = lab.prepare("cloud-amd64", vmlinux=False, judges=False)
    which = ("stock" if arguments.against_itself else "ours", "stock")
    rows: dict[str, dict] = {}
    for extended in (False, True):
        guests = []
        for number in range(1, arguments.guests + 1):
            directory = HOME / f"console-{'extended' if extended else 'basic'}-{number:02}"
            try:
                guests.append(measure(found, which, extended, arguments.turns, arguments.bursts, directory))
            except GuestError as error:
                # Guests were seen to stop for good at their first command, with either module yet to be loaded or just loaded.
                print(f"bench: guest {number} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
                must(number - len(guests) <= MOST_LOST, "too many guests stopped")
        rows |= rows_of(guests, extended)
    HOME.mkdir(parents=True, exist_ok=True)
    if not arguments.against_itself:
        (HOME / "console.json").write_text(json.dumps(rows, indent=1) + "\n")
    slow = []
    for name, one in rows.items():
        print(f"{name}: {one['ours']} {one['unit']}, stock {one['other']}, ratio {one['ratio']}, at most {one['upper 95 %']} (95 %)")
        if one["upper 95 %"] > one["most"]:
            slow.append(name)
    for name in slow:
        print(f"bench: {name}: the upper bound is above {MOST}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, JudgeError, FileNotFoundError) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
