#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Prepares what the tests need and prints where it is, as KEY=path lines (`make lab`).

A stock Debian kernel with Rust (its image, modules and symbols), a build tree that makes modules for it with the very
compilers that its config names, and the judges of a vmcore. All of it is kept in a cache outside the tree.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cache
from cache import Failure, Step, say
from mirror import Mirror, address, proxies, sources

HERE = cache.HERE
LLVM = 19
BUILD_PACKAGES = [
    "rustc", "rust-src", "bindgen", "cargo", "rustfmt", "rust-clippy", f"clang-{LLVM}", f"libclang-{LLVM}-dev",
    f"lld-{LLVM}", f"llvm-{LLVM}", "gcc", "make", "flex", "bison", "bc", "libelf-dev", "libssl-dev", "libdw-dev",
    "zlib1g-dev", "pahole", "kmod", "xz-utils", "python3", "python3-venv", "rsync",
]  # fmt: skip
JUDGE_PACKAGES = ["crash", "gdb", "makedumpfile", "tshark", "binutils"]
# What the reception of console text is measured beside.
RSYSLOG_PACKAGES = ["rsyslog"]
# What packages are made with and looked at.
PACKAGE_PACKAGES = ["debhelper", "dpkg-dev", "dh-dkms", "lintian", "pandoc", "rpm", "make", "kmod", "openssl"]
# What a dump is measured beside, both ends of it. Of the same Debian as the judges: an older makedumpfile knows no 7.x kernel.
KDUMP_PACKAGES = ["kexec-tools", "makedumpfile", "openssh-client", "openssh-server"]
# Firmware, boot loaders that it trusts, and what puts them on a disk.
SECURE_BOOT_PACKAGES = ["ovmf", "shim-signed", "grub-efi-amd64-signed", "python3-virt-firmware", "mtools", "dosfstools", "openssl"]
# What only some targets need.
EXTRA = {
    "rsyslog": "rsyslog, which `make bench` measures beside ours",
    "kdump": "kexec, makedumpfile and ssh, which `make bench` measures beside ours",
    "secureboot": "firmware that starts only what is signed, and boot loaders that are",
    "packages": "the tools that make packages",
    "service": "the Debian that packages are tried on",
    "bookworm": "the Debian before it, that packages are to be good for as well",
    "dkms": "a Debian with what netdump-dkms depends on, and the kernel's headers and source",
}
# What the tests run on the host itself, and the package that has it.
HOST_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "unshare": "util-linux",
    "dpkg-deb": "dpkg",
    "xz": "xz-utils",
    "shellcheck": "shellcheck",
    "bats": "bats",
    "cc": "gcc libc6-dev",
    "make": "make",
}
# Drivers whose symbols are kept beside the kernel's: ground truth names their rings.
DEBUG_DRIVERS = ["net/virtio_net", "net/vmxnet3/vmxnet3", "net/ethernet/intel/e1000/e1000", "net/ethernet/intel/e1000e/e1000e",
                 "net/ethernet/intel/igb/igb", "block/virtio_blk"]  # fmt: skip
AGAIN = "then run the same command again: it goes on where it stopped"


def host_tools() -> None:
    """Installs missing host packages as root; names them in one line otherwise."""
    tools = dict(HOST_TOOLS)
    if os.geteuid() != 0:
        tools["newuidmap"] = "uidmap"  # mmdebstrap --mode=unshare
    missing = sorted({name for tool, names in tools.items() if not shutil.which(tool) for name in names.split()})
    if "busybox-static" not in missing and not static_busybox():
        missing.append("busybox-static")
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise Failure("missing host packages: " + " ".join(missing), "sudo " + " ".join(command))
    say("host packages: " + " ".join(missing))
    log = cache.directory() / "logs" / "host.log"
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    cache.run(["apt-get", "update", "-q"], log, "is the network there?", env=environment)
    cache.run(command, log, "run `" + " ".join(command) + "` by hand, " + AGAIN, env=environment)


