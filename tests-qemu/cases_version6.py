# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 6: in clear, sealed, with pages left out and compressed; and that nothing of the keys is in a dump."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import judges
import kdump_file
import panic_run
import test_modules
import truth
from cases import Context, add
from cases_keys import found, status
from cases_network import NETDEV, Impairer
from enrolment import Enrolment
from guest import CLOUD_NICS, HOST_ADDRESS, Guest, Machine
from judges import must
from server import Server


def spoken(meta: dict, sealed: bool) -> None:
    """The dump was made in version 6, and as it should."""
    dump = meta["dump"]
    must(dump["protocol"] == 6, f"version {dump['protocol']} was spoken")
    must(meta["authenticated"] is sealed, f"authenticated: {meta['authenticated']}")


def clear(context: Context, nic="virtio-net-pci", cpus=2, codec="none", **more) -> list[str]:
    """Nobody has a key, secure=0: all memory is there and true."""
    metas = []
    settings = {"secure": 0, "codec": codec}
    lines = panic_run.panic_run(
        context.lab(), Machine(nic=nic, cpus=cpus), context.directory, magic=False, settings=settings, parameters="tags=rack=b12,role=db",
        dumped=lambda server: metas.append(server.meta()[1]), **more,
    )  # fmt: skip
    spoken(metas[0], sealed=False)
    identity = metas[0]["identity"]
    wanted = {"rack": "b12", "role": "db", "nic": "eth0", "nic-driver": DRIVERS.get(nic, nic), "dmi-vendor": "QEMU"}
    wrong = {key: identity.get(key) for key, value in wanted.items() if identity.get(key) != value}
    must(not wrong and re.fullmatch("[0-9a-f]{40}", identity.get("build-id", "")), f"identity is {identity}")
    return lines


# What the kernel calls them.
DRIVERS = {"virtio-net-pci": "virtio_net"}


def sealed(context: Context, nic="virtio-net-pci", codec="lz4", level=0, extra=None, **more) -> list[str]:
    """With a key: complete and true, and neither the root key nor anything derived from it is in the vmcore."""
    machine = Machine(nic=nic)
    enrolment = Enrolment(context.directory, machine.address)
    machine.extra = {**enrolment.files(), **(extra or {})}
    metas, hits = [], []

    def dumped(server: Server) -> None:
        path, meta = server.meta()
        metas.append(meta)
        hits.extend(found(path / "vmcore", enrolment.secrets()))

    lines = panic_run.panic_run(
        context.lab(), machine, context.directory, magic=False, settings={**enrolment.settings(), "codec": codec, "level": level},
        before_panic=lambda guest, _: guest.run("/write-key /key /dev/netdump"), dumped=dumped, **more,
    )  # fmt: skip
    spoken(metas[0], sealed=True)
    must(metas[0]["client_id"] == "guest", f"it is said to be {metas[0].get('client_id')}")
    must(not hits, f"secrets are in the vmcore: {hits}")
    return [*lines, f"{len(enrolment.secrets())} secrets are not in the vmcore"]


