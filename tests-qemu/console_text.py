# SPDX-License-Identifier: GPL-2.0-or-later
"""The formats of console text on the network, read into lines as the serial console shows them, and compared with it.

Basic text is what a console prints. Extended text is that of /dev/kmsg (Documentation/ABI/testing/dev-kmsg), with
fragments (Documentation/networking/netconsole.rst). netlog is REPLY_LOG of docs/protocol.md; syslog a datagram a line.
"""

import difflib
import re
import struct
from dataclasses import dataclass, field

STAMPED = re.compile(r"\[ *\d+\.\d{6}\] ")
LOG_REPLY = 2  # docs/protocol.md, "Replies"


class FormatError(Exception):
    """A datagram is not in the format of its port."""


def text_lines(text: str) -> list[str]:
    """Lines without the blanks at their ends, which a serial console does not keep apart."""
    return [line.rstrip() for line in text.replace("\r", "").split("\n")]


# What a console says that takes a record up again in whose middle another CPU was stopped.
REPLAY = "** replaying previous printk message **"


def serial(text: str) -> list[str]:
    """The kernel's lines on a serial console; what user space says there is left out, and so is what was begun and then
    said once more from its beginning."""
    lines, out = text_lines(text), []
    for line, follow in zip(lines, [*lines[1:], ""]):
        if line.endswith(REPLAY):
            if out and follow.startswith(out[-1]):
                out.pop()
            elif follow in out:
                del out[len(out) - 1 - out[::-1].index(follow) :]
        elif STAMPED.match(line + " "):
            out.append(line)
    return out


def basic(datagrams: list[bytes]) -> list[str]:
    """Lines of the basic format: a line may be cut anywhere."""
    return serial(b"".join(datagrams).decode(errors="replace"))


@dataclass
class Record:
    """One record of the extended format, as far as it has arrived."""

    micros: int
    level: int
    total: int = -1
    pieces: dict[int, bytes] = field(default_factory=dict)

    def text(self) -> bytes:
        """The whole body; breaks off where a fragment is missing."""
        out = b""
        for offset in sorted(self.pieces):
            if offset != len(out):
                break
            out += self.pieces[offset]
        return out

    def whole(self) -> bool:
        """Whether every fragment is there."""
        return self.total < 0 or len(self.text()) == self.total


def extended_records(datagrams: list[bytes]) -> dict[int, Record]:
    """Records by sequence number, in the order in which they came."""
    records: dict[int, Record] = {}
    for datagram in datagrams:
        head, separator, body = datagram.partition(b";")
        fields = head.decode(errors="replace").split(",")
        if fields and not fields[0].isdigit():
            fields = fields[1:]  # the kernel's release in front
        if not separator or len(fields) < 4 or not all(word.isdigit() for word in fields[:3]):
            raise FormatError(f"not in the extended format: {datagram[:80]!r}")
        level, sequence, micros = (int(word) for word in fields[:3])
        record = records.setdefault(sequence, Record(micros, level))
        offset = 0
        for word in fields[4:]:
            if word.startswith("ncfrag="):
                at, _, total = word[7:].partition("/")
                offset, record.total = int(at), int(total)
        record.pieces[offset] = body
    return records


def unescape(text: str) -> str:
    r"""Undoes the \xHH of the extended format."""
    raw = re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), text)
    return raw.encode("latin-1", errors="replace").decode(errors="replace")


def extended(datagrams: list[bytes]) -> list[str]:
    """Lines of the extended format as the serial console would have them; dictionary lines are left out."""
    out = []
    for sequence, record in extended_records(datagrams).items():
        stamp = f"[{record.micros // 1000000:5d}.{record.micros % 1000000:06d}] "
        if not record.whole():
            out.append(f"{stamp}<record {sequence}: fragments missing>")
            continue
        message = record.text().decode("latin-1").partition("\n")[0]
        out += [(stamp + line).rstrip() for line in unescape(message).split("\n")]
    return out


