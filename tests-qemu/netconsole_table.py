# SPDX-License-Identifier: GPL-2.0-or-later
"""What a netconsole is asked, valid and not: every attribute of its targets, its module parameters, and what befalls the
devices of targets. The same questions go to the stock module and to ours; see attr-table.c for the operations.
"""

from dataclasses import dataclass, field

ROOT = "/sys/kernel/config/netconsole"
TARGET = f"{ROOT}/row"
MODULE = "/sys/module/netconsole"
PEER = b"10.77.0.1"
BROADCAST = b"ff:ff:ff:ff:ff:ff\n"
ATTRIBUTES = ("enabled", "extended", "release", "dev_name", "local_port", "remote_port", "local_ip", "remote_ip", "local_mac", "remote_mac")
SYSDATA = ("cpu_nr_enabled", "taskname_enabled", "release_enabled", "msgid_enabled")
BOOLEANS = (
    b"0", b"1", b"0\n", b"1\n", b"y", b"Y", b"n", b"N", b"yes", b"no\n", b"on", b"off", b"ON", b"oFf", b"o", b"of", b"ox", b"t", b"T", b"f",
    b"true", b"false", b"2", b"-1", b"+1", b" 1", b"1 ", b"", b"\n", b"01", b"10", b"enable", b"1\0", b"\0", b"1\n1", b"\xff",
    b"1" * 4095, b"1" * 4096,
    b"1" * 5000,
)  # fmt: skip
PORTS = (
    b"0", b"1", b"6666", b"6666\n", b"65535", b"65536", b"-1", b"+7", b"-0", b"0x10", b"010", b"1 ", b" 1", b"1\n\n", b"\n1", b"", b"\n",
    b"99999999999999999999", b"1.5", b"a", b"6666a", b"66 66", b"1\0002", b"\xff", b"0" * 30 + b"7",
)  # fmt: skip
ADDRESSES = (
    b"10.0.0.1", b"10.0.0.1\n", b"10.0.0.1 ", b" 10.0.0.1", b"10.0.0", b"10.0.0.", b"10.0.0.256", b"10.0.0.1.1", b"1", b"", b"\n",
    b"0.0.0.0",
    b"255.255.255.255", b"010.0.0.1", b"10.0.0.01", b"10..0.1", b"10.0.0.-1", b"10.0.0.1/24", b"10.0.0.1\n\n", b"10.0.0.1\nx",
    b"10.0.0.1\0x",
    b"localhost", b"::", b"::\n", b"::1", b"fe80::1", b"fe80::1%eth0", b"2001:db8::1\n", b"2001:DB8::A", b"::ffff:10.0.0.1", b"::10.0.0.1",
    b"[::1]", b"1:2:3:4:5:6:7:8", b"1:2:3:4:5:6:7:8\n", b"1:2:3:4:5:6:7:8:9", b"1:2:3:4:5:6:7", b"1:2:3:4:5:6:7:", b"1:2:3:4:5:6:1.2.3.4",
    b"1::2::3",
    b":", b":::", b"12345::", b"g::1", b"2001:db8::1/64", b"2001:db8::1 ", b"2001:db8::1\n\n", b"1:2:3:4::5:6:7:8", b"::2:3:4:5:6:7:8",
    b"1::",
)  # fmt: skip
MACS = (
    b"00:11:22:33:44:55", b"00:11:22:33:44:55\n", b"aa:bb:cc:dd:ee:ff", b"AA:BB:CC:DD:EE:FF", b"00:11:22:33:44:5", b"00:11:22:33:44:",
    b"00:11:22:33:44",
    b"00-11-22-33-44-55", b"001122334455", b"00:11:22:33:44:55:66", b"00:11:22:33:44:5g", b"", b"\n", b"00:11:22:33:44:55 ",
    b" 00:11:22:33:44:55",
    b"00:11:22:33:44:55\nx", b"00:11:22:33:44:55\0x", b"00:11:22:33:44:55x", b"ff:ff:ff:ff:ff:ff", b"01:00:5e:00:00:01",
    b"00:00:00:00:00:00",
    b"0:1:2:3:4:5", b"00.11.22.33.44.55", b"00:11-22:33:44:55",
)  # fmt: skip
DEVICES = (
    b"eth0", b"eth0\n", b"lo", b"nosuch0", b"", b"\n", b"\n\n", b"fifteencharname", b"fifteencharname\n", b"sixteencharsname",
    b"sixteencharsname\n",
    b"seventeencharname", b"x" * 200, b"a b", b"a/b", b"eth0\n\n", b"eth0\nx", b"\neth0", b".", b"..", b"eth0\0x", b"eth0:1", b"\xff\xfe",
    b"%d",
)  # fmt: skip
VALUES = {
    "enabled": BOOLEANS, "extended": BOOLEANS, "release": BOOLEANS, "dev_name": DEVICES, "local_port": PORTS, "remote_port": PORTS,
    "local_ip": ADDRESSES, "remote_ip": ADDRESSES, "local_mac": MACS[:3], "remote_mac": MACS, "transmit_errors": (b"0", b"0\n", b"1"),
    **{f"userdata/{name}": BOOLEANS for name in SYSDATA},
}  # fmt: skip


