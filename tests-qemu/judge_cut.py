# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: what it sees in a vmcore that is not whole, as JSON."""

import json
import sys

from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg

crashed = prog.crashed_thread()
seen = {
    "crashed": [frame.name or "?" for frame in crashed.stack_trace()],
    "dmesg": get_dmesg(prog).decode(errors="replace"),
    "tasks": sum(1 for _ in for_each_task(prog)),
}
json.dump(seen, sys.stdout)