def netlog(datagrams: list[bytes]) -> list[str]:
    """Lines of the netlog stream; the offsets must be those of a stream that starts at its first datagram."""
    text, expected = b"", None
    for datagram in datagrams:
        if len(datagram) < 13:
            raise FormatError(f"netlog: {len(datagram)} bytes")
        version, number, code, offset = struct.unpack_from(">BIII", datagram)
        if (version, number, code) != (4, 0, LOG_REPLY):
            raise FormatError(f"netlog: version {version}, nr {number}, code {code}")
        if expected is not None and offset != expected:
            raise FormatError(f"netlog: text at offset {offset}, {expected} was to come")
        expected = (offset + len(datagram) - 13) & 0xFFFFFFFF
        text += datagram[13:]
    return serial(text.decode(errors="replace"))


def syslog(datagrams: list[bytes]) -> list[str]:
    """Lines of the original's syslog form, `<5> line`: one datagram each."""
    out = []
    for datagram in datagrams:
        found = re.match(rb"<(\d+)> ?(.*)", datagram, re.S)
        if not found or int(found[1]) > 191:
            raise FormatError(f"not in the form of syslog: {datagram[:80]!r}")
        out += text_lines(found[2].decode(errors="replace").rstrip("\n"))
    return out


RFC5424 = re.compile(
    rb"<(\d{1,3})>1 (-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z) ([!-~]{1,255}) kernel - - "
    rb"\[meta sequenceId=\"(\d+)\"\](?: (.*))?", re.S
)  # fmt: skip


def rfc5424(datagrams: list[bytes]) -> list[str]:
    """Lines of RFC 5424, one datagram each, whose sequenceId must count them."""
    out, expected = [], None
    for datagram in datagrams:
        found = RFC5424.fullmatch(datagram)
        if not found or int(found[1]) > 191:
            raise FormatError(f"not in the form of RFC 5424: {datagram[:120]!r}")
        number = int(found[4])
        if expected not in (None, number):
            raise FormatError(f"sequenceId {number}, {expected} was to come")
        expected = number + 1
        out.append(unescape((found[5] or b"").decode("latin-1")).rstrip())
    return out


FORMATS = {"basic": basic, "extended": extended, "netlog": netlog, "syslog": syslog, "rfc5424": rfc5424}


@dataclass
class Comparison:
    """What of the serial console's lines has arrived."""

    lines: int
    missing: list[str]
    extra: int = 0

    def complete(self) -> bool:
        """Whether every line is there."""
        return self.lines > 0 and not self.missing

    def text(self, most: int = 12) -> str:
        """One line for a report, and the first lines that are missing."""
        out = f"{self.lines - len(self.missing)} of {self.lines} lines"
        return out + "".join(f"\n    missing: {line}" for line in self.missing[:most])


def compare(shown: list[str], arrived: list[str], at: int | None = None) -> tuple[Comparison, Comparison]:
    """Holds what arrived against what the serial console showed: each line, in its order, as often as there. Two answers:
    for the first `at` of the shown lines, and for the others.

    A format that sends no time of its own is compared without times.
    """
    at = len(shown) if at is None else at
    plain = shown
    if arrived and not any(STAMPED.match(line + " ") for line in arrived):
        plain = [STAMPED.sub("", line + " ", count=1).rstrip() for line in shown]
    parts = Comparison(at, []), Comparison(len(shown) - at, [])
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, plain, arrived, autojunk=False).get_opcodes():
        if tag in ("delete", "replace"):
            for i in range(i1, i2):
                parts[i >= at].missing.append(shown[i])
        if tag in ("insert", "replace"):
            parts[i1 >= at].extra += j2 - j1
    return parts


def after(lines: list[str], marker: str) -> int:
    """How many lines there are up to and with the one that ends with the marker; all, if there is none."""
    return next((at + 1 for at, line in enumerate(lines) if line.endswith(marker)), len(lines))
