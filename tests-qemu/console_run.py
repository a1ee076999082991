# SPDX-License-Identifier: GPL-2.0-or-later
"""One guest that panics with a netconsole.ko loaded, the stock one or ours, and what of its console has arrived."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import console_text
import test_modules
from console_receiver import Receiver
from guest import HOST_ADDRESS, Guest, Machine
from judges import must

PORTS = {"basic": 6701, "extended": 6702, "netlog": 6703, "syslog": 6704, "rfc5424": 6705}
# The parameter for each, and what stands in front of the target.
PARAMETERS = {
    "basic": ("netconsole", ""), "extended": ("netconsole", "+"), "netlog": ("netlog", ""), "syslog": ("syslog", ""),
    "rfc5424": ("syslog", ""),
}  # fmt: skip
REPLAYED = "console test: the old log is through"
NOW = "console test: now"
END = "---[ end Kernel panic"


@dataclass(frozen=True)
class Trigger:
    """A way to panic."""

    command: str = "echo c >/proc/sysrq-trigger"
    panic: int = 5  # kernel.panic
    append: str = ""
    module: str = ""  # of modules/, for the commands
    before: str = ""  # what is to go on meanwhile


TRIGGERS = {
    "sysrq-panic5": Trigger(),
    "sysrq-panic0": Trigger(panic=0),
    "sysrq-panic-1": Trigger(panic=-1),
    "softirq-oops": Trigger("insmod /crash_in.ko how=softirq", module="crash_in"),
    "hardirq-oops": Trigger("insmod /crash_in.ko how=hardirq", module="crash_in"),
    "nmi": Trigger("", append="unknown_nmi_panic=1"),
    # It comes upon the holder of a lock that parts of drivers want.
    "nmi-timers": Trigger("", append="unknown_nmi_panic=1", module="crash_in", before="insmod /crash_in.ko how=timers"),
    # Right behind many lines: they are in the threads' hands, or on their way, when the panic comes.
    "burst": Trigger("for n in $(seq 100); do echo \"<6>burst $n\"; done >/dev/kmsg; echo c >/proc/sysrq-trigger", append="printk.devkmsg=on"),
    # The panic comes while other lines are being written out. Paced, so that no console loses any.
    "storm": Trigger(
        "for writer in 1 2; do (while :; do echo \"<6>storm $writer $((n += 1))\"; usleep 3000; done >/dev/kmsg) & done; "
        "sleep 2; echo c >/proc/sysrq-trigger", append="printk.devkmsg=on",
    ),
}


@dataclass(frozen=True)
class Way:
    """How the text leaves the guest: the device that targets name, addresses, what makes them."""

    device: str = "eth0"
    local: str = ""  # the machine's own address if empty
    remote: str = HOST_ADDRESS
    setup: str = ""
    modules: tuple = ()


# A device on top of eth0 has an address of its own, and eth0 then has none.
WAYS = {
    "plain": Way(),
    "ipv6": Way(local="fd77::2", remote="fd77::1", setup="echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip -6 addr add fd77::2/64 dev eth0"),
    "bridge": Way("br7", "10.77.0.6", setup="ip link add br7 type bridge && ip link set eth0 master br7 && ip link set br7 up", modules=("bridge",)),
    "bond": Way(
        "bond7", "10.77.0.6", modules=("bonding",),
        setup="echo +bond7 >/sys/class/net/bonding_masters; ip link set eth0 down; ip link set eth0 master bond7 && ip link set bond7 up",
    ),
}  # fmt: skip


def module_file(lab, which: str) -> Path:
    """netconsole.ko, 'stock' or 'ours'."""
    return test_modules.stock(lab, "netconsole") if which == "stock" else test_modules.ours(lab, "netconsole")


def formats_of(which: str) -> tuple[str, ...]:
    """The formats of a module."""
    return tuple(PORTS) if which == "ours" else ("basic", "extended")


def together(formats) -> tuple[str, ...]:
    """Those that one module can send at once when parameters ask for them: there is one form of syslog then."""
    return tuple(name for name in formats if name != "rfc5424")


def parameters(formats, machine: Machine, way: Way = WAYS["plain"], source: int = 6665) -> str:
    """insmod's words for a target of each format, without a MAC address: nobody types one."""
    names: dict[str, list[str]] = {}
    for name in formats:
        parameter, plus = PARAMETERS[name]
        names.setdefault(parameter, []).append(f"{plus}{source}@{way.local or machine.address}/{way.device},{PORTS[name]}@{way.remote}/")
    more = ["syslog_format=rfc5424"] if "rfc5424" in formats else []
    return " ".join([*(f"'{name}={';'.join(targets)}'" for name, targets in names.items()), *more])


def prepare(lab, machine: Machine, which: str, trigger: Trigger | None = None) -> Machine:
    """The machine with the module, and what it and the trigger need."""
    machine.extra = {"/netconsole.ko": module_file(lab, which), **machine.extra}
    machine.modules = (*machine.modules, "configfs")
    if trigger:
        machine.append = f"{machine.append} panic={trigger.panic} {trigger.append}"
        if trigger.module:
            machine.extra[f"/{trigger.module}.ko"] = test_modules.build(lab, trigger.module)
    return machine


def mark(guest: Guest, text: str) -> None:
    """A line in the guest's log."""
    guest.run(f"echo '<5>{text}' >/dev/kmsg")


