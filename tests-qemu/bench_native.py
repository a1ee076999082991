#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Native speed of version 6 on the loopback: netdump-sim to netdump-server, beside a bare loop with the same system calls.

Each end has one CPU. Both send the same corpus, which is known by its hash, in datagrams of the same length with UDP GSO, receive them
with GRO and recvmmsg, and write them to a file in memory. The bare loop (netdump-sim bare) does nothing else; a sealed dump is compared
with the loop in clear, and named beside it is the loop that seals and opens each datagram with the same library. Ours is timed from the
crash to the last order, handshake, log, task listing and the closing of the file included, and counts only if the vmcore holds the
corpus and says that it is complete. Runs of the two alternate, results are medians.
Results: build/bench/native.json, rows with ours, other, ratio, unit.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cache import REPOSITORY, Failure
from enrolment import Enrolment
from judges import JudgeError, must
from server import Server, ServerError

HOME = REPOSITORY / "build/bench"
SIM = REPOSITORY / "build/bin/netdump-sim"
# What netdump-sim corpus writes: noise, so that nothing is left out and nothing becomes a hole.
CORPUS_LEN = 1 << 30
CORPUS_SHA256 = "8bc211d3f3d77a7615bd60165f930154429cb31adc1a1483d3612eeab4b5495b"
SERVER, CLIENT, PORT, BARE_PORT = "127.0.0.1", "127.0.1.1", 6666, 6667
DATAGRAMS = (1416, 8900)
# The least part of the bare loop's speed.
LEAST = {"clear": 0.7, "sealed": 0.5}
PATIENCE = 120


def on_cpu(cpu: int | None, *command) -> list[str]:
    return [*([] if cpu is None else ["taskset", "-c", str(cpu)]), *map(str, command)]


def report(command: list[str]) -> dict:
    """What netdump-sim says as JSON."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    must(done.returncode == 0 and done.stdout, f"{' '.join(command)}: status {done.returncode}: {done.stdout[-800:]} {done.stderr[-800:]}")
    return json.loads(done.stdout)


def image(corpus: Path) -> list[str]:
    return ["--image", str(corpus), "--sha256", CORPUS_SHA256]


def pinned(cpu: int | None):
    """Starts nothing: what this process starts from here on runs on that CPU. Returns what undoes it."""
    before = os.sched_getaffinity(0)
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    return lambda: os.sched_setaffinity(0, before)


def cpu_used(pid: int) -> float:
    """Seconds of CPU that a process has used so far, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ours(corpus: Path, scratch: Path, datagram: int, sealed: bool, cpus) -> float:
    """One dump by a server of its own; 10^9 bytes a second."""
    settings = {"addr": SERVER, "secure": 0, "codec": "none", "max_datagram": datagram}
    arming = []
    if sealed:
        client = Enrolment(scratch, CLIENT, "sim")
        (scratch / "arming").write_bytes(client.blob())
        settings |= client.settings()
        arming = ["--key", str(scratch / "arming")]
    server = Server(scratch, **settings)
    undo = pinned(cpus[0])
    try:
        server.start()
    finally:
        undo()
    try:
        crash = [SIM, "crash", "--server", f"{SERVER}:{PORT}", "--first", CLIENT, "--protocol", "six", "--max-datagram", datagram]
        found = report(on_cpu(cpus[1], *crash, *image(corpus), *arming))
        machine = found["machines"][0]
        must(found["served"] == 1 and machine["version"] == 6, f"not dumped: {found}")
        used = cpu_used(server.process.pid)
        vmcores = list(server.crash.glob(f"{CLIENT}-*/vmcore"))
        must(len(vmcores) == 1, f"{len(vmcores)} vmcores")
        meta = dump_meta(vmcores[0].with_name("meta.json"))
        must(meta["complete"] and bool(meta["authenticated"]) == sealed, f"not what it should be: {meta}")
        report([str(SIM), "verify", str(vmcores[0]), *image(corpus)])
    finally:
        server.stop()
    counts = meta["dump"]["datagrams"]
    print(f"  netdump: {found['gigabytes_per_second']:.3f} GB/s, memory alone {meta['dump']['bytes_per_second'] / 1e9:.3f}; "
          f"asked for again {counts['retransmissions']}, dropped {counts['socket_drops']}; "
          f"CPU {found['cpu_seconds']:.2f} + {used:.2f} of {found['seconds']:.2f} s", flush=True)  # fmt: skip
    return found["gigabytes_per_second"]


def warm(scratch: Path) -> None:
    """Makes the machine's free memory its own: in a virtual machine the host gives pages when they are first used, and takes
    them back when they are free for long, which would be most of what is measured."""
    path, zeroes = scratch / "warm", bytes(1 << 20)
    with open(path, "wb") as out:
        for _ in range(CORPUS_LEN + (CORPUS_LEN >> 2) >> 20):
            out.write(zeroes)
    path.unlink()


