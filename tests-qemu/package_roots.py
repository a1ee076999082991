# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots that our packages are installed into, beside the one of service_root.py: Debian 12, and a Debian 13 that builds modules."""

import re

import cache
import lab
import service_root
from cache import Step


def dkms_depends() -> list[str]:
    """What the package netdump-dkms says that it needs."""
    control = (cache.REPOSITORY / "packaging/debian/control").read_text()
    depends = re.search(r"^Package: netdump-dkms$.*?^Depends: (.*?)$", control, re.M | re.S)[1]
    return [name for name in depends.split(", ") if not name.startswith("${")]


def steps(kernel) -> dict[str, Step]:
    """What is to be made, by the name that lab.EXTRA has for it; `kernel` is a lab.Kernel."""
    roots = cache.directory() / "roots"
    old = service_root.PACKAGES
    # The very packages that an administrator would install for this kernel.
    major = ".".join(kernel.release.split("+")[0].split(".")[:2])
    packages = [*dkms_depends(), f"linux-headers-{kernel.release}", f"linux-source-{major}"]
    return {
        "bookworm": Step(
            "root-bookworm", ["root", 1, "bookworm", old], [roots / "bookworm/usr/sbin/sshd"],
            lambda: lab.bootstrap("bookworm", "bookworm", old),
        ),
        "dkms": Step(
            "root-dkms", ["root", 1, "trixie", packages, kernel.version], [roots / f"dkms/usr/src/linux-source-{major}.tar.xz"],
            lambda: lab.bootstrap("dkms", "trixie", packages, ("trixie-backports",)),
        ),
    }  # fmt: skip