@dataclass
class Row:
    """One line of the table: what is done, in a target of its own, and what it is called."""

    label: str
    operations: list = field(default_factory=list)  # (operation, path, data, …), as attr-table takes them
    more_names_allowed: bool = False  # ours may list more than upstream's names


def write(attribute: str, value: bytes) -> tuple:
    return ("write", f"{TARGET}/{attribute}", value)


def snapshot(target: str = TARGET) -> list[tuple]:
    """All that a target tells of itself."""
    return [("read", f"{target}/{name}") for name in (*ATTRIBUTES, *(f"userdata/{name}" for name in SYSDATA))]


def in_target(label: str, *operations, **options) -> Row:
    """A row in a fresh target, which is looked at afterwards."""
    begin, end = [("mkdir", TARGET)], [*snapshot(), ("rmdir", TARGET)]
    return Row(label, [*begin, *operations, *end], **options)


ENABLE = (write("remote_ip", PEER), write("enabled", b"1"))


def shell(line: str) -> tuple:
    return ("shell", "", f"({line}) >/dev/null 2>&1".encode())


def attribute_rows() -> list[Row]:
    """Every value for every attribute: in a target that is off, and some in one that is on."""
    rows = []
    for attribute, values in VALUES.items():
        rows += [in_target(f"{attribute} {value[:40]!r} ({len(value)})", write(attribute, value)) for value in dict.fromkeys(values)]
        # What is valid and what is not: which error comes first.
        some = dict.fromkeys((*values[:4], values[-1], b"nonsense", b""))
        rows += [in_target(f"enabled: {attribute} {value[:40]!r} ({len(value)})", *ENABLE, write(attribute, value)) for value in some]
        rows.append(in_target(f"two writes of {attribute}", write(attribute, values[0]), write(attribute, values[1]),
            write(attribute, b"nonsense")))
    rows.append(in_target("modes", *(("mode", f"{TARGET}/{name}") for name in (*VALUES, "userdata", "."))))
    rows.append(in_target("a target's directory", ("list", TARGET), more_names_allowed=True))
    rows.append(in_target("userdata's directory", ("list", f"{TARGET}/userdata"), more_names_allowed=True))
    rows.append(in_target("transmit_errors", ("read", f"{TARGET}/transmit_errors")))
    return rows


