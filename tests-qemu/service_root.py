# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian 13 as an administrator has it: systemd, apt, ssh and the stock kernel's modules, in one disk image.

Nothing of ours is in it but an agent on the second serial port, over which the harness looks on. Both the machine that
crashes and the one that keeps the dumps start from it; their MAC addresses say which is which.
"""

import shutil

import cache
import lab
from cache import Step

SUITE = "trixie"
PACKAGES = [
    "systemd", "systemd-sysv", "udev", "dbus", "apt", "openssh-server", "openssh-client", "iproute2", "iputils-ping", "kmod", "procps",
    "logrotate", "adduser", "passwd", "login", "e2fsprogs", "python3-minimal", "gzip", "init-system-helpers",
]  # fmt: skip
CLIENT_MAC, CLIENT = "52:54:00:4e:44:02", "10.77.0.2"
SERVER_MAC, SERVER = "52:54:00:4e:44:01", "10.77.0.1"

# Each machine is given its address, as an administrator would have done; they know each other by name.
NETWORK = """[Match]
MACAddress={mac}
[Network]
Address={address}/24
IPv6AcceptRA=no
"""
AGENT = """[Unit]
Description=Commands of the test over the second serial port
DefaultDependencies=no
After=sysinit.target
[Service]
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw -echo; exec sh /usr/local/lib/agent <>/dev/ttyS1 >&0 2>&1'
Restart=always
KillMode=process
[Install]
WantedBy=multi-user.target
"""
LOGIN = """[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I vt220
"""
# Instead of a boot loader's initrd: the disk's driver and its file system, and over to systemd.
INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
tries=0
mkdir -p /root
# The other disks are archives.
until for disk in /dev/vd?; do mount -t ext4 $disk /root 2>/dev/null && break; done || [ $tries = 200 ]; do
    tries=$((tries + 1)); usleep 50000
done
umount /proc
mount -o move /dev /root/dev
exec busybox switch_root /root /sbin/init
"""


class ServiceRoot:
    """The image for one kernel (a lab.Kernel)."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.image = kernel.home / "service.ext4"
        self.root = cache.directory() / "roots/service"

    def make_image(self) -> None:
        """An ext4 file system with all of it."""
        log, release = self.kernel.log("service"), self.kernel.release
        staging = cache.empty(self.kernel.home / "staging-service")
        # Not hard links: files are changed.
        cache.run(["cp", "-a", f"{self.root}/.", staging], log, lab.AGAIN)
        for name in ("proc", "sys", "dev", "run", "tmp"):
            cache.empty(staging / name)
        (staging / "tmp").chmod(0o1777)
        shutil.copytree(self.kernel.modules, staging / "usr/lib/modules" / release, symlinks=True,
                        ignore=shutil.ignore_patterns("vmlinuz", "build", "source", "gpu", "wireless", "media", "sound", "infiniband"))  # fmt: skip
        cache.run(lab.in_root("build", "depmod", "-b", staging / "usr", release), log, lab.AGAIN)
        for name, mac, address in (("client", CLIENT_MAC, CLIENT), ("server", SERVER_MAC, SERVER)):
            write(staging, f"etc/systemd/network/10-{name}.network", NETWORK.format(mac=mac, address=address))
        write(staging, "etc/hosts", f"127.0.0.1 localhost\n{SERVER} crashhost\n{CLIENT} client\n")
        write(staging, "etc/systemd/system/agent.service", AGENT)
        write(staging, "etc/systemd/system/serial-getty@ttyS0.service.d/login.conf", LOGIN)
        write(staging, "usr/local/lib/agent", lab_agent())
        # Each machine makes what must be its own when it boots first.
        write(staging, "etc/machine-id", "")
        for key in (staging / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        write(staging, "etc/systemd/system/ssh.service.d/keys.conf", "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n")
        write(staging, "etc/systemd/journald.conf.d/persistent.conf", "[Journal]\nStorage=persistent\n")
        wants = staging / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "agent.service").symlink_to("/etc/systemd/system/agent.service")
        (wants / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/systemd-networkd.service")
        used = sum(path.lstat().st_blocks * 512 for path in staging.rglob("*"))
        self.image.unlink(missing_ok=True)
        # Room for dumps; the file is sparse.
        cache.run(lab.in_root("service", "mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", staging, self.image,
                              f"{used // 1024 * 5 // 4 + (4 << 20)}k"), log, lab.AGAIN)  # fmt: skip
        shutil.rmtree(staging)

    def steps(self, image: Step, build_root: Step) -> list[Step]:
        """What is to be made; `image` is the kernel's."""
        name = f"{self.kernel.flavour}-{lab.safe(self.kernel.version)}"
        root = Step(
            "root-service", ["root", 1, SUITE, PACKAGES], [self.root / "usr/sbin/sshd", self.root / "usr/lib/systemd/systemd"],
            lambda: lab.bootstrap("service", SUITE, PACKAGES),
        )
        made = Step(f"{name}-service", ["image", 1, root.recipe, image.recipe, NETWORK, AGENT, LOGIN, lab_agent()], [self.image],
                    self.make_image, [root, image, build_root])  # fmt: skip
        return [root, made]


def lab_agent() -> str:
    """The agent is what the small guests have."""
    from initramfs import CONTROL

    return CONTROL


def write(root, name: str, text: str) -> None:
    """A file of the image."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
