#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole line once: a guest with netdump.ko panics, netdump-server writes the dump, crash and drgn show it.

Leaves build/demo/crash/<ip>-<date>/{log,vmcore,meta.json}.
"""

import argparse
import shutil
import sys
import time

import judges
import lab
import panic_run
from cache import REPOSITORY, Failure
from guest import Guest, GuestError, Machine
from server import Server, ServerError

HOME = REPOSITORY / "build/demo"


def step(text: str) -> None:
    """A progress line."""
    print(f"demo [{time.monotonic() - START:4.0f} s] {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavour", default="cloud-amd64", choices=["cloud-amd64", "amd64"])
    found = lab.prepare(parser.parse_args().flavour)
    if HOME.exists():
        shutil.rmtree(HOME)
    HOME.mkdir(parents=True)
    machine = panic_run.with_module(found, Machine())
    step(f"booting the stock kernel {found['KVER']} ({machine.cpus} CPUs, {machine.memory_mib} MiB, {machine.nic})")
    with Server(HOME, [machine.address]) as server, Guest(found, machine, HOME / "guest") as guest:
        guest.wait_ready()
        step("netdump " + panic_run.arm(guest).strip())
        step("in the guest: echo c > /proc/sysrq-trigger")
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(180, guest=guest)
        if not meta["complete"]:
            raise ServerError(f"the dump is not complete: {meta['dump'].get('failure')}")
        dump = meta["dump"]
        step(
            f"netdump-server wrote {dump['memory_bytes'] >> 20} MiB of memory in {dump['memory_seconds']:.1f} s "
            f"({dump['bytes_per_second'] / 1e6:.0f} MB/s)"
        )
        guest.wait_held(60)
        step("the guest restarts, as the server ordered")
    vmcore = path / "vmcore"
    answers = judges.check_crash(found, vmcore, machine.cpus)
    for name, answer in zip(("sys", "bt", "bt -a"), answers):
        print(f"\n--- crash: {name}\n{answer}", flush=True)
    judges.must("sysrq triggered crash" in answers[0], "crash shows no panic message")
    seen = judges.check_drgn(found, vmcore, machine.cpus, [panic_run.module_path(found)])
    print("\n--- drgn: modules\n" + "\n".join(seen["modules"]))
    print("\n--- files")
    for name in ("log", "vmcore", "meta.json"):
        file = path / name
        print(f"{file.relative_to(REPOSITORY)}  {file.stat().st_size} bytes")
    step("done")
    return 0


START = time.monotonic()
if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, ServerError, judges.JudgeError, FileNotFoundError) as error:
        print(f"demo FAILED: {error}", file=sys.stderr)
        sys.exit(1)