def enabling_rows() -> list[Row]:
    """What it takes to be enabled, in which order, on which devices."""
    on, off = write("enabled", b"1"), write("enabled", b"0")
    dev = lambda name: write("dev_name", name)  # noqa: E731
    return [
        in_target("enable as it is", on),
        in_target("enable twice", *ENABLE, on),
        in_target("disable what is off", off),
        in_target("on, off, off", *ENABLE, off, off),
        in_target("on, off, on", *ENABLE, off, on),
        in_target("release without extended", write("release", b"1"), write("extended", b"0"), *ENABLE),
        in_target("release with extended", write("release", b"1"), write("extended", b"1"), *ENABLE),
        in_target("release, then on, then extended", write("release", b"1"), *ENABLE, write("extended", b"1")),
        in_target("extended only", write("extended", b"1"), *ENABLE),
        in_target("no such device", dev(b"nosuch0"), *ENABLE),
        in_target("no device", dev(b""), *ENABLE),
        in_target("loopback", dev(b"lo"), *ENABLE),
        in_target("a device that refuses netpoll", dev(b"ncveth0"), *ENABLE),
        in_target("a device without addresses", dev(b"ncdummy1"), *ENABLE),
        in_target("a device without addresses, address given", dev(b"ncdummy1"), write("local_ip", b"192.0.2.9"), *ENABLE),
        in_target("a device that is down", dev(b"ncdown0"), write("local_ip", b"192.0.2.9"), *ENABLE, shell("ip link set ncdown0 down")),
        in_target("a device that is down, without addresses", dev(b"ncdown0"), *ENABLE, shell("ip link set ncdown0 down")),
        in_target("a slave", dev(b"ncslave0"), *ENABLE),
        in_target("its master", dev(b"ncbond0"), write("local_ip", b"192.0.2.9"), *ENABLE),
        in_target("IPv6 to a link-local address", write("remote_ip", b"fe80::1"), on),
        in_target("IPv6 to a global address that the device has none for", write("remote_ip", b"2001:db8::1"), on),
        in_target("IPv6 source given", write("local_ip", b"2001:db8::2"), write("remote_ip", b"2001:db8::1"), on),
        in_target("IPv6 source that begins with zeros", write("local_ip", b"::2"), write("remote_ip", b"2001:db8::1"), on),
        in_target("IPv4 source, IPv6 destination", write("local_ip", b"10.77.0.2"), write("remote_ip", b"2001:db8::1"), on),
        in_target("IPv6 source, IPv4 destination", write("local_ip", b"2001:db8::2"), write("remote_ip", PEER), on),
        in_target("an address that was taken stays when it is off", *ENABLE, off),
        in_target("mac while on, then off", *ENABLE, write("remote_mac", MACS[0]), off, write("remote_mac", MACS[0])),
    ]


