# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of a bad network and of bad people: loss, duplicates, reordering, floods, forged and unauthorised requests."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import panic_run
from cache import REPOSITORY
from cases import Context, add
from guest import GUEST_ADDRESS, HOST_ADDRESS, Guest, Machine
from judges import must
from server import MAGIC1, MAGIC2, Server

IMPAIR = REPOSITORY / "build/bin/netdump-impair"
SIM = REPOSITORY / "build/bin/netdump-sim"
# What the server may have in memory with a flood and a dump: its buffers for the disk (64 MiB) and as much again.
SERVER_RSS = 160 << 20
PORT_A, PORT_B = 7001, 7002


class Impairer:
    """netdump-impair between the server's namespace (tap nd0) and QEMU (UDP)."""

    def __init__(self, directory: Path, *options: str):
        self.stats_path = directory / "impair.json"
        ends = ["--a", "tap:nd0", "--b", f"udp:127.0.0.1:{PORT_A},127.0.0.1:{PORT_B}"]
        self.command = [IMPAIR, *ends, *options, "--stats", self.stats_path]
        self.log = directory / "impair.log"

    def __enter__(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while "ready" not in self.log.read_text():
            must(self.process.poll() is None and time.monotonic() < deadline, f"netdump-impair: {self.log.read_text()}")
            time.sleep(0.05)
        subprocess.run(["ip", "addr", "add", f"{HOST_ADDRESS}/24", "dev", "nd0"], check=True)
        subprocess.run(["ip", "link", "set", "nd0", "up"], check=True)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def stats(self) -> dict:
        """Counts of both directions; final after the block."""
        return json.loads(self.stats_path.read_text())


NETDEV = (
    f"dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port={PORT_B},"
    f"remote.type=inet,remote.host=127.0.0.1,remote.port={PORT_A}"
)


def impaired(context: Context, options: tuple, must_count: tuple) -> list[str]:
    """A dump over a bad link is complete and true, and the link was bad."""
    impairer = Impairer(context.directory, *options)
    with impairer:
        lines = panic_run.panic_run(
            context.lab(), Machine(memory_mib=256, netdev=NETDEV), context.directory, parameters="idle_timeout=60"
        )
    stats = impairer.stats()
    for direction in ("a_to_b", "b_to_a"):
        counts = stats[direction]
        lines.append(f"{direction}: " + ", ".join(f"{counts[k]} {k}" for k in ("offered", "lost", "duplicated", "reordered", "tampered")))
        for key in must_count:
            must(counts[key] > 0, f"the link {direction} has {key} nothing: {counts}")
    return lines


# What each kind of flood is counted under, at least one of them.
FLOODS = {
    "mem": ("unknown_number",),
    "start": ("not_registered", "start_flood"),
    "garbage": ("not_netdump", "too_short", "malformed"),
}


class Flood:
    """A process that sends what no client would."""

    def __init__(self, directory: Path, kind: str, source: str, sources: int, rate: int):
        self.kind, self.path = kind, directory / f"flood-{kind}.log"
        self.command = [SIM, "flood", "--server", f"{HOST_ADDRESS}:6666", "--kind", kind, "--source", source, "--sources", str(sources),
                        "--forge", "--rate", str(rate), "--time", "600s"]  # fmt: skip

    def start(self) -> None:
        with open(self.path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def must_run(self) -> None:
        must(self.process.poll() is None, f"the flood of {self.kind} does not run: {self.path.read_text()}")

    def end(self) -> None:
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()


def flood(context: Context) -> list[str]:
    """Garbage, forged START_NETDUMP and forged MEM with the client's address: memory bounded, the dump beside it true."""
    floods = [
        Flood(context.directory, "mem", f"{GUEST_ADDRESS}:6666", 1, 2000),
        Flood(context.directory, "start", "10.77.0.100:6666", 50, 2000),
        Flood(context.directory, "garbage", "10.77.0.50:1000", 50, 3000),
    ]
    status, seen = context.directory / "status.json", {}

    def begin(*_) -> None:
        for one in floods:
            one.start()

    def over(server: Server) -> None:
        for one in floods:
            one.must_run()
        seen["rss"] = server.rss()
        time.sleep(2)
        seen["counts"] = json.loads(status.read_text())["counts"]

    try:
        lines = panic_run.panic_run(
            context.lab(), Machine(), context.directory, before_panic=begin, dumped=over, parameters="idle_timeout=60",
            settings={"status_file": status, "status_interval": 1},
        )  # fmt: skip
    finally:
        for one in floods:
            one.end()
    must(seen["rss"] < SERVER_RSS, f"the server had {seen['rss'] >> 20} MiB, the bound is {SERVER_RSS >> 20} MiB")
    for kind, names in FLOODS.items():
        must(sum(seen["counts"].get(name, 0) for name in names) > 100, f"the flood of {kind} did not arrive: {seen['counts']}")
    counted = ", ".join(f"{name} {count}" for name, count in seen["counts"].items() if count)
    return [*lines, f"server: at most {seen['rss'] >> 20} MiB (bound {SERVER_RSS >> 20} MiB)", f"counted: {counted}"]


def unauthorised(context: Context) -> list[str]:
    """Requests with a wrong cookie or from a wrong address are counted and never answered, and disturb no dump."""
    probes = []

    def begin(guest: Guest, server: Server) -> None:
        subprocess.run(["ip", "addr", "add", "10.77.0.9/24", "dev", guest.machine.tap], check=True)
        right = ["--cookie", f"{MAGIC2:08x}{MAGIC1:08x}"]
        for source, cookie in ((f"{HOST_ADDRESS}:0", []), ("10.77.0.9:0", right)):
            log = open(context.directory / f"probe-{len(probes)}.log", "wb")
            command = [SIM, "probe", "--client", f"{GUEST_ADDRESS}:6666", "--source", source, "--rate", "200", "--time", "20s", *cookie]
            probes.append((subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log), source, log))

    try:
        lines = panic_run.panic_run(context.lab(), Machine(), context.directory, before_panic=begin)
        for process, source, _ in probes:
            status = process.wait(60)
            must(status == 0, f"requests from {source} were answered: see probe-*.log in {context.directory}")
    finally:
        for process, _, log in probes:
            process.kill()
            process.wait()
            log.close()
    console = (context.directory / "console").read_text(errors="replace")
    counted = re.search(r"\((\d+) with a wrong cookie, \d+ too short\).*?(\d+) datagrams from elsewhere", console, re.S)
    must(counted, "the module does not say what it refused")
    must(int(counted[1]) > 0, f"the module counted no wrong cookie: {counted[0]}")
    must(int(counted[2]) > 0, f"the module counted nothing from another address: {counted[0]}")
    return [*lines, f"not answered; the module counted {counted[1]} with a wrong cookie, {counted[2]} from elsewhere"]


BAD = ("--dup", "1%", "--reorder", "1%")
add("loss-1-percent", impaired, tiers=("test", "full"), seconds=600, options=("--loss", "1%", *BAD), must_count=("lost", "duplicated", "reordered"))
add("loss-10-percent", impaired, tiers=("full",), seconds=1200, options=("--loss", "10%", *BAD), must_count=("lost", "duplicated", "reordered"))
add("tampered", impaired, tiers=("full",), seconds=900, options=("--tamper", "0.5%"), must_count=("tampered",))
add("slow-link", impaired, tiers=("full",), seconds=900, options=("--rate", "100mbit", "--delay", "5ms"), must_count=("offered",))
add("flood", flood, tiers=("test", "full"), seconds=600)
add("unauthorised", unauthorised, tiers=("test", "full"))
