#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs the guest tests of a tier, each in namespaces of its own and with a deadline.

A test that has passed with the same modules and programs is not run again (--again runs it), so that a long run goes on
where it stopped. Results are in build/tests/<name>/. The last line is `N passed, N failed`.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback

import cases
import cases_console_panic
import cases_cpus
import cases_debug
import cases_dump
import cases_failure
import cases_keys
import cases_netconsole
import cases_netconsole_table
import cases_network
import cases_replace
import cases_secure_boot
import cases_selection
import cases_selftests
import cases_version6
import lab
from cache import HERE, REPOSITORY, Failure

RESULTS = REPOSITORY / "build/tests"
# They fill cases.CASES.
assert cases_console_panic and cases_cpus and cases_debug and cases_dump and cases_failure and cases_netconsole
assert cases_keys and cases_netconsole_table and cases_network and cases_replace and cases_version6
assert cases_secure_boot and cases_selection and cases_selftests


def fingerprint() -> str:
    """What a result depends on: modules, programs, tests."""
    digest = hashlib.sha256()
    tests = [*HERE.glob("*.py"), *HERE.glob("modules/*"), HERE / "kernel-version"]
    for path in sorted([*REPOSITORY.glob("build/*/*.ko"), *REPOSITORY.glob("build/bin/*"), *tests]):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_here(name: str) -> int:
    """Runs one test in this process (inside `isolated`); prints its lines."""
    case = cases.CASES[name]
    context = cases.Context(RESULTS / name, case.flavour)
    try:
        for line in case.function(context, **case.arguments):
            print(line, flush=True)
        return 0
    except Exception:
        traceback.print_exc()
        return 1


def run_case(case: cases.Case, mark: str) -> tuple[bool, str]:
    """Runs one test in a process group of its own; whether it passed, and what it said."""
    directory = RESULTS / case.name
    subprocess.run(["rm", "-rf", str(directory)], check=True)
    directory.mkdir(parents=True)
    log = directory / "test.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [HERE / "isolated", sys.executable, HERE / "run-tests.py", "--here", case.name],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(case.seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(errors="replace")
    if status is None:
        text += f"\nnot done within {case.seconds} s"
    passed = status == 0
    (directory / "result.json").write_text(json.dumps({"passed": passed, "mark": mark}))
    if passed:
        for big in (*directory.glob("crash/*/vmcore*"), directory / "truth", directory / "initramfs"):
            big.unlink(missing_ok=True)
    return passed, text


def passed_before(case: cases.Case, mark: str) -> bool:
    """Whether the same test of the same things has passed."""
    try:
        result = json.loads((RESULTS / case.name / "result.json").read_text())
    except (OSError, ValueError):
        return False
    return result.get("passed") is True and result.get("mark") == mark


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", default="test", choices=["test", "full", "debug"])
    parser.add_argument("--only", default="*", help="names, with * and ?")
    parser.add_argument("--again", action="store_true", help="also what has passed already")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        return run_here(arguments.here)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # so that the test that runs is ended too
    chosen = [c for c in cases.CASES.values() if arguments.tier in c.tiers and fnmatch.fnmatch(c.name, arguments.only)]
    if arguments.list:
        print("\n".join(case.name for case in chosen))
        return 0
    if not chosen:
        print(f"no test of tier {arguments.tier} is called {arguments.only}", file=sys.stderr)
        return 1
    # Inside the namespaces there is no network to fetch anything from.
    for flavour, selftests, extra in sorted({(case.flavour, case.selftests, case.extra) for case in chosen}):
        lab.prepare(flavour, selftests=selftests, extra=extra)
    mark, failed = fingerprint(), []
    for number, case in enumerate(chosen, 1):
        head = f"[{number}/{len(chosen)}] {case.name}"
        if not arguments.again and passed_before(case, mark):
            print(f"{head}: passed before", flush=True)
            continue
        start = time.monotonic()
        print(f"{head} …", flush=True)
        passed, text = run_case(case, mark)
        seconds = time.monotonic() - start
        lines = text.strip().splitlines()
        print("\n".join("    " + line for line in (lines if passed else lines[-40:])))
        print(f"{head}: {'passed' if passed else 'FAILED'} in {seconds:.0f} s", flush=True)
        if not passed:
            print(f"    everything is in {(RESULTS / case.name).relative_to(REPOSITORY)}/", flush=True)
            failed.append(case.name)
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)
