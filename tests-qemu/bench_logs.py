#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Console text of 1,000 machines: the highest rate of lines that netdump-server stores without losing one, beside rsyslog.

Both run in one network namespace on one CPU, with the same receive buffer and their files in memory; the machines talk
through a TAP device from another CPU. A rate counts if afterwards each machine's file is what that machine sent, byte for byte. Runs of the two
alternate, results are medians. rsyslog has imudp and one file for each host by dynaFile, set up as it was found
to be fastest. Results: build/bench/logs.json, rows with ours, other, ratio, unit.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import lab
from cache import REPOSITORY, Failure
from judges import JudgeError, must

HOME = REPOSITORY / "build/bench"
BIN = REPOSITORY / "build/bin"
RECEIVE_BUFFER = 32 << 20
PATIENCE = 30
# Where the servers listen, the first machine behind the same device, and that device.
SERVER, NETWORK, FIRST, DEVICE, MAC = "10.8.255.254", 16, "10.8.0.1", "fleet", "02:00:00:00:00:01"
# Below this part of the rate that was asked for, the sender was the slower one.
KEPT_UP = 0.97


class Netdump:
    """Our server."""

    name, layout, port = "netdump-server", "netdump", 6666
    formats = {"netlog": "netlog", "extended": "extended"}

    def command(self, home: Path) -> list[str]:
        (home / "conf").write_text(
            f"secure=0\nlog_rate=1G\nnew_dirs_per_minute=100000\nrcvbuf={RECEIVE_BUFFER}\naddr={SERVER}\ndumpdir={home}/files\n"
        )
        return [str(BIN / "netdump-server"), "--config", str(home / "conf")]


class Rsyslog:
    """rsyslog of the lab. With more than one worker it does not keep the order of one host's lines."""

    name, layout, port = "rsyslog", "flat", 5514
    # It does not read netlog: the same lines come as the original netdump's syslog sends them.
    formats = {"netlog": "syslog", "extended": "extended"}

    def command(self, home: Path) -> list[str]:
        (home / "files").mkdir()
        (home / "conf").write_text(f"""
global(workDirectory="{home}" net.enableDNS="off")
main_queue(queue.type="FixedArray" queue.size="300000" queue.dequeueBatchSize="4096" queue.workerThreads="1" queue.timeoutEnqueue="0")
module(load="imudp" batchSize="128" threads="1")
template(name="file" type="list") {{ constant(value="{home}/files/") property(name="fromhost-ip") }}
template(name="raw" type="list") {{ property(name="rawmsg") constant(value="\\n") }}
ruleset(name="store") {{
  action(type="omfile" dynaFile="file" template="raw" dynaFileCacheSize="2000" ioBufferSize="16k"
         asyncWriting="on" flushOnTXEnd="off" flushInterval="1")
}}
input(type="imudp" address="{SERVER}" port="{self.port}" ruleset="store" rcvbufSize="{RECEIVE_BUFFER}" rateLimit.interval="0")
""")
        return lab.in_root("rsyslog", "/usr/sbin/rsyslogd", "-n", "-f", home / "conf", "-i", home / "pid")


@dataclass
class Trial:
    """What came of one rate."""

    rate: float
    whole: bool
    kept_up: bool
    first: str


def on_cpu(cpu: int | None, command: list[str]) -> list[str]:
    return command if cpu is None else ["taskset", "-c", str(cpu), *command]


