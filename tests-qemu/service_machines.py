# SPDX-License-Identifier: GPL-2.0-or-later
"""Two Debian machines with systemd and a cable between them: one that crashes, and one that keeps the dumps.

What an administrator types is typed on the machine's console; the harness looks on over the second serial port.
"""

import re
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import service_root
from guest import Guest, Machine

PROMPT = r"root@[\w-]+:[^\n]*# $"
# systemd takes half a minute under emulation on an idle machine.
BOOT_SECONDS = 250


def make_archive(path: Path, files: list[Path]) -> Path:
    """A tar file that a machine gets as a disk, padded to whole sectors."""
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    return path


def cable(directory: Path, name: str, peer: str) -> str:
    """QEMU's option for this end of a cable: datagrams between two sockets."""
    return (
        f"dgram,id=n0,local.type=unix,local.path={directory}/{name}.cable,"
        f"remote.type=unix,remote.path={directory}/{peer}.cable"
    )


class Desk(Guest):
    """A machine, with somebody at its console."""

    def __init__(self, lab, name: str, peer: str, directory: Path, archive: Path, memory_mib: int = 640, append: str = ""):
        mac, address = {
            "client": (service_root.CLIENT_MAC, service_root.CLIENT),
            "server": (service_root.SERVER_MAC, service_root.SERVER),
        }[name]
        self.name = name
        init = directory / "init"
        directory.mkdir(parents=True, exist_ok=True)
        init.write_text(service_root.INIT)
        self.out = directory / "out.tar"
        machine = Machine(
            image=Path(lab["SERVICE"]),
            netdev=cable(directory.parent, name, peer),
            mac=mac,
            address=address,
            memory_mib=memory_mib,
            cpus=2 if name == "client" else 1,  # four would be more than the host has
            modules=("ext4",),
            typing=True,
            hold=False,
            boot_seconds=BOOT_SECONDS,
            extra={"init": init},
            append=f"systemd.hostname={name} systemd.show_status=false quiet {append}",
            devices=(
                "-drive", f"file={archive},if=none,id=in0,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=in0,serial=in",
                "-drive", f"file={self.out},if=none,id=out0,format=raw,cache=unsafe", "-device", "virtio-blk-pci,drive=out0,serial=out",
            ),
        )  # fmt: skip
        super().__init__(lab, machine, directory)
        self.keys: socket.socket | None = None
        self.typed = 0

    def start(self) -> None:
        """Starts QEMU, and listens to the console."""
        with open(self.out, "wb") as file:
            file.truncate(4 << 30)
        super().start()
        self.keys = socket.socket(socket.AF_UNIX)
        self.keys.connect(str(self.directory / "keyboard"))
        keys = self.keys

        def drain() -> None:
            # What the machine says is in the log file; the socket only must not fill up.
            try:
                while keys.recv(65536):
                    pass
            except OSError:
                pass

        threading.Thread(target=drain, daemon=True).start()
        self.typed = 0

    def kill(self) -> None:
        super().kill()
        if self.keys:
            self.keys.close()
        self.out.unlink(missing_ok=True)

    def since(self) -> str:
        """What the console has said since the last line was typed, without the terminal's escapes."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07", "", self.console()[self.typed :])

    def expect(self, pattern: str, seconds: float) -> str:
        """Waits until the console says it; all that it has said since the last line was typed."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.since(), re.M):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.fail(f"{self.name}: no '{pattern}' on the console within {seconds:.0f} s, but: {self.since()[-1500:]}")
            time.sleep(0.1)
        return self.since()

    def press(self, line: str) -> None:
        """Types a line and Enter."""
        self.typed = len(self.console())
        self.keys.sendall(line.encode() + b"\r")

    def type(self, line: str, seconds: float = 180, answers=()) -> str:
        """Types a command on the console and waits for the next prompt; what was shown. `answers` are pairs of what is
        asked and what is typed then."""
        self.expect(PROMPT, BOOT_SECONDS)
        self.press(line)
        shown = ""
        for question, answer in answers:
            shown += self.expect(question, seconds)
            self.press(answer)
        return shown + self.expect(PROMPT, seconds)

    def unpack(self) -> None:
        """Puts the archive's files into /root."""
        disk = "/dev/disk/by-id/virtio-in"
        # udev may still be at it.
        self.run(f"for i in $(seq 300); do [ ! -e {disk} ] || break; sleep 0.2; done; tar -C /root -xf {disk}", 180)

    def fetch(self, path: str, to: Path) -> None:
        """Copies a directory of the machine to `to`, holes and all."""
        self.run(f"tar -S -C {path} -cf /dev/disk/by-id/virtio-out . && sync", 600)
        to.mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-C", to, "-xf", self.out], check=True)

    def alt_sysrq_c(self) -> None:
        """The keys that crash a machine."""
        keys = [{"type": "qcode", "data": code} for code in ("alt", "sysrq", "c")]
        self.qmp.command("send-key", keys=keys)
