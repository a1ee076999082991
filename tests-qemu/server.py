# SPDX-License-Identifier: GPL-2.0-or-later
"""The netdump-server under test: started over a directory of its own, watched, and ended."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from cache import REPOSITORY

BINARY = REPOSITORY / "build/bin/netdump-server"
MAGIC1, MAGIC2 = 0x1BADCAFE, 0x5EEDF00D


class ServerError(Exception):
    """The server did not do what it should, with the end of its log."""


class Server:
    """A running server. Use as a context manager."""

    def __init__(self, directory: Path, clients=(), binary: Path = BINARY, **settings):
        self.directory, self.binary = directory, binary
        self.crash = directory / "crash"
        self.log_path = directory / "server.log"
        self.settings = {"dumps_per_hour": 0, "space_check": 0, **settings}
        self.process: subprocess.Popen | None = None
        (self.crash / "magic").mkdir(parents=True, exist_ok=True, mode=0o700)
        self.crash.chmod(0o700)
        for client in clients:
            path = self.crash / "magic" / client
            path.write_text(f"{MAGIC2:08x}{MAGIC1:08x}\n")
            path.chmod(0o600)
        self.before: set[Path] = set()
        self.before = set(self.directories())

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self) -> None:
        """Starts it; returns when it listens."""
        config = self.directory / "netdump.conf"
        config.write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))
        command = [str(self.binary), "--config", str(config), "--dumpdir", str(self.crash), "--verbose", "2"]
        self.log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        port = int(self.settings.get("port", 6666))
        deadline = time.monotonic() + 20
        while not self.listens(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.fail("the server does not listen")
            time.sleep(0.05)

    @staticmethod
    def listens(port: int) -> bool:
        """Whether a UDP socket of this namespace has the port."""
        for name in ("udp", "udp6"):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                if int(line.split()[1].rsplit(":", 1)[1], 16) == port:
                    return True
        return False

    def stop(self, how: int = signal.SIGTERM, seconds: float = 30) -> None:
        """Ends it; the exit status is in `status`."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, how)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise self.fail(f"the server did not end within {seconds:.0f} s of signal {how}") from None
        if self.process:
            self.status = self.process.returncode
        self.log.close()

    def text(self) -> str:
        """What it has logged, without colours."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log_path.read_text(errors="replace"))

    def fail(self, what: str) -> ServerError:
        return ServerError(f"{what}\n--- the end of {self.log_path}:\n" + "\n".join(self.text().splitlines()[-20:]))

    def rss(self, what: str = "VmHWM") -> int:
        """Bytes of memory that it has, at most so far (VmHWM) or now (VmRSS)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) << 10
        raise self.fail("no memory figures")

    def directories(self, client: str = "") -> list[Path]:
        """Crash directories, oldest first."""
        found = [p for p in self.crash.iterdir() if p.is_dir() and p not in self.before and re.match(r"[0-9a-f.-]+-\d{4}-\d\d-\d\d-", p.name)]
        return sorted((p for p in found if p.name.startswith(client)), key=lambda p: p.stat().st_mtime)

    def meta(self, client: str = "") -> tuple[Path, dict] | None:
        """The newest new directory with a dump in it, and its meta.json."""
        for path in reversed(self.directories(client)):
            try:
                meta = json.loads((path / "meta.json").read_text())
            except (OSError, ValueError):
                continue
            if meta.get("dump"):
                return path, meta
        return None

    def wait_dump(self, seconds: float, client: str = "", guest=None) -> tuple[Path, dict]:
        """Waits until a dump has ended, well or badly."""
        over = 0.0
        deadline = time.monotonic() + seconds
        while True:
            found = self.meta(client)
            if found and found[1]["dump"].get("ended"):
                return found
            if self.process.poll() is not None:
                raise self.fail(f"the server ended ({self.process.returncode})")
            # A guest that says it is over will not come back: what is on its way has some seconds to arrive.
            if guest is not None and re.search(r"netdump: (?:the dump ends:|.*no dump)", guest.console(), re.M):
                deadline = min(deadline, time.monotonic() + 10 if not over else over + 10)
                over = over or time.monotonic()
            if time.monotonic() > deadline:
                console = "" if guest is None else "\n--- console:\n" + "\n".join(guest.console().splitlines()[-15:])
                raise self.fail(f"no dump ended within {seconds:.0f} s{console}")
            time.sleep(0.1)

    def wait_text(self, pattern: str, seconds: float) -> None:
        """Waits until a pattern is in its log; looks often, since a dump is short."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text()):
            if time.monotonic() > deadline:
                raise self.fail(f"no '{pattern}' in the log within {seconds:.0f} s")
            time.sleep(0.02)

    def wait_phase(self, seconds: float, ready, client: str = "") -> tuple[Path, dict]:
        """Waits until `ready(path, meta)` holds for the dump in progress."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.meta(client)
            if found and ready(*found):
                return found
            time.sleep(0.05)
        raise self.fail(f"the dump did not get there within {seconds:.0f} s")
