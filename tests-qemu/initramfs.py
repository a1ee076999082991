# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's whole user space: a busybox, the stock kernel's modules that a test needs, and ours, as one initramfs.

The init script brings up one interface and then gives a shell on the second serial port, over which the harness runs
what a test wants.
"""

import lzma
import shutil
from pathlib import Path

INIT = """#!/bin/sh
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /tmp /run
echo 1 >/proc/sys/kernel/printk
while read -r module; do insmod "/modules/$module" || echo "init: $module did not load" >/dev/console; done </modules/order
ip link set lo up
for word in $(cat /proc/cmdline); do
    case $word in
    nd.ip=*) address=${word#nd.ip=} ;;
    nd.prefix=*) prefix=${word#nd.prefix=} ;;
    nd.gateway=*) gateway=${word#nd.gateway=} ;;
    esac
done
if [ -n "$address" ]; then
    tries=0
    while [ ! -d /sys/class/net/eth0 ] && [ $tries -lt 100 ]; do tries=$((tries + 1)); usleep 50000; done
    ip addr add "$address/${prefix:-24}" dev eth0
    ip link set eth0 up
    [ -z "$gateway" ] || ip route add default via "$gateway"
fi
echo 7 >/proc/sys/kernel/printk
stty -F /dev/ttyS1 raw -echo
exec setsid sh -c 'exec sh /control <>/dev/ttyS1 >&0 2>&1'
"""

# One command per line in, its output and a line with its status out. A command that never ends goes to the background.
CONTROL = """echo '@@ ready'
while read -r number line; do
    eval "$line" </dev/null
    echo "@@ $number $?"
done
"""


def _entry(name: str, mode: int, data: bytes, inode: int, device=(0, 0)) -> bytes:
    """One member of a "newc" cpio archive."""
    fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    head += b"\0" * (-len(head) % 4)
    return head + data + b"\0" * (-len(data) % 4)


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """An archive of `files`: path -> (mode with type, content); directories on the way are made."""
    names: dict[str, tuple[int, bytes]] = {}
    for name, member in files.items():
        for parent in reversed(Path(name).parents):
            if str(parent) != ".":
                names.setdefault(str(parent), (0o40755, b""))
        names[name] = member
    out = [_entry(name, mode, data, inode) for inode, (name, (mode, data)) in enumerate(names.items(), 1)]
    out.append(_entry("dev/console", 0o20600, b"", len(names) + 1, (5, 1)))
    return b"".join(out) + _entry("TRAILER!!!", 0, b"", 0)


class Modules:
    """The modules of one stock kernel, and what each needs."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.needs: dict[str, list[str]] = {}
        self.path: dict[str, str] = {}
        for line in (directory / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self.path[self.name(path)] = path
            self.needs[self.name(path)] = [self.name(need) for need in needs.split()]
        self.builtin = {self.name(line) for line in (directory / "modules.builtin").read_text().split()}

    @staticmethod
    def name(path: str) -> str:
        """Module name of a path."""
        return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")

    def order(self, wanted) -> list[str]:
        """`wanted` and all that they need, in loading order; those built into the kernel are left out."""
        done: list[str] = []

        def visit(name):
            if name in self.builtin or name in done:
                return
            if name not in self.path:
                raise KeyError(f"this kernel has no module {name} ({self.directory})")
            for need in reversed(self.needs[name]):
                visit(need)
            done.append(name)

        for name in wanted:
            visit(name.replace("-", "_"))
        return done

    def read(self, name: str) -> bytes:
        """The module, unpacked."""
        path = self.directory / self.path[name]
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data


def build(out: Path, modules: Path, wanted, extra: dict[str, Path] | None = None, init: str = INIT) -> None:
    """Writes an initramfs with the stock modules `wanted`; `extra` files go to the paths that are their keys; `init` is run first."""
    stock = Modules(modules)
    order = stock.order(wanted)
    files: dict[str, tuple[int, bytes]] = {
        "init": (0o100755, init.encode()),
        "control": (0o100644, CONTROL.encode()),
        "modules/order": (0o100644, "".join(f"{name}.ko\n" for name in order).encode()),
    }
    for name in order:
        files[f"modules/{name}.ko"] = (0o100644, stock.read(name))
    busybox = Path(shutil.which("busybox")).read_bytes()
    files["bin/busybox"] = (0o100755, busybox)
    for applet in APPLETS:
        files[f"bin/{applet}"] = (0o120777, b"busybox")
    for name, path in (extra or {}).items():
        files[name.lstrip("/")] = (0o100755, path.read_bytes())
    for name in ("proc", "sys", "dev", "tmp", "run"):
        files.setdefault(name, (0o40755, b""))
    out.write_bytes(cpio(files))


APPLETS = """sh mount mkdir insmod rmmod lsmod cat echo ip ls sleep usleep dd sync stty setsid grep sed awk cut head tail wc ps kill
killall nc ping ifconfig route arp sysctl dmesg free uname seq tr true false test printf date cp mv rm ln chmod mknod find xargs
md5sum sha256sum reboot poweroff hostname env expr sort uniq od hexdump top taskset nohup timeout touch df basename dirname yes
udhcpc chroot unshare nsenter brctl traceroute ether-wake nice renice pidof uptime vi tee stat readlink mkfifo time""".split()
