# SPDX-License-Identifier: GPL-2.0-or-later
"""Version 6: in clear, sealed, with pages left out and compressed; and that nothing of the keys is in a dump."""

import judges
import panic_run
from cases import Context, add
from cases_keys import found
from enrolment import Enrolment
from guest import CLOUD_NICS, Guest, Machine
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
        context.lab(), Machine(nic=nic, cpus=cpus), context.directory, magic=False, settings=settings,
        dumped=lambda server: metas.append(server.meta()[1]), **more,
    )  # fmt: skip
    spoken(metas[0], sealed=False)
    return lines


def sealed(context: Context, nic="virtio-net-pci", codec="lz4", level=0, **more) -> list[str]:
    """With a key: complete and true, and neither the root key nor anything derived from it is in the vmcore."""
    machine = Machine(nic=nic)
    enrolment = Enrolment(context.directory, machine.address)
    machine.extra = enrolment.files()
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


add("six-clear", clear, tiers=("test", "full"), all_judges=True)
add("six-sealed", sealed, tiers=("test", "full"), all_judges=True)
add("six-level-31", level_31, tiers=("test", "full"))
add("six-level-31-server", level_31, parameters="", settings={"level": 31}, codec="lz4")
add("six-wrong-key", wrong_key)
add("six-sealed-under-load", sealed, load=True)
for nic in ("virtio-net-pci", "e1000e", "vmxnet3", "e1000"):
    flavour = "cloud-amd64" if nic in CLOUD_NICS else "amd64"
    for codec in ("none", "zstd"):
        add(f"six-sealed-{nic}-{codec}", sealed, nic=nic, codec=codec, flavour=flavour)
    add(f"six-clear-{nic}", clear, nic=nic, flavour=flavour)
