#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages on a real Debian: set up as the README says, crashed, and looked after as an administrator would.

Two guests with systemd: the stock kernel on the one that crashes, sshd and netdump-server on the other; of ours there are
the packages alone. Run it through `isolated`; results are in build/service/.
"""

import argparse
import fnmatch
import json
import mmap
import random
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
import truth
from cache import HERE, REPOSITORY, Failure
from guest import BOOTS, GuestError
from judges import must
from service_machines import BOOT_SECONDS, Desk, make_archive

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

    def __init__(self, lab, directory: Path, memory_mib: int = 640):
        self.lab, self.directory = lab, directory
        archive = make_archive(directory / "in.tar", [*packages(lab), test_modules.build(lab, "crash_in"), HERE / "forged_server.py"])
        self.client = Desk(lab, "client", "server", directory / "client", archive, memory_mib)
        self.server = Desk(lab, "server", "client", directory / "server", archive)
        self.dumps: list[str] = []

    def __enter__(self):
        try:
            for desk in (self.server, self.client):
                desk.start()
            for desk in (self.server, self.client):
                desk.wait_ready()
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

    def come_back(self) -> None:
        """Waits until the client has restarted and is there again. A boot that stands still is cut short by a reset: the disk stays
        as it is (see Guest.wait_ready for why one may)."""
        self.client.wait_restart(PATIENCE)
        for attempt in range(1, BOOTS + 1):
            try:
                return self.client.wait_ready(BOOT_SECONDS, again=False)
            except GuestError:
                if attempt == BOOTS:
                    raise
            print(f"    the client did not come up under emulation (boot {attempt} of at most {BOOTS}), again", flush=True)
            self.client.qmp.command("system_reset")
            self.client.wait_restart(60)

    def crash(self, how) -> str:
        """Crashes the client, waits for its dump and until it is there again, armed; the dump's name."""
        how()
        name = self.new_dump()
        self.come_back()
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
        must(meta["registered"] and meta["authenticated"], "the dump is not that of a client that has shown its key")
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
            ("an oops with panic_on_oops", lambda: client.press("insmod /root/crash_in.ko how=task"), "do_one_initcall", "Fatal exception"),
            ("Alt-SysRq-C on the keyboard", client.alt_sysrq_c, "sysrq_handle_crash", "sysrq triggered crash"),
        ]
        for name, how, in_stack, panic in ways:
            client.run("sysctl -q kernel.sysrq=1")  # Debian's default masks the key
            client.expect(r"# $", PATIENCE)
            yield f"{name}: {pair.judge(pair.crash(how), in_stack, panic)}"


def hidden(desk: Desk, what: str, file: str) -> list[str]:
    """Where a machine shows one of the patterns in a file: programs, the kernel's files, the journal, what everybody may read."""
    looks = {
        "a command line or environment": f"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c -a -F -f {file}",
        "/sys": f"grep -r -s -l -a -F -f {file} /sys/module /sys/kernel/config /sys/class/misc | wc -l",
        "the journal": f"journalctl --no-pager -o export | grep -c -a -F -f {file}",
        "the journal's files": f"grep -r -s -l -a -F -f {file} /var/log | wc -l",
        "dmesg": f"dmesg | grep -c -a -F -f {file}",
        "a file that everybody may read": "find /etc /var /run /tmp /opt /srv /home /dev/shm -xdev -type f -perm -o=r -print0 | "
        f"xargs -0 grep -s -l -a -F -f {file} | wc -l",
    }  # fmt: skip
    return [f"{desk.name}: {what} in {place}" for place, look in looks.items() if desk.run(look + " || true", 300).split()[-1] != "0"]


