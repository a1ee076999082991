# SPDX-License-Identifier: GPL-2.0-or-later
"""Our netconsole.ko in the place of the stock one: loaded beside it, after it, by way of depmod, for users of configfs."""

import re
import subprocess

import console_run
import console_text
import lab as lab_module
import test_modules
from cases import Context, add
from console_receiver import Receiver
from guest import HOST_ADDRESS, Guest, Machine
from judges import must

PORT = console_run.PORTS["basic"]
TARGET = "/sys/kernel/config/netconsole/mine"
# What somebody's script does who sets up netconsole by configfs: no word of it may be refused by either module.
SETUP = (
    f"mkdir {TARGET}", f"echo 1 >{TARGET}/extended", f"echo 1 >{TARGET}/release", f"echo eth0 >{TARGET}/dev_name",
    f"echo {HOST_ADDRESS} >{TARGET}/remote_ip", f"echo {PORT} >{TARGET}/remote_port", f"echo 6665 >{TARGET}/local_port",
    f"echo ff:ff:ff:ff:ff:ff >{TARGET}/remote_mac", f"mkdir {TARGET}/userdata/rack", f"echo 17 >{TARGET}/userdata/rack/value",
    f"echo 1 >{TARGET}/userdata/cpu_nr_enabled", f"echo 1 >{TARGET}/enabled",
)  # fmt: skip
TEARDOWN = (f"echo 0 >{TARGET}/enabled", f"rmdir {TARGET}/userdata/rack", f"rmdir {TARGET}")
# What the same script and whoever reads the files see: names, kinds, permissions, contents.
SHOW = f"cd {TARGET} && find . | sort | while read -r f; do stat -c '%A %n' $f; [ -r $f ] && [ -f $f ] && cat $f; done; cd /"


def both(context: Context, modules=("configfs",)) -> Machine:
    """A machine with both modules as files."""
    found = context.lab()
    extra = {"/stock.ko": test_modules.stock(found, "netconsole"), "/ours.ko": test_modules.ours(found, "netconsole")}
    return Machine(memory_mib=256, modules=modules, extra=extra)


def build_id(lab, which: str) -> str:
    """The build id of a module: Debian's have no srcversion."""
    head = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"
    _, found, rest = console_run.module_file(lab, which).read_bytes().partition(head)
    must(found, f"the {which} netconsole.ko has no build id")
    return rest[:20].hex()


def must_be_loaded(guest: Guest, lab, which: str) -> None:
    """The module that is loaded is this one and not the other."""
    loaded = guest.run("od -An -v -tx1 /sys/module/netconsole/notes/.note.gnu.build-id").replace(" ", "").replace("\n", "")[-40:]
    must(loaded == build_id(lab, which), f"loaded is {loaded}, {which} is {build_id(lab, which)}")


def must_arrive(guest: Guest, receiver: Receiver, text: str) -> None:
    """A line of the log goes out."""
    console_run.mark(guest, text)
    must(receiver.wait(PORT, text.encode(), 60), f"'{text}' did not arrive")


def insmod_is_refused(guest: Guest, path: str) -> str:
    """insmod of a module whose name is taken: refused, and the words say why."""
    said = guest.run(f"insmod {path} 2>&1", check=False)
    must("File exists" in said, f"insmod {path} beside a module of that name says: {said!r}")
    return said.strip()


def loaded_already(context: Context) -> list[str]:
    """The stock module is loaded, as an initramfs may do it, and has a target: ours is refused, the stock one goes on;
    then it goes, ours comes with the very same words, and back."""
    found = context.lab()
    machine = both(context, modules=("configfs", "netconsole"))
    words = f"'netconsole=@/eth0,{PORT}@{HOST_ADDRESS}/'"
    with Receiver([PORT]) as receiver, Guest(found, machine, context.directory) as guest:
        guest.wait_ready()
        must_be_loaded(guest, found, "stock")
        refusal = insmod_is_refused(guest, "/ours.ko")
        for which, other in (("stock", "ours"), ("ours", "stock"), ("stock", "ours")):
            guest.run(f"rmmod netconsole && insmod /{which}.ko {words}")
            must_be_loaded(guest, found, which)
            must_arrive(guest, receiver, f"through {which}")
            insmod_is_refused(guest, f"/{other}.ko")
            must_arrive(guest, receiver, f"still through {which}")
        must(not re.search(r"WARNING:|BUG:|Oops", guest.console()), "the kernel complains")
    return [refusal, "stock, ours, stock: each with the same parameters"]


