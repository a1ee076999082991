# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own torture of netconsole, for longer than `make test-selftests` runs it."""

from cases import Context, add
from judges import must
from selftests import judge

SCRIPT = "netconsole/netcons_torture.sh"
MINUTES = 10


def torture(context: Context, words: str = "") -> list[str]:
    """The script for ten minutes with our module: no failure, and the kernel finds no fault."""
    result = judge(context.lab(selftests=True), SCRIPT, "ours", words, context.directory, MINUTES)
    must(result.verdict == "PASS", f"{result.text()}\n{result.why}")
    return [f"{result.text()}: {result.runs} runs in {MINUTES} minutes"]


add("netconsole-torture", torture, tiers=("full",), seconds=1800, selftests=True)
add("netconsole-torture-long-runs", torture, tiers=("full",), seconds=2400, selftests=True, words="1000")