def has_come(receiver: Receiver, name: str, text: str) -> bool:
    """Whether a line with this end has come; what is wrong with the form of others is for the judge."""
    datagrams = receiver.datagrams(PORTS[name])
    if name == "netlog":
        return text.encode() in b"".join(datagram[13:] for datagram in datagrams)
    return any(text.encode() in datagram for datagram in datagrams)


def load(guest: Guest, receiver: Receiver, formats, more: str = "", seconds: float = 180, way: Way = WAYS["plain"]) -> None:
    """Loads netconsole.ko and waits until the log so far has arrived in every format."""
    guest.run(f"insmod /netconsole.ko {parameters(formats, guest.machine, way)} {more}")
    mark(guest, REPLAYED)
    deadline = time.monotonic() + seconds
    for name in formats:
        while not has_come(receiver, name, REPLAYED):
            got = receiver.datagrams(PORTS[name])
            if time.monotonic() > deadline:
                raise guest.fail(f"{name}: after {len(got)} datagrams nothing more came of what was logged before (last: {got[-1:]})")
            time.sleep(0.2)


def fire(guest: Guest, trigger: Trigger) -> None:
    """Panics, with a mark in front."""
    guest.wait_console(f"{REPLAYED}$", 60)
    if trigger.before:
        guest.run(trigger.before)
    if trigger.command:
        guest.send(f"echo '<5>{NOW}' >/dev/kmsg; {trigger.command}")
    else:
        mark(guest, NOW)
        # An NMI in the middle of the serial console's own writing leaves nothing to compare with: printk keeps off a
        # console that was interrupted in its unsafe section (kernel/printk/nbcon.c).
        guest.wait_console(f"{NOW}$", 60)
        guest.nmi()


def wait_end(guest: Guest, receiver: Receiver, trigger: Trigger, seconds: float = 120) -> None:
    """Waits until the panic is over and nothing more comes."""
    if trigger.panic == 0:
        guest.wait_console(f"{NOW}$", 60)
        at = guest.console().index(NOW)
        deadline = time.monotonic() + seconds
        # What the last lines bring may come after them.
        while END not in guest.console()[at:]:
            if time.monotonic() > deadline:
                raise guest.fail(f"the panic did not come to its end within {seconds:.0f} s")
            time.sleep(0.1)
        must(guest.qmp.status() == "running", "the guest restarted although kernel.panic is 0")
        receiver.wait_quiet(2, 30)
    else:
        reason = guest.wait_held(seconds)
        must(reason == "guest-reset", f"the guest stopped for '{reason}', it should have restarted")
        receiver.wait_quiet(0.5, 10)


@dataclass
class Verdict:
    """What of the console arrived in one format: before the panic, and from it on."""

    name: str
    before: console_text.Comparison
    panic: console_text.Comparison
    wrong: str = ""  # what is wrong with the form of it

    def complete(self) -> bool:
        return self.before.complete() and self.panic.complete() and not self.wrong

    def text(self) -> str:
        wrong = f"{self.wrong}; " if self.wrong else ""
        return f"{self.name}: {wrong}before the panic {self.before.text()}; from the panic on {self.panic.text()}"


def judge(guest: Guest, receiver: Receiver, formats) -> list[Verdict]:
    """Holds each format against the serial console."""
    must(not any(receiver.dropped.values()), f"the host lost datagrams: {receiver.dropped}")
    shown = console_text.serial(guest.console())
    must(any(line.endswith(NOW) for line in shown), "the serial console does not show the mark")
    at = console_text.after(shown, NOW)
    must(any("Kernel panic - not syncing" in line for line in shown[at:]), "the serial console does not show a panic")
    out = []
    for name in formats:
        datagrams = receiver.datagrams(PORTS[name])
        (guest.directory / f"{name}.received").write_bytes(b"\0".join(datagrams))
        try:
            arrived, wrong = console_text.FORMATS[name](datagrams), ""
        except console_text.FormatError as error:
            arrived, wrong = [], str(error)
        out.append(Verdict(name, *console_text.compare(shown, arrived, at), wrong))
    return out


def go(guest: Guest, way: Way) -> None:
    """Makes the way, at both ends."""
    if way.setup:
        guest.run(way.setup)
    if way.device != "eth0":
        guest.run(f"ip addr del {guest.machine.address}/24 dev eth0; ip addr add {way.local}/24 dev {way.device}")
        guest.run(f"ping -c 1 -w 20 {HOST_ADDRESS}", 30)
    if ":" in way.remote:
        subprocess.run(["ip", "-6", "addr", "add", f"{way.remote}/64", "dev", guest.machine.tap, "nodad"], check=True)


def deliver(lab, which: str, trigger_name: str, nic: str, formats, directory: Path, way: Way = WAYS["plain"]) -> list[Verdict]:
    """Boots a guest, lets it panic, and judges."""
    trigger = TRIGGERS[trigger_name]
    machine = prepare(lab, Machine(nic=nic, memory_mib=256, modules=way.modules), which, trigger)
    try:
        with Receiver([PORTS[name] for name in formats], way.remote) as receiver, Guest(lab, machine, directory) as guest:
            guest.wait_ready()
            go(guest, way)
            load(guest, receiver, formats, way=way)
            fire(guest, trigger)
            wait_end(guest, receiver, trigger)
            return judge(guest, receiver, formats)
    finally:
        # The next guest of this test makes its own.
        subprocess.run(["ip", "link", "del", machine.tap], stderr=subprocess.DEVNULL, check=False)
        (directory / "initramfs").unlink(missing_ok=True)
