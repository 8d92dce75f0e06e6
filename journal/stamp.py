"""Places and stamps: the rules of `journal.log` that need no storage, shared by every adapter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from journal.log import START
from journal.record import Cause, Draft, Kind, Record

IDENTIFIED = frozenset({Kind.SOURCE, Kind.QUESTION, Kind.QUARANTINE, Kind.VERSION, Kind.DECISION})
"""The kinds whose ids are indexed. What a fold derives is named by its place and guarded by its sink's mark alone."""

NEVER_FORGOTTEN = frozenset({Kind.VERSION, Kind.DECISION})
"""What was decided once is not decided again, however long ago it was."""


@dataclass(slots=True)
class Stamper:
    """Gives drafts their offset and ``at``: strictly increasing, and never behind the clock."""

    end: int = START
    last_at: int = 0
    clock: int = 0

    def next_at(self) -> int:
        """The ``at`` of the next derived record."""
        return max(self.last_at + 1, self.clock)

    def place(self, draft: Draft, cause: Cause | None) -> Record:
        """Stamp one draft; source events move the clock. What its writer handed on goes with it."""
        if draft.kind is Kind.SOURCE and draft.time is not None and draft.time > self.clock:
            self.clock = draft.time
        self.last_at = self.next_at()
        self.end += 1
        # Spelled out, since this runs for every record and a loop over the fields costs three times as much.
        record = Record(
            kind=draft.kind,
            stream=draft.stream,
            id=draft.id,
            body=draft.body,
            time=draft.time,
            source=draft.source,
            schema=draft.schema,
            subject=draft.subject,
            sealed=draft.sealed,
            conflict=draft.conflict,
            principal=draft.principal,
            trace=draft.trace,
            cause=cause,
            partition=0,
            offset=self.end,
            at=self.last_at,
        )
        record.__dict__.update(draft.__dict__)
        return record

    def copy(self) -> "Stamper":
        """What a failed group returns to."""
        return Stamper(self.end, self.last_at, self.clock)


def identity(draft: Draft | Record) -> str | None:
    """The key of the id index; None for kinds that are not in it."""
    return f"{draft.kind}\0{draft.source}\0{draft.id}" if draft.kind in IDENTIFIED else None


def causes(drafts: Sequence[Draft], derived_from: Record | None) -> Iterable[tuple[Draft, Cause | None]]:
    """Each draft with its cause: its own, or its number among the outputs of the record it was derived from."""
    if derived_from is None:
        return ((draft, draft.cause) for draft in drafts)
    partition, offset = derived_from.partition, derived_from.offset
    return ((draft, Cause(partition, offset, n)) for n, draft in enumerate(drafts))


def is_behind(cause: Cause | None, mark: Cause | None) -> bool:
    """Whether a sink with this mark has seen this cause before."""
    return cause is not None and mark is not None and cause <= mark


def is_remembered(record: Record, clock: int, window: int | None) -> bool:
    """Whether an id still counts as taken: by when it became known, since a late event's own time may be long past."""
    return window is None or record.kind in NEVER_FORGOTTEN or record.at >= clock - window
