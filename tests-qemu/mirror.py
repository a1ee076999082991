# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages from the Debian mirror that this machine already uses, checked by apt's signatures.

apt runs with lists and a cache of its own, so that neither the host's sources nor its package state change.
"""

import os
import re
import subprocess
import time
from pathlib import Path

import cache
from cache import Failure, say

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KEYRING_PGP = Path("/usr/share/keyrings/debian-archive-keyring.pgp")
LISTS_AGE = 24 * 3600


def keyring() -> Path:
    """Debian's archive keys on this host."""
    for path in (KEYRING, KEYRING_PGP):
        if path.exists():
            return path
    raise Failure("there are no Debian archive keys on this host", "apt-get install debian-archive-keyring")


def address() -> str:
    """The mirror of this machine's own apt sources (or NETDUMP_MIRROR)."""
    named = os.environ.get("NETDUMP_MIRROR")
    if named:
        return named.rstrip("/")
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    ).stdout
    for line in listed.splitlines():
        uri, _, label = line.partition(" ")
        if label == "Debian":
            return uri.rstrip("/")
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if path.exists():
            found = re.search(r"(?:^deb |^URIs: ).*?(\S+://\S+/debian)/?(?:\s|$)", path.read_text(), re.M)
            if found:
                return found[1]
    raise Failure(
        "no Debian mirror in this machine's apt sources", "set NETDUMP_MIRROR to the address of one (ending in /debian)"
    )


def sources(*suites: str) -> list[str]:
    """Lines for sources.list. A testing suite may be past its Valid-Until on a mirror that is a snapshot."""
    lines = []
    for suite in suites:
        dated = " check-valid-until=no" if suite == "forky" else ""
        lines.append(f"deb [arch=amd64 signed-by={keyring()}{dated}] {address()} {suite} main")
    return lines


def proxies() -> list[str]:
    """The host's apt proxy settings, as options for another apt."""
    shown = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    return [line.rstrip(";") for line in shown.splitlines() if re.match(r"Acquire::https?::Proxy", line)]


class Mirror:
    """apt with lists of its own: trixie, trixie-backports and forky."""

    def __init__(self):
        self.base = cache.directory() / "apt"
        self.debs = cache.directory() / "debs"

    def options(self) -> list[str]:
        base = self.base
        pairs = {
            "Dir::Etc::SourceList": base / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": base / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": base / "cache",
            "Acquire::Languages": "none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::Retries": "3",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Get::AllowUnauthenticated": "false",
        }
        return [word for key, value in pairs.items() for word in ("-o", f"{key}={value}")]

    def update(self, force=False) -> None:
        """Fetches the signed lists when there are none or they are a day old."""
        wanted = "\n".join(sources("trixie", "trixie-backports", "forky")) + "\n"
        stamp, listed = self.base / "updated", self.base / "sources.list"
        if not force and stamp.exists() and listed.exists() and listed.read_text() == wanted:
            if time.time() - stamp.stat().st_mtime < LISTS_AGE:
                return
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        listed.write_text(wanted)
        say(f"package lists from {address()}")
        cache.run(
            ["apt-get", *self.options(), "-o", "APT::Update::Error-Mode=any", "update"], self.base / "update.log",
            "is the network there? NETDUMP_MIRROR=… names another mirror",
        )
        stamp.write_text("")

    def versions(self, *packages: str) -> list[tuple[str, str]]:
        """Every (package, version) that the lists hold of some packages."""
        if not packages:
            return []
        shown = subprocess.run(
            ["apt-cache", *self.options(), "madison", *packages], capture_output=True, text=True, check=True
        ).stdout
        lines = [[field.strip() for field in line.split("|")] for line in shown.splitlines()]
        return list(dict.fromkeys((fields[0], fields[1]) for fields in lines))

    def kernels(self) -> dict[str, list[tuple[str, str]]]:
        """Kernel releases of each flavour as (Debian version, release), for 7.x, newest first."""
        shown = subprocess.run(
            ["apt-cache", *self.options(), "pkgnames", "linux-headers-7."], capture_output=True, text=True, check=True
        ).stdout
        flavours = {}
        for package in shown.split():
            match = re.fullmatch(r"linux-headers-(7\.[0-9.]+\+deb13-((?:cloud-)?amd64))", package)
            if match:
                flavours[package] = (match[1], match[2])
        found: dict[str, list[tuple[str, str]]] = {}
        for package, version in self.versions(*flavours):
            release, flavour = flavours[package]
            found.setdefault(flavour, []).append((version, release))
        for kernels in found.values():
            kernels.sort(key=lambda pair: [int(n) for n in re.findall(r"\d+", pair[0])], reverse=True)
        return found

    def download(self, packages: list[str], version: str) -> dict[str, Path]:
        """Downloads packages of one version (apt checks each against the signed lists); their paths by name."""
        self.debs.mkdir(parents=True, exist_ok=True)
        cache.run(
            ["apt-get", *self.options(), "download", *[f"{p}={version}" for p in packages]],
            self.base / f"download-{packages[0]}.log",
            "is the network there, and is there room? (then run the same command again)", cwd=self.debs,
        )
        found = {}
        for package in packages:
            names = sorted(self.debs.glob(f"{package}_*.deb"))
            if not names:
                raise Failure(f"apt left no file for {package}", f"look at {self.base}")
            found[package] = names[-1]
        return found