def slab_hits(lab, vmcore: Path, words: dict[str, bytes]) -> dict[str, list[int]]:
    """Which words are in a vmcore, and how many of their places are slab pages: name -> [all, in slab]."""
    places = {}
    for segment in truth.segments(vmcore):
        with open(vmcore, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as image:
            for name, word in words.items():
                at = segment.offset - 1
                while (at := image.find(word, at + 1, segment.offset + segment.size)) >= 0:
                    places.setdefault(name, set()).add(at - segment.offset + segment.start)
    asked = vmcore.parent / "secrets.json"
    asked.write_text(json.dumps({name: sorted(found) for name, found in places.items()}))
    return json.loads(truth.drgn(lab, vmcore, "judge_secrets.py", str(asked)))


@case
def secure(lab, directory: Path):
    """secure=1: a secret that is nowhere to be seen; wrong keys, no keys and forged servers get and give nothing."""
    with Pair(lab, directory) as pair:
        client, server = pair.client, pair.server
        pair.set_up()
        client.run("printf 'HANDSHAKETIMEOUT=20\\nDUMPLEVEL=0\\nPANIC=3\\n' >>/etc/sysconfig/netdump", PATIENCE)
        client.run("service netdump restart && service netdump propagate", PATIENCE)
        pair.armed()
        must(client.run("netdumpctl status --json").find('"key": null') < 0, "the module has no key")

        # The secret is nowhere to be seen.
        root = client.run("sed -n 's/^root //p' /etc/netdump/servers/crashhost/key").strip()
        must(re.fullmatch(r"[0-9a-f]{64}", root), "the client's key file has no root key")
        for desk, source in ((client, "/etc/netdump/servers/crashhost/key"), (server, "/var/lib/netdump/clients/*.json")):
            desk.run(f"umask 077; cat {source} | grep -o '[0-9a-f]\\{{64\\}}' | sort -u >/root/secrets; test -s /root/secrets")
            seen = hidden(desk, "the root key", "/root/secrets")
            must(not seen, "; ".join(seen))
            desk.run("shred -u /root/secrets")
        modes = server.run("stat -c '%a %U:%G' /var/lib/netdump /var/lib/netdump/clients/*.json /var/crash; ls -A /var/crash | head -3")
        yield "the root key is in no command line, environment, journal, /sys or readable file; " + " | ".join(modes.split("\n")[:3])

        # Nobody gets a shell, and nobody becomes somebody else.
        ssh = "ssh -p 22 -l netdump -o BatchMode=yes -o UserKnownHostsFile=/etc/netdump/known_hosts -i {} crashhost"
        own = ssh.format("/etc/netdump/id_ed25519")
        said = client.run(f"{own} 'id; sh -i' </dev/null 2>&1", 120, check=False)
        must("uid=" not in said, f"a shell: {said}")
        client.run("ssh-keygen -q -t ed25519 -N '' -f /root/other")
        public = client.run("cat /root/other.pub").strip()
        server.run(f"echo '{public}' | netdumpctl key enrol --client victim", 120)
        message = "netdump-registration 1\\nkey_id {}\\nroot {}\\nhost x\\nend\\n".format("ab" * 16, "cd" * 32)
        said = client.run(f"printf '{message}' | {own} 'register --client victim' 2>&1", 120, check=False)
        must("victim" not in said and said.startswith("registered c"), f"registered as: {said}")
        must(server.run("ls /var/lib/netdump/clients").find("victim") < 0, "somebody else has registered as victim")
        client.run("service netdump propagate", PATIENCE)  # the test's key is the previous one now
        yield "a client that asks to register as another one registers as itself"

        # A dump of all memory: nothing of it in slab pages.
        name = pair.crash(lambda: client.press("echo c > /proc/sysrq-trigger"))
        to = directory / "fetched"
        server.fetch(f"/var/crash/{name}", to)
        new_root = client.run("sed -n 's/^root //p' /etc/netdump/servers/crashhost/key* | sort -u").split()
        words = {"the root key": bytes.fromhex(root), "the root key as text": root.encode()}
        for number, text in enumerate(new_root):
            words[f"root key {number}"], words[f"root key {number} as text"] = bytes.fromhex(text), text.encode()
        hits = slab_hits(lab, to / "vmcore", words)
        must(not any(slab for _, slab in hits.values()), f"in slab pages: {hits}")
        shutil.rmtree(to)
        yield f"level-0 vmcore: no secret in a slab page (elsewhere, such as the page cache of its file: {hits})"

        # A wrong key, then no key.
        def refused(reason: str) -> None:
            before = server.run("ls /var/crash").split()
            client.press("echo c > /proc/sysrq-trigger")
            pair.come_back()
            must(sorted(server.run("ls /var/crash").split()) == sorted(before), f"{reason}: there is a new directory")
            must(reason in server.run("journalctl -u netdump-server --no-pager", 120), f"the journal does not say {reason}")

        client.expect(r"# $", PATIENCE)
        client.run("systemctl stop netdump-renew.timer")
        server.run("sed -i 's/\"root\": \"./\"root\": \"0/g; s/\"root\": \"0\\(.\\)/\"root\": \"0f/g' /var/lib/netdump/clients/c*.json")
        refused("forged")
        yield "a wrong key: forged, nothing written, and the machine restarts by kernel.panic"
        client.expect(r"# $", PATIENCE)
        client.run("systemctl stop netdump-renew.timer")
        server.run("for id in $(ls /var/lib/netdump/clients | sed 's/.json//'); do netdumpctl key revoke $id; done", 120)
        refused("unknown_key")
        yield "a client that was revoked: unknown_key, nothing written"

        # Somebody who has taken the server's place without having seen the traffic.
        client.expect(r"# $", PATIENCE)
        server.run("systemctl stop netdump-server")
        number = server.send("python3 /root/forged_server.py 120 >/root/forged.log 2>&1")
        client.press("echo c > /proc/sysrq-trigger")
        client.wait_restart(PATIENCE)
        server._read_until(rb"@@ %d \d+\r?\n" % number, PATIENCE)
        said = server.run("tail -n 3 /root/forged.log")
        must(re.search(r"starts [1-9]\d* sent \d+ answers 0$", said.strip()), f"the forged server: {said}")
        yield f"a forged server: {said.strip().splitlines()[-1]}"


@case
def administrator(lab, directory: Path):
    """start and stop twice, restart in a storm, the server restarted, keys rotated, packages removed."""
    with Pair(lab, directory) as pair:
        client, server = pair.client, pair.server
        pair.set_up()
        pair.armed()
        for action, active in (("start", True), ("start", True), ("stop", False), ("stop", False), ("start", True), ("reload", True)):
            client.run(f"service netdump {action}", PATIENCE)
            loaded = "netdump " in client.run("cat /proc/modules | grep -w ^netdump || true")
            must(loaded == active, f"after {action} the module is {'there' if loaded else 'not there'}")
        yield "start and stop twice each: no error, and the module is there when it should be"

        # More than the 4,096 records that a panic's text must not be printed across (docs/panic-path.md).
        client.run("(for i in $(seq 5000); do echo \"<5>storm $i\" >/dev/kmsg; done) >/dev/null 2>&1 &")
        for _ in range(3):
            client.run("service netdump restart", PATIENCE)
        pair.armed()
        splats = client.run("dmesg | grep -E 'BUG:|WARNING:|Call Trace' || true")
        must(not splats, f"restart in a storm: {splats}")
        yield "restart three times in a storm of messages: no splat, armed again"

        server.run("systemctl restart netdump-server && systemctl is-active netdump-server", 120)
        client.expect(r"# $", PATIENCE)
        name = pair.crash(lambda: client.press("echo c > /proc/sysrq-trigger"))
        meta = json.loads(server.run(f"cat /var/crash/{name}/meta.json"))
        must(meta["complete"] and meta["client_id"], f"after a restart of the server: {meta}")
        yield "a crash after the server was restarted: complete, client " + meta["client_id"]

        exposure = server.run("systemd-analyze security netdump-server.service --no-pager | tail -n 1", 120)
        level = re.search(r"level for \S+: ([0-9.]+)", exposure)
        must(level and float(level[1]) <= 2.0, exposure)
        listed = server.run("netdumpctl clients && netdumpctl list && netdumpctl key list", 120)
        yield exposure.strip().replace("→ ", "") + "; " + listed.splitlines()[0]

        client.run("apt-get purge -y netdump netdump-tools netdump-modules-$(uname -r) 2>&1", PATIENCE)
        ours = "/etc/netdump /etc/sysconfig/netdump* /etc/init.d/netdump /run/netdump /lib/modules/*/updates/net*.ko"
        left = client.run(f"ls -d {ours} 2>/dev/null || true")
        must(not left.strip(), f"purge leaves {left}")
        stock = client.run("modinfo -n netconsole && modprobe netconsole netconsole=@/eth0,@10.77.0.1/ && rmmod netconsole")
        must("/kernel/drivers/net/netconsole" in stock, f"the stock netconsole does not come back: {stock}")
        server.run("apt-get purge -y netdump-server netdump-tools 2>&1", PATIENCE)
        data = server.run("ls /var/crash /var/lib/netdump; ls /etc/netdump.conf /etc/ssh/sshd_config.d/netdump.conf 2>/dev/null || true; sshd -t")
        must(name in data and "clients" in data and "/etc/" not in data, f"purge of the server: {data}")
        yield "purge leaves the dumps and the keys on the server, nothing on the client, and the stock netconsole works"


@case
def reload_gap(lab, directory: Path):
    """A panic at random moments while reload runs again and again: 20 of 20 dump."""
    # Little memory: what counts is whether there is a dump.
    with Pair(lab, directory, 352) as pair:
        pair.set_up()
        pair.armed()
        server, client = pair.server, pair.client
        server.run("printf 'dumps_per_hour=0\\n' >>/etc/netdump.conf && systemctl reload netdump-server")
        generator, seconds = random.Random(7), []
        for number in range(20):
            delay = generator.uniform(0.2, 3)
            client.run("(while :; do /etc/init.d/netdump reload; done) >/dev/null 2>&1 &")
            client.run(f"(sleep {delay:.2f}; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
            pair.new_dump()
            pair.come_back()
            pair.armed()
            server.run("rm -rf /var/crash/*/vmcore")
            seconds.append(f"{delay:.1f}")
            print(f"    {number + 1} of 20", flush=True)
        yield "20 of 20 dumped, panics after " + ", ".join(seconds) + " s of reloads"


@case
def kernels(lab, directory: Path):
    """The kill switch on the kernel's command line, and what is said of kernels that there are modules for, and are not."""
    archive = make_archive(directory / "in.tar", packages(lab))
    client = Desk(lab, "client", "server", directory / "client", archive, append="netdump.disable=1")
    try:
        client.start()
        client.wait_ready()
        client.unpack()
        release = client.run("uname -r").strip()
        client.run("apt-get install -y /root/netdump_*.deb /root/netdump-tools_*.deb 2>&1", PATIENCE)
        check = "/etc/init.d/netdump check-kernel"
        said = client.run(f"{check} {release}; echo status $?")
        must(f"install netdump-modules-{release}" in said and "status 1" in said, f"without modules: {said}")
        client.run(f"apt-get install -y /root/netdump-modules-{release}_*.deb 2>&1", PATIENCE)
        said = client.run(f"{check} {release}; echo status $?")
        must("status 0" in said, f"with modules: {said}")
        other = release.replace("7", "8", 1)
        said = client.run(f"{check} {other}; echo status $?")
        must(f"install netdump-modules-{other}" in said and "status 1" in said, f"another kernel: {said}")
        yield f"check-kernel: {release} with and without its modules, {other} without: it says what to install"

        client.run("echo NETDUMPADDR=10.77.0.1 >>/etc/sysconfig/netdump")
        client.run("service netdump start", PATIENCE, check=False)
        must("inactive" in client.run("systemctl is-active netdump", check=False), "the unit is active in spite of the kill switch")
        must("netdump" not in client.run("cat /proc/modules"), "a module was loaded in spite of the kill switch")
        said = client.run("netdumpctl status; echo status $?")
        must("netdump: off (netdump.disable on the kernel command line)" in said and "status 3" in said, said)
        client.run("modprobe netdump netdump=@/,@10.77.0.1/")
        said = client.run("netdumpctl status; echo status $?")
        must("NOT armed: disabled on the kernel command line" in said and "status 1" in said, said)
        client.run("rmmod netdump")
        yield "netdump.disable=1: the service loads nothing, and a module loaded by hand does not arm itself"
    finally:
        client.kill()


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
