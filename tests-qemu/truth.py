# SPDX-License-Identifier: GPL-2.0-or-later
"""Ground truth: a vmcore against the memory of the held guest as QEMU wrote it, page by page over all System RAM.

What may differ is a list of ranges fixed before the comparison: what the module itself reports in meta.json
("volatile"), and a table of kernel objects that change between the dump of a page and the moment when the guest is held,
found by name in the vmcore (volatile_table.py, with drgn). A page that is listed may differ anywhere and counts whole; where the
module reports bytes that are no whole pages, and nothing else is listed on their page, only those bytes may differ and
count. The list is at most LIMIT bytes. Any other page that differs
is an error, and drgn is asked whose page it is.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from cache import HERE

PAGE = 4096
BLOCK = 1 << 20
LIMIT = 4 << 20
FREE_LISTS = "kernel:page allocator: free lists"  # struct pages, which count by the byte as well
TEXT_BASE = 0xFFFFFFFF80000000  # the kernel's text mapping begins here


class TruthError(Exception):
    """A file that cannot be compared."""


@dataclass(frozen=True)
class Segment:
    """Memory in an ELF core: `size` bytes from physical address `start`, at `offset` of the file."""

    start: int
    size: int
    offset: int
    virtual: int

    @property
    def end(self) -> int:
        return self.start + self.size


def segments(path: Path) -> list[Segment]:
    """The PT_LOAD headers of an ELF64 core, ordered by physical address."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise TruthError(f"{path} is no ELF64 file")
        offset = int.from_bytes(head[32:40], "little")
        entry = int.from_bytes(head[54:56], "little")
        count = int.from_bytes(head[56:58], "little")
        if count == 0xFFFF:
            raise TruthError(f"{path} has its header count elsewhere")
        file.seek(offset)
        table = file.read(entry * count)
    found = []
    for i in range(count):
        row = table[i * entry : (i + 1) * entry]
        if int.from_bytes(row[:4], "little") == 1:
            words = [int.from_bytes(row[n : n + 8], "little") for n in range(8, 56, 8)]
            found.append(Segment(start=words[2], size=words[3], offset=words[0], virtual=words[1]))
    return sorted(found, key=lambda s: s.start)


def memory_segments(path: Path) -> list[Segment]:
    """The segments that are memory by physical address, without the second view of the kernel's image."""
    return [s for s in segments(path) if s.virtual < TEXT_BASE]


def read(file, layout: list[Segment], start: int, size: int) -> bytes | None:
    """`size` bytes at a physical address, or None where the file does not have them all."""
    for segment in layout:
        if segment.start <= start and start + size <= segment.end:
            file.seek(segment.offset + start - segment.start)
            data = file.read(size)
            # A file that ends early in a hole reads as zeroes, as every ELF reader takes it.
            return data + bytes(size - len(data))
    return None


