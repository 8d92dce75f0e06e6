"""Reading a journal's segments: by the owner, and by any process that does not own them.

Readers open the files read-only and see what was committed, while the owner writes on.
"""

from collections.abc import Sequence
from pathlib import Path

from journal.log import START
from journal.record import Cause, Draft, Kind, Record
from journal.segment import Segment
from journal.stamp import identity


class SqliteReader:
    """Reads a journal that this process need not own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: list[Segment] = []
        self.refresh()

    def refresh(self) -> None:
        """Take up segments that were begun since."""
        for path in segment_paths(self.folder)[len(self._segments) :]:
            segment = _open_born(path)
            if segment is None:
                return
            self._segments.append(segment)

    @property
    def incarnation(self) -> str:
        """The life of the journal that the last segment belongs to."""
        return str(self._segments[-1].meta("incarnation")) if self._segments else ""

    @property
    def clock(self) -> int:
        """The largest ``time`` accepted so far."""
        return int(self._segments[-1].meta("clock") or 0) if self._segments else 0

    @property
    def last_at(self) -> int:
        """The ``at`` of the last record."""
        return int(self._segments[-1].meta("last_at") or 0) if self._segments else 0

    def mark(self, sink: str) -> Cause | None:
        """The largest cause that a sink has taken; what it made is committed."""
        return self._segments[-1].mark(sink) if self._segments else None

    def find(self, kind: Kind, source: str, id: str) -> int | None:
        """Where an identified record stands; the newest of that id."""
        key = identity(Draft(kind=kind, stream="", id=id, body=b"", source=source))
        assert key is not None, f"{kind} is not identified"
        offsets = (segment.offset_of(key) for segment in reversed(self._segments))
        return next((offset for offset in offsets if offset is not None), None)

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return read_across(self._segments, after, limit) if partition == 0 else []

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return kind_across(self._segments, kind, after, limit)

    def last_of_kind(self, kind: Kind, count: int) -> list[Record]:
        """The last ``count`` records of one kind, in order."""
        records: list[Record] = []
        for segment in reversed(self._segments):
            if len(records) < count:
                records = segment.last_of_kind(kind, count - len(records)) + records
        return records

    def end(self, partition: int = 0) -> int:
        """The last committed offset."""
        return last_across(self._segments) if partition == 0 else START

    def tallies(self) -> dict[str, int]:
        """Counts of what left no record."""
        return self._segments[-1].tallies() if self._segments else {}

    def segments(self) -> Sequence[Segment]:
        """The files, oldest first."""
        return self._segments

    def close(self) -> None:
        """Let go of the files."""
        for segment in self._segments:
            segment.close()


def segment_paths(folder: Path) -> list[Path]:
    """The segments' files, oldest first."""
    return sorted(folder.glob("segment-*.sqlite"))


def _open_born(path: Path) -> Segment | None:
    """A segment that another process began; None while that process is still at it."""
    segment = Segment(path, readonly=True)
    if segment.is_born():
        return segment
    segment.close()
    return None


def read_across(segments: Sequence[Segment], after: int, limit: int) -> list[Record]:
    """Read on through segments, oldest first."""
    records: list[Record] = []
    for index, segment in enumerate(segments):
        is_behind_us = index + 1 < len(segments) and segments[index + 1].first <= after + 1
        if not is_behind_us and len(records) < limit:
            records += segment.read(after, limit - len(records))
    return records


def kind_across(segments: Sequence[Segment], kind: Kind, after: int, limit: int) -> list[Record]:
    """The same for one kind."""
    records: list[Record] = []
    for segment in segments:
        if len(records) < limit:
            records += segment.of_kind(kind, after, limit - len(records))
    return records


def last_across(segments: Sequence[Segment]) -> int:
    """The last offset of the youngest segment that has a record."""
    for segment in reversed(segments):
        if (last := segment.last_offset()) is not None:
            return last
    return START
