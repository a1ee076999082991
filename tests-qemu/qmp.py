# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's control socket (QMP): commands with a deadline, and the events that came meanwhile."""

import json
import select
import socket
import time
from pathlib import Path


class QmpError(Exception):
    """QEMU refused a command, or did not answer in time."""


class Qmp:
    """A connection to one QEMU."""

    def __init__(self, path: Path, deadline: float):
        self.events: list[dict] = []
        self.buffer = b""
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > deadline:
                    raise QmpError(f"QEMU does not listen on {path}") from None
                time.sleep(0.05)
        self._message(deadline)  # the greeting
        self.command("qmp_capabilities")

    def close(self) -> None:
        self.socket.close()

    def _message(self, deadline: float) -> dict:
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise QmpError("QEMU did not answer in time")
            data = self.socket.recv(65536)
            if not data:
                raise QmpError("QEMU closed the connection")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def command(self, name: str, seconds: float = 30, **arguments):
        """Runs a command; its return value."""
        deadline = time.monotonic() + seconds
        message = {"execute": name}
        if arguments:
            message["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._message(deadline)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{name}: {answer['error'].get('desc')}")
            else:
                return answer.get("return")

    def wait_event(self, names, deadline: float) -> dict:
        """The first event of one of those names, also one that came before."""
        while True:
            for event in self.events:
                if event["event"] in names:
                    self.events.remove(event)
                    return event
            answer = self._message(deadline)
            if "event" in answer:
                self.events.append(answer)

    def status(self) -> str:
        """QEMU's run state: running, shutdown (held after a restart or power off), paused …"""
        return self.command("query-status")["status"]