def merge(ranges) -> list[tuple[int, int]]:
    """Page-aligned, ascending, disjoint ranges that cover `ranges`."""
    out: list[tuple[int, int]] = []
    for start, end in sorted((s // PAGE * PAGE, -(-e // PAGE) * PAGE) for s, e in ranges if e > s):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


class Allowed:
    """The list, by page."""

    def __init__(self, listed: list[tuple[int, int, str]]):
        self.whole: dict[int, str] = {}  # page -> label of what is listed first
        self.parts: dict[int, list[tuple[int, int]]] = {}  # page -> (first, end) offsets
        for start, end, label in listed:
            bytes_only = label.startswith(("module:", FREE_LISTS)) and (start % PAGE or end % PAGE)
            for page in range(start // PAGE * PAGE, end, PAGE):
                if bytes_only:
                    self.parts.setdefault(page, []).append((max(start - page, 0), min(end - page, PAGE)))
                else:
                    self.whole.setdefault(page, label)
        for page in self.whole:
            self.parts.pop(page, None)

    def size(self) -> int:
        """Bytes that may differ."""
        return len(self.whole) * PAGE + sum(len({n for a, b in parts for n in range(a, b)}) for parts in self.parts.values())

    def sizes(self) -> dict[str, int]:
        """Bytes by label, most first; what counts by the byte is one label."""
        found: dict[str, int] = {}
        for label in self.whole.values():
            found[label] = found.get(label, 0) + PAGE
        found["bytes of pages"] = self.size() - len(self.whole) * PAGE
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def label(self, page: int, mine: bytes, real: bytes) -> str | None:
        """Under which label a page may differ as it does; None if it may not."""
        if page in self.whole:
            return self.whole[page]
        parts = self.parts.get(page)
        if parts and all(any(a <= i < b for a, b in parts) for i in range(PAGE) if mine[i] != real[i]):
            return "module: bytes"
        return None


def system_ram(iomem: str) -> list[tuple[int, int]]:
    """Whole pages of System RAM from the text of /proc/iomem (end exclusive)."""
    out = []
    for line in iomem.splitlines():
        span, _, name = line.partition(" : ")
        if name.strip() == "System RAM" and not line.startswith(" "):
            first, last = (int(n, 16) for n in span.split("-"))
            start, end = -(-first // PAGE) * PAGE, (last + 1) // PAGE * PAGE
            if end > start:
                out.append((start, end))
    return merge(out)


@dataclass
class Report:
    """What a comparison found."""

    pages: int = 0
    allowed_bytes: int = 0
    allowed: list = field(default_factory=list)  # (start, end, label): the list that was fixed before
    sizes: dict = field(default_factory=dict)  # label -> bytes of that list
    differing_allowed: int = 0
    labels: dict = field(default_factory=dict)  # label -> pages that differ under it
    wrong: list = field(default_factory=list)  # physical addresses of pages that differ and must not
    missing: list = field(default_factory=list)  # System RAM that the vmcore does not have: (start, end)
    owners: list = field(default_factory=list)  # whose the wrong pages are

    def good(self) -> bool:
        return not self.wrong and not self.missing and self.allowed_bytes <= LIMIT and self.pages > 0

    def text(self) -> str:
        lines = [
            f"ground truth: {self.pages} pages compared, {self.differing_allowed} differ where they may "
            f"({self.allowed_bytes / 1024:.0f} KiB listed before, of at most {LIMIT >> 10}), {len(self.wrong)} differ elsewhere"
        ]
        if self.labels:
            lines.append("  differ as foreseen: " + ", ".join(f"{k} {v}" for k, v in sorted(self.labels.items())))
        if self.allowed_bytes > LIMIT:
            most = ", ".join(f"{label} {size >> 10} KiB" for label, size in list(self.sizes.items())[:12])
            lines.append(f"  the list of what may differ is too long: {most}")
        for start, end in self.missing[:20]:
            lines.append(f"  System RAM {start:#x}-{end:#x} is not in the vmcore")
        for owner in self.owners[:200]:
            lines.append("  WRONG " + owner)
        return "\n".join(lines)


def filled(vmcore: Path, truth: Path, out: Path) -> None:
    """A core with the headers and notes of an incomplete vmcore and QEMU's picture of the memory, for drgn to look into."""
    layout, theirs = segments(vmcore), memory_segments(truth)
    with open(vmcore, "rb") as a, open(truth, "rb") as b, open(out, "wb") as c:
        c.write(a.read(min(segment.offset for segment in layout)))
        for segment in layout:
            if segment.virtual >= TEXT_BASE:
                continue
            for at in range(0, segment.size, BLOCK):
                data = read(b, theirs, segment.start + at, min(BLOCK, segment.size - at))
                if data and any(data):
                    c.seek(segment.offset + at)
                    c.write(data)
        c.truncate(max(segment.offset + segment.size for segment in layout))


def drgn(lab: dict[str, str], vmcore: Path, script: str, *arguments, modules=(), seconds=300) -> str:
    """Runs one of our drgn scripts on a vmcore; what it printed."""
    command = [lab["DRGN"], "--quiet", "--core", str(vmcore), "--no-default-symbols", "--symbols", lab["VMLINUX"]]
    drivers = Path(lab["VMLINUX"]).parent.glob("kernel/**/*.ko")
    for module in (*drivers, *modules):
        command += ["--symbols", str(module)]
    command += [str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise TruthError(f"drgn {script} failed on {vmcore}:\n{done.stderr[-3000:]}")
    sys.stderr.write(done.stderr)
    return done.stdout


def allowed_ranges(lab, vmcore: Path, meta: dict, modules=()) -> list[tuple[int, int, str]]:
    """The list of what may differ: (start, end, label), physical, from meta.json and the table of kernel objects."""
    listed = [(v["start"], v["end"], "module:" + v["label"]) for v in meta.get("volatile", [])]
    table = json.loads(drgn(lab, vmcore, "volatile_table.py", vmcore, vmcore.with_name("meta.json"), modules=modules))
    return listed + [(start, end, "kernel:" + label) for start, end, label in table]


def compare(lab, vmcore: Path, truth: Path, meta: dict, iomem: str = "", modules=(), only_written=False, there=None) -> Report:
    """Compares; with `only_written` (an incomplete vmcore) pages of zeroes in the vmcore count as not there. `there`: a byte for each
    frame, 0 where it was left out."""
    report = Report()
    source = vmcore
    if only_written:
        # The table cannot be found in what is not there.
        source = vmcore.with_name("filled")
        filled(vmcore, truth, source)
    report.allowed = allowed_ranges(lab, source, meta, modules)
    allowed = Allowed(report.allowed)
    report.allowed_bytes, report.sizes = allowed.size(), allowed.sizes()
    ours, theirs = memory_segments(vmcore), memory_segments(truth)
    if not ours:
        raise TruthError(f"{vmcore} has no memory")
    if iomem:
        for start, end in system_ram(iomem):
            page = start
            for segment in ours:
                if segment.start <= page < segment.end:
                    page = min(segment.end, end)
            if page < end:
                report.missing.append((page, end))
    with open(vmcore, "rb") as a, open(truth, "rb") as b:
        for segment in ours:
            address = segment.start
            while address < segment.end:
                size = min(BLOCK, segment.end - address)
                mine, real = read(a, ours, address, size), read(b, theirs, address, size)
                if real is None:
                    # At the edge of what QEMU calls memory: page by page.
                    size = PAGE
                    mine, real = read(a, ours, address, size), read(b, theirs, address, size)
                    if real is None:
                        raise TruthError(f"{truth} has no memory at {address:#x}, which the vmcore says is System RAM")
                report.pages += size // PAGE
                if mine != real:
                    for at in range(0, size, PAGE):
                        page = mine[at : at + PAGE]
                        lacking = (only_written and not any(page)) or (there is not None and not there[(address + at) // PAGE])
                        if lacking or page == real[at : at + PAGE]:
                            continue
                        label = allowed.label(address + at, page, real[at : at + PAGE])
                        if label:
                            report.differing_allowed += 1
                            report.labels[label] = report.labels.get(label, 0) + 1
                        else:
                            report.wrong.append(address + at)
                address += size
    if report.wrong:
        report.owners = owners(lab, vmcore, source, truth, report.wrong[:400], modules)
    if only_written:
        source.unlink()
    return report


def changed_bytes(vmcore: Path, truth: Path, page: int) -> list[tuple[int, int]]:
    """Where a page differs: (first, last) offsets of runs, gaps below 16 bytes joined."""
    ours, theirs = memory_segments(vmcore), memory_segments(truth)
    with open(vmcore, "rb") as a, open(truth, "rb") as b:
        mine, real = read(a, ours, page, PAGE), read(b, theirs, page, PAGE)
    runs: list[tuple[int, int]] = []
    for i in range(PAGE):
        if mine[i] != real[i]:
            if runs and i - runs[-1][1] < 16:
                runs[-1] = (runs[-1][0], i)
            else:
                runs.append((i, i))
    return runs


def changed_words(vmcore: Path, truth: Path, page: int, count: int = 6) -> list[tuple[int, int, int]]:
    """The first words of a page that differ: (offset, in the vmcore, in QEMU's picture)."""
    with open(vmcore, "rb") as a, open(truth, "rb") as b:
        mine, real = read(a, memory_segments(vmcore), page, PAGE), read(b, memory_segments(truth), page, PAGE)
    words = [(i, int.from_bytes(mine[i : i + 8], "little"), int.from_bytes(real[i : i + 8], "little")) for i in range(0, PAGE, 8)]
    return [word for word in words if word[1] != word[2]][:count]


def owners(lab, vmcore: Path, source: Path, truth: Path, pages: list[int], modules=()) -> list[str]:
    """One line for each page: whose it is and what changed in it; `source` is where drgn looks."""
    question = [
        {"page": page, "runs": changed_bytes(vmcore, truth, page), "words": changed_words(vmcore, truth, page)} for page in pages
    ]
    ask = vmcore.with_name("wrong-pages.json")
    try:
        ask.write_text(json.dumps(question))
        return drgn(lab, source, "page_owner.py", ask, modules=modules).splitlines()
    except (TruthError, subprocess.TimeoutExpired) as error:
        return [f"{page:#x}" for page in pages] + [f"(drgn cannot say whose: {error})"]
    finally:
        ask.unlink(missing_ok=True)
