"""Reading a journal from its beginning: every record, or every one of a kind, page by page; lifted, where asked for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from journal.body import Decision, decode
from journal.errors import NoLongerProvable
from journal.log import START
from journal.record import Kind, Record
from journal.upcast import Lift

_PAGE = 2_000


class Pages(Protocol):
    """What can be paged through."""

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        ...


class ByKind(Protocol):
    """A journal in which records can be looked up by kind."""

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        ...


class Readable(Pages, ByKind, Protocol):
    """Both."""


@dataclass(frozen=True, slots=True)
class Lifted:
    """A journal whose records read as today's contracts do, whatever version they were written by.

    Attributes:
        journal: What is read.
        lift: See `journal.upcast.Adapters.lift`; reads raise what it raises.
    """

    journal: Readable
    lift: Lift

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return [self.lift(record) for record in self.journal.read(partition, after, limit)]

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return [self.lift(record) for record in self.journal.of_kind(kind, after, limit)]


def each(journal: Pages, after: int = START) -> Iterator[Record]:
    """Every record behind an offset, in order; a journal that let go of its beginning has none behind `START`."""
    while page := journal.read(0, after, _PAGE):
        yield from page
        after = page[-1].offset


def each_of(journal: ByKind, kind: Kind, through: int | None = None) -> Iterator[Record]:
    """Every record of a kind, in order; up to an offset, where one is given."""
    after = START
    while page := journal.of_kind(kind, after, _PAGE):
        for record in page:
            if through is not None and record.offset > through:
                return
            yield record
        after = page[-1].offset


OWNERS_OWN = frozenset({"release", "fix", "discard"})
"""What the journal's owner decides by itself: such a decision has no number in the control log and no signature."""


def decisions_in(journal: ByKind, through: int | None = None) -> Iterator[tuple[Record, Decision]]:
    """Every decision with its record, in order; one without a number that is not the owner's own counts for nothing."""
    for record in each_of(journal, Kind.DECISION, through):
        decision = decode(record.body, Decision)
        if decision.sequence > 0 or decision.action in OWNERS_OWN:
            yield record, decision


def read_one(journal: Readable) -> Callable[[int], Record]:
    """Reads the record at an offset; one that lines answer from also where retention let go of what was around it."""

    def read(offset: int) -> Record:
        try:
            return journal.read(0, offset - 1, 1)[0]
        except NoLongerProvable:
            for kind in (Kind.VERSION, Kind.SNAPSHOT):
                for record in journal.of_kind(kind, offset - 1, 1):
                    if record.offset == offset:
                        return record
            raise

    return read
