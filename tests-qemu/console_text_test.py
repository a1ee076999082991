# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the judge of console text: it reads the formats, and it can say no."""

import struct
import unittest

import console_text as text

SHOWN = "[    0.000000] Linux\r\n[    1.500000] one\n[    1.500000] two\ninit: hello\n[   12.000001] \n[   12.000002] end\n"
LINES = ["[    0.000000] Linux", "[    1.500000] one", "[    1.500000] two", "[   12.000001]", "[   12.000002] end"]
RECORDS = [
    b"5,0,0,-;Linux\n",
    b"6,1,1500000,-;one\\x0atwo\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:00.0\n",
    b"0,2,12000001,-;\n",
    b"0,3,12000002,-;end\n",
]


def replies(chunks: list[bytes], start: int = 0) -> list[bytes]:
    """REPLY_LOG datagrams."""
    out = []
    for chunk in chunks:
        out.append(struct.pack(">BIII", 4, 0, 2, start & 0xFFFFFFFF) + chunk)
        start += len(chunk)
    return out


class Formats(unittest.TestCase):
    """Each format gives the serial console's lines."""

    def test_serial(self):
        self.assertEqual(text.serial(SHOWN), LINES)

    def test_serial_that_begins_again(self):
        one, two, three = "[    1.000000] one", "[    1.000000] two", "[    1.000000] three"
        self.assertEqual(text.serial(f"{one}\n[    1.000000] t\n{text.REPLAY}\n{two}\n"), [one, two])
        self.assertEqual(text.serial(f"{one}\n{two}\n[    1.000000] th\n{text.REPLAY}\n{two}\n{three}\n"), [one, two, three])
        self.assertEqual(text.serial(f"{one}\n{text.REPLAY}\n{three}\n"), [one, three])

    def test_basic_cut_anywhere(self):
        raw = "\n".join(LINES).encode() + b"\n"
        self.assertEqual(text.basic([raw[:7], raw[7:40], raw[40:]]), LINES)

    def test_extended(self):
        self.assertEqual(text.extended(RECORDS), LINES)
        self.assertEqual(text.extended([b"7.3.4+deb13," + record for record in RECORDS]), LINES)

    def test_extended_fragments(self):
        body = b"one\\x0atwo\n SUBSYSTEM=pci\n"
        cut = [b"6,1,1500000,-,ncfrag=0/%d;%s" % (len(body), body[:9]), b"6,1,1500000,-,ncfrag=9/%d;%s" % (len(body), body[9:])]
        self.assertEqual(text.extended(cut), LINES[1:3])
        self.assertEqual(text.extended(cut[::-1]), LINES[1:3])
        self.assertIn("fragments missing", text.extended(cut[:1])[0])

    def test_extended_refuses_what_it_is_not(self):
        with self.assertRaises(text.FormatError):
            text.extended([b"[    1.500000] one\n"])

    def test_unescape_keeps_utf8(self):
        self.assertEqual(text.extended([b"6,1,0,-;\\xc2\\xb5s\n"]), ["[    0.000000] \u00b5s"])

    def test_netlog(self):
        raw = "\n".join(LINES).encode() + b"\n"
        self.assertEqual(text.netlog(replies([raw[:5], raw[5:]], 0xFFFFFFFE)), LINES)

    def test_netlog_refuses_a_gap(self):
        cut = replies([b"[    0.000000] a\n", b"[    0.000000] b\n", b"[    0.000000] c\n"])
        with self.assertRaises(text.FormatError):
            text.netlog([cut[0], cut[2]])

    def test_syslog(self):
        self.assertEqual(text.syslog([b"<5> one", b"<0> two\n"]), ["one", "two"])
        with self.assertRaises(text.FormatError):
            text.syslog([b"one"])


    def test_rfc5424(self):
        head = b'<%d>1 %s host kernel - - [meta sequenceId="%d"] %s'
        made = [head % (5, b"2026-11-24T10:00:00.123456Z", 7, b"one"), head % (0, b"-", 8, b"")]
        self.assertEqual(text.rfc5424(made), ["one", ""])
        for wrong in (made[::-1], [head % (192, b"-", 1, b"one")], [b"<5> one"]):
            with self.assertRaises(text.FormatError):
                text.rfc5424(wrong)


class Compare(unittest.TestCase):
    """What is missing is named, what is there is not."""

    def missing(self, shown, arrived):
        return text.compare(shown, arrived)[0].missing

    def test_complete(self):
        self.assertTrue(text.compare(LINES, LINES)[0].complete())

    def test_nothing_shown_is_not_complete(self):
        self.assertFalse(text.compare([], [])[0].complete())

    def test_nothing_arrived(self):
        self.assertEqual(self.missing(LINES, []), LINES)

    def test_missing_and_extra(self):
        found, _ = text.compare(LINES, ["[    0.000000] debug", *LINES[:2], *LINES[3:]])
        self.assertEqual((found.missing, found.extra), ([LINES[2]], 1))

    def test_order_counts(self):
        self.assertTrue(self.missing(LINES, LINES[::-1]))

    def test_as_often_as_shown(self):
        self.assertEqual(self.missing(["[    1.000000] a"] * 3, ["[    1.000000] a"] * 2), ["[    1.000000] a"])

    def test_without_times(self):
        self.assertEqual(self.missing(LINES, [line.partition("] ")[2] for line in LINES]), [])

    def test_two_parts(self):
        at = text.after(LINES, "two")
        before, then = text.compare(LINES, LINES[:2] + LINES[4:], at)
        self.assertEqual((before.lines, before.missing, then.lines, then.missing), (3, [LINES[2]], 2, [LINES[3]]))
        self.assertEqual(text.after(LINES, "absent"), len(LINES))


if __name__ == "__main__":
    unittest.main()
