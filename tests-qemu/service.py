#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages on a real Debian: set up as the README says, crashed, and looked after as an administrator would.

Two guests with systemd: the stock kernel on the one that crashes, sshd and netdump-server on the other; of ours there are
the packages alone. Run it through `isolated`; results are in build/service/.
"""

import argparse
import fnmatch
import json
import re
import shutil
import sys
import time
import traceback
from pathlib import Path

import judges
import lab as lab_module
import service_root
import test_modules
from cache import REPOSITORY, Failure
from guest import GuestError
from judges import must
from service_machines import Desk, make_archive

RESULTS = REPOSITORY / "build/service"
DEBS = REPOSITORY / "build/deb"
PASSWORD = "correct-horse 7"
# A boot of systemd, a dump of a gigabyte, another boot: minutes under emulation.
PATIENCE = 600
CASES = {}


def case(function):
    """Registers a test; its lines are what it measured."""
    CASES[function.__name__.replace("_", "-")] = function
    return function


def quick_start(where: str) -> list[str]:
    """The commands that the README gives for a machine, word for word."""
    text = (REPOSITORY / "README.md").read_text()
    found = re.search(rf"^On the machine that {where}.*?^```sh\n(.*?)^```", text, re.M | re.S)
    if not found:
        raise Failure(f"README.md has no commands for the machine that {where}", "see tests-qemu/service.py")
    return found[1].splitlines()


def packages(lab) -> list[Path]:
    """The packages, as `make deb` made them."""
    wanted = ["netdump_*_amd64.deb", "netdump-tools_*_amd64.deb", "netdump-server_*_amd64.deb", f"netdump-modules-{lab['KVER']}_*.deb"]
    found = [path for pattern in wanted for path in DEBS.glob(pattern)]
    if len(found) != len(wanted):
        raise Failure(f"{DEBS} does not have " + ", ".join(wanted) + f", but {[path.name for path in found]}", "run `make deb` first")
    return found


class Pair:
    """Both machines, booted. Use as a context manager."""

    def __init__(self, lab, directory: Path):
        self.lab, self.directory = lab, directory
        archive = make_archive(directory / "in.tar", [*packages(lab), test_modules.build(lab, "crash_in")])
        self.client = Desk(lab, "client", "server", directory / "client", archive)
        self.server = Desk(lab, "server", "client", directory / "server", archive)
        self.dumps: list[str] = []

    def __enter__(self):
        try:
            for desk in (self.server, self.client):
                desk.start()
            for desk in (self.server, self.client):
                desk.wait_ready(again=False)
                desk.unpack()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for desk in (self.client, self.server):
            desk.kill()

    def set_up(self) -> None:
        """What the README says, typed."""
        for line in quick_start("keeps the dumps"):
            self.server.type(line, PATIENCE, [("[Nn]ew password:", PASSWORD), ("Retype", PASSWORD)] if line.startswith("passwd") else ())
        for line in quick_start("may crash"):
            answers = [(r"yes/no", "yes"), ("password:", PASSWORD)] if "propagate" in line else ()
            self.client.type(line, PATIENCE, answers)

    def armed(self, seconds: float = PATIENCE) -> dict:
        """Waits until the client says that a panic would be delivered; `netdumpctl status --json`."""
        deadline = time.monotonic() + seconds
        while True:
            text = self.client.run("netdumpctl status --json", 120, check=False)
            try:
                status = json.loads(text)
            except ValueError:
                status = {"text": text}
            if status.get("netdump", {}).get("armed"):
                return status
            if time.monotonic() > deadline:
                raise self.client.fail(f"not armed within {seconds:.0f} s: {status}")
            time.sleep(2)

    def new_dump(self, seconds: float = PATIENCE) -> str:
        """Waits for a complete dump that was not there before; its directory's name."""
        deadline = time.monotonic() + seconds
        while True:
            names = self.server.run("ls /var/crash", 120).split()
            for name in names:
                if not name.startswith(service_root.CLIENT) or name in self.dumps:
                    continue
                meta = self.server.run(f"cat /var/crash/{name}/meta.json", 120, check=False)
                if '"complete": true' in meta:
                    self.dumps.append(name)
                    return name
            if time.monotonic() > deadline:
                raise self.client.fail(f"no complete dump within {seconds:.0f} s: {names}")
            time.sleep(1)

    def crash(self, how) -> str:
        """Crashes the client, waits for its dump and until it is there again, armed; the dump's name."""
        how()
        name = self.new_dump()
        self.client.wait_restart(PATIENCE)
        self.client.wait_ready(PATIENCE, again=False)
        self.armed()
        return name

    def judge(self, name: str, in_stack: str, panic: str) -> str:
        """crash and drgn open the dump, the log has the panic; what was seen."""
        to = self.directory / "fetched" / name.replace(":", "-")
        self.server.fetch(f"/var/crash/{name}", to)
        vmcore = to / "vmcore"
        answers = judges.check_crash(self.lab, vmcore, self.client.machine.cpus, in_stack)
        must(panic in answers[0], f"crash's panic is not '{panic}':\n{answers[0]}")
        judges.check_drgn(self.lab, vmcore, self.client.machine.cpus, in_stack=in_stack)
        log = (to / "log").read_text(errors="replace")
        must("Kernel panic - not syncing" in log, "the log does not have the panic")
        meta = json.loads((to / "meta.json").read_text())
        must(meta["registered"], "the dump is not that of a registered client")
        shutil.rmtree(to)
        return f"{meta['dump']['memory_bytes'] >> 20} MiB in {meta['dump']['seconds']:.1f} s, log {len(log)} bytes, crash: {panic}"


