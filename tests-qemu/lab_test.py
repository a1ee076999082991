# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the lab itself, without a network: which kernel it takes."""

import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import lab
from cache import Failure


class FakeMirror:
    """A mirror with some kernels; it counts how often it was asked."""

    def __init__(self, *versions: str):
        self.versions, self.updates = versions, 0

    def update(self, force: bool = False) -> None:
        self.updates += 1

    def kernels(self) -> dict[str, list[tuple[str, str]]]:
        return {"cloud-amd64": [(version, version.split("-")[0] + "+deb13-cloud-amd64") for version in self.versions]}


class ChooseKernel(unittest.TestCase):
    """choose_kernel() with the pin on the mirror, gone, and without a network."""

    def setUp(self):
        """A cache of its own, and a pin."""
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name)
        environment = {name: value for name, value in os.environ.items() if name != "NETDUMP_ISOLATED"}
        patch = mock.patch.dict(os.environ, {**environment, "NETDUMP_CACHE": home.name}, clear=True)
        patch.start()
        self.addCleanup(patch.stop)
        patch = mock.patch.object(lab, "pinned", lambda: "7.3.4-1~bpo13+1")
        patch.start()
        self.addCleanup(patch.stop)

    def test_the_pin(self):
        chosen = lab.choose_kernel(FakeMirror("7.3.5-1~bpo13+1", "7.3.4-1~bpo13+1"), "cloud-amd64")
        self.assertEqual(chosen, ("7.3.4-1~bpo13+1", "7.3.4+deb13-cloud-amd64"))

    def test_the_newest_where_the_pin_is_gone_and_the_same_without_a_network(self):
        newest = ("7.3.5-1~bpo13+1", "7.3.5+deb13-cloud-amd64")
        self.assertEqual(lab.choose_kernel(FakeMirror("7.3.5-1~bpo13+1", "7.2.9-1~bpo13+1"), "cloud-amd64"), newest)
        mirror = FakeMirror()
        with mock.patch.dict(os.environ, {"NETDUMP_ISOLATED": "1"}):
            self.assertEqual(lab.choose_kernel(mirror, "cloud-amd64"), newest)
        self.assertEqual(mirror.updates, 0)

    def test_no_kernel(self):
        with self.assertRaises(Failure):
            lab.choose_kernel(FakeMirror(), "cloud-amd64")

    def test_nothing_chosen_and_no_network(self):
        with mock.patch.dict(os.environ, {"NETDUMP_ISOLATED": "1"}), self.assertRaises(Failure):
            lab.choose_kernel(FakeMirror("7.3.4-1~bpo13+1"), "cloud-amd64")


if __name__ == "__main__":
    unittest.main()
