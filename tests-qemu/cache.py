# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache outside the tree where the lab keeps what it downloads and builds, and the steps that fill it.

A step is skipped when its stamp says that the same recipe already made the same files. Steps that do not need one
another run at the same time; one process fills the cache at a time.
"""

import concurrent.futures
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


def directory() -> Path:
    """The cache: NETDUMP_CACHE, or netdump below XDG_CACHE_HOME."""
    named = os.environ.get("NETDUMP_CACHE")
    if named:
        return Path(named).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base).resolve() / "netdump"


class Failure(Exception):
    """A step that could not be done, and what the reader can do about it."""

    def __init__(self, what: str, then: str):
        super().__init__(f"{what}\n      -> {then}")


START = time.monotonic()


def say(text: str) -> None:
    """One progress line, on stderr: stdout is for KEY=path."""
    print(f"lab [{time.monotonic() - START:4.0f} s] {text}", file=sys.stderr, flush=True)


def run(command, log: Path, then: str, **options) -> None:
    """Runs a command with its output in `log`; says where to look when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8", errors="replace") as out:
        out.write("+ " + " ".join(map(str, command)) + "\n")
        out.flush()
        done = subprocess.run(
            [str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options
        )
    if done.returncode:
        tail = log.read_text(errors="replace").splitlines()[-12:]
        raise Failure(f"{command[0]} failed ({done.returncode}); the end of {log}:\n      " + "\n      ".join(tail), then)


def sha256(path: Path) -> str:
    """The hash of one file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Step:
    """One thing in the cache: `make` produces `files` from `recipe` (text that changes when the result would)."""

    def __init__(self, name, recipe, files, make, needs=()):
        self.name, self.files, self.make, self.needs = name, [Path(f) for f in files], make, list(needs)
        self.recipe = recipe

    def stamp(self) -> Path:
        return directory() / "stamps" / f"{self.name}.json"

    def wanted(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()

    def fresh(self, verify: bool) -> bool:
        """Whether the stamp holds: same recipe, files of the recorded size (and hash, when asked to look)."""
        try:
            stamp = json.loads(self.stamp().read_text())
        except (OSError, ValueError):
            return False
        if stamp.get("recipe") != self.wanted() or set(stamp["files"]) != {str(f) for f in self.files}:
            return False
        for name, (size, digest) in stamp["files"].items():
            path = Path(name)
            if not path.exists() or (path.is_file() and path.stat().st_size != size):
                return False
            if verify and path.is_file() and sha256(path) != digest:
                say(f"{self.name}: {path} is not what was made; making it again")
                return False
        return True

    def ensure(self, verify: bool) -> None:
        """Makes what is not there, and stamps it."""
        if self.fresh(verify):
            return
        start = time.monotonic()
        say(f"{self.name}: begins")
        self.stamp().unlink(missing_ok=True)
        self.make()
        files = {}
        for path in self.files:
            if not path.exists():
                raise Failure(f"{self.name} did not leave {path}", "report this as a bug of tests-qemu/lab.py")
            files[str(path)] = [path.stat().st_size, sha256(path)] if path.is_file() else [0, ""]
        self.stamp().parent.mkdir(parents=True, exist_ok=True)
        self.stamp().write_text(json.dumps({"recipe": self.wanted(), "files": files}, indent=1))
        say(f"{self.name}: done in {time.monotonic() - start:.0f} s")


def ensure(steps, verify=False) -> None:
    """Makes every step that is not there yet, each as soon as what it needs is there."""
    futures = {}
    stop = threading.Event()
    lock_path = directory() / "lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with open(lock_path, "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another make lab is at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        with concurrent.futures.ThreadPoolExecutor(max_workers=len(steps)) as pool:

            def work(step):
                try:
                    for need in step.needs:
                        futures[need.name].result()
                    if not stop.is_set():
                        step.ensure(verify)
                except BaseException:
                    stop.set()
                    raise

            for step in steps:
                futures[step.name] = pool.submit(work, step)
        failed = [f.exception() for f in futures.values() if f.exception()]
        if failed:
            raise failed[0]


def empty(path: Path) -> Path:
    """An empty directory in the place of whatever was there."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path
