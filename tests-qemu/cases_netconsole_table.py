# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests that hold our netconsole.ko against the stock one: the same questions, the same answers; and the way back."""

import json
import os
import select
import socket
import subprocess
import time
from pathlib import Path

import initramfs
import netconsole_table as table
from cache import REPOSITORY
from cases import Context, add
from guest import HOST_ADDRESS, Guest, Machine
from judges import must
from panic_run import guest_program
from splats import splats

# What the rows of the table are about, beside eth0.
DEVICES = """
ip link add ncdummy0 address 02:00:00:00:00:70 type dummy && ip link set ncdummy0 up
ip link add ncdummy1 address 02:00:00:00:00:73 type dummy && ip link set ncdummy1 up
ip link add ncdown0 address 02:00:00:00:00:74 type dummy
ip link add ncveth0 type veth peer name ncveth1 && ip link set ncveth0 up
echo +ncbond0 >/sys/class/net/bonding_masters
ip link add ncslave0 address 02:00:00:00:00:75 type dummy && ip link set ncslave0 master ncbond0
ip link set ncbond0 up
"""


def stock_netconsole(lab, directory: Path) -> Path:
    """The stock module, unpacked."""
    path = directory / "stock-netconsole.ko"
    path.write_bytes(initramfs.Modules(Path(lab["MODULES"])).read("netconsole"))
    return path


def our_netconsole(lab) -> Path:
    """Our module for the lab's kernel."""
    path = Path(os.environ.get("NETDUMP_TABLE_MODULE") or REPOSITORY / "build" / lab["KVER"] / "netconsole.ko")
    must(path.exists(), f"{path}: run 'make modules' first (FLAVOUR= as in the test)")
    return path


def machine_with_both(lab, directory: Path) -> Machine:
    """A machine that has the stock module as /stock.ko and ours as /ours.ko."""
    directory.mkdir(parents=True, exist_ok=True)
    extra = {"/stock.ko": stock_netconsole(lab, directory), "/ours.ko": our_netconsole(lab), "/attr-table": guest_program("attr-table")}
    return Machine(modules=("configfs", "dummy", "veth", "bonding"), extra=extra)


def ask(guest: Guest, rows: list[table.Row], name: str, module: str) -> list[list[str]]:
    """The answers to each row's operations."""
    answers = guest.run(f"/attr-table </{name}-{module}", 600)
    (guest.directory / f"{name}-{module}").write_text(answers)
    lines = iter(answers.splitlines())
    said = [[next(lines, "no answer") for _ in row.operations] for row in rows]
    rest = list(lines)
    must(not rest, f"{len(rest)} answers too many: {rest[:3]}")
    return said


def interrogate(guest: Guest, module: str) -> dict[str, list[list[str]]]:
    """All answers of one module, which is not loaded before and not afterwards."""
    answers = {"parameters": ask(guest, table.load_rows(), "parameters", module)}
    guest.run(f"insmod /{module}.ko")
    answers["attributes"] = ask(guest, table.rows_with_module(), "attributes", module)
    guest.run("rmmod netconsole")
    return answers


def same_answers(context: Context) -> list[str]:
    """Both modules say the same to everything that upstream knows."""
    lab = context.lab()
    machine = machine_with_both(lab, context.directory)
    rows = {"parameters": table.load_rows(), "attributes": table.rows_with_module()}
    for name, some in rows.items():
        for module in ("stock", "ours"):
            path = context.directory / f"rows-{name}-{module}"
            path.write_text(table.as_input(some, f"/{module}.ko"))
            machine.extra[f"/{name}-{module}"] = path
    with Guest(lab, machine, context.directory) as guest:
        guest.wait_ready()
        guest.run("mkdir -p /sys/kernel/config && mount -t configfs config /sys/kernel/config")
        for line in DEVICES.strip().splitlines():
            guest.run(line)
        guest.run("echo 1 >/proc/sys/kernel/printk")
        stock = interrogate(guest, "stock")
        ours = interrogate(guest, "ours")
        said = splats(guest.run("dmesg"))
        host = json.loads(subprocess.run(["ip", "-json", "link", "show", machine.tap], capture_output=True, check=True).stdout)
    # To itself a machine sends without addresses.
    next_hops = (f"{host[0]['address']}\n".encode(), b"00:00:00:00:00:00\n")
    lines, different = [], 0
    for name, some in rows.items():
        for row, a, b in zip(some, stock[name], ours[name], strict=True):
            found = table.differences(row, a, b, next_hops)
            different += bool(found)
            lines += [f"{row.label}: {text}" for text in found]
    count = sum(len(some) for some in rows.values())
    operations = sum(len(row.operations) for some in rows.values() for row in some)
    (context.directory / "differences").write_text("".join(line + "\n" for line in lines))
    must(not said, f"the kernel complained: {said[:5]}")
    must(not different, f"{different} of {count} rows differ:\n" + "\n".join(lines[:200]))
    return [f"{count} rows, {operations} operations: the same answers"]


def heard(guest: Guest, module: str, taker: socket.socket) -> None:
    """Loads a module, and what is printed then arrives; unloads it.

    At its load the module sends all that the log has, which may be more than the socket has room for: a line is printed
    until one is heard.
    """
    guest.run(f"insmod /{module}.ko netconsole=@/eth0,6666@{HOST_ADDRESS}/")
    deadline = time.monotonic() + 60
    words, got = b"nothing printed yet", b""
    while words not in got:
        must(time.monotonic() < deadline, f"nothing of what is printed with the {module} module arrives")
        if not select.select([taker], [], [], 0.5)[0]:
            words = f"a line by way of {module} {guest.number}".encode()
            guest.run(f"echo '<4>{words.decode()}' >/dev/kmsg")
            continue
        got = taker.recv(65536)
    guest.run("rmmod netconsole")


def stock_again(context: Context) -> list[str]:
    """The stock module works before ours was loaded, and after."""
    lab = context.lab()
    with Guest(lab, machine_with_both(lab, context.directory), context.directory) as guest:
        guest.wait_ready()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
            taker.bind((HOST_ADDRESS, 6666))
            order = ["stock", "ours"] * 5 + ["stock"]
            for module in order:
                heard(guest, module, taker)
        said = splats(guest.console())
        must(not said, f"the kernel complained: {said[:5]}")
    return [f"{len(order)} loads in turn, each heard: {' '.join(order)}"]


add("netconsole-table", same_answers, tiers=("test", "full"), seconds=1800)
add("netconsole-stock-again", stock_again, tiers=("test", "full"), seconds=300)