def static_busybox() -> bool:
    """Whether the host's busybox can be the whole user space of a guest."""
    path = shutil.which("busybox")
    if not path:
        return False
    head = Path(path).read_bytes()
    return b"/lib64/ld-linux" not in head[:4096]


def pinned() -> str:
    """The kernel version of the file kernel-version."""
    for line in (HERE / "kernel-version").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            return line.strip()
    raise Failure("tests-qemu/kernel-version names no version", "write one there")


def choose_kernel(mirror: Mirror, flavour: str) -> tuple[str, str]:
    """(Debian version, kernel release) of the pin; where it is nowhere any more, of the newest 7.x.

    The choice is kept, so that it is the same where there is no network.
    """
    pin = pinned()
    have = cache.directory() / "kernels" / safe(pin) / flavour / "release"
    if have.exists():
        return pin, have.read_text().strip()
    instead = cache.directory() / "kernels" / safe(pin) / flavour / "instead"
    if os.environ.get("NETDUMP_ISOLATED"):
        if not instead.exists():
            raise Failure(f"the kernel {pin} is not there yet", f"make lab FLAVOUR={flavour} (there is no network in here)")
        version, release = instead.read_text().split()
        return version, release
    chosen = choose_from_mirror(mirror, flavour, pin)
    if chosen[0] != pin:
        instead.parent.mkdir(parents=True, exist_ok=True)
        instead.write_text(" ".join(chosen) + "\n")
    return chosen


def choose_from_mirror(mirror: Mirror, flavour: str, pin: str) -> tuple[str, str]:
    """The pin if the mirror has it, with its lists as they are or as they are now; else the newest."""
    mirror.update()
    kernels = mirror.kernels().get(flavour, [])
    for version, release in kernels:
        if version == pin:
            return pin, release
    mirror.update(force=True)
    kernels = mirror.kernels().get(flavour, [])
    if not kernels:
        raise Failure(f"the mirror has no 7.x kernel of flavour {flavour}", "FLAVOUR is cloud-amd64 or amd64")
    if pin not in [version for version, _ in kernels]:
        say(f"the mirror has no {pin} any more; taking {kernels[0][0]} (change tests-qemu/kernel-version to pin it)")
    return next((k for k in kernels if k[0] == pin), kernels[0])


def safe(version: str) -> str:
    """A Debian version as a directory name that make and shells take."""
    return version.replace("~", ".").replace(":", ".")


