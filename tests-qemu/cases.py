# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of guest tests: each is a function of a Context, in a tier, with a deadline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import lab as lab_module


@dataclass
class Context:
    """What a test gets: where its files go, and the lab of the flavour it wants."""

    directory: Path
    flavour: str

    def lab(self, selftests: bool = False, extra=()) -> dict[str, str]:
        """KEY -> path of the lab (made by `make lab` beforehand, or now), with what the kernel's selftests need if asked, and some
        of lab.EXTRA."""
        return lab_module.prepare(self.flavour, selftests=selftests, extra=extra)


@dataclass
class Case:
    """One test."""

    name: str
    tiers: tuple[str, ...]
    seconds: int
    flavour: str
    function: Callable
    arguments: dict
    selftests: bool  # it runs some of the kernel's own
    extra: tuple[str, ...]  # what of lab.EXTRA it needs


CASES: dict[str, Case] = {}


def add(
    name: str, function: Callable, tiers=("full",), seconds=300, flavour="cloud-amd64", selftests=False, extra=(), **arguments
) -> None:
    """Adds a test; the function returns lines for the report and raises when it fails."""
    if name in CASES:
        raise ValueError(f"two tests are called {name}")
    CASES[name] = Case(name, tuple(tiers), seconds, flavour, function, arguments, selftests, tuple(extra))
