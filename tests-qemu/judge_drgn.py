# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: what it sees in a vmcore, as JSON."""

import json
import sys

from drgn import FaultError
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.panic import panic_message
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.sched import cpu_curr
from drgn.helpers.linux.slab import for_each_slab_cache, slab_cache_for_each_allocated_object


def frames(trace):
    """A stack as names and source lines."""
    out = []
    for frame in trace:
        try:
            source = list(frame.source())
        except LookupError:
            source = None
        out.append({"name": frame.name or "?", "source": source, "text": str(frame)})
    return out


def thread(task):
    """A task and its stack."""
    try:
        trace = frames(prog.stack_trace(task))
    except (FaultError, LookupError, ValueError) as error:
        trace, _ = [], print(f"judge_drgn: {error}", file=sys.stderr)
    return {"comm": task.comm.string_().decode(), "pid": task.pid.value_(), "frames": trace}


def count_objects():
    """Allocated objects of one cache that every kernel has, walked one by one."""
    for cache in for_each_slab_cache(prog):
        if cache.name.string_() == b"task_struct":
            return sum(1 for _ in slab_cache_for_each_allocated_object(cache, "struct task_struct"))
    return 0


crashed = prog.crashed_thread()
seen = {
    "release": prog["init_uts_ns"].name.release.string_().decode(),
    "panic": panic_message(prog).decode(errors="replace") if panic_message(prog) else "",
    "crashed": {"comm": crashed.object.comm.string_().decode(), "pid": crashed.tid, "frames": frames(crashed.stack_trace())},
    "cpus": {cpu: thread(cpu_curr(prog, cpu)) for cpu in for_each_online_cpu(prog)},
    "modules": [module.name.string_().decode() for module in for_each_module(prog)],
    "slab_caches": sum(1 for _ in for_each_slab_cache(prog)),
    "slab_objects": count_objects(),
    "dmesg": get_dmesg(prog).decode(errors="replace"),
}
json.dump(seen, sys.stdout)
