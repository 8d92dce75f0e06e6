"""How far the owner has acknowledged, beside the segments: what tells a lost record from one that never was.

SQLite cuts its write-ahead log at the first frame that does not hold, whether a crash tore that frame or a bit flipped
in one that was synced long ago. The note is written after each commit and before its acknowledgement, and never
synced: a process kill keeps it, and after a power cut it may be older than the truth but never ahead of it.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from journal.errors import DurabilityLost
from journal.log import START

_NAME = "acked"
_LAYOUT = struct.Struct("<q16sI")


class Noted(NamedTuple):
    """What the note says; `START` and no life when there is none that can be read."""

    end: int
    incarnation: str


class Acked:
    """The owner's note."""

    def __init__(self, folder: Path, incarnation: str, end: int) -> None:
        """Open the note and write it once, so that later writes need no space.

        Raises:
            DurabilityLost: The disk is full.
        """
        self._life = incarnation.encode()
        path = folder / _NAME
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.note(end)
        except OSError as error:
            os.close(self._handle)
            raise DurabilityLost(
                which=f"{path} ({error.strerror})", fix="Make room on the disk, then start again"
            ) from error

    def note(self, end: int) -> None:
        """Everything up to and including ``end`` is durable."""
        checksum = zlib.crc32(self._life, end & 0xFFFFFFFF)
        os.pwrite(self._handle, _LAYOUT.pack(end, self._life, checksum), 0)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


def read_acked(folder: Path) -> Noted:
    """What was acknowledged in this folder, as far as it is known."""
    try:
        data = (folder / _NAME).read_bytes()
    except FileNotFoundError:
        return Noted(START, "")
    if len(data) != _LAYOUT.size:
        return Noted(START, "")
    end, life, checksum = _LAYOUT.unpack(data)
    return Noted(end, life.decode()) if zlib.crc32(life, end & 0xFFFFFFFF) == checksum else Noted(START, "")


def forget_acked(folder: Path) -> None:
    """Accept that what was acknowledged and is gone stays gone."""
    (folder / _NAME).unlink(missing_ok=True)
