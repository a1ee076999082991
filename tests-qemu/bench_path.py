#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed of version 6 over bad, long and other paths: a guest panics and is dumped through netdump-impair, in clear, as it is.

Each row is one thing that differs from the plain path (no loss, a round trip of 0.2 ms, MTU 1500, the guest's memory as it is for loss):
loss both ways, the round trip, the MTU, the size of memory; the first also with clusters of 1, 4 and 16 pages. "other" is the plain path
with clusters of that size, dumped in the same round; that of the plain path itself is what the relay carries on this machine without a
guest (netdump-impair --ceiling). Figures are bytes of memory a second in the memory phase, medians over the rounds.
Results: build/bench/path.json, rows with ours, other, ratio, unit.
"""

import argparse
import fnmatch
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace

import lab
import panic_run
from cache import REPOSITORY, Failure
from cases_network import IMPAIR, NETDEV, Impairer
from guest import Guest, GuestError, Machine
from judges import JudgeError, must
from server import Server, ServerError

HOME = REPOSITORY / "build/bench"
# Headers of a frame in front of the payload, and what of a datagram of version 6 in clear is no memory.
HEADERS, OVERHEAD = 42, 40
LOSSES = (0.1, 1, 5, 20, 30)
SIZES = (16, 4, 1)
LEAST_BY_LOSS = {0.1: 0.95, 1: 0.85, 5: 0.7, 30: 0.4}
LEAST_BY_RTT = {50: 0.8}


@dataclass(frozen=True)
class Path:
    """What lies between guest and server, and what is sent over it."""

    loss: float = 0  # per cent, each way
    rtt: float = 0.2  # ms
    mtu: int = 1500
    memory: int = 512  # MiB
    pages: int = 16  # of a cluster

    @property
    def datagram(self) -> int:
        """The longest UDP payload that the server asks for."""
        return 8972 if self.mtu == 9000 else 1416

    def options(self) -> list[str]:
        """Those of netdump-impair."""
        return ["--loss", f"{self.loss}%", "--delay", f"{round(self.rtt * 500)}us"]

    def plain(self, memory: int) -> "Path":
        """What it is compared with."""
        return Path(memory=memory, pages=self.pages)


def rows(memory: int) -> dict[str, tuple[Path, float | None]]:
    """All rows, with the least ratio where there is one."""
    plain = Path(memory=memory)
    found: dict[str, tuple[Path, float | None]] = {}
    for pages in SIZES:
        found[f"path_plain_{pages}_pages"] = (replace(plain, pages=pages), None)
        for loss in LOSSES:
            found[f"path_loss_{loss}_percent_{pages}_pages"] = (replace(plain, loss=loss, pages=pages), LEAST_BY_LOSS.get(loss))
    found |= {f"path_rtt_{rtt}_ms": (replace(plain, rtt=rtt), LEAST_BY_RTT.get(rtt)) for rtt in (10, 50)}
    found |= {f"path_mtu_{mtu}": (replace(plain, mtu=mtu), None) for mtu in (1460, 9000)}
    return found | {f"path_memory_{mib}_mib": (replace(plain, memory=mib), None) for mib in (2048, 8192)}


def ceiling(path: Path) -> float:
    """10^6 bytes of memory a second that the relay carries by itself."""
    command = [IMPAIR, "--ceiling", "3s", "--ceiling-frame", str(path.datagram + HEADERS), *path.options()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)["frames_per_second"] * (path.datagram - OVERHEAD) / 1e6


def dump(found, path: Path, name: str) -> dict:
    """One dump."""
    directory = HOME / "path" / name
    directory.mkdir(parents=True, exist_ok=True)
    machine = panic_run.with_module(found, Machine(memory_mib=path.memory, netdev=NETDEV))
    settings = {"secure": 0, "codec": "none", "max_datagram": path.datagram, "cluster_pages": path.pages}
    impairer = Impairer(directory, *path.options())
    with impairer:
        subprocess.run(["ip", "link", "set", machine.tap, "mtu", str(path.mtu), "txqueuelen", "10000"], check=True)
        with Guest(found, machine, directory) as guest, Server(directory, **settings) as server:
            guest.wait_ready()
            guest.run(f"ip link set eth0 mtu {path.mtu}")
            panic_run.arm(guest, "protocol=6", magic=False, seconds=180)
            guest.send(panic_run.PANIC)
            where, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
            must(meta["complete"], f"the dump is not complete: {meta['dump']}")
            (where / "vmcore").unlink()
    counts, dumped = impairer.stats()["b_to_a"], meta["dump"]
    lost = counts["lost"] / max(counts["offered"], 1)
    must(abs(lost - path.loss / 100) < 0.01 + path.loss / 1000, f"the relay lost {lost:.3f} of all: {counts}")
    run = {
        "rate": dumped["bytes_per_second"] / 1e6, "seconds": dumped["memory_seconds"], "again": dumped["datagrams"]["retransmissions"],
        "frames": counts["offered"], "no room": counts["overrun"] + counts["refused"] + dumped["datagrams"]["socket_drops"],
    }  # fmt: skip
    print(f"  {name}: {run['rate']:.1f} MB/s, {run['seconds']:.2f} s, {run['frames']} frames, {run['again']} asked for again, "
          f"{run['no room']} found no room", flush=True)  # fmt: skip
    return run


def row(path: Path, least: float | None, runs: list[dict], plain: list[dict], carried: float) -> dict:
    """A row of the results."""
    ours = statistics.median(run["rate"] for run in runs)
    is_plain = runs is plain
    other = carried if is_plain else statistics.median(run["rate"] for run in plain)
    return {
        "ours": round(ours, 1), "other": round(other, 1), "ratio": round(ours / other, 3), "unit": "MB/s",
        "other is": "the relay without a guest" if is_plain else "the same without that, in the same round",
        **({"least": least} if least else {}), "seconds": [round(run["seconds"], 2) for run in runs],
        "runs": {"ours": [round(run["rate"], 1) for run in runs], "other": [round(run["rate"], 1) for run in plain]},
        "asked for again": [run["again"] for run in runs], "no room": [run["no room"] for run in runs], "relay carries": round(carried),
        "memory": path.memory,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", metavar="GLOB", default="*", help="only these, such as 'path_loss_*_16_pages'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=512, help="MiB of the guest, but for the rows of memory")
    arguments = parser.parse_args()
    wanted = {name: row for name, row in rows(arguments.memory).items() if fnmatch.fnmatch(name, arguments.rows)}
    if not wanted:
        raise Failure(f"no row is called {arguments.rows}", "they are: " + ", ".join(rows(0)))
    found = lab.prepare("cloud-amd64", vmlinux=False, judges=False)
    runs: dict[str, list[dict]] = {name: [] for name in wanted}
    plain: dict[Path, list[dict]] = {}
    behind = False
    try:
        for number in range(arguments.rounds):
            print(f"round {number + 1}:", flush=True)
            for name, (path, _) in wanted.items():
                base = path.plain(arguments.memory)
                if len(plain.setdefault(base, [])) == number:
                    plain[base].append(dump(found, base, f"path_plain_{base.pages}_pages"))
                if path == base:
                    runs[name] = plain[base]
                else:
                    runs[name].append(dump(found, path, name))
    except (GuestError, ServerError, JudgeError) as error:
        # What was measured before is worth something.
        print(f"bench: {error}", file=sys.stderr)
        behind = True
    file = HOME / "path.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    results = {}
    for name, (path, least) in ((name, row) for name, row in wanted.items() if runs[name]):
        results[name] = row(path, least, runs[name], plain[path.plain(arguments.memory)], ceiling(path))
    file.write_text(json.dumps({**known, **results}, indent=1) + "\n")
    for name, line in results.items():
        behind |= line["ratio"] < line.get("least", 0)
        print(f"{name}: {line['ours']} {line['unit']} beside {line['other']}, ratio {line['ratio']}")
    if behind:
        print("bench: slower than it may be", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, ServerError, JudgeError, FileNotFoundError, subprocess.SubprocessError) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
