# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules that are not under test: those of modules/, which a test needs, and stock ones as files."""

import subprocess
from pathlib import Path

import initramfs
import lab as lab_module
from cache import HERE, REPOSITORY

SOURCES = HERE / "modules"


def build(lab, name: str) -> Path:
    """NAME.ko of modules/ for the lab's kernel, made when it is older than its source."""
    out = REPOSITORY / "build/test-modules" / lab["KVER"]
    path = out / f"{name}.ko"
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir() if source.suffix in (".c", ""))
    if not path.exists() or path.stat().st_mtime < newest:
        out.mkdir(parents=True, exist_ok=True)
        make = ["nice", "make", "--no-print-directory", "-C", lab["KBUILD"], f"M={SOURCES}", f"MO={out}", "modules"]
        done = subprocess.run([*lab_module.in_root("build"), *make], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the modules of {SOURCES} did not build:\n{done.stdout}{done.stderr}")
        path.touch()
    return path


def stock(lab, name: str) -> Path:
    """A module of the stock kernel, unpacked."""
    path = REPOSITORY / "build/stock-modules" / lab["KVER"] / f"{name}.ko"
    data = initramfs.Modules(Path(lab["MODULES"])).read(name)
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path


def ours(lab, name: str) -> Path:
    """A module of this repository for the lab's kernel."""
    path = REPOSITORY / "build" / lab["KVER"] / f"{name}.ko"
    if not path.exists():
        raise FileNotFoundError(f"{path}: run 'make modules' first (FLAVOUR= as in the test)")
    return path
