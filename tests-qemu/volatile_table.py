# SPDX-License-Identifier: GPL-2.0-or-later
"""A drgn script: physical ranges of kernel objects that the kernel itself changes while it dies, by name.

The panicking CPU runs kernel code between the dump of a page and the moment when the machine is held: it prints, takes
time, sends frames through the driver and restarts the machine. What that code writes is named here; everything is found
in the vmcore, before anything is compared. Prints a JSON list of [start, end, label].
"""

import json

from drgn import FaultError
from drgn.helpers.linux.mm import follow_phys

PAGE = 4096
found = []


def add(virtual, size, label):
    """Notes `size` bytes at a kernel address."""
    at = virtual
    while at < virtual + size:
        upto = min(virtual + size, (at // PAGE + 1) * PAGE)
        try:
            physical = follow_phys(prog["init_mm"].address_of_(), at).value_()
            found.append([physical, physical + upto - at, label])
        except (FaultError, LookupError):
            pass
        at = upto


def symbol(name):
    """A variable of the kernel, whole."""
    try:
        variable = prog[name]
        add(variable.address_, variable.type_.size or 8, name)
    except (LookupError, TypeError, FaultError):
        pass


def log_buffer():
    """The printk ring: descriptors, infos and text."""
    ring = prog["prb"]
    descriptors = ring.desc_ring
    count = 1 << descriptors.count_bits.value_()
    add(ring.value_(), ring.type_.type.size, "log buffer head")
    add(descriptors.descs.value_(), count * descriptors.descs.type_.type.size, "log buffer descriptors")
    add(descriptors.infos.value_(), count * descriptors.infos.type_.type.size, "log buffer infos")
    text = ring.text_data_ring
    add(text.data.value_(), 1 << text.size_bits.value_(), "log buffer text")


log_buffer()
json.dump(found, __import__("sys").stdout)