def listens(port: int) -> bool:
    return any(f":{port:04X} " in line for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def trial(server, lines: str, rate: int, arguments, cpus) -> Trial:
    """One rate at a server of its own."""
    with tempfile.TemporaryDirectory(prefix="netdump-bench-", dir=arguments.scratch) as scratch:
        home = Path(scratch)
        with open(home / "server.log", "w", encoding="utf-8") as log:
            running = subprocess.Popen(on_cpu(cpus[0], server.command(home)), stderr=log, stdout=log, start_new_session=True)
        try:
            until = time.monotonic() + PATIENCE
            while not listens(server.port):
                text = (home / "server.log").read_text()[-500:]
                must(running.poll() is None and time.monotonic() < until, f"{server.name} does not listen: {text}")
                time.sleep(0.1)
            fleet = [str(BIN / "netdump-sim"), "fleet", "--server", f"{SERVER}:{server.port}", "--first", FIRST,
                     "--tap", DEVICE, "--mac", MAC, "--layout", server.layout, "--dir", str(home / "files"),
                     "--format", server.formats[lines], "--count", str(arguments.machines), "--line", str(arguments.line),
                     "--rate", str(rate), "--time", f"{arguments.time}s"]  # fmt: skip
            done = subprocess.run(on_cpu(cpus[1], fleet), capture_output=True, text=True, check=False)
            must(done.stdout, f"{server.name}: {done.stderr[:500]}")
        finally:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait(PATIENCE)
    report = json.loads(done.stdout)
    sent = report["sent"]["rate"]
    found = Trial(sent, report["whole"], sent >= KEPT_UP * rate, report["stored"]["first"] or "")
    verdict = "whole" if found.whole else f"NOT whole: {found.first[:100]}"
    print(f"  {server.name}: {lines}, {sent:.0f} of {rate} lines/s: {verdict}", flush=True)
    return found


def highest(server, lines: str, arguments, cpus) -> Trial:
    """The highest rate without loss: up by half until something is lost or the sender is too slow, then by halves between."""
    best, lost, rate = None, None, arguments.start
    for _ in range(arguments.steps):
        found = trial(server, lines, int(rate), arguments, cpus)
        if found.whole and (best is None or found.rate > best.rate):
            best = found
        if not found.whole:
            lost = min(lost or found.rate, found.rate)
        elif not found.kept_up:
            break
        if lost is None:
            rate = rate * 1.5
        elif best is None or best.rate >= lost:
            rate = lost / 2
        else:
            rate = (best.rate * lost) ** 0.5
    must(best is not None, f"{server.name} lost lines at every rate")
    # Where something was lost at a higher rate it was not the sender that set the bound.
    best.kept_up |= lost is not None
    return best


def measure(lines: str, arguments, cpus) -> dict:
    """One row."""
    ours, other = [], []
    for _ in range(arguments.rounds):
        ours.append(highest(Netdump(), lines, arguments, cpus))
        other.append(highest(Rsyslog(), lines, arguments, cpus))
    rates = [[round(found.rate) for found in every] for every in (ours, other)]
    medians = [statistics.median(every) for every in rates]
    sender = ["the sender" if any(not found.kept_up for found in every) else "the server" for every in (ours, other)]
    return {
        f"console text of {arguments.machines} machines, {lines} lines of {arguments.line} bytes: highest rate without loss": {
            "ours": round(medians[0]), "other": round(medians[1]), "ratio": round(medians[0] / medians[1], 3), "unit": "lines/s",
            "other is": "rsyslog, imudp and omfile with dynaFile" + (", the same lines as syslog" if lines == "netlog" else ""),
            "runs": {"ours": rates[0], "other": rates[1]}, "bounded by": {"ours": sender[0], "other": sender[1]}, "least": medians[1],
        }
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--line", type=int, default=100, help="bytes of a line on average")
    parser.add_argument("--time", type=int, default=6, help="seconds of one rate")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each server")
    parser.add_argument("--start", type=int, default=80_000, help="the first rate, lines/s")
    parser.add_argument("--steps", type=int, default=7, help="rates of one search, at most")
    parser.add_argument("--format", choices=list(Netdump.formats), help="only this one")
    shared = Path("/dev/shm")
    parser.add_argument("--scratch", type=Path, default=shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    if not os.environ.get("NETDUMP_ISOLATED"):
        raise Failure("this fills ports of its network namespace", "tests-qemu/isolated tests-qemu/bench_logs.py")
    lab.prepare(vmlinux=False, judges=False, extra=["rsyslog"])
    must(shutil.which("taskset"), "taskset (util-linux) is missing")
    available = sorted(os.sched_getaffinity(0))
    cpus = (available[0], available[-1]) if len(available) > 1 else (None, None)
    for words in (f"tuntap add {DEVICE} mode tap", f"link set {DEVICE} address {MAC} up", f"address add {SERVER}/{NETWORK} dev {DEVICE}"):
        subprocess.run(["ip", *words.split()], check=True)
    HOME.mkdir(parents=True, exist_ok=True)
    path = HOME / "logs.json"
    behind = False
    for lines in [arguments.format] if arguments.format else Netdump.formats:
        rows = measure(lines, arguments, cpus)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, **rows}, indent=1) + "\n")
        for name, row in rows.items():
            print(f"{name}: {row['ours']} {row['unit']}, rsyslog {row['other']} {row['unit']}, ratio {row['ratio']}")
            behind |= row["ours"] <= row["least"]
    if behind:
        print("bench: rsyslog is ahead", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, JudgeError, FileNotFoundError) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
