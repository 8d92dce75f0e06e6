"""The journal in memory: the port's first adapter, for tests and for trying a pipeline without a disk."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from journal.log import Conflict, Outcome, Repeat, Replayed
from journal.record import Cause, Draft, Kind, Record
from journal.stamp import Stamper, causes, identity, is_behind, is_remembered


class MemoryJournal:
    """A journal that lasts as long as the object. Group semantics are the port's: a failed group never happened."""

    def __init__(self, pipeline: str, *, dedup_window: int | None = None) -> None:
        """Open an empty journal.

        Args:
            pipeline: Whose journal it is.
            dedup_window: How long ids are remembered, in microseconds of journal time; None means for ever.
        """
        self.pipeline = pipeline
        self.incarnation = "memory"
        self._window = dedup_window
        self._records: list[Record] = []
        self._ids: dict[str, int] = {}
        self._marks: dict[str, Cause] = {}
        self._tallies: Counter[str] = Counter()
        self._stamper = Stamper()

    @property
    def clock(self) -> int:
        """The largest ``time`` accepted so far."""
        return self._stamper.clock

    def append(self, drafts: Sequence[Draft], *, sink: str = "", derived_from: Record | None = None) -> list[Outcome]:
        """See `journal.log.Journal.append`."""
        return [self._append(draft, sink, cause) for draft, cause in causes(drafts, derived_from)]

    def foresee(self, drafts: Iterable[Draft]) -> None:
        """See `journal.log.Journal.foresee`: here every id is at hand."""

    def _append(self, draft: Draft, sink: str, cause: Cause | None) -> Outcome:
        if sink and cause is not None:
            if is_behind(cause, self._marks.get(sink)):
                return Replayed()
            self._marks[sink] = cause
        key = identity(draft)
        if key is not None and (taken := self._taken(key)) is not None:
            return Repeat(taken.offset) if taken.conflict == draft.conflict else Conflict(taken.offset)
        record = self._stamper.place(draft, cause)
        self._records.append(record)
        if key is not None:
            self._ids[key] = record.offset
        return record

    def forgotten(self, draft: Draft) -> Record | None:
        """See `journal.log.Journal.forgotten`."""
        key = identity(draft) or ""
        return self._records[self._ids[key]] if key in self._ids and self._taken(key) is None else None

    def _taken(self, key: str) -> Record | None:
        offset = self._ids.get(key)
        if offset is None:
            return None
        record = self._records[offset]
        return record if is_remembered(record, self.clock, self._window) else None

    @contextmanager
    def group(self) -> Iterator[None]:
        """See `journal.log.Journal.group`."""
        before = (len(self._records), dict(self._ids), dict(self._marks), self._tallies.copy(), self._stamper.copy())
        try:
            yield
        except BaseException:
            length, self._ids, self._marks, self._tallies, self._stamper = before
            del self._records[length:]
            raise

    def next_at(self) -> int:
        """The ``at`` of the next derived record."""
        return self._stamper.next_at()

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return self._records[after + 1 : after + 1 + limit] if partition == 0 else []

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return [record for record in self._records[after + 1 :] if record.kind is kind][:limit]

    def end(self, partition: int = 0) -> int:
        """The last offset."""
        return self._stamper.end if partition == 0 else -1

    def mark(self, sink: str) -> Cause | None:
        """The sink's mark."""
        return self._marks.get(sink)

    def set_mark(self, sink: str, cause: Cause) -> None:
        """Move the sink's mark."""
        self._marks[sink] = cause

    def tally(self, name: str, count: int = 1) -> None:
        """Count what leaves no record."""
        self._tallies[name] += count

    def tallies(self) -> dict[str, int]:
        """All counts by name."""
        return dict(self._tallies)

    def close(self) -> None:
        """Nothing to let go of."""
