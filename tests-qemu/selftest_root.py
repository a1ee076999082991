# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel's own selftests need: Debian's user space, the selftests as the kernel's source has them, the kernel's
modules, and netdevsim (which no stock kernel has) of the same source. All of it ends up in one disk image per kernel.
"""

import shutil

import cache
import lab
from cache import Step

PACKAGES = [
    "python3-minimal", "python3", "python3-yaml", "iproute2", "iputils-ping", "ethtool", "socat", "kmod", "procps", "udev", "jq",
    "iperf3", "bpftrace", "mawk", "mount", "e2fsprogs", "xz-utils",
]  # fmt: skip
# trixie's ethtool is older than the tests: it has no JSON for channels.
SUITE = "forky"
# Parts of the kernel's source that the tests consist of, or read.
SOURCES = ["tools/testing/selftests/kselftest", "tools/testing/selftests/net", "tools/testing/selftests/drivers/net", "tools/net/ynl",
           "Documentation/netlink/specs"]  # fmt: skip
WHERE = "usr/src/linux"  # in the image


class SelftestRoot:
    """The image for one kernel (a lab.Kernel)."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.netdevsim = kernel.home / "netdevsim/netdevsim.ko"
        self.image = kernel.home / "selftests.ext4"
        self.root = cache.directory() / "roots/selftests"

    def build_netdevsim(self) -> None:
        """netdevsim.ko for the kernel's build tree."""
        home = cache.empty(self.netdevsim.parent)
        for path in (self.kernel.source / "drivers/net/netdevsim").iterdir():
            shutil.copy(path, home)
        make = ["nice", "-n", "19", "make", "-C", self.kernel.build, f"M={home}", "CONFIG_NETDEVSIM=m", *self.kernel.make_words, "modules"]
        cache.run(lab.in_root("build", *make), self.kernel.log("netdevsim"), lab.AGAIN)

    def make_image(self) -> None:
        """An ext4 file system with all of it."""
        log, release = self.kernel.log("selftests"), self.kernel.release
        staging = cache.empty(self.kernel.home / "staging")
        # Hard links: nothing is written through them.
        cache.run(["cp", "-al", f"{self.root}/.", staging], log, lab.AGAIN)
        for name in ("proc", "sys", "dev", "run", "tmp"):
            cache.empty(staging / name)
        for name in SOURCES:
            shutil.copytree(self.kernel.source / name, staging / WHERE / name, symlinks=True)
        modules = staging / "usr/lib/modules" / release
        shutil.copytree(self.kernel.modules, modules, symlinks=True, ignore=shutil.ignore_patterns("vmlinuz", "build", "source"))
        (modules / "extra").mkdir()
        shutil.copy(self.netdevsim, modules / "extra")
        cache.run(lab.in_root("build", "depmod", "-b", staging / "usr", release), log, lab.AGAIN)
        used = sum(path.lstat().st_blocks * 512 for path in staging.rglob("*"))
        self.image.unlink(missing_ok=True)
        # Room for what a test writes; the file is sparse.
        cache.run(lab.in_root("selftests", "mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", staging, self.image,
                              f"{used // 1024 * 5 // 4 + (256 << 10)}k"), log, lab.AGAIN)  # fmt: skip
        shutil.rmtree(staging)

    def steps(self, build: Step, build_root: Step) -> list[Step]:
        """What is to be made; `build` is the kernel's build tree."""
        name = f"{self.kernel.flavour}-{lab.safe(self.kernel.version)}"
        root = Step(
            "root-selftests", ["root", 1, SUITE, PACKAGES], [self.root / "usr/bin/socat", self.root / "usr/bin/bpftrace"],
            lambda: lab.bootstrap("selftests", SUITE, PACKAGES),
        )
        netdevsim = Step(f"{name}-netdevsim", ["netdevsim", 1, build.recipe], [self.netdevsim], self.build_netdevsim, [build, build_root])
        image = Step(f"{name}-selftests", ["image", 1, root.recipe, netdevsim.recipe, SOURCES], [self.image], self.make_image,
                     [root, netdevsim])  # fmt: skip
        return [root, netdevsim, image]
