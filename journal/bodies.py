"""Bodies alone: all that is needed of a million records of one kind, at a third of what whole records cost."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from journal.chain import Chain
from journal.log import START
from journal.reading import ByKind
from journal.record import Kind
from journal.segment import Segment, checksum_of, record_name


class Body(NamedTuple):
    """A record's offset, when it became known (microseconds), and its body."""

    offset: int
    at: int
    body: bytes


@runtime_checkable
class _Stored(Protocol):
    """A journal in files."""

    @property
    def chain(self) -> Chain:
        """Its segments."""
        ...


_decode = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
_AT, _BODY = 5, -1
"""Where they stand in a stored envelope (journal/segment.py)."""


def bodies_of(journal: ByKind, kind: Kind, after: int = START, limit: int = 10_000) -> Sequence[Body]:
    """What `journal.log.Journal.of_kind` gives, without the envelopes; checked as records are.

    Raises:
        Corrupt: The checksum of one of them does not hold.
    """
    if not isinstance(journal, _Stored):
        return [Body(record.offset, record.at, record.body) for record in journal.of_kind(kind, after, limit)]
    bodies: list[Body] = []
    for segment, before in journal.chain.holding(kind, after):
        found = _bodies_in(segment, kind, after, limit - len(bodies))
        bodies += found if before is None else [body for body in found if body.offset < before]
        if len(bodies) >= limit:
            break
    return bodies


def _bodies_in(segment: Segment, kind: Kind, after: int, limit: int) -> list[Body]:
    bodies, new = [], tuple.__new__
    for offset, _, checksum, data in segment.rows_of(kind, after, limit):
        if checksum_of(offset, data) != checksum:
            raise segment.corrupt(record_name(offset))
        envelope = _decode(data)
        # What Body(...) does, without its Python-level constructor.
        bodies.append(new(Body, (offset, envelope[_AT], envelope[_BODY])))
    return bodies