def device_rows() -> list[Row]:
    """What becomes of a target whose device is renamed, enslaved, deleted and made again."""
    make = "ip link add ncdummy0 address 02:00:00:00:00:70 type dummy && ip link set ncdummy0 up"
    new, gone = shell(make), shell("ip link del ncdummy0")
    renamed = shell("ip link set ncdummy0 down && ip link set ncdummy0 name ncother0")
    named_back = shell("ip link set ncother0 name ncdummy0")
    enslaved = shell("ip link set ncdummy0 down; ip link set ncdummy0 master ncbond0")
    released = shell("ip link set ncdummy0 nomaster")
    settled = shell("sleep 1")
    on, off = write("enabled", b"1"), write("enabled", b"0")
    enabled = lambda value: ("wait", f"{TARGET}/enabled", value, "3000")  # noqa: E731

    def row(label: str, *operations) -> Row:
        """A target on a dummy device, switched on; both are as they were afterwards."""
        begin = [("mkdir", TARGET), write("dev_name", b"ncdummy0"), write("remote_ip", b"192.0.2.1"), write("local_ip", b"192.0.2.2"), on]
        end = [*snapshot(), ("rmdir", TARGET), shell("ip link del ncother0; ip link del nctemp0; ip link del ncdummy0"), new]
        return Row(label, [*begin, *operations, *end])

    return [
        row("renamed", renamed, *snapshot(), named_back),
        row("renamed while off", off, renamed),
        row("renamed, off, on", renamed, off, on),
        row("down and up", shell("ip link set ncdummy0 down"), *snapshot(), shell("ip link set ncdummy0 up")),
        row("deleted", gone, enabled(b"0\n"), settled),
        row("deleted and made again", gone, enabled(b"0\n"), new, enabled(b"1\n")),
        row("deleted, another renamed to it", gone, shell("ip link add nctemp0 address 02:00:00:00:00:71 type dummy"), settled, *snapshot(),
            shell("ip link set nctemp0 name ncdummy0"), enabled(b"1\n")),
        row("renamed, deleted, another of that name", renamed, shell("ip link del ncother0"), new, settled),
        row("renamed, deleted, another of the new name", renamed, shell("ip link del ncother0"),
            shell("ip link add ncother0 address 02:00:00:00:00:72 type dummy"), enabled(b"1\n")),
        row("deleted, switched off, made again", gone, off, new, settled),
        row("deleted, switched on, made again", gone, on, new, settled),
        row("deleted, nonsense for enabled, made again", gone, write("enabled", b"x"), new, enabled(b"1\n")),
        row("deleted, changed, made again", gone, write("remote_port", b"7777"), new, enabled(b"1\n")),
        row("deleted, given another device", gone, write("dev_name", b"ncdummy1"), new, settled),
        row("deleted, extended, made again", gone, write("extended", b"1"), new, enabled(b"1\n")),
        row("deleted, made impossible, made again", gone, write("local_ip", b"0.0.0.0"), new, settled),
        row("deleted twice", gone, new, enabled(b"1\n"), gone, enabled(b"0\n"), new, enabled(b"1\n")),
        row("enslaved", enslaved, settled, *snapshot(), released, settled),
        row("enslaved, switched on, released, switched on", enslaved, on, released, on),
        row("enslaved and deleted", enslaved, gone, new, settled),
        row("taken away while its device is gone", gone),
        row("hardware address changes",
            shell("ip link set ncdummy0 down; ip link set ncdummy0 address 02:00:00:00:00:77; ip link set ncdummy0 up")),
        in_target("master of a target gets a slave", write("dev_name", b"ncbond0"), write("local_ip", b"192.0.2.9"), *ENABLE, enslaved,
                  *(op for op in snapshot() if "local_mac" not in op[1]), released, shell("ip link del ncdummy0"), new, off),
        in_target("address of the device changes", *ENABLE,
            shell("ip addr add 10.77.0.9/24 dev eth0 && ip addr del 10.77.0.9/24 dev eth0")),
    ]  # fmt: skip


def directory_rows() -> list[Row]:
    """Names and what else can be done to directories."""
    rows = []
    names = ["a", "x" * 19, "x" * 20, "x" * 39, "x" * 255, "x" * 256, "with space", "cmdline", "cmdline0", "cmdline1", "cmdline99",
        "userdata",
             ".hidden", "tab\\tname", "netconsole", "Ünïcödé", "a=b", "%s", "0"]  # fmt: skip
    for name in names:
        path = f"{ROOT}/{name}"
        rows.append(Row(f"target {name[:30]} ({len(name)})", [("mkdir", path), ("mkdir", path), *snapshot(path), ("rmdir", path),
            ("rmdir", path)]))
    userdata = f"{TARGET}/userdata"
    key = f"{userdata}/key"
    rows += [
        in_target("directories where none can be", ("mkdir", f"{TARGET}/x"), ("mkdir", key), ("mkdir", f"{key}/x"),
            ("mkdir", f"{userdata}/value"),
                  ("rmdir", f"{userdata}/value"), ("rmdir", key)),
        in_target("removing what cannot be", ("rmdir", userdata), ("rmdir", f"{TARGET}/enabled"), ("unlink", f"{TARGET}/enabled"),
            ("rmdir", f"{userdata}/no")),
        in_target("a target that has keys", ("mkdir", key), ("rmdir", TARGET), ("rmdir", key)),
        in_target("files and links", ("create", f"{TARGET}/x"), ("create", f"{userdata}/x"), ("create", f"{ROOT}/x"),
            ("symlink", f"{TARGET}/x", b"/"),
                  ("symlink", f"{TARGET}/x", userdata.encode()), ("symlink", f"{ROOT}/x", TARGET.encode())),
        in_target("renaming", ("rename", TARGET, f"{ROOT}/other".encode()), ("mkdir", key), ("rename", key, f"{userdata}/other".encode()),
            ("rmdir", key)),
        in_target("rmdir while on", *ENABLE, ("rmdir", TARGET), ("mkdir", TARGET)),
        in_target("unload while a target is there", ("unload", "netconsole")),
        Row("the root", [("list", ROOT), ("mode", ROOT), ("rmdir", ROOT), ("create", f"{ROOT}/x")]),
    ]  # fmt: skip
    return rows


