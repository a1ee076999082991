# SPDX-License-Identifier: GPL-2.0-or-later
"""What a vmcore of level 31 has, held against others' opinions of the same memory: which frames are left out, and what the tools miss.

QEMU's picture of the held guest has all frames. drgn says what the kernel uses each of them for (judge_selection.py), and so what
makedumpfile(8) promises to leave out at this level; makedumpfile itself filters the picture. Then crash and drgn read from the vmcore
what they read from one that has the missing frames too: if that makes any difference, something was left out that is needed.
"""

import collections
import itertools
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import judges
import truth
from judges import must
from selection_classes import CLASS, IN_CACHE, LEFT, NAMES, ODD, TAIL

PAGE = truth.PAGE
LIMIT = 0.01  # of the frames that either keeps may be kept by one only


@dataclass
class Frames:
    """All that is known of each frame: bytes by frame number."""

    ram: bytearray  # 1: System RAM
    ours: bytearray  # 1: in the vmcore
    zero: bytearray  # 1: zeroes in the picture
    now: bytes  # its class in the picture
    then: bytes  # its class in the vmcore
    theirs: bytearray  # 1: makedumpfile keeps it
    secrets: set  # frames with netdump's keys


def ranges(vmcore: Path) -> list[tuple[int, int]]:
    """Frames of System RAM: (first, end)."""
    return [(s.start // PAGE, s.end // PAGE) for s in truth.memory_segments(vmcore)]


def present(vmcore: Path) -> bytearray:
    """Frames that are in a vmcore whose server wrote pages of zeroes too: those that are no holes of the file."""
    found = bytearray(ranges(vmcore)[-1][1])
    with open(vmcore, "rb") as file:
        for segment in truth.memory_segments(vmcore):
            must(segment.offset % PAGE == 0, f"{vmcore}: frames begin in the middle of a block")
            at, end = segment.offset, segment.offset + segment.size
            while at < end:
                try:
                    at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break  # nothing but a hole is left
                hole = min(os.lseek(file.fileno(), at, os.SEEK_HOLE), end)
                for offset in range(at // PAGE * PAGE, hole, PAGE):
                    found[(offset - segment.offset + segment.start) // PAGE] = 1
                at = hole
    return found


def zeroes(picture: Path, wanted: list[tuple[int, int]]) -> bytearray:
    """Frames of the picture that hold nothing but zeroes."""
    layout, found = truth.memory_segments(picture), bytearray(wanted[-1][1])
    with open(picture, "rb") as file:
        for first, end in wanted:
            for pfn in range(first, end, truth.BLOCK // PAGE):
                data = truth.read(file, layout, pfn * PAGE, min(truth.BLOCK, (end - pfn) * PAGE))
                must(data is not None, f"{picture} has no memory at {pfn * PAGE:#x}")
                if not any(data):
                    found[pfn : pfn + len(data) // PAGE] = b"\1" * (len(data) // PAGE)
                    continue
                for at in range(0, len(data), PAGE):
                    found[pfn + at // PAGE] = not any(data[at : at + PAGE])
    return found


def straighten(picture: Path) -> None:
    """Moves the program headers of QEMU's picture to where makedumpfile takes them to be: right behind the ELF header. QEMU 7.2 has
    section headers between the two, which nobody needs, and gives the ELF header a wrong length."""
    picture.chmod(0o600)
    with open(picture, "r+b") as file:
        head = bytearray(file.read(64))
        count = int.from_bytes(head[56:58], "little")
        file.seek(int.from_bytes(head[32:40], "little"))
        table = file.read(56 * count)
        first = min(int.from_bytes(table[n + 8 : n + 16], "little") for n in range(0, len(table), 56))
        must(first >= 64 + len(table), f"{picture} has no room for its headers")
        head[32:48] = (64).to_bytes(8, "little") + bytes(8)
        head[52:54], head[58:64] = (64).to_bytes(2, "little"), bytes(6)
        file.seek(0)
        file.write(head + table)


def filtered(lab, picture: Path, end: int) -> bytearray:
    """Frames that makedumpfile keeps of the picture at level 31: the second bitmap of its own format, since in ELF files it leaves
    out no stretches below 256 frames."""
    small = picture.with_name("makedumpfile")
    done = judges.call([lab["MAKEDUMPFILE"], "-d", "31", "-l", picture, small])
    must(done.returncode == 0, f"makedumpfile -d 31 failed on the picture: {done.stdout[-500:]}{done.stderr[-500:]}")
    with open(small, "rb") as file:
        head = file.read(4096)
        must(head[:8] == b"KDUMP   ", "makedumpfile wrote another format")
        # struct disk_dump_header: block_size, sub_hdr_size, bitmap_blocks.
        block, sub, blocks = (int.from_bytes(head[at : at + 4], "little") for at in (428, 432, 436))
        file.seek(block * (1 + sub + blocks // 2))
        bitmap = file.read(block * (blocks // 2))
    small.unlink()
    return bytearray(bitmap[pfn >> 3] >> (pfn & 7) & 1 for pfn in range(end))


def whole(vmcore: Path, picture: Path, missing: list[int], out: Path) -> None:
    """The vmcore with some of the frames that it lacks, as they are in the picture."""
    shutil.copyfile(vmcore, out)
    ours, theirs = truth.memory_segments(vmcore), truth.memory_segments(picture)
    with open(out, "r+b") as file, open(picture, "rb") as source:
        for pfn in missing:
            data = truth.read(source, theirs, pfn * PAGE, PAGE)
            segment = next(s for s in ours if s.start <= pfn * PAGE < s.end)
            if any(data):
                file.seek(segment.offset + pfn * PAGE - segment.start)
                file.write(data)


def classes(lab, core: Path, wanted: list[tuple[int, int]], modules) -> tuple[bytes, dict]:
    """The class of each frame by what drgn sees in a core, and what it counted."""
    out = core.with_name(core.name + "-classes")
    facts = json.loads(truth.drgn(lab, core, "judge_selection.py", json.dumps(wanted), out, modules=modules))
    must(not facts["wrong"], f"the struct pages in {core} contradict themselves: {facts['wrong'][:5]}")
    must(facts["asked"] > 1000 and facts["free_blocks"] > 10 and facts["in_cache"] > 100, f"drgn saw next to nothing in {core}: {facts}")
    found = out.read_bytes()
    out.unlink()
    return found, facts


def left(classes_of, pfn: int) -> bool:
    """Whether makedumpfile(8) says that a frame is left out at level 31."""
    return bool(LEFT[classes_of[pfn] & CLASS])


# Why one of two may keep a frame that the other leaves out: a text, and a test of (frames, frame number). The first that fits counts;
# what none fits is an error.
SECRET = "it has netdump's keys, which never leave the machine"
MOVED = "its use changed between its turn in the dump and the picture, and ours is right for its turn"
WHY = (
    (SECRET, lambda f, n: not f.ours[n] and n in f.secrets),
    (MOVED, lambda f, n: left(f.then, n) != left(f.now, n) and left(f.then, n) != bool(f.ours[n])),
)
ZEROES = "it is of zeroes: makedumpfile leaves them out, the vmcore has them"
# makedumpfile 1.7.8 looks at the first tail of a folio that it keeps as at a page of its own. On 7.3 the folio's counters stand where a
# page has its mapping, and their lowest bit says anonymous memory.
TAIL_LOST = "makedumpfile takes the counters in a folio's first tail for the mapping of anonymous memory, and loses it"
MAKEDUMPFILES_OWN = (ZEROES, TAIL_LOST)
WHY_MAKEDUMPFILE = (
    (ZEROES, lambda f, n: f.ours[n] and f.zero[n]),
    (TAIL_LOST, lambda f, n: f.ours[n] and f.now[n] & TAIL and f.now[n] & ODD and not f.now[n - 1] & TAIL and not left(f.now, n)),
    *WHY,
)


@dataclass
class Comparison:
    """Our selection beside another one."""

    who: str
    counts: dict  # class -> [both keep, both leave, only ours, only theirs]
    reasons: dict  # explanation -> frames
    rest: list  # frames without one

    def total(self, column: int) -> int:
        """The frames of a column."""
        return sum(row[column] for row in self.counts.values())

    def text(self) -> list[str]:
        """The table, and the explanations."""
        lines = [f"{'vmcore / ' + self.who:32}{'both keep':>12}{'both leave':>12}{'only vmcore':>12}{'only other':>12}"]
        for what, row in sorted(self.counts.items()):
            lines.append(f"  {NAMES[what]:30}" + "".join(f"{count:12}" for count in row))
        lines.append(f"  {'all':30}" + "".join(f"{self.total(column):12}" for column in range(4)))
        lines += [f"  {len(frames)} frames: {reason}" for reason, frames in self.reasons.items()]
        return lines

    def check(self, frames: Frames) -> None:
        """Not more than a hundredth may differ, and all of that for a reason."""
        # What makedumpfile does otherwise than its manual says does not count.
        different = sum(len(members) for reason, members in self.reasons.items() if reason not in MAKEDUMPFILES_OWN)
        kept = self.total(0) + self.total(2) + self.total(3)
        names = [f"{n:#x} {NAMES[frames.now[n] & CLASS]} (then {NAMES[frames.then[n] & CLASS]}, ours {frames.ours[n]})" for n in self.rest]
        must(not self.rest, f"{len(self.rest)} frames differ from {self.who} without a reason: {names[:20]}\n" + "\n".join(self.text()))
        must(different <= LIMIT * kept, f"{different} of {kept} frames differ from {self.who}\n" + "\n".join(self.text()))


def compare(frames: Frames, who: str, keeps, why) -> Comparison:
    """Our selection beside another one, whose `keeps` says what becomes of a frame."""
    counts, reasons, rest = collections.defaultdict(lambda: [0, 0, 0, 0]), collections.defaultdict(list), []
    for pfn, ram in enumerate(frames.ram):
        if not ram:
            continue
        mine, other = bool(frames.ours[pfn]), bool(keeps(pfn))
        counts[frames.now[pfn] & CLASS][(0 if other else 2) if mine else (3 if other else 1)] += 1
        if mine != other:
            reason = next((text for text, test in why if test(frames, pfn)), None)
            (reasons[reason] if reason else rest).append(pfn)
    return Comparison(who, counts, reasons, rest)


def gather(lab, vmcore: Path, picture: Path, modules) -> tuple[Frames, dict]:
    """All that is known of the frames, and what drgn counted in the picture."""
    wanted = ranges(vmcore)
    end = wanted[-1][1]
    ram = bytearray(end)
    for first, last in wanted:
        ram[first:last] = b"\1" * (last - first)
    straighten(picture)
    now, facts = classes(lab, picture, wanted, modules)
    then, _ = classes(lab, vmcore, wanted, modules)
    theirs = filtered(lab, picture, end)
    return Frames(ram, present(vmcore), zeroes(picture, wanted), now, then, theirs, set(facts["secrets"])), facts


# What is asked of crash.
CRASH = ("bt -a", "foreach bt", "ps", "foreach files", "net", "log", "kmem -i", "kmem -s", "mount", "mod", "swap", "dev", "irq", "timer", "runq")
# What crash 9.0.2 cannot do on 7.3, with all of the memory neither; drgn's "slabs", "modules" and "others" are for that.
CANNOT = {
    "crash: kmem -s": "invalid structure member offset: kmem_cache_local_node",
    "crash: mod": "cannot access vmalloc'd module memory",
    "crash: swap": "invalid structure member offset: swap_info_struct_swap_map",
}
COMPLAINT = re.compile(r"\binvalid\b|\bcannot\b|seek error|read error|page excluded|unreadable|not available|corrupt|ERROR", re.I)


def complaints(answer: str) -> list[str]:
    """Lines of a tool that say that something cannot be read. The kernel's own log may have such words."""
    return [line for line in answer.splitlines() if COMPLAINT.search(line) and not re.match(r"\[ *\d+\.\d+\]", line)]


def tools(lab, vmcore: Path, complete: Path, secrets: set, modules, empty: tuple) -> list[str]:
    """crash and drgn on the vmcore, and on one that lacks nothing: they must see the same, complain of nothing, and show something
    in all but `empty`. Nothing is left out of the comparison, not even addresses: the one is the other with holes in it."""
    lines, wrong = [], []
    answers = [dict(zip(CRASH, judges.crash(lab, core, *CRASH, seconds=600), strict=True)) for core in (vmcore, complete)]
    seen = [json.loads(truth.drgn(lab, core, "judge_debugger.py", json.dumps(sorted(secrets)), modules=modules)) for core in (vmcore, complete)]
    answers = [{f"crash: {name}": answer for name, answer in crash.items()} | {f"drgn: {name}": "\n".join(part) for name, part in drgn.items()}
               for crash, drgn in zip(answers, seen, strict=True)]  # fmt: skip
    for name, mine in answers[0].items():
        theirs = answers[1][name]
        if mine != theirs:
            pairs = [pair for pair in itertools.zip_longest(mine.splitlines(), theirs.splitlines()) if pair[0] != pair[1]]
            wrong.append(f"{name}: {len(pairs)} lines differ from what all of the memory has, first {pairs[0]}")
        bad = complaints(mine)
        if bad and not (name in CANNOT and mine == theirs and all(CANNOT[name] in line for line in bad)):
            wrong.append(f"{name}: {len(bad)} complaints, {len(complaints(theirs))} with all of the memory: {bad[:2]}")
        if not mine.strip() and name not in empty:
            wrong.append(f"{name} shows nothing")
        lines.append(f"{name} {len(mine.splitlines())}")
        (vmcore.parent / ("tool-" + name.replace(": ", "-").replace(" ", ""))).write_text(mine)
    must(not wrong, "\n".join(wrong))
    return ["the same lines with and without what was left out: " + ", ".join(lines)]


def judge(lab, vmcore: Path, picture: Path, meta: dict, modules, wanted=(), empty: tuple = ()) -> list[str]:
    """All of it; lines for the report. There must be frames of the classes `wanted`; the tools need show nothing for what is in
    `empty`."""
    frames, facts = gather(lab, vmcore, picture, modules)
    pages = meta["dump"]["pages"]
    must(sum(frames.ours) == pages["written"], f"{sum(frames.ours)} frames are no holes of the vmcore, {pages['written']} were written")
    must(sum(frames.ram) == sum(frames.ours) + pages["left_out"], f"frames are not accounted for: {pages}")
    drgn = compare(frames, "drgn", lambda n: not left(frames.now, n), WHY)
    other = compare(frames, "makedumpfile", lambda n: frames.theirs[n], WHY_MAKEDUMPFILE)
    cached = collections.Counter(NAMES[what & CLASS] for what in frames.now if what & IN_CACHE)
    lines = [
        f"drgn: {facts['frames']} frames, {facts['free_blocks']} free blocks, {facts['folios']} folios, {facts['asked']} frames asked of its "
        f"helpers; in inodes' caches: {', '.join(f'{name} {count}' for name, count in cached.items())}",
        *drgn.text(), *other.text(),
    ]  # fmt: skip
    # A frame that has just come to a cache waits on a list of a CPU before it is on an LRU list, and is kept.
    must(cached["cache"] + cached["private cache"] >= 0.99 * cached.total(), f"what is in inodes' caches is not classed as cache: {cached}")
    (vmcore.parent / "selection.txt").write_text("\n".join(lines) + "\n")
    lacking = [name for name in wanted if not any(NAMES[what] == name for what in drgn.counts)]
    must(not lacking, f"no frame is used for {lacking}: the guest was not busy")
    drgn.check(frames)
    other.check(frames)
    complete = vmcore.with_name("complete")
    whole(vmcore, picture, [n for n, ram in enumerate(frames.ram) if ram and not frames.ours[n] and n not in frames.secrets], complete)
    lines += tools(lab, vmcore, complete, frames.secrets, modules, empty)
    complete.unlink()
    return lines
