"""Immutable bytes, named by their SHA-256: stored once, and an error when they do not match their name."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

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

    def put_file(self, path: Path) -> str:
        """The same for a file of any size."""
        ...

    def get_file(self, address: str, target: Path) -> None:
        """Copy a blob of any size into a file, checked; raises as `get` does, and leaves no file then."""
        ...

    def remove(self, address: str) -> None:
        """Let go of a blob, if it is there. Only for what retention lets go."""
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
            raise self._missing(address) from error
        if hashlib.sha256(data).hexdigest() != address:
            raise self._corrupt(address)
        return data

    def put_file(self, path: Path) -> str:
        """See `Blobs.put_file`."""
        address = digest_of(path)
        place = self._path(address)
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            copy_durably(path, place)
        return address

    def get_file(self, address: str, target: Path) -> None:
        """See `Blobs.get_file`."""
        try:
            shutil.copyfile(self._path(address), target)
        except FileNotFoundError as error:
            raise self._missing(address) from error
        if digest_of(target) != address:
            target.unlink()
            raise self._corrupt(address)

    def remove(self, address: str) -> None:
        """See `Blobs.remove`."""
        self._path(address).unlink(missing_ok=True)

    def _missing(self, address: str) -> UnknownName:
        return UnknownName(which=f"blob {address[:16]} in {self._root.name}", fix="Restore it from a backup")

    def _corrupt(self, address: str) -> Corrupt:
        return Corrupt(which=f"blob {address[:16]} in {self._root.name}", fix="Restore it from a backup")

    def _path(self, address: str) -> Path:
        return self._root / address[:2] / address


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file in one step: its whole new content, fsynced, or what was there before.

    Raises:
        DurabilityLost: The disk is full, or a write failed.
    """
    _replace_durably(path, lambda file: file.write(data))


def copy_durably(source: Path, target: Path) -> None:
    """The same with the content of another file."""
    with source.open("rb") as origin:
        _replace_durably(target, lambda file: shutil.copyfileobj(origin, file, 1 << 20))


def _replace_durably(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DurabilityLost(
            which=f"{path} ({error.strerror})", fix="Make room on the disk, then start again"
        ) from error


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames and new names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