def dump_meta(path: Path) -> dict:
    """meta.json once the dump is over."""
    until = time.monotonic() + PATIENCE
    while True:
        meta = json.loads(path.read_text())
        if (meta.get("dump") or {}).get("ended"):
            return meta
        must(time.monotonic() < until, f"the dump does not end: {meta}")
        time.sleep(0.05)


def bare(corpus: Path, scratch: Path, datagram: int, sealed: bool, cpus) -> float:
    """One run of the bare loop; 10^9 bytes a second."""
    out, sealing = scratch / "bare", ["--sealed"] if sealed else []
    receive = on_cpu(cpus[0], SIM, "bare", "--bind", f"{SERVER}:{BARE_PORT}", "--file", out, "--len", CORPUS_LEN, *sealing)
    receiver = subprocess.Popen(receive, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + PATIENCE
        while not any(f":{BARE_PORT:04X} " in line for line in Path("/proc/net/udp").read_text().splitlines()[1:]):
            must(receiver.poll() is None and time.monotonic() < until, "the bare loop does not listen")
            time.sleep(0.05)
        send = [SIM, "bare", "--to", f"{SERVER}:{BARE_PORT}", "--datagram", datagram, *image(corpus), *sealing]
        found = report(on_cpu(cpus[1], *send))
        output, errors = receiver.communicate(timeout=PATIENCE)
        must(receiver.returncode == 0, f"the bare loop failed: {errors[-800:]}")
    finally:
        receiver.kill()
        receiver.wait()
    with open(out, "rb") as written:
        must(hashlib.file_digest(written, "sha256").hexdigest() == CORPUS_SHA256, "the bare loop wrote something else")
    used = (found["cpu_seconds"], json.loads(output)["cpu_seconds"])
    print(f"  bare{', sealed' * sealed}: {found['gigabytes_per_second']:.3f} GB/s; "
          f"CPU {used[0]:.2f} + {used[1]:.2f} of {found['seconds']:.2f} s", flush=True)  # fmt: skip
    return found["gigabytes_per_second"]


def measure(corpus: Path, datagram: int, kind: str, arguments, cpus) -> dict:
    """One row."""
    sealed = kind == "sealed"
    ways = {"ours": (ours, sealed), "other": (bare, False), **({"other, sealed": (bare, True)} if sealed else {})}
    runs = {way: [] for way in ways}
    print(f"{datagram} bytes, {kind}:", flush=True)
    for _ in range(arguments.rounds):
        for way, (run, how) in ways.items():
            with tempfile.TemporaryDirectory(prefix="netdump-bench-", dir=arguments.scratch) as scratch:
                warm(Path(scratch))
                runs[way].append(round(run(corpus, Path(scratch), datagram, how, cpus), 3))
    medians = {way: round(statistics.median(found), 3) for way, found in runs.items()}
    return {
        f"native_{datagram}_{kind}": {
            **medians, "ratio": round(medians["ours"] / medians["other"], 3), "unit": "GB/s", "least": LEAST[kind],
            "other is": "netdump-sim bare: memcpy, UDP GSO and GRO, recvmmsg, and a file in memory, in clear", "runs": runs,
        }
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    parser.add_argument("--datagram", type=int, choices=DATAGRAMS, help="only this one")
    parser.add_argument("--kind", choices=list(LEAST), help="only this one")
    shared = Path("/dev/shm")
    parser.add_argument("--scratch", type=Path, default=shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    if not os.environ.get("NETDUMP_ISOLATED"):
        raise Failure("this uses ports of its network namespace", "tests-qemu/isolated tests-qemu/bench_native.py")
    must(shutil.which("taskset"), "taskset (util-linux) is missing")
    available = sorted(os.sched_getaffinity(0))
    cpus = (available[0], available[-1]) if len(available) > 1 else (None, None)
    HOME.mkdir(parents=True, exist_ok=True)
    path = HOME / "native.json"
    behind = False
    with tempfile.TemporaryDirectory(prefix="netdump-corpus-", dir=arguments.scratch) as scratch:
        corpus = Path(scratch) / "corpus"
        written = report([str(SIM), "corpus", str(corpus), "--len", str(CORPUS_LEN)])
        must(written["sha256"] == CORPUS_SHA256, f"another corpus: {written}")
        for datagram in [arguments.datagram] if arguments.datagram else DATAGRAMS:
            for kind in [arguments.kind] if arguments.kind else LEAST:
                rows = measure(corpus, datagram, kind, arguments, cpus)
                known = json.loads(path.read_text()) if path.exists() else {}
                path.write_text(json.dumps({**known, **rows}, indent=1) + "\n")
                for name, row in rows.items():
                    print(f"{name}: {row['ours']} {row['unit']}, bare {row['other']} {row['unit']}, ratio {row['ratio']}", flush=True)
                    behind |= row["ratio"] < row["least"]
    if behind:
        print("bench: too far behind the bare loop", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, JudgeError, ServerError, FileNotFoundError, subprocess.TimeoutExpired) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