def userdata_rows() -> list[Row]:
    """Keys and values of userdata, and how many."""
    userdata = f"{TARGET}/userdata"
    rows = []
    for name in ("k" * 52, "k" * 53, "k" * 54, "k" * 255, "k" * 256, "a b", "a=b", "cpu_nr_enabled", "ü", "cpu", "%d"):
        key = f"{userdata}/{name}"
        steps = [("mkdir", key), ("mkdir", key), ("write", f"{key}/value", b"v\n"), ("read", f"{key}/value"), ("rmdir", key),
            ("rmdir", key)]
        rows.append(in_target(f"key {name[:30]} ({len(name)})", *steps))
    values = (b"", b"\n", b"v", b"v\n", b"v\n\n", b"\nv", b"a\nb", b"a\nb\n", b"a\0b", b"\0", b" v ", b"v=w", b"\xff", b"%s", b"v" * 198,
        b"v" * 198 + b"\n",
              b"v" * 199, b"v" * 199 + b"\n", b"v" * 200, b"v" * 255, b"v" * 4096, b"v" * 5000)  # fmt: skip
    key = f"{userdata}/key"
    for value in values:
        steps = [("mkdir", key), ("write", f"{key}/value", b"before"), ("write", f"{key}/value", value), ("read", f"{key}/value"),
            ("rmdir", key)]
        rows.append(in_target(f"value {value[:20]!r}…{value[-1:]!r} ({len(value)})", *steps))
    rows.append(in_target("a value while on", *ENABLE, ("mkdir", key), ("write", f"{key}/value", b"v"), ("read", f"{key}/value"),
        ("rmdir", key)))
    rows.append(in_target("what a key has", ("mkdir", key), ("list", key), ("mode", f"{key}/value"), ("read", f"{key}/value"),
        ("rmdir", key)))
    keys = [f"{userdata}/k{number}" for number in range(258)]
    full = [("mkdir", path) for path in keys]
    room = [("rmdir", keys[0]), ("mkdir", keys[257]), ("mkdir", keys[0])]
    rows.append(in_target("more keys than there is room for", *full, *room, *[("rmdir", path) for path in keys]))
    long_values = [op for path in keys[:40] for op in (("mkdir", path), ("write", f"{path}/value", b"v" * 199))]
    rows.append(in_target("many long values while on", *ENABLE, *long_values, shell("echo many >/dev/kmsg"),
        *[("rmdir", path) for path in keys[:40]]))
    return rows


