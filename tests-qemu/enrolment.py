# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that is enrolled, without ssh: the server's store of keys, and what the module is given (docs/keys.md)."""

import hashlib
import hmac
import json
import secrets
import struct
from pathlib import Path

import panic_run


def hkdf_expand(key: bytes, info: bytes) -> bytes:
    """The first 32 bytes of HKDF-SHA256's expansion."""
    return hmac.digest(key, info + b"\1", hashlib.sha256)


def hkdf(secret: bytes, info: bytes) -> bytes:
    """32 bytes by HKDF-SHA256 with an empty salt."""
    return hkdf_expand(hmac.digest(bytes(32), secret, hashlib.sha256), info)


def arming(keys: bytes, cookie: int, magic: bytes = b"NDARM002", flags: int = 1, kx: bytes = b"") -> bytes:
    """What /dev/netdump takes; `keys` are key_id, arm_id, arm key, seed, probe key and server_id."""
    return magic + struct.pack("<II", 170 + len(kx), flags) + keys + struct.pack("<QH", cookie, len(kx)) + kx


def file_of(directory: Path, name: str, text: bytes) -> Path:
    """A file for write-key, which turns it back: so it is in the guest's memory only where it belongs."""
    path = directory / name
    path.write_bytes(bytes(byte ^ 0xFF for byte in text))
    return path


class Enrolment:
    """One client, known under the address that it registered from."""

    def __init__(self, directory: Path, address: str, name: str = "guest"):
        self.directory, self.store = directory, directory / "keys"
        self.root, self.key_id = secrets.token_bytes(32), secrets.token_bytes(16)
        self.server_id, self.seed = secrets.token_bytes(16), secrets.token_bytes(32)
        for part in ("clients", "addresses"):
            (self.store / part).mkdir(parents=True, exist_ok=True)
        (self.store / "server_id").write_text(f"{self.server_id.hex()}\n")
        key = {"key_id": self.key_id.hex(), "root": self.root.hex(), "since": "2026-11-27T06:00:00Z"}
        client = {
            "version": 1, "id": name, "label": name, "address": address, "rotate": False, "current": key, "previous": None,
        }  # fmt: skip
        path = self.store / "clients" / f"{name}.json"
        path.write_text(json.dumps(client))
        path.chmod(0o600)
        (self.store / "addresses" / address).write_text(f"{name}\n")
        self.arm_id = secrets.token_bytes(16)
        self.arm_key = hkdf(self.root, b"nd6 arm" + self.key_id + self.arm_id + self.server_id)

    def settings(self) -> dict:
        """For netdump.conf."""
        return {"keydir": self.store}

    def blob(self, arm_key: bytes = b"") -> bytes:
        """What /dev/netdump takes."""
        arm_key = arm_key or self.arm_key
        keys = self.key_id + self.arm_id + arm_key + self.seed + hkdf_expand(arm_key, b"nd6 probe") + self.server_id
        return arming(keys, secrets.randbits(64) | 1)

    def files(self, **others: bytes) -> dict[str, Path]:
        """For the guest's initramfs: the blob as /key, and the program that writes it."""
        found = {"/write-key": panic_run.guest_program("write-key")}
        for name, text in {"key": self.blob(), **others}.items():
            found[f"/{name}"] = file_of(self.directory, name, text)
        return found

    def secrets(self) -> list[bytes]:
        """What must be nowhere."""
        traffic = [hkdf_expand(self.arm_key, label) for label in (b"nd6 start", b"nd6 ack")]
        return [self.root, self.arm_key, self.seed, *traffic]
