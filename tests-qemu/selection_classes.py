# SPDX-License-Identifier: GPL-2.0-or-later
"""What page frames are used for, and which uses makedumpfile(8) leaves out with -d 31. A byte for each frame is a number of CLASSES,
and flags."""

CLASS = 0x1F
ODD = 0x20  # the lowest bit of its mapping is set, as for anonymous memory
TAIL = 0x40  # it is in a folio, and not the first of it
IN_CACHE = 0x80  # it is in the cache of some inode

# Uses and whether -d 31 leaves them out. In the words of makedumpfile(8): free pages, cache pages without and with private data, pages
# of user processes; and, whatever the level, memory that is broken or offline.
CLASSES = (
    ("no memory", False),
    ("no struct page", False),
    ("free", True),
    ("free, a CPU's", False),
    ("cache", True),
    ("private cache", True),
    ("anonymous", True),
    ("ksm", True),
    ("hugetlb", True),
    ("broken", True),
    ("offline", True),
    ("unaccepted", True),
    ("slab", False),
    ("large_kmalloc", False),
    ("table", False),
    ("guard", False),
    ("zsmalloc", False),
    ("reserved", False),
    ("nobody's", False),
    ("kernel", False),
)
NAMES = [name for name, _ in CLASSES]
BY_NAME = {name: number for number, name in enumerate(NAMES)}
LEFT = bytes(left for _, left in CLASSES)