# netconsole= as a word on the command line of insmod.
STRINGS = (
    "", ";", ";;", "@", "@/", "@/,", "@/,@", "@/,@/", "@/,@10.77.0.1/", "@/eth0,@10.77.0.1/", "/eth0,@10.77.0.1/", "@/eth0", "@/eth0,",
    "@/eth0,@", "foo",
    "4444@10.77.0.2/eth0,9353@10.77.0.1/12:34:56:78:9a:bc", "+4444@10.77.0.2/eth0,9353@10.77.0.1/12:34:56:78:9a:bc",
    "+@/eth0,@10.77.0.1/", "+", "r", "+r",
    "r@/eth0,@10.77.0.1/", "+r@/eth0,@10.77.0.1/", "++@/eth0,@10.77.0.1/", "+rr@/eth0,@10.77.0.1/", "r+@/eth0,@10.77.0.1/",
    "@10.77.0.2/eth0,@10.77.0.1", "@10.77.0.2/eth0,10.77.0.1/", "@10.77.0.2,@10.77.0.1/", "0@/eth0,0@10.77.0.1/",
    "65535@/eth0,65535@10.77.0.1/",
    "65536@/eth0,@10.77.0.1/", "-1@/eth0,@10.77.0.1/", "+1@/eth0,@10.77.0.1/", "0x10@/eth0,@10.77.0.1/", "1a@/eth0,@10.77.0.1/",
    "@/eth0,65536@10.77.0.1/",
    "@/eth0,x@10.77.0.1/", "@/eth0,1x@10.77.0.1/", "@/eth0,@10.77.0.300/", "@/eth0,@10.77.0/", "@/eth0,@/", "@/eth0,@host/",
    "@10.77.0.300/eth0,@10.77.0.1/",
    "@host/eth0,@10.77.0.1/", "@/eth0,@10.77.0.1/zz", "@/eth0,@10.77.0.1/00:11:22:33:44:55x", "@/eth0,@10.77.0.1/00:11:22:33:44",
    "@/eth0,@10.77.0.1/00-11-22-33-44-55",
    "@/eth0,@10.77.0.1/ff:ff:ff:ff:ff:ff", "@/eth0,@10.77.0.1//", "@/eth0,@10.77.0.1/00:11:22:33:44:55/", "@/eth0/,@10.77.0.1/",
    "@@/eth0,@10.77.0.1/",
    "@/eth0,@@10.77.0.1/", "@/eth0,,@10.77.0.1/",
    "@10.77.0.2/eth0,@2001:db8::1/", "@2001:db8::2/eth0,@10.77.0.1/", "@2001:db8::2/eth0,@2001:db8::1/", "@/eth0,@2001:db8::1/",
    "@/eth0,@fe80::1/",
    "@fe80::2/eth0,@fe80::1/", "@::/eth0,@fe80::1/", "@0.0.0.0/eth0,@10.77.0.1/", "@[2001:db8::2]/eth0,@[2001:db8::1]/",
    "@/eth0,@2001:db8::1%eth0/",
    "@/nosuch0,@10.77.0.1/", "@/,@10.77.0.1/00:11:22:33:44:55", "@/ncslave0,@10.77.0.1/", "@/ncveth0,@10.77.0.1/", "@/ncdummy1,@10.77.0.1/",
    "@192.0.2.9/ncdummy1,@10.77.0.1/", "@192.0.2.9/ncbond0,@10.77.0.1/", "@/lo,@127.0.0.1/",
    "@/52:54:00:4e:44:02,@10.77.0.1/", "@/52:54:00:4E:44:02,@10.77.0.1/", "@/00:00:00:00:00:01,@10.77.0.1/",
    "@/00:00:00:00:00:00,@10.77.0.1/",
    "@/ff:ff:ff:ff:ff:ff,@10.77.0.1/", "@/52:54:00:4e:44,@10.77.0.1/", "@/52:54:00:4e:44:02:03,@10.77.0.1/",
    "@/52:54:00:4e:44:0g,@10.77.0.1/", "@/a:b,@10.77.0.1/",
    "@/fifteencharname,@10.77.0.1/", "@/sixteencharsname,@10.77.0.1/", "@/" + "x" * 100 + ",@10.77.0.1/", "@/eth0,@10.77.0.1/" + "x" * 250,
    "@/eth0,@10.77.0.1/;@/eth0,@10.77.0.3/", "@/eth0,@10.77.0.1/;", ";@/eth0,@10.77.0.1/", "@/eth0,@10.77.0.1/;bad;+@/eth0,@10.77.0.3/",
    "bad;bad;@/eth0,@10.77.0.1/",
    "@/nosuch0,@10.77.0.1/;@/eth0,@10.77.0.3/", "@/nosuch0,@10.77.0.1/;bad;@/eth0,@10.77.0.3/",
    "r@/eth0,@10.77.0.1/;+r@/eth0,@10.77.0.3/;+@/eth0,@10.77.0.4/",
    "@/eth0,@10.77.0.1/ ;@/eth0,@10.77.0.3/", "@/eth0,@10.77.0.1/,@/eth0,@10.77.0.3/", ";".join(["@/eth0,@10.77.0.1/"] * 4),
    ";".join(["@/eth0,@10.77.0.1/"] * 20),
    "x" * 254, "x" * 255, "x" * 256, "x" * 1000,
)  # fmt: skip
# More words on it. What is quoted may have blanks.
PARAMETERS = (
    "", "netconsole", '"netconsole= @/eth0,@10.77.0.1/"', '"netconsole=@/eth0, 6666@10.77.0.1/"',
    '"netconsole=@/eth0,\t6666@10.77.0.1/"',
    '"netconsole=@/eth0,@10.77.0.1/ "', '"netconsole=4444 @/eth0,@10.77.0.1/"', '"netconsole=@/eth0 ,@10.77.0.1/"',
    '"netconsole=@10.77.0.2 /eth0,@10.77.0.1/"',
    '"netconsole=@/eth0,@10.77.0.1/ 00:11:22:33:44:55"', '"netconsole=+ @/eth0,@10.77.0.1/"',
    "netconsole=@/eth0,@10.77.0.1/ netconsole=@/eth0,@10.77.0.3/",
    "netconsole=@/eth0,@10.77.0.1/ oops_only=1", "oops_only", *(f"oops_only={value}" for value in (
        "", "0", "1", "y", "Y", "n", "N", "yes", "no", "on", "off", "of", "o", "2", "-1", "true", "False", "t", "f", "junk", "1x", "01")),
    "oops_only=1 oops_only=0", "oops_only=junk netconsole=@/eth0,@10.77.0.1/", "nosuchparameter=1",
    "netconsole=@/eth0,@10.77.0.1/ nosuchparameter",
    'dyndbg=+p',
)  # fmt: skip


