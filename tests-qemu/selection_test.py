# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the comparison of selections: it must fail when it should."""

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import judges
import selection
from selection_classes import BY_NAME, NAMES, ODD, TAIL
from selection import Frames, WHY, WHY_MAKEDUMPFILE, compare

PAGE = selection.PAGE


def core(path: Path, pages: dict[int, bytes], frames: int) -> None:
    """An ELF64 core with frames from 1 on, in which only some are written."""
    head = bytearray(64 + 56)
    head[:16] = b"\x7fELF\x02\x01\x01" + bytes(9)
    head[32:40] = (64).to_bytes(8, "little")
    head[54:58] = (56).to_bytes(2, "little") + (1).to_bytes(2, "little")
    size = frames * PAGE
    row = [(1).to_bytes(4, "little") + bytes(4), *(n.to_bytes(8, "little") for n in (PAGE, 0xFFFF888000001000, PAGE, size, size, 0))]
    head[64:120] = b"".join(row)
    with open(path, "wb") as file:
        file.write(head)
        for pfn, content in pages.items():
            file.seek(pfn * PAGE)
            file.write(content.ljust(PAGE, b"\0"))
        file.truncate(PAGE + size)


def frames_of(rows: list[tuple[str, str, int, int]], secrets=()) -> Frames:
    """Frames from (class then, class in the picture, whether it is in the vmcore, whether it is of zeroes)."""
    then, now, ours, zero = zip(*rows, strict=True)
    numbers = [bytes(BY_NAME[name] for name in names) for names in (now, then)]
    return Frames(bytearray(b"\1" * len(rows)), bytearray(ours), bytearray(zero), *numbers, bytearray(len(rows)), set(secrets))


class Files(unittest.TestCase):
    """What is read out of cores."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "vmcore"

    def test_holes_are_what_was_left_out(self):
        # Blocks of files are larger than a frame on some file systems: far apart.
        core(self.path, {64: b"x", 65: b"", 300: b"y"}, 400)
        found = selection.present(self.path)
        self.assertEqual([n for n, there in enumerate(found) if there], [64, 65, 300])

    def test_zeroes(self):
        core(self.path, {300: b"x"}, 599)
        found = selection.zeroes(self.path, [(1, 600)])
        self.assertEqual([n for n in range(1, 600) if not found[n]], [300])

    def test_makedumpfiles_bitmap(self):
        def call(command):
            head = bytearray(4096)
            head[:8] = b"KDUMP   "
            for at, value in ((428, 4096), (432, 2), (436, 4)):
                head[at : at + 4] = value.to_bytes(4, "little")
            bitmap = bytes([0b10000001, 0b10]).ljust(2 * 4096, b"\0")
            command[-1].write_bytes(bytes(head) + bytes(2 * 4096) + b"\xff" * (2 * 4096) + bitmap)
            return mock.Mock(returncode=0, stdout="", stderr="")

        with mock.patch.object(judges, "call", side_effect=call):
            found = selection.filtered({"MAKEDUMPFILE": "makedumpfile"}, self.path, 20)
        self.assertEqual([n for n, there in enumerate(found) if there], [0, 7, 9])

    def test_whole(self):
        picture, out = self.path.with_name("picture"), self.path.with_name("whole")
        core(self.path, {2: b"ours"}, 10)
        core(picture, {2: b"theirs", 5: b"left out", 6: b"secret"}, 10)
        selection.whole(self.path, picture, [5], out)
        data = out.read_bytes()
        self.assertEqual([data[n * PAGE : n * PAGE + 3] for n in (2, 5, 6)], [b"our", b"lef", bytes(3)])


class Comparisons(unittest.TestCase):
    """compare() and what it takes for an explanation."""

    def result(self, rows, secrets=(), why=WHY):
        frames = frames_of(rows, secrets)
        comparison = compare(frames, "drgn", lambda n: not selection.left(frames.now, n), why)
        return comparison, frames

    def test_every_class_has_a_verdict(self):
        for name in NAMES:
            kept = not selection.left(bytes([BY_NAME[name]]), 0)
            comparison, frames = self.result([(name, name, kept, 0)])
            comparison.check(frames)
            comparison, frames = self.result([(name, name, not kept, 0)])
            with self.assertRaisesRegex(judges.JudgeError, "without a reason"):
                comparison.check(frames)

    def test_a_change_explains_what_is_right_for_its_time_only(self):
        many = [("kernel", "kernel", 1, 0)] * 1000
        comparison, frames = self.result([*many, ("kernel", "free", 1, 0), ("cache", "kernel", 0, 0)])
        comparison.check(frames)
        self.assertEqual([len(members) for members in comparison.reasons.values()], [2])
        for wrong in (("kernel", "free", 0, 0), ("free", "kernel", 1, 0)):
            comparison, frames = self.result([*many, wrong])
            comparison.check(frames)  # as the picture has it
        for wrong in (("kernel", "slab", 0, 0), ("free", "cache", 1, 0)):
            comparison, frames = self.result([*many, wrong])
            with self.assertRaisesRegex(judges.JudgeError, "without a reason"):
                comparison.check(frames)

    def test_a_hundredth_is_too_much_whatever_the_reason(self):
        comparison, frames = self.result([*[("kernel", "kernel", 1, 0)] * 500, *[("kernel", "free", 1, 0)] * 6])
        with self.assertRaisesRegex(judges.JudgeError, "6 of 506"):
            comparison.check(frames)

    def test_secrets(self):
        many = [("kernel", "kernel", 1, 0)] * 1000
        comparison, frames = self.result([*many, ("kernel", "kernel", 0, 0)], {1000})
        comparison.check(frames)
        comparison, frames = self.result([*many, ("kernel", "kernel", 0, 0)], {999})
        with self.assertRaises(judges.JudgeError):
            comparison.check(frames)

    def test_zeroes_explain_only_what_makedumpfile_lacks(self):
        frames = frames_of([("kernel", "kernel", 1, 1), ("kernel", "kernel", 1, 0)])
        comparison = compare(frames, "makedumpfile", lambda n: frames.theirs[n], WHY_MAKEDUMPFILE)
        self.assertEqual(comparison.rest, [1])

    def test_tails_explain_only_what_makedumpfile_gets_wrong(self):
        """The second page of what is kept, and neither another page nor what it loses besides."""
        rows = [("slab", "slab", 1, 0)] * 4 + [("cache", "cache", 0, 0)]
        frames = frames_of(rows)
        frames.theirs = bytearray([1, 0, 0, 0, 1])
        slab = BY_NAME["slab"]
        frames.now = bytes([slab, slab | TAIL | ODD, slab | TAIL | ODD, slab, BY_NAME["cache"]])
        comparison = compare(frames, "makedumpfile", lambda n: frames.theirs[n], WHY_MAKEDUMPFILE)
        self.assertEqual(comparison.rest, [2, 3, 4])

    def test_complaints(self):
        text = "ps: invalid kernel virtual address: 0 type: \"task\"\n[   12.345678] x: cannot do it\nblk_plug_invalidate_ts"
        self.assertEqual(len(selection.complaints(text)), 1)


if __name__ == "__main__":
    unittest.main()
