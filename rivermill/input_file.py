"""A file of events that may be played again: the same file goes on where it stopped, another one starts anew.

A file is named by its first line, so that one which has grown keeps its name. But two files may begin alike; so the
journal also marks, in the transaction of each group, how many lines were read and a hash over them. A file whose
beginning does not have that hash is another input, named by that difference.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from journal.errors import UnknownName
from journal.log import Journal
from journal.record import Cause

_HASH_BYTES = 7
"""As much of a hash as fits an integer of SQLite beside its sign."""


class InputFile:
    """Lines of a file, with the name of the sink that they enter through."""

    def __init__(self, path: Path, journal: Journal) -> None:
        """Find out whether the journal knows this file."""
        self._path, self._journal = path, journal
        self._read = hashlib.sha256()
        self._lines = 0
        self.sink = self._name()

    def _name(self) -> str:
        with self._path.open("rb") as lines:
            name = f"file:{hashlib.sha256(lines.readline()).hexdigest()[:16]}"
        while (known := self._journal.mark(f"{name}#read")) is not None and not self._begins_with(known):
            name = f"{name}/{hashlib.sha256(self._path.read_bytes()).hexdigest()[:16]}"
        return name

    def _begins_with(self, known: Cause) -> bool:
        read = hashlib.sha256()
        lines = 0
        with self._path.open("rb") as file:
            for line in file:
                if lines == known.offset:
                    break
                read.update(line.rstrip(b"\r\n") + b"\n")
                lines += 1
        return (lines, _number(read.digest())) == (known.offset, known.n)

    def events(self) -> Iterator[bytes]:
        """Each line without its end."""
        with self._path.open("rb") as lines:
            for line in lines:
                event = line.rstrip(b"\r\n")
                self._read.update(event + b"\n")
                self._lines += 1
                yield event

    def seal(self) -> None:
        """Mark how far the file was read; inside the group that holds its events."""
        self._journal.set_mark(f"{self.sink}#read", Cause(0, self._lines, _number(self._read.digest())))


def require_file(path: Path) -> None:
    """Raise `UnknownName` when there is no such file, before anything is opened for it."""
    if not path.is_file():
        raise UnknownName(which=f"file {path}", fix="Give a file with one JSON CloudEvent per line")


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:_HASH_BYTES])
