# SPDX-License-Identifier: GPL-2.0-or-later
"""What crash, drgn, gdb, makedumpfile and tshark say about a dump. None of them is ours."""

import itertools
import json
import mmap
import re
import subprocess
import tempfile
import time
from pathlib import Path

import truth
from cache import REPOSITORY

NETDUMPCTL = REPOSITORY / "build/bin/netdumpctl"


class JudgeError(Exception):
    """A judge refuses a dump, or does not see in it what must be there."""


def call(command, seconds=240, stdin=None) -> subprocess.CompletedProcess:
    """Runs a judge with a deadline."""
    try:
        return subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise JudgeError(f"{command[0]} did not end within {seconds} s") from error


def must(condition, what: str) -> None:
    """A demand of a test."""
    if not condition:
        raise JudgeError(what)


MARK = "@@@ next"


def crash(lab, vmcore: Path, *commands: str, options=(), seconds=240) -> list[str]:
    """What crash prints for each of some commands (one session: it takes long to begin)."""
    with tempfile.NamedTemporaryFile("w", suffix=".crash", dir=vmcore.parent) as script:
        script.write("".join(f"{command}\n!echo {MARK}\n" for command in commands) + "quit\n")
        script.flush()
        done = call([lab["CRASH"], "-s", *options, lab["VMLINUX"], vmcore, "-i", script.name], seconds)
    must(done.returncode == 0, f"crash ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    parts = done.stdout.split(MARK + "\n")
    must(len(parts) == len(commands) + 1, f"crash did not run all of {commands}:\n{done.stdout[-2000:]}")
    # What crash warns of when it begins comes before the first answer.
    answers = [part.strip("\n") for part in parts[: len(commands)]]
    answers[0] = "\n".join(line for line in answers[0].splitlines() if not line.startswith("WARNING:")).strip("\n")
    return answers


def options_of_2005(lab, vmcore: Path, log: str) -> list[str]:
    """What crash must be told about a kernel with KASLR when the vmcore has no VMCOREINFO: the offset is in the log, the
    physical base follows from where the kernel's banner stands in memory."""
    offset = re.search(r"Kernel Offset: (0x[0-9a-f]+)", log)
    must(offset, "the log has no Kernel Offset")
    symbols = call([lab["GDB"], "-nx", "-q", "-batch", "-ex", "info address linux_banner", lab["VMLINUX"]]).stdout
    linked = re.search(r"at address (0x[0-9a-f]+)", symbols)
    must(linked, f"gdb does not know linux_banner: {symbols}")
    banner = int(linked[1], 16) - truth.TEXT_BASE
    (segment,) = truth.segments(vmcore)
    with open(vmcore, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as image:
        at = -1
        while (at := image.find(b"Linux version ", at + 1)) >= 0:
            physical = at - segment.offset + segment.start
            if (physical - banner) % truth.PAGE == 0:
                return [f"--kaslr={offset[1]}", "-m", f"phys_base={physical - banner - int(offset[1], 16):#x}"]
    raise JudgeError("the vmcore has no kernel banner")


def check_crash(lab, vmcore: Path, cpus: int, in_stack: str = "sysrq_handle_crash", options=(), said="netdump activated") -> list[str]:
    """crash opens it, shows the panicking task's stack, every CPU's, and a log with `said`; what it printed for sys, bt and bt -a."""
    system, task, every, tasks, log = crash(lab, vmcore, "sys", "bt", "bt -a", "ps", "log", options=options)
    must(re.search(r"PANIC: \S", system), f"crash sees no panic:\n{system}")
    must(re.search(rf"CPUS: {cpus}\b", system), f"crash does not see {cpus} CPUs:\n{system}")
    must(in_stack in task, f"crash's bt has no {in_stack}:\n{task}")
    for cpu in range(cpus):
        must(re.search(rf"^PID: .* CPU: {cpu}\b", every, re.M), f"crash's bt -a has no CPU {cpu}:\n{every}")
    stacks = re.split(r"^PID: ", every, flags=re.M)[1:]
    must(all(" #1 " in stack for stack in stacks), f"crash's bt -a has an empty stack:\n{every}")
    must("swapper/0" in tasks, f"crash's ps shows no tasks:\n{tasks}")
    must(said in log, "crash's log does not have the panic")
    return [system, task, every]


def drgn(lab, vmcore: Path, modules=()) -> dict:
    """What drgn sees: see judge_drgn.py."""
    return json.loads(truth.drgn(lab, vmcore, "judge_drgn.py", modules=modules))


def check_drgn(lab, vmcore: Path, cpus: int, modules=(), in_stack: str = "sysrq_handle_crash") -> dict:
    """The panicked thread with source lines, each CPU's stack, modules, slab caches, the log; what it saw."""
    seen = drgn(lab, vmcore, modules)
    frames = seen["crashed"]["frames"]
    must(any(f["name"] == in_stack for f in frames), f"drgn's crashed thread has no {in_stack}: {frames}")
    sourced = [f for f in frames if f["source"]]
    must(len(sourced) >= len(frames) // 2, f"drgn has source lines for {len(sourced)} of {len(frames)} frames only")
    must(len(seen["cpus"]) == cpus, f"drgn sees CPUs {sorted(seen['cpus'])}, not {cpus}")
    for cpu, stack in seen["cpus"].items():
        # A CPU that ran a program has its registers there: one frame, an address below the kernel's half, and a pid.
        in_user = stack["pid"] and re.fullmatch(r"0x[0-9a-f]{1,12}", stack["frames"][0]["name"] if stack["frames"] else "")
        must(len(stack["frames"]) >= 2 or in_user, f"drgn has no stack of CPU {cpu}: {stack}")
    must("netdump" in seen["modules"], f"drgn's module list has no netdump: {seen['modules']}")
    must(seen["slab_caches"] > 50, f"drgn sees {seen['slab_caches']} slab caches")
    must(seen["slab_objects"] > 0, "drgn walks no slab objects")
    must("netdump activated" in seen["dmesg"], "drgn's dmesg does not have the panic")
    must(seen["panic"], "drgn does not find the panic message")
    return seen


def kernel_offset(vmcore: Path) -> int:
    """KASLR's offset, from VMCOREINFO."""
    with open(vmcore, "rb") as file:
        found = re.search(rb"KERNELOFFSET=([0-9a-f]+)\n", file.read(1 << 20))
    must(found, f"{vmcore} has no VMCOREINFO")
    return int(found[1], 16)


def check_gdb(lab, vmcore: Path, cpus: int) -> str:
    """gdb sees one thread for each CPU, in kernel functions where it has their symbols; what it printed."""
    symbols = f"add-symbol-file {lab['VMLINUX']} -o {kernel_offset(vmcore):#x}"
    done = call(
        [lab["GDB"], "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-ex", f"core-file {vmcore}", "-ex", symbols,
         "-ex", "info threads", "-ex", "thread apply all -ascending bt 6"],
    )  # fmt: skip
    threads = re.findall(r"^[* ] +\d+ +(?:LWP|Thread|process) .*$", done.stdout, re.M)
    must(len(threads) == cpus, f"gdb sees {len(threads)} threads, not {cpus}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    named = [line for line in threads if re.search(r"in [a-z_]\w+ ?\(|[a-z_]\w+ \(", line)]
    must(len(named) >= cpus - 1, f"gdb names no function of the stopped CPUs:\n{done.stdout[-3000:]}")
    return done.stdout


def bare(log: str) -> list[str]:
    """The lines of a log without times and callers, which programs show in different ways: before a record's second line
    makedumpfile has spaces, as many as the time is wide, and the line may have its own."""
    return [re.sub(r"^(\[ *\d+\.\d+\] (\[ *[TC]\d+\] )?)? *", "", line) for line in log.splitlines()]


def check_makedumpfile_on_kdump(lab, vmcore: Path, kdump) -> str:
    """makedumpfile reads a kdump-compressed file: its log, and all pages of it, which it writes anew; what it is in its hands."""
    with tempfile.TemporaryDirectory(dir=vmcore.parent) as directory:
        log, again = Path(directory) / "dmesg", Path(directory) / "again"
        done = call([lab["MAKEDUMPFILE"], "--dump-dmesg", vmcore, log])
        must(done.returncode == 0, f"makedumpfile --dump-dmesg failed: {done.stdout}{done.stderr}")
        must("netdump activated" in log.read_text(errors="replace"), "makedumpfile's dmesg does not have the panic")
        began = time.monotonic()
        done = call([lab["MAKEDUMPFILE"], "-l", "-d", "0", vmcore, again])
        took = time.monotonic() - began
        must(done.returncode == 0, f"makedumpfile -l failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        theirs = type(kdump)(again)
        # It leaves out again what the level in the header says, and up to 1.7.8 some tails of folios too many on 7.1 and later.
        pairs = list(zip(theirs.there, kdump.there, strict=True))
        more, fewer = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        must(not more and fewer < sum(kdump.there) // 50, f"makedumpfile sees {more} pages that are not there, and {fewer} not that are")
        must(theirs.memory == kdump.memory, "makedumpfile sees other memory in it")
        must(theirs.notes == kdump.notes and theirs.release == kdump.release, "makedumpfile sees other notes in it")
        theirs, ours = again.stat().st_size / 1e6, vmcore.stat().st_size / 1e6
        return f"makedumpfile -l -d 0, without {fewer} pages: {theirs:.1f} MB in {took:.2f} s; ours {ours:.1f} MB"


def check_makedumpfile(lab, vmcore: Path) -> str:
    """makedumpfile reads the log out of it and filters it; what it printed last."""
    with tempfile.TemporaryDirectory(dir=vmcore.parent) as directory:
        log, small = Path(directory) / "dmesg", Path(directory) / "small"
        done = call([lab["MAKEDUMPFILE"], "--dump-dmesg", vmcore, log])
        must(done.returncode == 0, f"makedumpfile --dump-dmesg failed: {done.stdout}{done.stderr}")
        theirs = log.read_text(errors="replace")
        must("netdump activated" in theirs, "makedumpfile's dmesg does not have the panic")
        ours = call([NETDUMPCTL, "dmesg", vmcore])
        must(ours.returncode == 0, f"netdumpctl dmesg failed: {ours.stderr}")
        different = [pair for pair in itertools.zip_longest(bare(ours.stdout), bare(theirs)) if pair[0] != pair[1]]
        must(not different, f"netdumpctl's dmesg is not makedumpfile's: {different[:3]}")
        whole = call([NETDUMPCTL, "verify", vmcore])
        must(whole.returncode == 0, f"netdumpctl verify: {whole.stdout}{whole.stderr}")
        done = call([lab["MAKEDUMPFILE"], "-d", "31", "-l", vmcore, small])
        must(done.returncode == 0, f"makedumpfile -d 31 failed: {done.stdout[-500:]}{done.stderr[-500:]}")
        size = small.stat().st_size
        must(0 < size < vmcore.stat().st_size, "makedumpfile -d 31 filtered nothing")
        return f"makedumpfile: dmesg {log.stat().st_size} bytes, -d 31 {size} bytes"
