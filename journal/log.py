"""The journal port: an append-only log that one process owns.

Rules that every adapter keeps (``tests/conformance/test_journal.py`` holds them to it):

- ``append`` stamps drafts in order: offsets rise by one, ``at`` is max(previous + 1, clock), and the clock is the
  largest ``time`` accepted so far. When it returns outside a group, what it returned is durable.
- Inside ``with journal.group():`` nothing is durable, and no other reader sees it, until the group ends; if the group
  fails, none of it happened.
- A source event whose (source, id) is taken is a `Repeat` when its conflict hash is equal, and a `Conflict` when not.
  Neither changes anything.
- With a sink, a draft whose cause is at or below the sink's mark is `Replayed`; otherwise the mark becomes its cause in
  the same transaction, whatever else became of the draft.
- After a failed commit the journal refuses every further write.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from journal.record import Cause, Draft, Kind, Record


class Life(Protocol):
    """A journal, as far as it matters to whether something is of it."""

    @property
    def incarnation(self) -> str:
        """Its life."""
        ...

    def end(self, partition: int = 0) -> int:
        """See `Journal.end`."""
        ...


class Position(NamedTuple):
    """Where a reader stands: every record up to and including ``offset`` is behind it."""

    incarnation: str
    partition: int
    offset: int

    def lies_in(self, journal: Life) -> bool:
        """Whether it is a place in this life of a journal."""
        return self.incarnation == journal.incarnation and self.offset <= journal.end(self.partition)


START = -1
"""The offset before the first record."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The event is in the journal already, at ``offset``."""

    offset: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """The id is taken at ``offset`` by an event with another body."""

    offset: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """The sink's mark shows that this came before."""


Outcome = Record | Repeat | Conflict | Replayed


class Journal(Protocol):
    """An append-only log of records, one partition for now, owned by this process."""

    @property
    def incarnation(self) -> str:
        """Names this life of the journal; a restore starts another."""
        ...

    @property
    def clock(self) -> int:
        """The largest ``time`` accepted so far, in microseconds; 0 before the first."""
        ...

    def append(self, drafts: Sequence[Draft], *, sink: str = "", derived_from: Record | None = None) -> list[Outcome]:
        """Give each draft its place, or say why it has none. One outcome per draft, in order.

        Args:
            drafts: What to append.
            sink: Whose mark guards them; none when empty.
            derived_from: The record that they are the outputs of: it numbers their causes.
        """
        ...

    def foresee(self, drafts: Iterable[Draft]) -> None:
        """Look up at once which ids of these drafts are taken, before they are appended in this group.

        It changes nothing but what that costs.
        """
        ...

    def forgotten(self, draft: Draft) -> Record | None:
        """The newest record of the draft's identity, where that is not remembered any more and so free again."""
        ...

    def group(self) -> AbstractContextManager[None]:
        """Commit all that is appended and tallied inside as one."""
        ...

    def next_at(self) -> int:
        """The ``at`` that a derived record would get if it were appended now."""
        ...

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """Up to ``limit`` records behind ``after``, in order; an empty list at the end."""
        ...

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """Up to ``limit`` records of one kind behind ``after``, in order. Meant for the rare kinds."""
        ...

    def end(self, partition: int = 0) -> int:
        """The last offset, or `START` when there is none."""
        ...

    def mark(self, sink: str) -> Cause | None:
        """The largest cause this sink has taken."""
        ...

    def set_mark(self, sink: str, cause: Cause) -> None:
        """Move a sink's mark past something that left no record (a refused line)."""
        ...

    def tally(self, name: str, count: int = 1) -> None:
        """Count what leaves no record, such as a refused event, in the current transaction."""
        ...

    def tallies(self) -> dict[str, int]:
        """All counts by name."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...
