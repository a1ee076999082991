# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of netconsole.ko on the stock kernel: formats, configfs, and both modules on one network card."""

import re
import subprocess
import time

import console_run
import judges
import panic_run
import test_modules
from cases import Context, add
from console_receiver import Receiver
from guest import GUEST_ADDRESS, HOST_ADDRESS, Guest, Machine
from judges import must
from server import Server

CONFIGFS = "/sys/kernel/config/netconsole"


class Port:
    """One port of a receiver."""

    def __init__(self, receiver: Receiver, port: int):
        self.receiver, self.port = receiver, port

    def datagrams(self) -> list[bytes]:
        """All that has come."""
        return self.receiver.datagrams(self.port)

    def text(self) -> str:
        """All of it, one after the other."""
        return b"".join(self.datagrams()).decode(errors="replace")

    def wait(self, pattern: str, seconds: float = 30) -> re.Match:
        """Waits until a pattern has come."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.text(), re.M)
            if found:
                return found
            must(time.monotonic() < deadline, f"port {self.port}: no '{pattern}' within {seconds:.0f} s; it got {self.text()[-2000:]!r}")
            time.sleep(0.1)


def with_netconsole(lab, machine: Machine) -> Machine:
    """The machine with netconsole.ko in its initramfs, and what that needs."""
    machine.extra = {"/netconsole.ko": test_modules.ours(lab, "netconsole"), **machine.extra}
    machine.modules = ("configfs", *machine.modules)
    return machine


def must_be_well(guest: Guest) -> None:
    """The kernel has complained about nothing."""
    complaints = [line for line in guest.console().splitlines() if re.search(r"WARNING:|BUG:|Oops|Call Trace", line)]
    must(not complaints, f"the kernel complains: {complaints}")


def formats(context: Context) -> list[str]:
    """Basic and extended targets from the parameter, with the log that was there; user data; changes by configfs; rmmod."""
    lab = context.lab()
    guest = Guest(lab, with_netconsole(lab, Machine()), context.directory)
    with guest, Receiver([6666, 6667, 6668]) as receiver:
        basic, extended, third = (Port(receiver, port) for port in receiver.ports)
        guest.wait_ready()
        guest.run("mount -t configfs none /sys/kernel/config")
        strings = f"@/,@{HOST_ADDRESS}/;+r6000@{GUEST_ADDRESS}/eth0,6667@{HOST_ADDRESS}/"
        guest.run(f"insmod /netconsole.ko 'netconsole={strings}'")
        for port in (basic, extended):
            port.wait("Linux version")  # the log as it was
            port.wait("network logging started")
        guest.run("echo '<4>one line' >/dev/kmsg")
        basic.wait(r"^\[ *\d+\.\d+\] one line$|^one line$")
        release = guest.run("uname -r").strip()
        extended.wait(rf"^{re.escape(release)},12,\d+,\d+,-[^;]*;one line$")

        third_target = f"{CONFIGFS}/third"
        guest.run(f"mkdir {third_target}")
        must(guest.run(f"cat {third_target}/dev_name {third_target}/remote_mac").split() == ["eth0", "ff:ff:ff:ff:ff:ff"], "defaults")
        for name, value in {"remote_ip": HOST_ADDRESS, "remote_port": 6668, "extended": 1}.items():
            guest.run(f"echo {value} >{third_target}/{name}")
        guest.run(f"mkdir {third_target}/userdata/key && echo value >{third_target}/userdata/key/value")
        guest.run(f"for i in cpu_nr taskname release msgid; do echo 1 >{third_target}/userdata/${{i}}_enabled; done")
        guest.run(f"echo 1 >{third_target}/enabled")
        must(guest.run(f"cat {third_target}/local_ip").strip() == GUEST_ADDRESS, "the local address is not filled in")
        refused = guest.run(f"echo 6669 >{third_target}/remote_port", check=False)
        must("Invalid argument" in refused, f"changed while enabled: {refused}")
        guest.run("echo '<4>another line' >/dev/kmsg")
        third.wait(rf"another line\n key=value\n cpu=\d+\n taskname=sh\n release={re.escape(release)}\n msgid=\d+\n")
        must("one line" not in third.text().split("another line")[0], "an older record came to a target that did not ask for it")

        # More than 1000 bytes go out in pieces.
        for number in range(9):
            guest.run(f"mkdir {third_target}/userdata/k{number} && echo {'v' * 150} >{third_target}/userdata/k{number}/value")
        before = len(third.datagrams())
        guest.run("echo '<4>long line' >/dev/kmsg")
        third.wait("k8=v+\n cpu")
        pieces = [piece.decode() for piece in third.datagrams()[before:] if b"long line" in piece or b"ncfrag" in piece]
        must(len(pieces) > 1 and all(len(piece) <= 1000 and ",ncfrag=" in piece.split(";")[0] for piece in pieces), f"pieces: {pieces}")
        body = "".join(piece.split(";", 1)[1] for piece in pieces)
        total = int(re.search(r",ncfrag=0/(\d+)$", pieces[0].split(";")[0]).group(1))
        must(len(body) == total and body.startswith("long line\n key=value\n k0="), f"{len(body)} of {total}: {body}")

        guest.run(f"echo 0 >{third_target}/enabled && rmdir {third_target}/userdata/k* && rmdir {third_target}")
        guest.run(f"mkdir {CONFIGFS}/cmdline0")
        must(guest.run(f"cat {CONFIGFS}/cmdline0/enabled").strip() == "1", "the target of the parameter is not enabled")
        must(guest.run("rmmod netconsole", check=False) != "", "rmmod although a target is in use")
        guest.run(f"rmdir {CONFIGFS}/cmdline0")
        count = len(basic.datagrams())
        guest.run("echo '<4>last line' >/dev/kmsg")
        extended.wait("last line")
        must(len(basic.datagrams()) == count, "a target that is removed gets text")
        guest.run("rmmod netconsole")
        must_be_well(guest)
    return [f"{len(basic.datagrams())}, {len(extended.datagrams())} and {len(third.datagrams())} datagrams"]


def servers(context: Context) -> list[str]:
    """netlog and both forms of syslog, by route and with the next hop found: at load, by configfs, and before the network is up."""
    lab = context.lab()
    guest = Guest(lab, with_netconsole(lab, Machine()), context.directory)
    with guest, Receiver([6666, 514, 6668]) as receiver:
        netlog, syslog, rfc5424 = (Port(receiver, port) for port in receiver.ports)
        guest.wait_ready()
        guest.run("mount -t configfs none /sys/kernel/config")
        guest.run("echo '<4>the first line' >/dev/kmsg; ip addr flush dev eth0")
        guest.run(f"insmod /netconsole.ko netlog=@/,@{HOST_ADDRESS}/ syslog=@/,@{HOST_ADDRESS}/")
        guest.run(f"mkdir {CONFIGFS}/netlog0; ip neigh flush all; ip addr add {GUEST_ADDRESS}/24 dev eth0")
        for port in (netlog, syslog):
            port.wait("Linux version", 60)
            port.wait("the first line", 60)
        link = subprocess.run(["ip", "-o", "link", "show", "nd0"], stdout=subprocess.PIPE, text=True, check=True).stdout
        host_mac = re.search(r"link/ether (\S+)", link).group(1)
        must(guest.run(f"cat {CONFIGFS}/netlog0/remote_mac").strip() == host_mac, "the next hop has not been found")
        must(guest.run(f"cat {CONFIGFS}/netlog0/dev_name").strip() == "eth0", "the device has not been found")

        # version 4, no request, code LOG, then the place of the text: no gaps, from 0 on.
        offset = 0
        for datagram in netlog.datagrams():
            must(datagram[:9] == bytes([4, 0, 0, 0, 0, 0, 0, 0, 2]), f"no log packet: {datagram[:20]!r}")
            must(int.from_bytes(datagram[9:13], "big") == offset, f"offset {datagram[9:13]!r} instead of {offset}")
            offset += len(datagram) - 13
        must(all(re.fullmatch(rb"<5> [^\n]*\n", datagram) for datagram in syslog.datagrams()), f"syslog: {syslog.datagrams()[:5]}")

        target = f"{CONFIGFS}/third"
        guest.run(f"mkdir {target} && echo syslog >{target}/type && echo rfc5424 >{target}/syslog_format")
        must(guest.run(f"cat {target}/local_port {target}/remote_port").split() == ["514", "514"], "the ports of syslog")
        guest.run(f"echo {HOST_ADDRESS} >{target}/remote_ip && echo 6668 >{target}/remote_port && echo 1 >{target}/enabled")
        refused = guest.run(f"echo netlog >{target}/type", check=False)
        must("Invalid argument" in refused, f"the type changed while enabled: {refused}")
        must("Invalid argument" in guest.run(f"echo 0 >{target}/enabled; echo telegraph >{target}/type", check=False), "an unknown type")
        guest.run(f"echo 1 >{target}/enabled; hostname mill; echo '<11>an error of a user' >/dev/kmsg")
        seen = rfc5424.wait(r'<11>1 (\S+) mill kernel - - \[meta sequenceId="\d+"\] an error of a user')
        stamp = time.mktime(time.strptime(seen.group(1)[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        clock = int(guest.run("date +%s"))
        must(abs(stamp - clock) < 60, f"the time is {seen.group(1)}, the guest's clock {clock}")
        guest.run(f"rmdir {target} {CONFIGFS}/netlog0")
        guest.run("rmmod netconsole")
        must_be_well(guest)
    return [f"{len(netlog.datagrams())} of netlog ({offset} bytes), {len(syslog.datagrams())} of syslog"]


def both(context: Context, first: str) -> list[str]:
    """netdump.ko and netconsole.ko on one network card: a dump, and all the text of the panic, netdump's included."""
    lab, formats = context.lab(), ("basic", "extended", "netlog")
    machine = console_run.prepare(lab, Machine(memory_mib=256), "ours", console_run.TRIGGERS["sysrq-panic5"])
    guest = Guest(lab, panic_run.with_module(lab, machine), context.directory)
    ports = [console_run.PORTS[name] for name in formats]
    with Receiver(ports) as receiver, guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        if first == "netdump":
            panic_run.arm(guest)
            console_run.load(guest, receiver, formats)
        else:
            console_run.load(guest, receiver, formats)
            panic_run.arm(guest)
            console_run.mark(guest, console_run.REPLAYED)
        console_run.fire(guest, console_run.TRIGGERS["sysrq-panic5"])
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        reason = guest.wait_held(60)
        must(reason == "guest-reset", f"the guest stopped for '{reason}', it should have restarted")
        receiver.wait_quiet(0.5, 10)
        must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
        judges.check_drgn(lab, path / "vmcore", machine.cpus, [panic_run.module_path(lab), test_modules.ours(lab, "netconsole")])
        verdicts = console_run.judge(guest, receiver, formats)
    must(all(verdict.complete() for verdict in verdicts), "\n".join(verdict.text() for verdict in verdicts))
    return [verdict.text() for verdict in verdicts]


