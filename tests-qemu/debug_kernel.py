# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel that `make test-debug` boots: of the same source as the stock one, with KASAN, lockdep, kmemleak and the
other watchers of debug-kernel.config, made with clang."""

import os
import shutil

import cache
import lab
from cache import HERE, Failure, Step

FLAVOUR = "debug"
CONFIG = HERE / "debug-kernel.config"


def lost(wanted: str, got: str) -> list[str]:
    """The lines of a fragment that a config does not fulfil: an option that depends on another falls away without a word."""
    have = set(got.splitlines())
    bad = []
    for line in wanted.splitlines():
        if not line.startswith("CONFIG_"):
            continue
        key, _, value = line.partition("=")
        if any(h.startswith(f"{key}=") for h in have) if value == "n" else line not in have:
            bad.append(line)
    return bad


class DebugKernel(lab.Kernel):
    """That kernel; everything below the build tree is kept, so that a build that was broken off goes on."""

    make_words = ("LLVM=1",)

    def choose(self) -> tuple[str, str]:
        version, release = lab.choose_kernel(self.mirror, "cloud-amd64")
        suffix = lab.text_of(CONFIG.read_text(), "CONFIG_LOCALVERSION")
        return version, release.split("+")[0] + suffix

    def __init__(self, mirror, flavour: str):
        super().__init__(mirror, flavour)
        self.vmlinux = self.build / "vmlinux"

    def make(self, log: str, *words) -> None:
        """The kernel's make, in the build root."""
        self.build.mkdir(parents=True, exist_ok=True)
        command = ["nice", "-n", "19", "make", "-C", self.source, f"O={self.build}", *self.make_words, *words]
        cache.run(lab.in_root("build", *command), self.log(log), f"look at {self.log(log)}; {lab.AGAIN}")

    def build_kernel(self) -> None:
        """Config, kernel, modules; half an hour on two cores."""
        self.make("config", f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig")
        bad = lost(CONFIG.read_text(), (self.build / ".config").read_text())
        if bad:
            raise Failure(f"the kernel's configuration does not take {', '.join(bad)}", f"see {CONFIG}")
        self.make("build", f"-j{os.cpu_count()}", "bzImage", "modules")
        shutil.rmtree(self.home / "usr", ignore_errors=True)
        self.make("modules", f"INSTALL_MOD_PATH={self.home / 'usr'}", "modules_install")
        shutil.copy(self.build / "arch/x86/boot/bzImage", self.vmlinuz)

    def steps(self, build_root: Step, vmlinux: bool) -> list[Step]:
        """What is to be made. The symbols come with it."""
        source = self.source_step()
        build = Step(
            f"{self.flavour}-{lab.safe(self.version)}-build", ["build", 1, self.version, lab.BUILD_PACKAGES, CONFIG.read_text()],
            [self.vmlinuz, self.vmlinux, self.modules / "modules.dep", self.build / "rust/libmacros.so", self.build / "Module.symvers"],
            self.build_kernel, [source, build_root],
        )  # fmt: skip
        return [source, build]
