#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Speed of a dump over the classic protocol, beside what pktgen gets out of the same guest and network device.

In one run of one guest pktgen (clone_skb 0) sends frames of the size of a piece of memory to the server's port, then the
guest panics and is dumped. The server counts both with the same counter (datagrams_received of its status file), so that
what it and the host cannot take is missing from both. Results: build/bench/dump.json, rows with ours, other, ratio, unit.
"""

import argparse
import json
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import lab
import panic_run
from cache import REPOSITORY, Failure
from guest import GUEST_ADDRESS, HOST_ADDRESS, Guest, GuestError, Machine
from judges import JudgeError, must
from server import Server, ServerError

HOME = REPOSITORY / "build/bench"
# A piece of memory: 13 bytes of reply header and 1024 of memory, behind UDP, IP and Ethernet headers.
DATA, PAYLOAD = 1024, 1037
FRAME = PAYLOAD + 8 + 20 + 14
LEAST = 60.0


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


def pktgen(guest: Guest, count: int, gateway: str) -> None:
    """Sends `count` frames from one CPU, each a new buffer."""
    guest.run("echo add_device eth0 >/proc/net/pktgen/kpktgend_0")
    for word in (f"count {count}", "clone_skb 0", f"pkt_size {FRAME}", "delay 0", f"dst {HOST_ADDRESS}", f"dst_mac {gateway}",
                 "udp_src_min 6666", "udp_src_max 6666", "udp_dst_min 6666", "udp_dst_max 6666"):  # fmt: skip
        guest.run(f"echo {word} >/proc/net/pktgen/eth0")
    guest.run("echo start >/proc/net/pktgen/pgctrl", 300)
    result = guest.run("cat /proc/net/pktgen/eth0")
    must("Result: OK" in result, f"pktgen: {result}")
    guest.run("echo rem_device_all >/proc/net/pktgen/kpktgend_0")


def measure(found, machine: Machine, directory: Path, frames: int) -> dict:
    """One run; its rows."""
    panic_run.with_module(found, machine)
    status = directory / "status.json"
    settings = {"status_file": status, "status_interval": 1, "log_rate": 1024}
    with Guest(found, machine, directory) as guest, Server(directory, [GUEST_ADDRESS], **settings) as server:
        guest.wait_ready()
        gateway = Path(f"/sys/class/net/{machine.tap}/address")
        text = gateway.read_text().strip() if gateway.exists() else ""
        panic_run.arm(guest)
        if not text:
            text = guest.run(f"ping -c 1 {HOST_ADDRESS} >/dev/null; arp -n | awk '/{HOST_ADDRESS}/ {{print $4}}'").strip()
        counter = Counter(status)
        counter.start()
        pktgen(guest, frames, text)
        time.sleep(3)
        other, other_drops = counter.rate(0)
        first = len(counter.samples)
        guest.send(panic_run.PANIC)
        _, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(meta["complete"], f"the dump is not complete: {meta['dump']}")
        time.sleep(2)
        counter.over.set()
        counter.join()
        ours, ours_drops = counter.rate(first)
        dump = meta["dump"]
        pages = meta["dump"]["pages"]
    speed = dump["bytes_per_second"] / 1e6
    return {
        f"classic dump, {machine.nic}, {machine.cpus} CPUs, {machine.memory_mib} MiB: memory": {
            "ours": round(speed, 1), "other": round(other * DATA / 1e6, 1), "ratio": round(speed / (other * DATA / 1e6), 3), "unit": "MB/s",
            "other is": f"pktgen, clone_skb 0, frames of {FRAME} bytes, {DATA} of each counted", "least": LEAST,
        },
        f"classic dump, {machine.nic}, {machine.cpus} CPUs, {machine.memory_mib} MiB: frames": {
            "ours": round(ours), "other": round(other), "ratio": round(ours / other, 3), "unit": "frames/s",
            "dropped": {"ours": ours_drops, "other": other_drops}, "retransmissions": dump["datagrams"]["retransmissions"],
            "pages": pages,
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=int, default=1024, help="MiB of the guest")
    parser.add_argument("--nic", default="virtio-net-pci")
    parser.add_argument("--frames", type=int, default=600_000, help="frames that pktgen sends")
    arguments = parser.parse_args()
    cloud = arguments.nic in ("virtio-net-pci", "vmxnet3")
    found = lab.prepare("cloud-amd64" if cloud else "amd64", vmlinux=False, judges=False)
    machine = Machine(nic=arguments.nic, memory_mib=arguments.memory, modules=("pktgen",))
    rows = measure(found, machine, HOME / arguments.nic, arguments.frames)
    path = HOME / "dump.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **rows}, indent=1) + "\n")
    slow = False
    for name, row in rows.items():
        print(f"{name}: {row['ours']} {row['unit']}, pktgen {row['other']} {row['unit']}, ratio {row['ratio']}")
        slow |= row.get("least", 0) > row["ours"]
    if slow:
        print(f"bench: below {LEAST} MB/s", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, ServerError, JudgeError, FileNotFoundError) as error:
        print(f"bench FAILED: {error}", file=sys.stderr)
        sys.exit(1)
