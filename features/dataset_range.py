"""Which part of a journal a dataset is made of: what was known by a moment, and how far back predictions count."""

from dataclasses import dataclass

from journal.clock import format_time
from journal.errors import NoLongerProvable, Refused
from journal.log import START
from journal.reading import Pages

EVER = -(2**63)
"""Before every moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A range of journal offsets.

    Attributes:
        first: The first offset whose prediction counts.
        through: The last offset whose record counts.
        as_of: The journal time that this is, in microseconds: nothing that became known later counts.
        window: How far back from there predictions count, in microseconds; None for all that the journal holds.
    """

    first: int
    through: int
    as_of: int
    window: int | None = None


def resolve(journal: Pages, end: int, as_of: int | None = None, window: int | None = None) -> Range:
    """Find the offsets.

    Args:
        journal: Where.
        end: Its last offset.
        as_of: Journal time in microseconds; by default that of the last record.
        window: See `Range`.

    Raises:
        Refused: The journal is empty, was not there yet, or has not come so far: the same words would mean more later.
    """
    if end == START:
        raise Refused(which="the journal is empty", fix="Play events first")
    last = at_of(journal, end)
    if as_of is not None and as_of > last:
        raise Refused(
            which=f"the journal's time is {format_time(last)}, before {format_time(as_of)}",
            fix="Name a moment that it has reached, or leave --as-of out",
        )
    through = end if as_of is None else first_known(journal, as_of + 1, end + 1) - 1
    moment = last if as_of is None else as_of
    first = first_known(journal, EVER if window is None else moment - window + 1, through + 1)
    if first > through:
        raise Refused(
            which=f"nothing that can still be read was known by {format_time(moment)}", fix="Name a later moment"
        )
    return Range(first=first, through=through, as_of=moment, window=window)


def first_known(journal: Pages, at: int, before: int) -> int:
    """The least readable offset, at most ``before``, from which on every record is known at ``at`` or later."""
    low, high = 0, before
    while low < high:
        middle = (low + high) // 2
        try:
            is_earlier = at_of(journal, middle) < at
        except NoLongerProvable:
            is_earlier = True
        if is_earlier:
            low = middle + 1
        else:
            high = middle
    return low


def at_of(journal: Pages, offset: int) -> int:
    """When the record at an offset became known, in microseconds."""
    return journal.read(0, offset - 1, 1)[0].at
