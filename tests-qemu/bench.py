#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed of dumps: version 6 and classic, in clear, sealed, compressed; beside what pktgen gets out of the same guest and device.

In each run of a guest pktgen (clone_skb 0) sends frames of the size that the dump will use to the server's port, then the
guest panics and is dumped. The server counts both with the same counter (datagrams_received of its status file), so that
what it and the host cannot take is missing from both. After that pktgen does what a dump cannot: it sends each buffer a
thousand times (clone_skb 1000), 64 at once (burst 64); how near dumps of whole bytes of memory come to that is a row of its own.
The kinds of dumps alternate, figures are medians over the rounds.
Results: build/bench/dump.json, an object of rows with ours, other, ratio, unit.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import lab
import panic_run
from cache import REPOSITORY, Failure
from enrolment import Enrolment
from guest import GUEST_ADDRESS, HOST_ADDRESS, Guest, GuestError, Machine
from judges import JudgeError, must
from server import Server, ServerError

HOME = REPOSITORY / "build/bench"
# What stands in front of a datagram's payload.
HEADERS = 8 + 20 + 14
# Below this the classic protocol is too slow, MB/s.
LEAST = 60.0


@dataclass
class Kind:
    """A kind of dump."""

    name: str
    # Bytes of a datagram, and of memory in it where it is sent as it is.
    payload: int
    memory: int
    magic: bool = False
    keyed: bool = False
    parameters: str = ""
    settings: dict = field(default_factory=dict)


CLASSIC = Kind("classic", 1037, 1024, magic=True, parameters="protocol=classic")
# A datagram of version 6 is 1,416 bytes; 16 of header and 24 of the piece are not memory.
CLEAR = Kind("clear", 1416, 1376, settings={"secure": 0, "codec": "none"})
KINDS = [
    CLASSIC,
    CLEAR,
    Kind("sealed", 1416, 1360, keyed=True, settings={"codec": "none"}),
    Kind("lz4", 1416, 1376, settings={"secure": 0, "codec": "lz4"}),
    Kind("zstd", 1416, 1376, settings={"secure": 0, "codec": "zstd"}),
    Kind("sealed_lz4", 1416, 1360, keyed=True, settings={"codec": "lz4"}),
    # With vector units for the cipher whether or not they are faster, and without, as where the panic finds them in use.
    Kind("simd", 1416, 1360, keyed=True, parameters="simd=on", settings={"codec": "none"}),
    Kind("no_fpu", 1416, 1360, keyed=True, parameters="simd=off", settings={"codec": "none"}),
]
# What pktgen does: each frame a new buffer, or as fast as it can.
SINGLE, BURSTS = ("clone_skb 0", "burst 1"), ("clone_skb 1000", "burst 64")


class Counter(threading.Thread):
    """Reads the server's counter of datagrams as often as the server writes it."""

    def __init__(self, status: Path):
        super().__init__(daemon=True)
        self.status, self.samples, self.over = status, [], threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            try:
                status = json.loads(self.status.read_text())
            except (OSError, ValueError):
                continue
            at = datetime.fromisoformat(status["written"][:26].rstrip("Z") + "+00:00").timestamp()
            sample = (at, status["datagrams_received"], status["socket_drops"])
            if not self.samples or self.samples[-1] != sample:
                self.samples.append(sample)

    def rate(self, first: int) -> tuple[float, int]:
        """Datagrams per second between the whole intervals in which they came, from sample `first` on; and drops."""
        busy = []
        for (t0, n0, d0), (t1, n1, d1) in zip(self.samples[first:], self.samples[first + 1 :]):
            if n1 > n0 and t1 > t0:
                busy.append((t1 - t0, n1 - n0, d1 - d0))
        # The first and the last interval are only partly busy.
        inner = busy[1:-1] or busy
        must(inner, "the server's counter did not move")
        return sum(n for _, n, _ in inner) / sum(t for t, _, _ in inner), sum(d for _, _, d in inner)


def pktgen(guest: Guest, count: int, size: int, gateway: str, how: tuple[str, ...]) -> None:
    """Sends `count` frames of a size from one CPU."""
    guest.run("echo add_device eth0 >/proc/net/pktgen/kpktgend_0")
    for word in (f"count {count}", *how, f"pkt_size {size}", "delay 0", f"dst {HOST_ADDRESS}", f"dst_mac {gateway}",
                 "udp_src_min 6666", "udp_src_max 6666", "udp_dst_min 6666", "udp_dst_max 6666"):  # fmt: skip
        guest.run(f"echo {word} >/proc/net/pktgen/eth0")
    guest.run("echo start >/proc/net/pktgen/pgctrl", 300)
    result = guest.run("cat /proc/net/pktgen/eth0")
    must("Result: OK" in result, f"pktgen: {result}")
    guest.run("echo rem_device_all >/proc/net/pktgen/kpktgend_0")