def level_31(context: Context, codec="zstd", parameters="level=31", settings=None) -> list[str]:
    """Pages are left out: what is left opens in crash, drgn and gdb, and is a small part."""
    lab = context.lab()
    machine = panic_run.with_module(lab, Machine(memory_mib=1024))
    server = Server(context.directory, secure=0, codec=codec, **(settings or {}))
    with Guest(lab, machine, context.directory) as guest, server:
        guest.wait_ready()
        panic_run.arm(guest, parameters, magic=False)
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(guest.wait_held(60) == "guest-reset", "the guest did not restart")
    spoken(meta, sealed=False)
    must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
    dump = meta["dump"]
    kept, out = dump["pages"]["written"] + dump["pages"]["zero"], dump["left_out"]
    must(out.get("free", 0) > 100_000 and kept < 60_000, f"{kept} pages kept, left out: {out}")
    must(kept + dump["pages"]["left_out"] == dump["memory_bytes"] // 4096, f"frames are not accounted for: {dump}")
    judges.check_crash(lab, path / "vmcore", machine.cpus)
    judges.check_drgn(lab, path / "vmcore", machine.cpus, [panic_run.module_path(lab)])
    judges.check_gdb(lab, path / "vmcore", machine.cpus)
    (path / "vmcore").unlink()
    return [f"{kept} of {dump['memory_bytes'] // 4096} pages kept in {dump['memory_seconds']:.2f} s; left out: {out}"]


def in_fpu(context: Context) -> list[str]:
    """A panic while the kernel uses the FPU: its vector units are left alone, which the kernel's own cipher does not do."""
    lines = sealed(
        context, parameters="simd=on", extra={"/crash_in.ko": test_modules.build(context.lab(), "crash_in")},
        trigger="insmod /crash_in.ko how=fpu", in_stack="do_one_initcall",
    )  # fmt: skip
    console = (context.directory / "console").read_text(errors="replace")
    must("they are used" in console, "vector units are not to be used at all")
    must("WARNING:" not in console, "the kernel warns")
    return lines


def format_kdump(context: Context, compress="zstd", memory_mib=1024) -> list[str]:
    """format=kdump: a dump of level 31 is a kdump-compressed file that crash, drgn and makedumpfile open, with the very pages that
    meta.json counts, and they are true."""
    lab = context.lab()
    machine = panic_run.with_module(lab, Machine(memory_mib=memory_mib))
    modules = [panic_run.module_path(lab)]
    server = Server(context.directory, secure=0, codec="zstd", level=31, format="kdump", kdump_compress=compress)
    with Guest(lab, machine, context.directory) as guest, server:
        guest.wait_ready()
        iomem = guest.run("cat /proc/iomem")
        panic_run.arm(guest, magic=False)
        guest.send(panic_run.PANIC)
        path, _ = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        server.wait_text(r"the vmcore is kdump-compressed|conversion_failed", 60)
        must(guest.wait_held(60) == "guest-reset", "the guest did not restart")
        picture = context.directory / "truth"
        guest.dump_memory(picture)
    meta = json.loads((path / "meta.json").read_text())
    spoken(meta, sealed=False)
    dump, vmcore = meta["dump"], path / "vmcore"
    must(meta["complete"] and dump["format"] == "kdump", f"it is no complete file of that format: {dump['failure']}, {dump['conversion']}")
    names = {file.name for file in path.iterdir()}
    must(names == {"log", "meta.json", "vmcore"}, f"the directory has {names}")
    kdump, pages = kdump_file.Kdump(vmcore), dump["pages"]
    must(kdump.status == (kdump_file.ZSTD if compress == "zstd" else 1), f"status {kdump.status:#x}")
    must((kdump.version, kdump.machine, kdump.level, kdump.cpus) == (6, "x86_64", 30, machine.cpus), f"headers: {vars(kdump).keys()}")
    found = sum(kdump.there), kdump.zeroes, sum(kdump.memory)
    must(found == (pages["written"] + pages["zero"], pages["zero"], dump["memory_bytes"] // 4096), f"{found} in the file, {pages} counted")
    must(sum(kdump.memory) - sum(kdump.there) == pages["left_out"], f"{pages} were left out")
    judges.check_crash(lab, vmcore, machine.cpus)
    judges.check_drgn(lab, vmcore, machine.cpus, modules)
    lines = [judges.check_makedumpfile_on_kdump(lab, vmcore, kdump)]
    core = path / "core"
    seen = kdump_file.unpack(lab, vmcore, kdump, core)
    must(seen == {"read": sum(kdump.there), "wrong": []}, f"drgn's pages: {seen}")
    report = truth.compare(lab, core, picture, meta, iomem, modules, there=kdump.there)
    must(report.good(), report.text())
    if not os.environ.get("NETDUMP_KEEP"):
        vmcore.unlink()
        picture.unlink()
    core.unlink()
    conversion = dump["conversion"]
    before, after = conversion["elf_disk_bytes"] / 1e6, dump["vmcore_disk_bytes"] / 1e6
    return [
        f"{sum(kdump.there)} pages, {kdump.zeroes} of them of zeroes, left out {pages['left_out']}: "
        f"{before:.1f} MB became {after:.1f} MB in {conversion['seconds']:.2f} s ({compress})",
        *lines, report.text().splitlines()[0],
    ]  # fmt: skip


def wrong_key(context: Context) -> list[str]:
    """With a key that is not the server's nothing leaves the machine, in no dialect, although secure=0."""
    machine = Machine()
    enrolment = Enrolment(context.directory, machine.address)
    wrong = enrolment.blob(bytes(32))
    machine.extra = enrolment.files(wrong=wrong)
    guest = Guest(context.lab(), panic_run.with_module(context.lab(), machine), context.directory)
    with guest, Server(context.directory, secure=0, **enrolment.settings()) as server:
        guest.wait_ready()
        panic_run.arm(guest, "handshake_timeout=5", magic=False)
        guest.run("/write-key /wrong /dev/netdump")
        guest.send(panic_run.PANIC)
        guest.wait_console(r"netdump: .*no server answered", 120)
        must(not server.directories(), "there is a directory")
        must("forged" in server.text(), "the server does not say that the MAC is wrong")
    return ["nothing given, nothing taken"]


ETHERNET = 14
# A flag in the header (kernel's DUMP_ELF_INCOMPLETE): crash says that the dump is not whole.
INCOMPLETE = 1


def stored(server: Server, enough) -> Path:
    """Waits until enough of a dump is on the disk; its directory."""
    deadline = time.monotonic() + 120
    while True:
        for path in server.directories():
            with contextlib.suppress(FileNotFoundError):
                if enough(path):
                    return path
        must(time.monotonic() < deadline, "the dump does not get so far")
        time.sleep(0.01)


def cut(context: Context, enough, level=31) -> list[str]:
    """The server is killed in mid-dump and never comes back: what it has can be read."""
    lab = context.lab()
    machine = panic_run.with_module(lab, Machine(memory_mib=1024))
    with Guest(lab, machine, context.directory) as guest, Server(context.directory, secure=0, codec="zstd") as server:
        guest.wait_ready()
        panic_run.arm(guest, f"level={level} idle_timeout=5", magic=False)
        guest.send(panic_run.PANIC)
        path = stored(server, enough)
        server.stop(signal.SIGKILL)
        pages = pages_told(path)
        guest.wait_console(r"netdump: .*gone silent", 60)
    vmcore = path / "vmcore-incomplete"
    must(not (path / "vmcore").exists() and json.loads((path / "meta.json").read_text())["complete"] is False, "it is said to be whole")
    flags = int.from_bytes(vmcore.read_bytes()[48:52], "little")
    must(flags & INCOMPLETE, f"its header has flags {flags:#x}")
    system, task, log = judges.crash(lab, vmcore, "sys", "bt", "log")
    must("sysrq triggered crash" in system, f"crash sees no panic: {system}")
    must("sysrq_handle_crash" in task, f"crash's bt: {task}")
    must("netdump activated" in log and "Linux version" in log, "crash's log is not whole")
    seen = json.loads(truth.drgn(lab, vmcore, "judge_cut.py", modules=[panic_run.module_path(lab)]))
    must("sysrq_handle_crash" in seen["crashed"], f"drgn's stack: {seen['crashed']}")
    must("netdump activated" in seen["dmesg"] and seen["tasks"] > 20, f"drgn sees {seen['tasks']} tasks")
    every = judges.crash(lab, vmcore, "bt -a", "ps")
    must("swapper/0" in every[1] and len(re.findall(r"^PID: ", every[0], re.M)) == machine.cpus, f"crash's bt -a: {every[0]}")
    early = sum(int(b, 16) - int(a, 16) for a, b in re.findall(r"^e (\w+) (\w+)$", (path / "resume").read_text(errors="replace"), re.M))
    vmcore.unlink()
    return [f"cut at {pages} pages, {pages * 100 // WHOLE} % of all; {early} come first; crash and drgn: bt, log, tasks"]


def in_second_turn(path: Path) -> bool:
    """All pages that come first are there, and not much more."""
    return "\na " in (path / "resume").read_text(errors="replace")


def part(percent: int):
    """So much of what level 31 leaves of the idle guest."""
    return lambda path: pages_told(path) * 100 >= percent * WHOLE


def pages_told(path: Path) -> int:
    """Pages that are there, as the journal says."""
    text = (path / "resume").read_text(errors="replace")
    return sum(int(pages, 16) for pages in re.findall(r"^n (\w+) \w+ \w+$", text, re.M))


# Pages of such a dump (six-level-31: 28,400 to 29,400).
WHOLE = 28_400


def server_killed(context: Context, codec="lz4") -> list[str]:
    """The server is killed in mid-dump and started again: the dump goes on, is complete and true."""
    servers = []

    def trigger(guest: Guest) -> None:
        """Panics, kills the server in mid-dump, and starts it again."""
        guest.send(panic_run.PANIC)
        path = stored(servers[0], lambda path: pages_told(path) > 60_000)
        servers[0].stop(signal.SIGKILL)
        sizes.append(pages_told(path))
        servers[0].start()
        begun = time.monotonic()
        servers[0].wait_text("a dump that was begun before goes on", 60)
        waits.append(time.monotonic() - begun)

    sizes, metas, waits = [], [], []
    lines = panic_run.panic_run(
        context.lab(), Machine(), context.directory, magic=False, settings={"secure": 0, "codec": codec},
        before_panic=lambda _, server: servers.append(server), trigger=trigger,
        dumped=lambda server: metas.append((server.meta()[1], server.text(), len(server.directories()))),
    )  # fmt: skip
    (meta, text, directories) = metas[0]
    spoken(meta, sealed=False)
    must("a dump that was begun before goes on" in text and directories == 1, f"it was begun anew, in {directories} directories")
    pages = meta["dump"]["pages"]
    must(pages["written"] + pages["zero"] + pages["left_out"] == meta["dump"]["memory_bytes"] // 4096, f"frames are not accounted for: {pages}")
    return [*lines, f"killed at {sizes[0]} pages, and gone on with {waits[0]:.2f} s after it was there again"]


def small_path(context: Context, mtu=1400) -> list[str]:
    """The path takes less than both ends think, and says nothing of it: the dump is complete and true all the same."""
    impairer = Impairer(context.directory, "--longest", str(mtu + ETHERNET))
    settings = {"secure": 0, "codec": "lz4", "max_datagram": 8900}
    with impairer:
        lines = panic_run.panic_run(context.lab(), Machine(memory_mib=256, netdev=NETDEV), context.directory, magic=False, settings=settings)
    counts = impairer.stats()["b_to_a"]
    must(counts["too_long"] > 0, f"nothing was too long for the path: {counts}")
    return [*lines, f"a path for {mtu} bytes: {counts['too_long']} frames were longer"]


class Forger(threading.Thread):
    """Answers every probe, with a MAC of zeroes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((HOST_ADDRESS, 6666))
        self.socket.settimeout(0.1)
        self.ended = threading.Event()

    def run(self) -> None:
        """Until it is to end."""
        while not self.ended.is_set():
            try:
                probe, client = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            self.socket.sendto(b"\x06\x08" + probe[2:18] + bytes(18), client)
            self.count += 1


@contextlib.contextmanager
def forged_answers():
    """Somebody in the server's place, who has no key."""
    forger = Forger()
    forger.start()
    try:
        yield forger
    finally:
        forger.ended.set()
        forger.join()
        forger.socket.close()


def probed(context: Context, keyed=True) -> list[str]:
    """A machine that is well says whether the server hears it, whatever its own firewall lets in, and hears of the opposite."""
    lab = context.lab()
    machine = Machine()
    settings: dict = {"secure": 0}
    if keyed:
        enrolment = Enrolment(context.directory, machine.address)
        machine.extra, settings = enrolment.files(), enrolment.settings()
    guest = Guest(lab, panic_run.with_module(lab, machine), context.directory)

    def verdict(pattern: str) -> str:
        """What status says of the probes, once that is this."""
        deadline = time.monotonic() + 60
        while not (said := re.search(f"^probe: ({pattern})$", status(guest), re.MULTILINE)):
            must(time.monotonic() < deadline, f"{pattern}: {status(guest)}")
            time.sleep(0.2)
        return said[1]

    with guest, Server(context.directory, **settings) as server:
        guest.wait_ready()
        if keyed:
            panic_run.arm(guest, "probe_interval=1", magic=False)
            # Without the key it would be nobody, and is not answered.
            verdict("no answer for .*")
            guest.run("/write-key /key /dev/netdump")
        else:
            panic_run.arm(guest, "probe_interval=1", magic=False)
        answered = verdict(r"answered \d+ s ago after \d+ us")
        server.stop()
        silent = verdict("no answer for .*")
        with forged_answers() as forged:
            # It is as good as the server where there is no key.
            verdict("no answer for [^012] s" if keyed else "answered [01] s ago after .*")
        must(forged.count > 0, "no probe was answered by the forger")
        verdict("no answer for .*")
        server.start()
        verdict("answered [01] s ago after .*")
        if keyed:
            # Revoked.
            for file in (enrolment.store / "clients").iterdir():
                file.rename(file.with_suffix(".away"))
            verdict("no answer for .*")
            server.wait_text("probe with a key that no client is enrolled with", 10)
            for file in (enrolment.store / "clients").iterdir():
                file.rename(file.with_suffix(".json"))
            verdict("answered [01] s ago after .*")
        # It is asked once a second: a question may be on its way now.
        guest.send(panic_run.PANIC)
        _, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
    spoken(meta, sealed=keyed)
    console = (context.directory / "console").read_text(errors="replace")
    must("WARNING:" not in console and "BUG:" not in console, "the kernel complains")
    must(console.count("netdump: the server answers") >= 2, "the console does not say that the server answers")
    return [f"{answered}; with the server stopped: {silent}"]


add("six-clear", clear, tiers=("test", "full"), all_judges=True)
add("six-sealed", sealed, tiers=("test", "full"), all_judges=True)
add("six-level-31", level_31, tiers=("test", "full"))
add("six-level-31-server", level_31, parameters="", settings={"level": 31}, codec="lz4")
add("six-in-fpu", in_fpu, tiers=("test", "full"))
add("six-format-kdump", format_kdump, tiers=("test", "full"))
add("six-format-kdump-zlib", format_kdump, compress="zlib", memory_mib=512)
add("six-wrong-key", wrong_key)
add("six-sealed-under-load", sealed, load=True)
add("six-cut-first", cut, enough=in_second_turn)
add("six-cut-50", cut, enough=part(50))
add("six-cut-90", cut, enough=part(90))
add("six-probe", probed, tiers=("test", "full"))
add("six-probe-clear", probed, keyed=False)
add("six-small-path", small_path, tiers=("test", "full"))
add("six-server-killed", server_killed, tiers=("test", "full"))
for nic in ("virtio-net-pci", "e1000e", "vmxnet3", "e1000"):
    flavour = "cloud-amd64" if nic in CLOUD_NICS else "amd64"
    for codec in ("none", "zstd"):
        add(f"six-sealed-{nic}-{codec}", sealed, nic=nic, codec=codec, flavour=flavour)
    add(f"six-clear-{nic}", clear, nic=nic, flavour=flavour)
