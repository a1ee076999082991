# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual machine with the stock kernel: started, driven, watched, held when it restarts, and ended.

Everything happens in the network and process namespaces of `isolated`, so nothing is left behind whatever happens.
"""

import contextlib
import fcntl
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import initramfs
from qmp import Qmp, QmpError

HOST_ADDRESS = "10.77.0.1"
GUEST_ADDRESS = "10.77.0.2"
GUEST_MAC = "52:54:00:4e:44:02"

# QEMU's model -> the driver's module.
NICS = {
    "virtio-net-pci": "virtio_net",
    "e1000e": "e1000e",
    "e1000": "e1000",
    "vmxnet3": "vmxnet3",
    "igb": "igb",
    "rtl8139": "8139cp",
    "pcnet": "pcnet32",
    "tulip": "tulip",
    "ne2k_pci": "ne2k_pci",
}
# A boot takes 3 to 10 s.
BOOTS = 3
BOOT_SECONDS = 60
CLOUD_NICS = ("virtio-net-pci", "vmxnet3")


class GuestError(Exception):
    """The guest did not do what it should, with the end of its console."""


@dataclass
class Machine:
    """What a guest is made of."""

    nic: str = "virtio-net-pci"
    cpus: int = 2
    memory_mib: int = 512
    cpu: str = "max,la57=off"
    append: str = ""  # more words on the kernel's command line
    modules: tuple = ()  # more stock modules
    disk_mib: int = 0  # size of a virtio disk
    image: Path | None = None  # a virtio disk with this on it; what is written to it is forgotten
    devices: tuple = ()  # more options for QEMU
    boot: Callable[[Path, str], list[str]] | None = None  # (initramfs, command line) -> QEMU's options, where firmware starts the kernel
    boot_seconds: int = BOOT_SECONDS
    hotplug: bool = False  # the NIC can be taken out and put back: Guest.unplug, Guest.plug
    netdev: str = ""  # QEMU's -netdev instead of a tap of our own (must have id=n0)
    hold: bool = True  # held, memory intact, where it would restart; otherwise it restarts
    typing: bool = False  # the console has a keyboard: Guest.type_for_ever
    debugger: bool = False  # Guest.debug works
    extra: dict = field(default_factory=dict)  # path in the guest -> file
    address: str = GUEST_ADDRESS
    mac: str = GUEST_MAC
    tap: str = "nd0"


def accelerator(cpus: int) -> list[str]:
    """TCG, unless NETDUMP_ACCEL says otherwise: a /dev/kvm that exists need not work.

    With more virtual CPUs than cores, TCG's threads get at one another when the kernel patches its own code: guests
    were seen to hang or to fault in a patched function while they booted. One thread for all is no slower there.
    """
    named = os.environ.get("NETDUMP_ACCEL", "tcg")
    if named != "tcg":
        return ["-accel", named]
    thread = "multi" if cpus <= (os.cpu_count() or 1) else "single"
    return ["-accel", f"tcg,thread={thread},tb-size=256"]


def make_tap(name: str, address: str | None = HOST_ADDRESS, prefix: int = 24) -> None:
    """A persistent tap interface of this namespace, up, with our address."""
    with open("/dev/net/tun", "r+b", buffering=0) as tun:
        flags = 0x0002 | 0x1000 | 0x4000  # IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))  # TUNSETIFF
        fcntl.ioctl(tun, 0x400454CB, 1)  # TUNSETPERSIST
    # Deep enough that a burst of a guest is not lost in the host's queue.
    subprocess.run(["ip", "link", "set", name, "up", "txqueuelen", "10000"], check=True)
    if address:
        subprocess.run(["ip", "addr", "replace", f"{address}/{prefix}", "dev", name], check=True)


@contextlib.contextmanager
def no_tap_left(name: str):
    """The next guest makes its own."""
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", name], stderr=subprocess.DEVNULL, check=False)


class Guest:
    """A running machine. Use as a context manager."""

    def __init__(self, lab: dict[str, str], machine: Machine, directory: Path):
        if os.environ.get("NETDUMP_ISOLATED") != "1":
            raise RuntimeError("run this through tests-qemu/isolated")
        self.lab, self.machine, self.directory = lab, machine, directory
        directory.mkdir(parents=True, exist_ok=True)
        self.console_path = directory / "console"
        self.process: subprocess.Popen | None = None
        self.number = 0
        self.buffer = b""
        self.boots = 0

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self) -> None:
        """Builds the initramfs and starts QEMU; returns when it runs."""
        m, self.number, self.buffer = self.machine, 0, b""
        image = self.directory / "initramfs"
        # The last one is what netdump.ko needs: modprobe would load it.
        drivers = [NICS[m.nic], *m.modules, "libchacha20poly1305"]
        if m.nic == "virtio-net-pci" or m.disk_mib or m.image:
            drivers.insert(0, "virtio_pci")
        if m.disk_mib or m.image:
            drivers.append("virtio_blk")
        initramfs.build(image, Path(self.lab["MODULES"]), drivers, m.extra)
        netdev = m.netdev
        if not netdev:
            if self.boots == 0:
                make_tap(m.tap)
            netdev = f"tap,id=n0,ifname={m.tap},script=no,downscript=no,vhost=off"
        append = (
            # On a busy host the kernel's check of the timer interrupt fails, and it panics.
            f"console=ttyS0,115200 loglevel=7 panic=5 oops=panic no_timer_check net.ifnames=0 nd.ip={m.address} nd.prefix=24 "
            f"nd.gateway={HOST_ADDRESS} {m.append}"
        )
        for name in ("console", "keyboard", "qmp", "control", "gdb"):
            (self.directory / name).unlink(missing_ok=True)
        command = [
            self.lab["QEMU"], "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,graphics=off",
            *accelerator(m.cpus), "-cpu", m.cpu, "-smp", str(m.cpus), "-m", f"{m.memory_mib}M",
            *(m.boot(image, append) if m.boot else ["-kernel", self.lab["VMLINUZ"], "-initrd", str(image), "-append", append]),
            "-chardev", self.console_device(), "-serial", "chardev:console",
            "-chardev", f"socket,id=control,path={self.directory}/control,server=on,wait=off", "-serial", "chardev:control",
            "-qmp", f"unix:{self.directory}/qmp,server=on,wait=off",
            "-netdev", netdev, *self.nic_device(), *m.devices,
            "-action", "shutdown=pause,panic=none" + (",reboot=shutdown" if m.hold else ",reboot=reset"),
        ]  # fmt: skip
        if m.debugger:
            command += ["-chardev", f"socket,id=gdb,path={self.directory}/gdb,server=on,wait=off", "-gdb", "chardev:gdb"]
        if m.disk_mib:
            disk = self.directory / "disk"
            with open(disk, "wb") as file:
                file.truncate(m.disk_mib << 20)
            command += ["-drive", f"file={disk},if=none,id=d0,format=raw,cache=unsafe", "-device", "virtio-blk-pci,drive=d0"]
        if m.image:
            command += ["-drive", f"file={m.image},if=none,id=i0,format=raw,snapshot=on", "-device", "virtio-blk-pci,drive=i0"]
        (self.directory / "command").write_text(" ".join(command) + "\n")
        self.log = open(self.directory / "qemu.log", "wb")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        deadline = time.monotonic() + 20
        try:
            self.qmp = Qmp(self.directory / "qmp", deadline)
        except QmpError as error:
            self.kill()
            raise GuestError(f"QEMU did not start: {error}\n{(self.directory / 'qemu.log').read_text()}") from error
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(str(self.directory / "control"))
        self.boots += 1

    def nic_device(self) -> list[str]:
        """QEMU's options for the NIC."""
        m = self.machine
        if m.hotplug:
            return ["-device", "pcie-root-port,id=port0,chassis=1", "-device", f"{m.nic},netdev=n0,mac={m.mac},romfile=,bus=port0,id=nic0"]
        return ["-device", f"{m.nic},netdev=n0,mac={m.mac},romfile="]

    def unplug(self, seconds: float = 60) -> None:
        """Takes the NIC out (a machine with hotplug=True); returns when the guest has let go of it."""
        self.qmp.command("device_del", id="nic0")
        try:
            # The event of the device itself comes with its name; that of its back end without.
            deadline = time.monotonic() + seconds
            while self.qmp.wait_event(("DEVICE_DELETED",), deadline)["data"].get("device") != "nic0":
                pass
        except QmpError as error:
            raise self.fail(f"the guest did not let go of its NIC within {seconds:.0f} s") from error

    def plug(self) -> None:
        """Puts the NIC back; the guest takes a moment to find it."""
        m = self.machine
        self.qmp.command("device_add", driver=m.nic, netdev="n0", mac=m.mac, romfile="", bus="port0", id="nic0")

    def console_device(self) -> str:
        """QEMU's option for the first serial port."""
        if self.machine.typing:
            keyboard = self.directory / "keyboard"
            return f"socket,id=console,path={keyboard},server=on,wait=off,logfile={self.console_path}"
        return f"file,id=console,path={self.console_path}"

    def type_for_ever(self) -> None:
        """Types on the console as fast as it takes it, until the guest is ended (a machine with typing=True)."""
        keyboard = socket.socket(socket.AF_UNIX)
        keyboard.connect(str(self.directory / "keyboard"))

        def work() -> None:
            # QEMU's end breaks off when it is killed.
            with keyboard, contextlib.suppress(OSError):
                while True:
                    select.select([keyboard], [keyboard], [])
                    with contextlib.suppress(BlockingIOError):
                        keyboard.recv(65536, socket.MSG_DONTWAIT)
                    with contextlib.suppress(BlockingIOError):
                        keyboard.send(b"x" * 64, socket.MSG_DONTWAIT)

        threading.Thread(target=work, daemon=True).start()

    def debug(self, commands: str, meanwhile=None) -> str:
        """Halts the guest, lets gdb run some commands, and lets it go on (a machine with debugger=True); gdb's output.

        With a `continue` among them, `meanwhile` is what makes the guest stop again; symbols need nokaslr.
        """
        words = [self.lab["GDB"], "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off"]
        if meanwhile:
            words.append(self.lab["VMLINUX"])
        script = self.directory / "gdb-commands"
        script.write_text(f"set architecture i386:x86-64\ntarget remote {self.directory}/gdb\n{commands}\ndetach\n")
        words += ["-x", script]
        path = self.directory / "gdb.log"
        with open(path, "wb") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        try:
            if meanwhile:
                self.qmp.wait_event(("RESUME",), deadline)
                meanwhile()
            process.wait(deadline - time.monotonic())
        except (QmpError, subprocess.TimeoutExpired) as error:
            raise self.fail(f"gdb: {error}\n{path.read_text()}") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode or "detached" not in path.read_text():
            raise self.fail(f"gdb: {path.read_text()}")
        return path.read_text()

    def kill(self) -> None:
        """Ends QEMU, and only it."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for name in ("qmp", "control", "log"):
            if hasattr(self, name):
                getattr(self, name).close()
        (self.directory / "disk").unlink(missing_ok=True)

    def console(self) -> str:
        """All that the guest has said on its console."""
        try:
            return self.console_path.read_bytes().decode(errors="replace").replace("\r", "")
        except OSError:
            return ""

    def panicked(self) -> bool:
        """Whether it has said on its console that it panics."""
        return "Kernel panic - not syncing" in self.console()

    def fail(self, what: str) -> GuestError:
        """An error with the end of the console."""
        return GuestError(f"{what}\n--- the end of {self.console_path}:\n" + "\n".join(self.console().splitlines()[-30:]))

    def wait_console(self, pattern: str, seconds: float, count: int = 1) -> re.Match:
        """Waits until a pattern is on the console (`count` times); the last match."""
        deadline = time.monotonic() + seconds
        while True:
            found = list(re.finditer(pattern, self.console(), re.M))
            if len(found) >= count:
                return found[count - 1]
            if self.process.poll() is not None:
                raise self.fail(f"QEMU ended ({self.process.returncode}) before '{pattern}'")
            if time.monotonic() > deadline:
                raise self.fail(f"no '{pattern}' on the console within {seconds:.0f} s")
            time.sleep(0.1)

    def _read_until(self, pattern: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.buffer)
            if found:
                head, self.buffer = self.buffer[: found.end()], self.buffer[found.end() :]
                return head
            left = deadline - time.monotonic()
            if left <= 0:
                raise self.fail(f"the guest's shell did not answer within {seconds:.0f} s (got {self.buffer[-300:]!r})")
            if select.select([self.control], [], [], min(left, 1))[0]:
                data = self.control.recv(65536)
                if not data:
                    raise self.fail("QEMU closed the guest's shell")
                self.buffer += data

    def wait_ready(self, seconds: float = 0, again: bool = True) -> None:
        """Waits for the shell. A machine that does not get there is booted again (unless told not to), and says so.

        With several CPUs QEMU's emulation now and then loses a race with the kernel's self-modifying code: an int3 oops
        in a static key, or a CPU that stands still, before anything of ours is loaded.
        """
        while True:
            try:
                patience = self.machine.boot_seconds if again and self.boots < BOOTS else seconds or 2 * self.machine.boot_seconds
                self._read_until(rb"@@ ready\r?\n", patience)
                return
            except GuestError:
                if not again or self.boots == BOOTS:
                    raise
            shutil.copy(self.console_path, self.directory / f"console-of-boot-{self.boots}")
            print(f"the stock kernel did not come up under emulation (boot {self.boots} of at most {BOOTS}), again", flush=True)
            self.kill()
            self.start()

    def send(self, line: str) -> int:
        """Gives the shell one line and does not wait for its end."""
        self.number += 1
        self.control.sendall(f"{self.number} {line}\n".encode())
        return self.number

    def run(self, line: str, seconds: float = 60, check: bool = True) -> str:
        """Runs one line in the guest; its output."""
        number = self.send(line)
        text = self._read_until(rb"@@ %d \d+\r?\n" % number, seconds).decode(errors="replace").replace("\r", "")
        text, _, status = text.rstrip("\n").rpartition("@@ ")
        code = int(status.split()[1])
        text = re.sub(r"^@@ \d+ \d+\n", "", text, flags=re.M)  # the ends of lines that were sent without waiting
        if check and code:
            raise self.fail(f"in the guest: `{line}` ended with {code}: {text}")
        return text

    def wait_held(self, seconds: float) -> str:
        """Waits until the guest is held where it would restart (or stopped otherwise); why."""
        deadline = time.monotonic() + seconds
        try:
            event = self.qmp.wait_event(("SHUTDOWN",), deadline)
        except QmpError as error:
            raise self.fail(f"the guest neither restarted nor stopped within {seconds:.0f} s ({error})") from error
        while self.qmp.status() not in ("shutdown", "paused"):
            if time.monotonic() > deadline:
                raise self.fail("the guest was not held")
            time.sleep(0.05)
        return event["data"].get("reason", "")

    def wait_restart(self, seconds: float) -> None:
        """Waits until the guest has restarted (a machine with hold=False)."""
        try:
            self.qmp.wait_event(("RESET",), time.monotonic() + seconds)
        except QmpError as error:
            raise self.fail(f"the guest did not restart within {seconds:.0f} s") from error

    def dump_memory(self, path: Path, seconds: float = 300) -> None:
        """QEMU's own picture of the memory, as an ELF file by physical address."""
        path.unlink(missing_ok=True)
        self.qmp.command("dump-guest-memory", seconds, paging=False, protocol=f"file:{path}")

    def hold(self) -> None:
        """Stops the guest here and now."""
        self.qmp.command("stop")

    def release(self) -> None:
        """Lets a stopped guest go on."""
        self.qmp.command("cont")

    def nmi(self) -> None:
        """An NMI for every CPU, as a watchdog would send it."""
        self.qmp.command("inject-nmi")
