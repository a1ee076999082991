# SPDX-License-Identifier: GPL-2.0-or-later
"""drgn script: of physical addresses (a JSON file: name -> list), how many are in slab pages. Prints name -> [all, in slab]."""

import json
import sys

from drgn.helpers.linux.mm import PageSlab, phys_to_page

with open(sys.argv[1], encoding="ascii") as file:
    places = json.load(file)
result = {}
for name, addresses in places.items():
    slab = 0
    for address in addresses:
        page = phys_to_page(prog, address)  # noqa: F821 - drgn's
        slab += bool(PageSlab(page))
    result[name] = [len(addresses), slab]
print(json.dumps(result))