def measure(found, machine: Machine, directory: Path, kind: Kind, frames: int) -> dict:
    """One run: frames per second of dump and pktgen, bytes of memory per second."""
    status = directory / "status.json"
    settings = {"status_file": status, "status_interval": 1, "log_rate": 1024, **kind.settings}
    machine.extra = {}
    if kind.keyed:
        enrolment = Enrolment(directory, machine.address)
        machine.extra, settings = enrolment.files(), {**settings, **enrolment.settings()}
    panic_run.with_module(found, machine)
    with Guest(found, machine, directory) as guest, Server(directory, [GUEST_ADDRESS] if kind.magic else [], **settings) as server:
        guest.wait_ready()
        panic_run.arm(guest, kind.parameters, magic=kind.magic)
        if kind.keyed:
            guest.run("/write-key /key /dev/netdump")
        gateway = guest.run(f"ping -c 1 {HOST_ADDRESS} >/dev/null; arp -n | awk '/{HOST_ADDRESS}/ {{print $4}}'").strip()
        counter = Counter(status)
        counter.start()
        pktgen(guest, frames, kind.payload + HEADERS, gateway, SINGLE)
        time.sleep(3)
        other, other_drops = counter.rate(0)
        bursts = 0.0
        if kind.name == "clear":
            first = len(counter.samples)
            pktgen(guest, 2 * frames, kind.payload + HEADERS, gateway, BURSTS)
            time.sleep(3)
            bursts, _ = counter.rate(first)
        first = len(counter.samples)
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(meta["complete"], f"the dump is not complete: {meta['dump']}")
        time.sleep(2)
        counter.over.set()
        counter.join()
        ours, ours_drops = counter.rate(first)
        (path / "vmcore").unlink()
    dump = meta["dump"]
    return {
        "frames": ours, "pktgen": other, "bursts": bursts * kind.memory / 1e6, "memory": dump["bytes_per_second"] / 1e6,
        "seconds": dump["memory_seconds"], "drops": [ours_drops, other_drops], "again": dump["datagrams"]["retransmissions"],
    }  # fmt: skip


def row(ours: float, other: float, unit: str, **more) -> dict:
    """A row of the results."""
    return {"ours": round(ours, 1), "other": round(other, 1), "ratio": round(ours / other, 3), "unit": unit, **more}


def rows_of(device: str, runs: dict[str, list[dict]]) -> dict:
    """Rows from the runs of each kind."""

    def middle(kind: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[kind])

    rows = {}
    for kind in (kind for kind in KINDS if kind.name in runs):
        name = kind.name
        again = [run["again"] for run in runs[name]]
        drops = [run["drops"] for run in runs[name]]
        if name in ("classic", "clear"):
            key = f"dump_vs_pktgen_{device}" if name == "clear" else f"classic_vs_pktgen_{device}"
            rows[key] = row(middle(name, "frames"), middle(name, "pktgen"), "frames/s", payload=kind.payload, again=again, dropped=drops)
        if name == "clear":
            rows[f"dump_vs_pktgen_bursts_{device}"] = row(middle(name, "memory"), middle(name, "bursts"), "MB/s", dropped=drops)
        if name != "classic" and "classic" in runs:
            key = f"v6_vs_classic_{device}" if name == "clear" else f"v6_{name}_vs_classic_{device}"
            rows[key] = row(middle(name, "memory"), middle("classic", "memory"), "MB/s", seconds=[r["seconds"] for r in runs[name]])
        if name not in ("classic", "clear") and "clear" in runs:
            rows[f"{name}_vs_clear_{device}"] = row(middle(name, "memory"), middle("clear", "memory"), "MB/s")
    if "simd" in runs and "no_fpu" in runs:
        rows[f"no_fpu_vs_simd_{device}"] = row(middle("no_fpu", "memory"), middle("simd", "memory"), "MB/s")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=int, default=1024, help="MiB of the guest")
    parser.add_argument("--nic", default="virtio-net-pci")
    parser.add_argument("--frames", type=int, default=400_000, help="frames that pktgen sends")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(kind.name for kind in KINDS), help="which, with commas between them")
    arguments = parser.parse_args()
    cloud = arguments.nic in ("virtio-net-pci", "vmxnet3")
    found = lab.prepare("cloud-amd64" if cloud else "amd64", vmlinux=False, judges=False)
    runs: dict[str, list[dict]] = {}
    for number in range(arguments.rounds):
        for kind in (kind for kind in KINDS if kind.name in arguments.kinds.split(",")):
            machine = Machine(nic=arguments.nic, memory_mib=arguments.memory, modules=("pktgen",))
            run = measure(found, machine, HOME / arguments.nic / kind.name, kind, arguments.frames)
            runs.setdefault(kind.name, []).append(run)
            print(f"round {number + 1}, {kind.name}: {run['memory']:.0f} MB/s, {run['frames']:.0f} frames/s, pktgen {run['pktgen']:.0f}", flush=True)
    rows = rows_of(arguments.nic, runs)
    path = HOME / "dump.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **rows}, indent=1) + "\n")
    for name, line in rows.items():
        print(f"{name}: {line['ours']} {line['unit']} beside {line['other']}, ratio {line['ratio']}")
    classic = [run["memory"] for run in runs.get("classic", [])]
    if classic and statistics.median(classic) < LEAST:
        print(f"bench: classic is below {LEAST} MB/s", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, ServerError, JudgeError, FileNotFoundError) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