def unload(context: Context) -> list[str]:
    """Either module can be unloaded and loaded again while the other one is in use on the same network card."""
    lab = context.lab()
    machine = with_netconsole(lab, Machine())
    guest = Guest(lab, panic_run.with_module(lab, machine), context.directory)
    with guest, Receiver([6666]) as receiver:
        port = Port(receiver, 6666)
        guest.wait_ready()
        console = f"insmod /netconsole.ko netconsole=@/,@{HOST_ADDRESS}/"
        for number, (first, second) in enumerate([("netdump", "netconsole"), ("netconsole", "netdump")] * 2):
            for name in (first, second):
                if name == "netdump":
                    panic_run.arm(guest)
                else:
                    guest.run(console)
            # netdump goes first in the first half, netconsole in the other.
            going, staying = ("netdump", "netconsole") if number < 2 else ("netconsole", "netdump")
            guest.run(f"rmmod {going}")
            if staying == "netconsole":
                guest.run(f"echo '<4>line {number}' >/dev/kmsg")
                port.wait(f"line {number}")
            else:
                must("armed" in guest.run("cat /sys/module/netdump/parameters/status"), "netdump is not armed any more")
            guest.run(f"rmmod {staying}")
        must_be_well(guest)
    return [f"{len(port.datagrams())} datagrams"]


