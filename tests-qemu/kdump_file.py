# SPDX-License-Identifier: GPL-2.0-or-later
"""What kdump-compressed files say of themselves, and an ELF core of what drgn reads from one."""

import itertools
import json
import struct
from pathlib import Path

import truth
from judges import must

PAGE = truth.PAGE
INCOMPLETE, ZSTD = 0x8, 0x20  # of the status
# Headers of the ELF core take so much.
HEAD = 1 << 20


class Kdump:
    """A file's headers, bitmaps and descriptors."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            head = file.read(2 * PAGE)
            must(head[:8] == b"KDUMP   ", f"{path} has no signature of a kdump-compressed file")
            self.version, self.machine = struct.unpack_from("<i", head, 8)[0], head[12 + 4 * 65 : 12 + 5 * 65].rstrip(b"\0").decode()
            self.release = head[12 + 2 * 65 : 12 + 3 * 65].rstrip(b"\0").decode()
            self.status, block, sub, blocks = struct.unpack_from("<IiiI", head, 424)
            self.cpus = struct.unpack_from("<i", head, 460)[0]
            must(block == PAGE, f"{path} has blocks of {block} bytes")
            self.level = struct.unpack_from("<i", head, block + 8)[0]
            notes, size = struct.unpack_from("<QQ", head, block + 48)
            self.end = struct.unpack_from("<Q", head, block + 96)[0]
            file.seek(notes)
            self.notes = file.read(size)
            bitmaps = block * (1 + sub)
            file.seek(bitmaps)
            self.memory = self.bits(file.read(block * blocks // 2))
            file.seek(bitmaps + block * blocks // 2)
            self.there = self.bits(file.read(block * blocks // 2))
            file.seek(bitmaps + block * blocks)
            table = file.read(24 * sum(self.there))
        descriptors = list(struct.iter_unpack("<QIIQ", table))
        must(len(descriptors) == sum(self.there), f"{path} is cut off")
        # The page of zeroes comes first, and those that share it are as they are.
        zero = (bitmaps + block * blocks + len(table), PAGE, 0, 0)
        self.zeroes = sum(1 for descriptor in descriptors if descriptor == zero)
        places = [descriptor[0] for descriptor in descriptors if descriptor != zero]
        must(len(set(places)) == len(places), f"{path}: pages share their bytes")

    def bits(self, bitmap: bytes) -> bytearray:
        """One byte for each frame."""
        return bytearray(bitmap[pfn >> 3] >> (pfn & 7) & 1 for pfn in range(self.end))

    @staticmethod
    def runs(frames: bytearray) -> list[tuple[int, int]]:
        """Frames that are set: (first, end)."""
        found, at = [], 0
        for value, group in itertools.groupby(frames):
            length = sum(1 for _ in group)
            if value:
                found.append((at, at + length))
            at += length
        return found


def unpack(lab, vmcore: Path, kdump: Kdump, out: Path) -> dict:
    """Writes an ELF core with a segment for each range of memory and what drgn reads from the file; frames that are not there are holes.
    What drgn said."""
    memory, segments, at = kdump.runs(kdump.memory), [], HEAD
    for first, end in memory:
        segments.append((first, end, at))
        at += (end - first) * PAGE
    with open(out, "wb") as file:
        notes_at = 64 + 56 * (1 + len(segments))
        must(notes_at + len(kdump.notes) <= HEAD, "there are too many ranges of memory")
        file.write(b"\x7fELF\2\1\1".ljust(16, b"\0"))
        file.write(struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1 + len(segments), 0, 0, 0))
        file.write(struct.pack("<IIQQQQQQ", 4, 0, notes_at, 0, 0, len(kdump.notes), 0, 0))
        for first, end, offset in segments:
            size = (end - first) * PAGE
            file.write(struct.pack("<IIQQQQQQ", 1, 7, offset, 0, first * PAGE, size, size, 0))
        file.write(kdump.notes)
        file.truncate(at)
    lacking = bytearray(known and not there for known, there in zip(kdump.memory, kdump.there, strict=True))
    question = out.with_name("pages.json")
    question.write_text(json.dumps({"segments": segments, "there": kdump.runs(kdump.there), "lacking": kdump.runs(lacking)}))
    try:
        return json.loads(truth.drgn(lab, vmcore, "judge_pages.py", question, out))
    finally:
        question.unlink()
