"""Reading a journal's segments, by any process that does not own them.

Readers open the files read-only and see what was committed, while the owner writes on.
"""

from collections.abc import Sequence
from pathlib import Path

from journal.blobs import Blobs
from journal.chain import Chain
from journal.errors import NotWritable
from journal.log import START
from journal.record import Cause, Draft, Kind, Record
from journal.segment import Segment
from journal.stamp import identity


class SqliteReader:
    """Reads a journal that this process need not own."""

    def __init__(self, folder: Path, blobs: Blobs | None = None) -> None:
        """Open what is there.

        Args:
            folder: The journal's.
            blobs: Where segments lie that have left the folder; by default where the folder's manifest says.
        """
        self.folder = folder
        self._chain = Chain(folder, _open_born, blobs)

    def refresh(self) -> None:
        """Take up segments that were begun since."""
        self._chain.refresh()

    @property
    def _newest(self) -> Segment | None:
        return self._chain.local[-1] if self._chain.local else None

    @property
    def incarnation(self) -> str:
        """The life of the journal that the last segment belongs to."""
        return str(self._newest.meta("incarnation")) if self._newest else ""

    @property
    def clock(self) -> int:
        """The largest ``time`` accepted so far."""
        return int(self._newest.meta("clock") or 0) if self._newest else 0

    @property
    def last_at(self) -> int:
        """The ``at`` of the last record."""
        return int(self._newest.meta("last_at") or 0) if self._newest else 0

    @property
    def begins(self) -> int:
        """The first offset that can still be read; what lies before is no longer provable."""
        return self._chain.archive.begins

    def mark(self, sink: str) -> Cause | None:
        """The largest cause that a sink has taken; what it made is committed."""
        return self._newest.mark(sink) if self._newest else None

    def find(self, kind: Kind, source: str, id: str) -> int | None:
        """Where an identified record stands; the newest of that id."""
        key = identity(Draft(kind=kind, stream="", id=id, body=b"", source=source))
        assert key is not None, f"{kind} is not identified"
        found = self._chain.find(key, kind)
        return None if found is None else found.offset

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return self._chain.read(after, limit) if partition == 0 else []

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return self._chain.of_kind(kind, after, limit)

    def last_of_kind(self, kind: Kind, count: int) -> list[Record]:
        """The last ``count`` records of one kind, in order."""
        return self._chain.last_of_kind(kind, count)

    def end(self, partition: int = 0) -> int:
        """The last committed offset."""
        return self._chain.last() if partition == 0 else START

    def tallies(self) -> dict[str, int]:
        """Counts of what left no record."""
        return self._newest.tallies() if self._newest else {}

    def segments(self) -> Sequence[Segment]:
        """The files in the folder, oldest first."""
        return self._chain.local

    @property
    def chain(self) -> Chain:
        """The segments as one run."""
        return self._chain

    def close(self) -> None:
        """Let go of the files."""
        self._chain.close()


def _open_born(path: Path) -> Segment | None:
    """A segment that another process began; None while that process is still at it, or when it died at that."""
    try:
        segment = Segment(path, readonly=True)
    except NotWritable:
        # Of a file that is not in WAL mode yet, only who may write it can undo what was begun.
        if path.with_name(f"{path.name}-journal").exists():
            return None
        raise
    if segment.is_born():
        return segment
    segment.close()
    return None
