"""One process owns a journal's files. The lock dies with its process, so there is nothing to clean up after a crash."""

import fcntl
import os
from pathlib import Path

from journal.errors import NotWritable, OwnedElsewhere


class OwnerLock:
    """An exclusive lock on a folder, held while this object lives."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            OwnedElsewhere: Another process holds it; the message names its pid.
            NotWritable: The folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NotWritable(
                which=f"{folder} ({error.strerror})", fix="Check its owner and mode, or set RIVERMILL_HOME"
            ) from error
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._handle, 20, 0).decode() or "unknown"
            os.close(self._handle)
            raise OwnedElsewhere(
                which=f"{folder} belongs to process {pid}", fix="Stop that process, or use another RIVERMILL_HOME"
            ) from error
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let another process own the folder."""
        os.close(self._handle)


def is_owned(folder: Path) -> bool:
    """Whether a process holds the lock of a folder."""
    if not (folder / "owner.lock").exists():
        return False
    try:
        OwnerLock(folder).release()
    except OwnedElsewhere:
        return True
    return False