def reload(context: Context) -> list[str]:
    """rmmod takes the consoles back for good, also where the work that takes up targets gets its turn half way through it."""
    lab = context.lab()
    guest = Guest(lab, with_netconsole(lab, Machine(modules=("dummy",))), context.directory)
    with guest, Receiver([6666]) as receiver:
        port = Port(receiver, 6666)
        guest.wait_ready()
        # rmmod goes through the list of devices, eth0 first. The list is long and its CPU busy, so that the work, which begins on
        # that CPU, gets its turn before the end.
        guest.run("rmmod dummy && insmod /modules/dummy.ko numdummies=2000", 300)
        guest.run("for i in 1 2 3 4; do taskset 1 sh -c 'while :; do :; done' >/dev/null 2>&1 & done")
        for number in range(3):
            guest.run(f"insmod /netconsole.ko netlog=@/,@{HOST_ADDRESS}/")
            guest.run(f"echo '<4>line {number}' >/dev/kmsg")
            port.wait(f"line {number}", 60)
            guest.run("taskset 1 sh -c 'renice -n 10 $$ && exec rmmod netconsole'", 120)
            left = guest.run("cat /proc/consoles")
            must("netlog" not in left, f"a console has outlived its module:\n{left}")
        must_be_well(guest)
    return [f"{len(port.datagrams())} datagrams"]


add("netconsole-formats", formats, tiers=("test", "full"))
add("netconsole-servers", servers, tiers=("test", "full"))
add("netconsole-unload", unload)
add("netconsole-reload", reload, tiers=("test", "full"), seconds=600)
for module in ("netdump", "netconsole"):
    add(f"netconsole-and-netdump-{module}-first", both, tiers=("test", "full") if module == "netdump" else ("full",), seconds=600, first=module)
