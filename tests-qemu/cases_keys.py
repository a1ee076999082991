# SPDX-License-Identifier: GPL-2.0-or-later
"""Keys through /dev/netdump: what is taken, what counts, and that none of it is in a dump; and the kill switch."""

import mmap
import secrets
from pathlib import Path

import panic_run
from cases import Context, add
from enrolment import Enrolment, arming, file_of
from guest import Guest, Machine
from judges import must
from server import MAGIC1, MAGIC2, Server

COOKIE = MAGIC2 << 32 | MAGIC1
EINVAL = 22


def blob(key_id: bytes, cookie: int, magic: bytes = b"NDARM002", flags: int = 1, kx: bytes = b"") -> tuple[bytes, list[bytes]]:
    """What the module takes (docs/keys.md), and what of it is secret."""
    arm_key, seed = secrets.token_bytes(32), secrets.token_bytes(32)
    keys = key_id + secrets.token_bytes(16) + arm_key + seed + secrets.token_bytes(32) + secrets.token_bytes(16)
    return arming(keys, cookie, magic, flags, kx), [arm_key, seed]


def found(vmcore: Path, words: list[bytes]) -> list[str]:
    """Which of the words are in a file, and where."""
    with open(vmcore, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as image:
        return [f"{word[:4].hex()}… at {at:#x}" for word in words if (at := image.find(word)) >= 0]


def status(guest: Guest) -> str:
    """The module's status file."""
    return guest.run("cat /sys/module/netdump/parameters/status")


def keyed(context: Context) -> list[str]:
    """The last good blob counts, bad ones change nothing, and the dump holds nothing of them."""
    directory, machine = context.directory, Machine()
    enrolment = Enrolment(directory, machine.address)
    first, secret_1 = blob(b"\x11" * 16, secrets.randbits(64) | 1, kx=secrets.token_bytes(1152))
    second, secret_2 = enrolment.blob(), enrolment.secrets()
    other, secret_3 = blob(b"\x33" * 16, secrets.randbits(64) | 1)
    # What is secret in the bad ones must not be found either.
    bad = {
        "empty": b"", "cut": other[:-1], "longer": other + b"x", "magic": b"NDARM001" + other[8:], "flags": other[:12] + b"\x03" + other[13:],
        "cookie": other[:160] + bytes(8) + other[168:], "page": other + bytes(4096 - len(other)),
    }  # fmt: skip
    files = {"first": first, "second": second, "wipe": b"NDWIPE01", **{f"bad-{name}": text for name, text in bad.items()}}
    extra = {f"/{name}": file_of(directory, name, text) for name, text in files.items()}
    extra["/write-key"] = panic_run.guest_program("write-key")
    hits = []

    def before(guest: Guest, _: Server) -> None:
        """What user space may write."""
        must("600 " in guest.run("stat -c '%a %U' /dev/netdump"), "the device is not mode 0600")
        must(guest.run("head -c 1 /dev/netdump 2>/dev/null; echo $?").strip() != "0", "the device can be read")
        must("key: none" in status(guest), status(guest))
        guest.run("/write-key /first /dev/netdump")
        must(f"key: {'11' * 16}" in status(guest), status(guest))
        guest.run("/write-key /wipe /dev/netdump")
        must("key: none" in status(guest), status(guest))
        guest.run("/write-key /first /dev/netdump && /write-key /second /dev/netdump")
        for name in bad:
            if name != "empty":  # a write of nothing does not get here
                code = guest.run(f"/write-key /bad-{name} /dev/netdump; echo $?").strip()
                must(code == str(EINVAL), f"{name}: errno {code}")
            must(f"key: {enrolment.key_id.hex()}" in status(guest), f"{name}: {status(guest)}")
        # One that has it open holds the module.
        must(guest.run("exec 9>/dev/netdump; rmmod netdump 2>/dev/null; echo $?; exec 9>&-").strip() != "0", "unloaded while open")

    def dumped(server: Server) -> None:
        path, _ = server.meta()
        hits.extend(found(path / "vmcore", [*secret_1, *secret_2, *secret_3, first[160:168]]))

    machine.extra = extra
    # The parameters' cookie is not the server's: the blob is what counts.
    lines = panic_run.panic_run(
        context.lab(), machine, directory, parameters="magic1=1 magic2=2", before_panic=before, dumped=dumped, magic=False,
        settings=enrolment.settings(),
    )  # fmt: skip
    must(not hits, f"secrets are in the vmcore: {hits}")
    return [*lines, f"{len(bad)} bad blobs refused; none of {len(secret_1 + secret_2 + secret_3) + 1} secrets is in the vmcore"]


def wiped(context: Context) -> list[str]:
    """With the key wiped the server's requests are not answered."""
    text, _ = blob(b"\x11" * 16, COOKIE)
    extra = {"/key": file_of(context.directory, "key", text), "/wipe": file_of(context.directory, "wipe", b"NDWIPE01")}
    extra["/write-key"] = panic_run.guest_program("write-key")
    guest = Guest(context.lab(), panic_run.with_module(context.lab(), Machine(extra=extra)), context.directory)
    with guest, Server(context.directory, [guest.machine.address]) as server:
        guest.wait_ready()
        panic_run.arm(guest, "magic1=1 magic2=2 handshake_timeout=5 protocol=classic")
        guest.run("/write-key /key /dev/netdump && /write-key /wipe /dev/netdump")
        guest.send(panic_run.PANIC)
        guest.wait_console(r"netdump: .*no server answered", 120)
        must(not server.directories(), "there is a directory")
        counted = guest.wait_console(r"\((\d+) with a wrong cookie", 60)
        must(int(counted[1]) > 0, "the module counted no wrong cookie")
    return [f"nothing given; {counted[1]} requests with a wrong cookie counted"]


def switched_off(context: Context) -> list[str]:
    """disable=1: loaded, and never armed."""
    with Guest(context.lab(), panic_run.with_module(context.lab(), Machine()), context.directory) as guest:
        guest.wait_ready()
        guest.run("insmod /netdump.ko netdump=@10.77.0.2/eth0,@10.77.0.1/ff:ff:ff:ff:ff:ff magic1=1 disable=1")
        guest.run("ip link set eth0 down; ip link set eth0 up; sleep 3")
        must("not armed: disabled on the kernel command line" in status(guest), status(guest))
        guest.send(panic_run.PANIC)
        guest.wait_held(60)
        must("netdump activated" not in guest.console(), "it dumped")
    return ["not armed, and the panic went on without it"]


add("keyed", keyed, tiers=("test", "full"))
add("key-wiped", wiped)
add("switched-off", switched_off)
