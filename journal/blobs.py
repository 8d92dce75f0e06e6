"""Immutable bytes, named by their SHA-256: stored once, and an error when they do not match their name."""

import hashlib
import os
from pathlib import Path
from typing import Protocol

from journal.errors import Corrupt, DurabilityLost, UnknownName


class Blobs(Protocol):
    """Content-addressed storage."""

    def put(self, data: bytes) -> str:
        """Store bytes durably and return their address (SHA-256, hex)."""
        ...

    def get(self, address: str) -> bytes:
        """Read them back.

        Raises:
            UnknownName: No such blob.
            Corrupt: The bytes do not match their address.
        """
        ...


class DirectoryBlobs:
    """Blobs as files, written beside their place, fsynced and renamed, so that a crash leaves the old or the new."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """See `Blobs.put`."""
        address = hashlib.sha256(data).hexdigest()
        path = self._path(address)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_durably(path, data)
        return address

    def get(self, address: str) -> bytes:
        """See `Blobs.get`."""
        try:
            data = self._path(address).read_bytes()
        except FileNotFoundError as error:
            raise UnknownName(
                which=f"blob {address[:16]} in {self._root.name}", fix="Restore it from a backup"
            ) from error
        if hashlib.sha256(data).hexdigest() != address:
            raise Corrupt(which=f"blob {address[:16]} in {self._root.name}", fix="Restore it from a backup")
        return data

    def _path(self, address: str) -> Path:
        return self._root / address[:2] / address


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step: its whole new content, fsynced, or what was there before.

    Raises:
        DurabilityLost: The disk is full, or a write failed.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DurabilityLost(
            which=f"{path} ({error.strerror})", fix="Make room on the disk, then start again"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