def load_rows() -> list[Row]:
    """Module parameters: each row loads and unloads the module."""
    rows = []
    for words in (*(f"netconsole={string}" for string in STRINGS), *PARAMETERS):
        steps = [("load", "@module@", words.encode()), ("read", f"{MODULE}/parameters/oops_only"), ("list", ROOT)]
        for number in range(5):
            path = f"{ROOT}/cmdline{number}"
            steps += [("mkdir", path), *snapshot(path)]
        # They are gone for good once they are removed, and hold the module as long as they are there.
        steps += [("rmdir", f"{ROOT}/cmdline{number}") for number in range(5)]
        rows.append(Row(f"{words[:100]} ({len(words)})", [*steps, ("unload", "netconsole")]))
    # A target of the command line that configfs never saw goes with the module.
    rows.append(Row("unseen targets", [("load", "@module@", b"netconsole=@/eth0,@10.77.0.1/;+@/eth0,@10.77.0.3/"),
        ("unload", "netconsole")]))
    rows.append(Row("switched off and on", [
        ("load", "@module@", b"netconsole=+@/eth0,@10.77.0.1/"), ("mkdir", f"{ROOT}/cmdline0"), ("write", f"{ROOT}/cmdline0/enabled", b"0"),
        ("write", f"{ROOT}/cmdline0/remote_port", b"7777"), ("write", f"{ROOT}/cmdline0/enabled", b"1"), *snapshot(f"{ROOT}/cmdline0"),
        ("rmdir", f"{ROOT}/cmdline0"), ("unload", "netconsole")]))  # fmt: skip
    rows.append(Row("by hardware address, gone and back", [
        shell("ip link del ncdummy0; ip link add ncdummy0 address 02:00:00:00:00:78 type dummy && ip link set ncdummy0 up"),
        ("load", "@module@", b"netconsole=@192.0.2.9/02:00:00:00:00:78,@192.0.2.1/"), ("mkdir", f"{ROOT}/cmdline0"),
        *snapshot(f"{ROOT}/cmdline0"),
        shell("ip link del ncdummy0"), ("wait", f"{ROOT}/cmdline0/enabled", b"0\n", "3000"), *snapshot(f"{ROOT}/cmdline0"),
        shell("ip link add ncdummy0 address 02:00:00:00:00:78 type dummy && ip link set ncdummy0 up"),
        ("wait", f"{ROOT}/cmdline0/enabled", b"1\n", "3000"), *snapshot(f"{ROOT}/cmdline0"), ("rmdir", f"{ROOT}/cmdline0"),
        ("unload", "netconsole")]))  # fmt: skip
    return rows


