"""Reading a journal from its beginning: every record, or every one of a kind, page by page."""

from collections.abc import Iterator
from typing import Protocol

from journal.body import Decision, decode
from journal.log import START
from journal.record import Kind, Record

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


def each(journal: Pages) -> Iterator[Record]:
    """Every record, in order."""
    after = START
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


def decisions_in(journal: ByKind, through: int | None = None) -> Iterator[tuple[Record, Decision]]:
    """Every decision with its record, in order."""
    for record in each_of(journal, Kind.DECISION, through):
        yield record, decode(record.body, Decision)