def users_of_configfs(context: Context) -> list[str]:
    """A script for configfs: while its target is there the module stays; the same script does the same with ours."""
    found, shown = context.lab(), {}
    with Receiver([PORT]) as receiver, Guest(found, both(context), context.directory) as guest:
        guest.wait_ready()
        # The target says on which CPU a line was printed.
        guest.run("mount -t configfs none /sys/kernel/config; taskset -p 1 $$")
        for which in ("stock", "ours", "stock"):
            guest.run(f"insmod /{which}.ko")
            must_be_loaded(guest, found, which)
            for word in SETUP:
                guest.run(word)
            before = shown.setdefault(which, guest.run(SHOW))
            must(before == guest.run(SHOW), f"{which} shows its target in two ways")
            must_arrive(guest, receiver, f"configfs through {which}")
            said = guest.run("rmmod netconsole 2>&1", check=False)
            must("Resource temporarily unavailable" in said, f"rmmod of {which} with a target of configfs says: {said!r}")
            must_arrive(guest, receiver, f"still there: {which}")
            for word in TEARDOWN:
                guest.run(word)
            guest.run("rmmod netconsole")
        records = [data.decode() for data in receiver.datagrams(PORT) if b"configfs through" in data]
    stock, ours = (text.splitlines() for text in (shown["stock"], shown["ours"]))
    same, _ = console_text.compare(stock, ours)
    must(same.complete(), f"what the stock module shows of a target and ours does not: {same.text()}")
    # Sequence number and time differ, nothing else.
    plain = [re.sub(r",\d+,\d+,(?=[-c+];|-,)", ",N,T,", record.replace(" through ours", " through stock")) for record in records]
    must(len(plain) == 3 and plain[0] == plain[1] == plain[2], f"the same target sends differently: {records}")
    more = [line for line in ours if line not in stock]
    return [f"{len(stock)} lines of a target's files are the same with both; more with ours: {more}"]


def depmod(context: Context) -> list[str]:
    """modprobe, and so whatever builds an initramfs, takes ours from updates/, and the stock one when it is gone."""
    found = context.lab()
    root = context.directory / "root"
    home = root / "lib/modules" / found["KVER"]
    stock = home / "kernel/drivers/net/netconsole.ko"
    ours = home / "updates/netconsole.ko"
    configfs = home / "kernel/fs/configfs/configfs.ko"
    for path, source in ((stock, test_modules.stock(found, "netconsole")), (configfs, test_modules.stock(found, "configfs")),
                         (ours, test_modules.ours(found, "netconsole"))):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
    for name in ("modules.order", "modules.builtin"):
        (home / name).write_text("")

    def modprobe() -> list[str]:
        for command in (["depmod", "-b", root, found["KVER"]], ["modprobe", "-d", root, "-S", found["KVER"], "--show-depends", "netconsole"]):
            done = subprocess.run(lab_module.in_root("build", *command), capture_output=True, text=True, check=False)
            must(done.returncode == 0, f"{command[0]}: {done.stderr}")
        return [line.split()[1] for line in done.stdout.splitlines()]

    first = modprobe()
    must(first == [str(configfs), str(ours)], f"with updates/netconsole.ko modprobe loads {first}")
    ours.unlink()
    second = modprobe()
    must(second == [str(configfs), str(stock)], f"without it modprobe loads {second}")
    return ["modprobe takes updates/netconsole.ko, and the stock module when that is gone"]


add("replace-loaded", loaded_already, tiers=("test", "full"))
add("replace-configfs", users_of_configfs, tiers=("test", "full"))
add("replace-depmod", depmod, tiers=("test", "full"))