def parameter_rows() -> list[Row]:
    """Parameters while the module is loaded."""
    path = f"{MODULE}/parameters/oops_only"
    rows = [Row(f"oops_only at run time {value[:20]!r} ({len(value)})", [("write", path, value), ("read", path),
        ("write", path, b"0")]) for value in BOOLEANS]
    rows.append(Row("modes of parameters", [("mode", path), ("mode", f"{MODULE}/parameters/netconsole"),
        ("list", f"{MODULE}/parameters")], more_names_allowed=True))
    return rows


def rows_with_module() -> list[Row]:
    """What is asked of one module that stays loaded."""
    return [*attribute_rows(), *enabling_rows(), *device_rows(), *directory_rows(), *userdata_rows(), *parameter_rows()]


def as_input(rows: list[Row], module: str) -> str:
    """The rows as attr-table reads them."""
    lines = []
    for row in rows:
        for operation, path, *rest in row.operations:
            data, *more = rest or [b""]
            lines.append("\t".join([operation, path.replace("@module@", module), data.hex(), *more]))
    return "".join(line + "\n" for line in lines)


def readable(answer: str) -> str:
    """An answer as a reader likes it: what was read is in hexadecimal."""
    word, _, rest = answer.partition(" ")
    try:
        return f"{word} {bytes.fromhex(rest)!r}" if word == "ok" and len(rest) % 2 == 0 and rest else answer
    except ValueError:
        return answer


def differences(row: Row, stock: list[str], ours: list[str], next_hops=()) -> list[str]:
    """Where the answers to a row differ.

    The stock module refuses an address with something behind it, and keeps its beginning all the same; ours keeps what
    was there. Where no remote_mac was given, the stock module sends to everybody and ours to one of `next_hops`. These are
    no differences that count.
    """
    given = any(BROADCAST.strip() in data for _, _, *rest in row.operations for data in rest[:1])
    broadcast, resolved = f"ok {BROADCAST.hex()}", set() if given else {f"ok {mac.hex()}" for mac in next_hops}
    found, refused = [], set()
    for (operation, path, *rest), a, b in zip(row.operations, stock, ours, strict=True):
        if operation == "write" and path.endswith("_ip") and a == b == "EINVAL":
            refused.add(path)
        if operation == "read" and path in refused and a.startswith("ok") and b.startswith("ok"):
            continue
        if operation == "read" and path.endswith("/remote_mac") and a == broadcast and b in resolved:
            continue
        if operation == "list" and row.more_names_allowed and set(a.split()) <= set(b.split()):
            continue
        if a != b:
            data = rest[0][:60] if rest else ""
            found.append(f"{operation} {path} {data or ''}: stock {readable(a)}, ours {readable(b)}")
    return found
