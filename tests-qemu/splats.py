# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel says when it has found a fault in itself."""

import re

# One line each that begins a report. kmemleak only counts: its reports are in debugfs.
SIGNS = re.compile(
    r"BUG: |WARNING: |\bINFO: (?:task .* blocked|trying to register non-static|inconsistent lock|lockdep is turned off|suspicious)|"
    r"Oops: |Internal error|general protection fault|kernel BUG at|Kernel panic|KASAN|UBSAN|possible recursive locking|"
    r"possible circular locking|inconsistent lock state|suspicious RCU usage|sleeping function called|scheduling while atomic|"
    r"refcount_t: |ref_tracker: |list_(?:add|del) corruption|ODEBUG|unregister_netdevice: waiting|Modules linked in|"
    r"rcu: INFO: .*stall|leaked reference|memory leak|kmemleak: \d+ new|page allocation failure|rust_kernel: panicked"
)
# Said by a kernel that watches itself at its boot, and not of a fault.
HARMLESS = re.compile(
    r"kasan: KernelAddressSanitizer|KASAN shadow|lockdep: |Lock dependency validator|ODEBUG: selftest passed|UBSAN: disabled|"
    r"NOTICE: .*DEBUG|kmemleak: Kernel memory leak detector initialized"
)


def splats(text: str) -> list[str]:
    """The lines of a log that begin a report of a fault."""
    return [line.strip() for line in text.splitlines() if SIGNS.search(line) and not HARMLESS.search(line)]
