# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the comparison itself: it must fail when it should."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import truth


def core(path: Path, pages: dict[int, bytes], size: int) -> None:
    """A small ELF64 core with one segment of memory from physical 0x1000 on."""
    head = bytearray(64 + 56)
    head[:16] = b"\x7fELF\x02\x01\x01" + bytes(9)
    head[32:40] = (64).to_bytes(8, "little")
    head[54:58] = (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    row = [(1).to_bytes(4, "little") + bytes(4), *(n.to_bytes(8, "little") for n in (0x1000, 0xFFFF888000001000, 0x1000, size, size, 0))]
    head[64:120] = b"".join(row)
    data = bytearray(size)
    for page, content in pages.items():
        data[page - 0x1000 : page - 0x1000 + len(content)] = content
    path.write_bytes(bytes(head) + bytes(0x1000 - len(head)) + bytes(data))


class Comparison(unittest.TestCase):
    """compare() on made-up cores."""

    def run_compare(self, ours, real, listed=(), iomem="", size=0x8000, **more):
        with tempfile.TemporaryDirectory() as directory:
            vmcore, picture = Path(directory) / "vmcore", Path(directory) / "truth"
            core(vmcore, ours, size)
            core(picture, real, size)
            with mock.patch.object(truth, "allowed_ranges", return_value=list(listed)), mock.patch.object(truth, "owners", return_value=["x"]):
                return truth.compare({}, vmcore, picture, {}, iomem, **more)

    def test_equal(self):
        report = self.run_compare({0x2000: b"abc"}, {0x2000: b"abc"})
        self.assertTrue(report.good())
        self.assertEqual(report.pages, 8)

    def test_one_byte_differs(self):
        report = self.run_compare({0x2000: b"abc"}, {0x2000: b"abd"})
        self.assertFalse(report.good())
        self.assertEqual(report.wrong, [0x2000])

    def test_listed_page_may_differ(self):
        report = self.run_compare({0x2000: b"abc"}, {0x2000: b"abd"}, [(0x2000, 0x3000, "kernel:x")])
        self.assertTrue(report.good())
        self.assertEqual(report.labels, {"kernel:x": 1})
        self.assertEqual(report.allowed_bytes, 0x1000)

    def test_bytes_of_the_module(self):
        listed = [(0x2002, 0x2004, "module:rxbuf")]
        self.assertTrue(self.run_compare({0x2000: b"abc"}, {0x2000: b"abd"}, listed).good())
        self.assertEqual(self.run_compare({}, {}, listed).allowed_bytes, 2)
        self.assertFalse(self.run_compare({0x2000: b"abc"}, {0x2000: b"xbc"}, listed).good())

    def test_list_too_long(self):
        report = self.run_compare({}, {}, [(0, truth.LIMIT + 0x1000, "kernel:all")])
        self.assertFalse(report.good())

    def test_missing_memory(self):
        report = self.run_compare({}, {}, iomem="00001000-00008fff : System RAM\n00100000-001fffff : System RAM\n")
        self.assertEqual(report.missing, [(0x100000, 0x200000)])
        self.assertFalse(report.good())

    def test_hole_of_an_incomplete_file(self):
        with mock.patch.object(truth, "filled", side_effect=lambda vmcore, picture, out: out.touch()):
            report = self.run_compare({}, {0x2000: b"abd"}, only_written=True)
        self.assertEqual(report.wrong, [])

    def test_system_ram(self):
        text = "00001000-0009fbff : System RAM\n  00002000-00002fff : Kernel code\n00100000-1ffdffff : System RAM\n"
        self.assertEqual(truth.system_ram(text), [(0x1000, 0x9F000), (0x100000, 0x1FFE0000)])


if __name__ == "__main__":
    unittest.main()