def bootstrap(name: str, suite: str, packages: list[str], also: tuple[str, ...] = ()) -> None:
    """A root of `suite` with `packages`, below roots/; packages may come from the suites `also`."""
    root = cache.directory() / "roots" / name
    log = cache.directory() / "logs" / f"root-{name}.log"
    then = f"look at {log}; {AGAIN}"
    if root.exists():
        shutil.rmtree(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    options = ["--variant=apt", "--architectures=amd64", "--include=" + ",".join(packages)]
    options += [f"--aptopt={line}" for line in proxies()]
    options += ["--aptopt=Acquire::Retries \"3\"", "--dpkgopt=path-exclude=/usr/share/man/*"]
    if os.geteuid() == 0:
        cache.run(["mmdebstrap", *options, suite, root, *sources(suite, *also)], log, then)
        return
    # As an ordinary user the files must end as ours: by way of a tar file, without device nodes.
    archive = root.with_suffix(".tar")
    cache.run(["mmdebstrap", "--mode=unshare", *options, suite, archive, *sources(suite, *also)], log, then)
    root.mkdir()
    cache.run(["tar", "-C", root, "--no-same-owner", "--exclude=./dev/*", "-xf", archive], log, then)
    archive.unlink()


def in_root(root: str, *command) -> list[str]:
    """The command line that runs `command` in a root."""
    return [str(HERE / "in-root"), root, *map(str, command)]


def text_of(config: str, key: str) -> str:
    """The value of a string option of a kernel config."""
    found = re.search(rf'^{key}="(.*)"$', config, re.M)
    return found[1] if found else ""


def check_compilers(config: str, prefix: list[str]) -> None:
    """The compilers (behind `prefix`) are those that the kernel was built with, to the letter: MODVERSIONS is off, and
    Rust's metadata is good for the very compiler that made it only."""
    cc = text_of(config, "CONFIG_CC_VERSION_TEXT")
    wanted = {
        ("rustc", "--version"): text_of(config, "CONFIG_RUSTC_VERSION_TEXT"),
        (cc.split(" ")[0], "--version"): cc,
        ("bindgen", "--version"): text_of(config, "CONFIG_BINDGEN_VERSION_TEXT"),
    }
    for command, want in wanted.items():
        try:
            got = subprocess.run([*prefix, *command], capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            got = ""
        got = got.splitlines()[0] if got else "nothing"
        if want and got.replace(" workspace-", " ") != want:
            then = "put that compiler on PATH"
            if prefix:
                then = ("pin a kernel in tests-qemu/kernel-version that trixie's compilers built, and remove "
                        f"{cache.directory() / 'stamps' / 'root-build.json'} if the root is old")  # fmt: skip
            raise Failure(f"the kernel was built with '{want}', here is '{got}'", then)


class Kernel:
    """One stock kernel: where its parts are, and how they get there."""

    make_words: tuple[str, ...] = ()  # what its build system is to be told

    def __init__(self, mirror: Mirror, flavour: str):
        self.mirror, self.flavour = mirror, flavour
        self.version, self.release = self.choose()
        self.home = cache.directory() / "kernels" / safe(self.version) / flavour
        self.source = cache.directory() / "kernels" / safe(self.version) / "source"
        self.modules = self.home / "usr/lib/modules" / self.release
        self.vmlinuz = self.modules / "vmlinuz"
        self.vmlinux = self.home / f"usr/lib/debug/lib/modules/{self.release}/vmlinux"
        self.build = self.home / "build"
        self.headers = self.home / "usr/src" / f"linux-headers-{self.release}"

    def choose(self) -> tuple[str, str]:
        """(Debian version, kernel release)."""
        return choose_kernel(self.mirror, self.flavour)

    def fetch(self, packages: list[str]) -> dict[str, Path]:
        self.mirror.update()
        try:
            return self.mirror.download(packages, self.version)
        except Failure:
            self.mirror.update(force=True)
            return self.mirror.download(packages, self.version)

    def install_image(self) -> None:
        """Image, modules, config, Module.symvers."""
        self.home.mkdir(parents=True, exist_ok=True)
        for package in self.fetch([f"linux-{part}-{self.release}" for part in ("base", "binary", "modules", "headers")]).values():
            cache.run(["dpkg-deb", "-x", package, self.home], self.log("unpack"), AGAIN)
            package.unlink()
        cache.run(in_root("build", "depmod", "-b", self.home / "usr", self.release), self.log("depmod"), AGAIN)
        (self.home / "release").write_text(self.release + "\n")

    def install_vmlinux(self) -> None:
        """The symbols of the kernel and of the drivers that tests look into, out of a package that has far more."""
        (package,) = self.fetch([f"linux-image-{self.release}-dbg"]).values()
        self.home.mkdir(parents=True, exist_ok=True)
        command = (
            f"dpkg-deb --fsys-tarfile {shlex.quote(str(package))} | "
            f"tar -C {shlex.quote(str(self.home))} -x --wildcards './usr/lib/debug/lib/modules/*/vmlinux' "
            + " ".join(f"'./usr/lib/debug/lib/modules/*/kernel/drivers/{driver}.ko'" for driver in DEBUG_DRIVERS)
            # A driver that this flavour lacks is no error, a vmlinux that is not there is found out by the stamp.
            + " 2>&1 | grep -v -e 'Not found in archive' -e 'previous errors' || true"
        )
        cache.run(["bash", "-c", command], self.log("vmlinux"), "is there room? " + AGAIN)
        package.unlink()

    def install_source(self) -> None:
        """The kernel's source with Debian's patches."""
        major = ".".join(self.release.split("+")[0].split(".")[:2])
        (package,) = self.fetch([f"linux-source-{major}"]).values()
        cache.empty(self.source)
        # Half a gigabyte of one driver's register names stays behind.
        command = (
            f"dpkg-deb --fsys-tarfile {shlex.quote(str(package))} | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' | "
            f"xz -dc -T2 | tar -C {shlex.quote(str(self.source))} -x --strip-components=1 "
            "--exclude='*/drivers/gpu/drm/amd/include/asic_reg'"
        )
        cache.run(["bash", "-o", "pipefail", "-c", command], self.log("source"), "is there room? " + AGAIN)
        package.unlink()

    def prepare_build(self) -> None:
        """The build tree: Debian's headers package lacks Rust's metadata, so it is made again from the source."""
        config = (self.headers / ".config").read_text()
        check_compilers(config, in_root("build"))
        cache.empty(self.build)
        (self.build / ".config").write_text(config)
        make = ["make", "-C", self.source, f"O={self.build}", f"KERNELRELEASE={self.release}"]
        then = f"look at {self.log('build')}; {AGAIN}"
        cache.run(in_root("build", *make, "olddefconfig"), self.log("config"), then)
        cache.run(in_root("build", "nice", *make, f"-j{os.cpu_count()}", "modules_prepare"), self.log("build"), then)
        shutil.copy(self.headers / "Module.symvers", self.build)
        prepared = (self.build / ".config").read_text()
        for key in ("CONFIG_RUSTC_VERSION_TEXT", "CONFIG_BINDGEN_VERSION_TEXT"):
            if text_of(prepared, key) != text_of(config, key):
                raise Failure(f"{key} changed while the build tree was prepared", then)
        if "CONFIG_RUST=y" not in prepared.splitlines():
            raise Failure("the prepared tree has no CONFIG_RUST=y", then)

    def log(self, name: str) -> Path:
        return cache.directory() / "logs" / f"{self.flavour}-{name}.log"

    def source_step(self) -> Step:
        """Debian's source of this version, for all flavours."""
        return Step(f"source-{safe(self.version)}", ["source", 2, self.version], [self.source / "Makefile"], self.install_source)

    def steps(self, build_root: Step, vmlinux: bool) -> list[Step]:
        """What is to be made for this kernel: the last but the symbols is its build tree."""
        name = f"{self.flavour}-{safe(self.version)}"
        image = Step(
            f"{name}-image", ["image", 1, self.version], [self.vmlinuz, self.modules / "modules.dep", self.headers / ".config"],
            self.install_image, [build_root],
        )
        source = self.source_step()
        build = Step(
            f"{name}-build", ["build", 1, self.version, BUILD_PACKAGES],
            [self.build / "rust/libmacros.so", self.build / "rust/libkernel.rmeta", self.build / "Module.symvers"],
            self.prepare_build, [image, source, build_root],
        )
        steps = [image, source, build]
        if vmlinux:
            steps.append(Step(f"{name}-vmlinux", ["vmlinux", DEBUG_DRIVERS, self.version], [self.vmlinux], self.install_vmlinux))
        return steps


def install_drgn() -> None:
    """drgn in a Python environment of the build root, its hash checked by pip."""
    home = cache.directory() / "drgn"
    if home.exists():
        shutil.rmtree(home)
    log = cache.directory() / "logs" / "drgn.log"
    then = f"is the network there? look at {log}; {AGAIN}"
    cache.run(in_root("build", "python3", "-m", "venv", home), log, then)
    pip = in_root("build", home / "bin/python3", "-m", "pip", "install", "--no-deps", "--require-hashes", "-r")
    cache.run([*pip, HERE / "drgn-requirements.txt"], log, then)


def crash_options() -> list[str]:
    """crash 9.0.2 reads no modules on 7.1 and later; what comes after it does."""
    shown = subprocess.run(in_root("judges", "dpkg-query", "-W", "-f", "${Version}", "crash"), capture_output=True, text=True, check=True)
    newer = subprocess.run(["dpkg", "--compare-versions", shown.stdout.split("+")[0].split("-")[0], "gt", "9.0.2"], check=False)
    return [] if newer.returncode == 0 else ["--no_modules"]


def write_wrappers() -> None:
    """One file per judge that runs it in its root. They stand by themselves: several trees may share one cache."""
    home = cache.directory() / "bin"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "in-root", home / "in-root")
    tools = {
        "crash": ["judges", "crash", *crash_options()],
        "gdb": ["judges", "gdb"],
        "makedumpfile": ["judges", "makedumpfile"],
        "tshark": ["judges", "tshark"],
        "drgn": ["build", str(cache.directory() / "drgn/bin/drgn")],
    }
    for tool, (root, *command) in tools.items():
        path = home / tool
        words = shlex.join([str(home / "in-root"), root, *command])
        path.write_text(
            f"#!/bin/sh\nexport NETDUMP_CACHE={shlex.quote(str(cache.directory()))}\nexec {words} \"$@\"\n"
        )
        path.chmod(0o755)
        show = "-v" if tool == "makedumpfile" else "--version"
        cache.run([path, show], cache.directory() / "logs" / f"{tool}-version.log", "remove the root and " + AGAIN)


def kernel_of(flavour: str) -> Kernel:
    """The kernel of a flavour: Debian's, or the one that we build to be watched."""
    # Both are made of what is here.
    from debug_kernel import FLAVOUR as DEBUG, DebugKernel

    return DebugKernel(Mirror(), flavour) if flavour == DEBUG else Kernel(Mirror(), flavour)


def plan(flavour: str, vmlinux: bool, judges: bool, selftests: bool, extra=()):
    """The kernel and every step for it; `extra` names some of EXTRA."""
    kernel = kernel_of(flavour)
    roots = cache.directory() / "roots"
    build_root = Step(
        "root-build", ["root", 1, "trixie", BUILD_PACKAGES], [roots / "build/usr/bin/rustc", roots / "build/usr/bin/bindgen"],
        lambda: bootstrap("build", "trixie", BUILD_PACKAGES),
    )
    steps = [build_root, *kernel.steps(build_root, vmlinux)]
    if judges:
        judge_root = Step(
            "root-judges", ["root", 1, "forky", JUDGE_PACKAGES], [roots / "judges/usr/bin/crash"],
            lambda: bootstrap("judges", "forky", JUDGE_PACKAGES),
        )
        drgn = Step(
            "drgn", ["drgn", (HERE / "drgn-requirements.txt").read_text(), build_root.recipe],
            [cache.directory() / "drgn/bin/drgn"], install_drgn, [build_root],
        )
        home = cache.directory() / "bin"
        wrappers = Step(
            "wrappers", ["wrappers", 2, (HERE / "in-root").read_text()],
            [home / t for t in ("in-root", "crash", "gdb", "makedumpfile", "tshark", "drgn")],
            write_wrappers, [judge_root, drgn],
        )
        steps += [judge_root, drgn, wrappers]
    if selftests:
        from selftest_root import SelftestRoot

        build = next(step for step in steps if step.name.endswith("-build") and step is not build_root)
        steps += SelftestRoot(kernel).steps(build, build_root)
    if "rsyslog" in extra:
        # A root of its own: another recipe of the judges' root would make all of it again.
        steps.append(Step(
            "root-rsyslog", ["root", 1, "trixie", RSYSLOG_PACKAGES], [roots / "rsyslog/usr/sbin/rsyslogd"],
            lambda: bootstrap("rsyslog", "trixie", RSYSLOG_PACKAGES),
        ))
    if "kdump" in extra:
        steps.append(Step(
            "root-kdump", ["root", 1, "forky", KDUMP_PACKAGES], [roots / "kdump/usr/sbin/sshd", roots / "kdump/usr/sbin/kexec"],
            lambda: bootstrap("kdump", "forky", KDUMP_PACKAGES),
        ))
    if "secureboot" in extra:
        steps.append(Step(
            "root-secureboot", ["root", 1, "trixie", SECURE_BOOT_PACKAGES], [roots / "secureboot/usr/bin/virt-fw-vars"],
            lambda: bootstrap("secureboot", "trixie", SECURE_BOOT_PACKAGES),
        ))
    if "packages" in extra:
        steps.append(Step(
            "root-packages", ["root", 1, "trixie", PACKAGE_PACKAGES], [roots / "packages/usr/bin/dh", roots / "packages/usr/bin/pandoc"],
            lambda: bootstrap("packages", "trixie", PACKAGE_PACKAGES),
        ))
    if {"bookworm", "dkms"} & set(extra):
        from package_roots import steps as package_roots

        steps += [step for name, step in package_roots(kernel).items() if name in extra]
    if "service" in extra:
        from service_root import ServiceRoot

        image = next(step for step in steps if step.name.endswith("-image"))
        steps += ServiceRoot(kernel).steps(image, build_root)
    # Needs come before what needs them, and the long ones first.
    return kernel, steps


def keys(kernel: Kernel, vmlinux: bool, judges: bool, selftests: bool) -> dict[str, str]:
    """What is printed."""
    home = cache.directory()
    found = {
        "KVER": kernel.release,
        "VMLINUZ": kernel.vmlinuz,
        "MODULES": kernel.modules,
        "KBUILD": kernel.build,
        "QEMU": shutil.which("qemu-system-x86_64") or "",
        "CACHE": home,
        "BUILD_ROOT": home / "roots/build",
    }
    found.update(word.split("=", 1) for word in kernel.make_words)
    if vmlinux:
        found["VMLINUX"] = kernel.vmlinux
    if selftests:
        from selftest_root import SelftestRoot

        found["NETDEVSIM"], found["SELFTESTS"] = SelftestRoot(kernel).netdevsim, SelftestRoot(kernel).image
    if judges:
        for key in ("CRASH", "DRGN", "GDB", "MAKEDUMPFILE", "TSHARK"):
            found[key] = home / "bin" / key.lower()
    return {key: str(value) for key, value in found.items()}


def prepare(flavour="cloud-amd64", vmlinux=True, judges=True, selftests=False, verify=False, extra=()) -> dict[str, str]:
    """Makes what is missing; the KEY=path pairs."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise Failure("the lab runs on x86_64 Linux (Debian 12 or 13)", "use such a machine")
    host_tools()
    kernel, steps = plan(flavour, vmlinux, judges, selftests, extra)
    stale = [step.name for step in steps if not step.fresh(verify)]
    if stale and os.environ.get("NETDUMP_ISOLATED"):
        raise Failure("not there yet: " + ", ".join(stale), f"make lab FLAVOUR={flavour} (there is no network in here)")
    if stale:
        say(f"kernel {kernel.release} ({kernel.version}) from {address()}, cache {cache.directory()}")
        say("to do: " + ", ".join(stale))
        kernel.mirror.update()
        cache.ensure(steps, verify)
    found = keys(kernel, vmlinux, judges, selftests)
    if "service" in extra:
        from service_root import ServiceRoot

        found["SERVICE"] = str(ServiceRoot(kernel).image)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flavour", default="cloud-amd64", choices=["cloud-amd64", "amd64", "debug"])
    parser.add_argument("--no-vmlinux", action="store_true", help="leave out the kernel's symbols (a large download)")
    parser.add_argument("--no-judges", action="store_true", help="leave out crash, drgn, gdb, makedumpfile, tshark")
    parser.add_argument("--selftests", action="store_true", help="with what the kernel's own selftests need")
    for name, what in EXTRA.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"with {what}")
    parser.add_argument("--verify", action="store_true", help="check every file of the cache against its hash")
    arguments = parser.parse_args()
    try:
        found = prepare(
            arguments.flavour, not arguments.no_vmlinux, not arguments.no_judges, arguments.selftests, arguments.verify,
            [name for name in EXTRA if getattr(arguments, name)],
        )
    except Failure as failure:
        say(f"FAILED: {failure}")
        return 1
    for key, value in found.items():
        print(f"{key}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