@case
def readme(lab, directory: Path):
    """The README's quick start word for word; three ways to crash; the machine comes back armed each time."""
    with Pair(lab, directory) as pair:
        pair.set_up()
        status = pair.armed()
        yield "armed: " + json.dumps(status["netdump"])
        client = pair.client
        ways = [
            ("echo c > /proc/sysrq-trigger", lambda: client.press("echo c > /proc/sysrq-trigger"), "sysrq_handle_crash", "sysrq triggered crash"),
            ("an oops with panic_on_oops", lambda: client.press("insmod /root/crash_in.ko how=task"), "crash_here", "Fatal exception"),
            ("Alt-SysRq-C on the keyboard", client.alt_sysrq_c, "sysrq_handle_crash", "sysrq triggered crash"),
        ]
        for name, how, in_stack, panic in ways:
            client.run("sysctl -q kernel.sysrq=1") # Debian's default masks the key
            client.expect(r"# $", PATIENCE)
            yield f"{name}: {pair.judge(pair.crash(how), in_stack, panic)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="names, with * and ?")
    parser.add_argument("--list", action="store_true", help="print the names")
    arguments = parser.parse_args()
    chosen = {name: function for name, function in CASES.items() if fnmatch.fnmatch(name, arguments.only)}
    if arguments.list or not chosen:
        print("\n".join(CASES))
        return 0 if arguments.list else 1
    lab = lab_module.prepare("amd64", extra=["service"])
    failed = []
    for name, function in chosen.items():
        directory = RESULTS / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        start = time.monotonic()
        print(f"{name}: {function.__doc__.splitlines()[0]}", flush=True)
        try:
            for line in function(lab, directory):
                print(f"    [{time.monotonic() - start:4.0f} s] {line}", flush=True)
            verdict = "passed"
        except Exception as error:
            (directory / "traceback").write_text(traceback.format_exc())
            print("    " + str(error).replace("\n", "\n    "), flush=True)
            verdict = "FAILED"
            failed.append(name)
        print(f"{name}: {verdict} in {time.monotonic() - start:.0f} s", flush=True)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, GuestError, judges.JudgeError) as error:
        print(f"service FAILED: {error}", file=sys.stderr)
        sys.exit(1)
