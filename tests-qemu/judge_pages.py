# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: writes all pages that a vmcore has to an ELF core.

    judge_pages.py QUESTION OUT

QUESTION is JSON: "segments", [[first frame, end, place in OUT], …]; "there" and "lacking", [[first frame, end], …]: frames that must be
readable, and that must not. Prints JSON: how many were read, and which were otherwise.
"""

import json
import sys

from drgn import FaultError

PAGE = 4096
RUN = 256  # frames that are read at once
SAMPLES = 5000  # frames that are tried of those that lack


def place(pfn):
    """Where a frame is in the file."""
    for first, end, at in question["segments"]:
        if first <= pfn < end:
            return at + (pfn - first) * PAGE
    raise LookupError(f"frame {pfn:#x} is no memory")


with open(sys.argv[1]) as file:
    question = json.load(file)
read, wrong = 0, []
with open(sys.argv[2], "r+b") as out:
    for start, stop in question["there"]:
        for pfn in range(start, stop, RUN):
            count = min(RUN, stop - pfn)
            try:
                data = prog.read(pfn * PAGE, count * PAGE, physical=True)
            except FaultError as error:
                wrong.append(f"{pfn:#x}: {error}")
                continue
            read += count
            for n in range(count):
                page = data[n * PAGE : (n + 1) * PAGE]
                if any(page):
                    out.seek(place(pfn + n))
                    out.write(page)
lacking = [pfn for start, stop in question["lacking"] for pfn in range(start, stop)]
for pfn in lacking[:: max(1, len(lacking) // SAMPLES)]:
    try:
        prog.read(pfn * PAGE, 8, physical=True)
        wrong.append(f"{pfn:#x} can be read")
    except FaultError:
        pass
json.dump({"read": read, "wrong": wrong[:20]}, sys.stdout)
