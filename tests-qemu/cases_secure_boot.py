# SPDX-License-Identifier: GPL-2.0-or-later
"""Secure Boot: firmware, shim, GRUB and kernel as Debian signs them, and our module signed with a key of the machine's owner."""

import os
import shutil
import subprocess
from pathlib import Path

import cache
import judges
import lab as lab_module
import panic_run
from cache import REPOSITORY
from cases import Context, add
from guest import Guest, Machine
from judges import must
from server import Server

OWNER = "4e44554d-5000-4000-8000-6e657464756d"


def run(directory: Path, *command) -> None:
    """A command in the root that has the boot loaders."""
    cache.run(lab_module.in_root("secureboot", *command), directory / "secure-boot.log", "look at the log")


def make_key(directory: Path, name: str) -> dict[str, str]:
    """A key and its certificate, for packaging/sign-modules."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    run(directory, "openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=netdump test {name}/",
        "-addext", "extendedKeyUsage=codeSigning", "-keyout", key, "-out", certificate)  # fmt: skip
    return {"NETDUMP_SIGN_KEY": str(key), "NETDUMP_SIGN_CERT": str(certificate)}


def signed(lab, directory: Path, name: str, environment: dict[str, str]) -> Path:
    """netdump.ko, signed as the packages are."""
    home = cache.empty(directory / name)
    shutil.copy(panic_run.module_path(lab), home)
    tool = [REPOSITORY / "packaging/sign-modules", lab["KVER"], home]
    command = lab_module.in_root("build", "env", *(f"{k}={v}" for k, v in environment.items()), f"SIGN_FILE={lab['KBUILD']}/scripts/sign-file", *tool)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return home / "netdump.ko"


class Firmware:
    """OVMF with Microsoft's keys, whose owner has enrolled a key of his own as well."""

    def __init__(self, lab, directory: Path, certificate: str):
        self.lab, self.directory = lab, directory
        firmware = Path("/usr/share/OVMF")
        self.code, self.variables = directory / "code.fd", directory / "variables.fd"
        # The root is seen from in there only; the files are wanted out here.
        run(directory, "cp", firmware / "OVMF_CODE_4M.secboot.fd", self.code)
        run(directory, "virt-fw-vars", "--input", firmware / "OVMF_VARS_4M.ms.fd", "--output", self.variables, "--add-mok", OWNER, certificate)

    def options(self, initramfs: Path, append: str) -> list[str]:
        """Makes the disk that the firmware starts from; QEMU's options."""
        directory, disk = self.directory, self.directory / "esp"
        config = directory / "grub.cfg"
        config.write_text(f"set timeout=0\nmenuentry netdump {{\n linux /vmlinuz {append}\n initrd /initramfs\n}}\n")
        size = sum(os.path.getsize(path) for path in (self.lab["VMLINUZ"], initramfs)) + (16 << 20)
        with open(disk, "wb") as file:
            file.truncate(size)
        run(directory, "mkfs.vfat", "-F", "32", disk)
        run(directory, "mmd", "-i", disk, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
        for source, to in {
            "/usr/lib/shim/shimx64.efi.signed": "EFI/BOOT/BOOTX64.EFI",
            "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "EFI/BOOT/grubx64.efi",
            config: "EFI/debian/grub.cfg",
            self.lab["VMLINUZ"]: "vmlinuz",
            initramfs: "initramfs",
        }.items():
            run(directory, "mcopy", "-i", disk, source, f"::/{to}")
        return [
            "-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={self.code}", "-drive", f"if=pflash,format=raw,unit=1,file={self.variables}",
            "-drive", f"file={disk},if=none,id=esp0,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=esp0,bootindex=0",
        ]  # fmt: skip


def secure_boot(context: Context) -> list[str]:
    """Only the module that the owner of the machine has signed is loaded, and under lockdown its dump is complete."""
    lab = context.lab(extra=("secureboot",))
    own, other = (make_key(context.directory, name) for name in ("owner", "stranger"))
    firmware = Firmware(lab, context.directory, own["NETDUMP_SIGN_CERT"])
    extra = {
        "/netdump.ko": signed(lab, context.directory, "signed", own),
        "/stranger.ko": signed(lab, context.directory, "stranger", other),
        "/unsigned.ko": panic_run.module_path(lab),
    }
    machine = Machine(boot=firmware.options, extra=extra, boot_seconds=300)
    guest = Guest(lab, machine, context.directory)
    with guest, Server(context.directory, [machine.address]) as server:
        guest.wait_ready()
        log = guest.run("dmesg")
        must("secureboot: Secure boot enabled" in log, "the kernel does not say that Secure Boot is on")
        must("[integrity]" in guest.run("mount -t securityfs none /sys/kernel/security; cat /sys/kernel/security/lockdown"), "no lockdown")
        for name in ("unsigned", "stranger"):
            refused = guest.run(f"insmod /{name}.ko netdump=@/,@10.77.0.1/ 2>&1", check=False)
            must("netdump" not in guest.run("cat /proc/modules"), f"{name}.ko was loaded: {refused}")
        panic_run.arm(guest)
        guest.send(panic_run.PANIC)
        path, meta = server.wait_dump(panic_run.dump_seconds(machine), guest=guest)
        reason = guest.wait_held(60)
        must(reason == "guest-reset", f"the guest stopped for '{reason}', it should have restarted")
        must(meta["complete"], f"the dump is not complete: {meta['dump'].get('failure')}")
        judges.check_crash(lab, path / "vmcore", machine.cpus)
        judges.check_drgn(lab, path / "vmcore", machine.cpus)
    return [f"signed by the owner: loaded, {meta['dump']['memory_bytes'] >> 20} MiB complete under lockdown; unsigned, or signed by another: refused"]


add("secure-boot", secure_boot, seconds=900, extra=("secureboot",))
