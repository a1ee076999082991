# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of what judges the kernel's selftests, its complaints and the table of netconsole's answers: nothing boots."""

import unittest

import debug_kernel
import netconsole_table as table
from selftests import ksft_verdict
from splats import splats

TOTALS = "# Totals: pass:{} fail:{} xfail:{} xpass:0 skip:{} error:{}\n"


class Verdicts(unittest.TestCase):
    """What a Python selftest says of itself."""

    def test_totals(self):
        self.assertEqual(ksft_verdict(0, TOTALS.format(1, 0, 0, 0, 0)), "PASS")
        self.assertEqual(ksft_verdict(0, TOTALS.format(0, 0, 0, 1, 0)), "SKIP")
        self.assertEqual(ksft_verdict(0, TOTALS.format(0, 0, 1, 0, 0)), "XFAIL")
        self.assertEqual(ksft_verdict(0, TOTALS.format(3, 0, 0, 0, 1)), "FAIL")
        self.assertEqual(ksft_verdict(1, TOTALS.format(3, 1, 0, 0, 0)), "FAIL")
        self.assertEqual(ksft_verdict(1, TOTALS.format(1, 0, 0, 0, 0)), "FAIL")

    def test_without_totals_nothing_has_passed(self):
        self.assertNotEqual(ksft_verdict(0, ""), "PASS")
        self.assertEqual(ksft_verdict(4, "SKIP"), "SKIP")


class Splats(unittest.TestCase):
    """Complaints of a kernel, and what only looks like one."""

    def test_complaints(self):
        for line in (
            "BUG: KASAN: slab-use-after-free in netconsole_write+0x12/0x34", "WARNING: CPU: 1 PID: 7 at net/core/netpoll.c:1 f+0x1/0x2",
            "WARNING: possible circular locking dependency detected", "BUG: sleeping function called from invalid context at a.c:1",
            "unregister_netdevice: waiting for eth0 to become free. Usage count = 2", "Oops: general protection fault", "refcount_t: underflow",
            "kmemleak: 3 new suspected memory leaks", "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: task kworker/0:1 blocked for more than 120 seconds.", "rust_kernel: panicked at library/core",
        ):  # fmt: skip
            self.assertEqual(splats(f"[    1.000000] {line}"), [f"[    1.000000] {line}"])

    def test_no_complaints(self):
        for line in (
            "kasan: KernelAddressSanitizer initialized (generic)", "netconsole: network logging started",
            "Lock dependency validator: Copyright (c) 2006",
            "INFO: lockdep is fine",
        ):  # fmt: skip
            self.assertEqual(splats(line), [])


class Config(unittest.TestCase):
    """Which lines of a fragment a configuration lacks."""

    def test_lost(self):
        wanted = "# a comment\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=n\n"
        self.assertEqual(debug_kernel.lost(wanted, "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n"), [])
        self.assertEqual(debug_kernel.lost(wanted, "CONFIG_A=m\nCONFIG_B=m\nCONFIG_D=y\n"), ["CONFIG_A=y", "CONFIG_D=n"])


class Table(unittest.TestCase):
    """The table itself, and where answers differ."""

    def test_rows_are_distinct_and_readable_by_the_program(self):
        for rows in (table.rows_with_module(), table.load_rows()):
            labels = [row.label for row in rows]
            self.assertEqual(sorted(set(labels)), sorted(labels))
            lines = table.as_input(rows, "/m.ko").splitlines()
            self.assertEqual(len(lines), sum(len(row.operations) for row in rows))
            self.assertTrue(all(len(line.split("\t")) in (3, 4) for line in lines))

    def test_differences(self):
        row = table.Row("r", [("read", "/a"), ("list", "/b")])
        self.assertEqual(table.differences(row, ["ok", "ok . .. a"], ["ok", "ok . .. a"]), [])
        self.assertEqual(len(table.differences(row, ["ok", "ok . .. a"], ["EINVAL", "ok . .. a b"])), 2)
        row.more_names_allowed = True
        self.assertEqual(len(table.differences(row, ["ok", "ok . .. a"], ["ok", "ok . .. a b"])), 0)
        self.assertEqual(len(table.differences(row, ["ok", "ok . .. a"], ["ok", "ok . .. b"])), 1)

    def test_what_stock_keeps_of_a_refused_address(self):
        row = table.Row("r", [("write", "/t/local_ip", b"1.2.3.4 "), ("read", "/t/local_ip"), ("read", "/t/remote_ip")])
        self.assertEqual(table.differences(row, ["EINVAL", "ok 31", "ok 32"], ["EINVAL", "ok 30", "ok 32"]), [])
        self.assertEqual(len(table.differences(row, ["EINVAL", "ok 31", "ok 32"], ["EINVAL", "ok 30", "ok 33"])), 1)
        self.assertEqual(len(table.differences(row, ["EINVAL", "ok 31", "ok 32"], ["ok 8", "ok 30", "ok 32"])), 2)


if __name__ == "__main__":
    unittest.main()
