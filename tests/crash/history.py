"""What clients saw, held against what the journal holds.

Every operation of a client is written down when it begins (``invoke``) and when it ends: ``ok`` when it was
acknowledged, ``fail`` when it was refused, ``unknown`` when nobody answered. A client has one operation under way at a
time, and sends what it does not know the fate of again, under the same id.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from journal.record import Kind, Record


class Step(Enum):
    """What is known about an operation."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a history.

    ``offset`` is where the client was told that its event is; ``moment`` orders the lines of all clients: what ended
    before something else began has the smaller one.
    """

    client: str
    event: tuple[str, str]
    step: Step
    offset: int | None = None
    moment: int = field(default_factory=itertools.count().__next__)


@dataclass(slots=True)
class History:
    """The lines of one client, in order."""

    client: str
    entries: list[Entry] = field(default_factory=list)

    def note(self, events: Iterable[tuple[str, str]], step: Step) -> None:
        """Write down the same step for several events, each a (source, id)."""
        self.entries += [Entry(self.client, event, step) for event in events]

    def acked(self, event: tuple[str, str], offset: int) -> None:
        """Write down that an event was acknowledged, and where."""
        self.entries.append(Entry(self.client, event, Step.OK, offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a history came to."""

    invoked: int
    acked: int
    unknown: int
    present: int
    lost: int
    doubled: int
    moved: int
    uninvited: int
    disordered: int
    overtaken: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing acknowledged is lost, moved, doubled or overtaken, and all that is there somebody sent."""
        return not (self.lost or self.doubled or self.moved or self.uninvited or self.disordered or self.overtaken)


def check(histories: Iterable[History], records: Iterable[Record]) -> Counts:
    """Hold what clients saw against the journal's source records."""
    entries = [entry for history in histories for entry in history.entries]
    sources = [record for record in records if record.kind is Kind.SOURCE]
    places: dict[tuple[str, str], int] = {}
    for record in sources:
        places.setdefault((record.source, record.id), record.offset)
    acked = {entry.event: entry.offset for entry in entries if entry.step is Step.OK}
    invoked = {entry.event for entry in entries if entry.step is Step.INVOKE}
    return Counts(
        invoked=len(invoked),
        acked=len(acked),
        unknown=sum(entry.step is Step.UNKNOWN for entry in entries),
        present=len(places),
        lost=sum(event not in places for event in acked),
        doubled=len(sources) - len(places),
        moved=sum(places.get(event, offset) != offset for event, offset in acked.items()),
        uninvited=sum(event not in invoked for event in places),
        disordered=_disordered(entries, places),
        overtaken=_overtaken(entries, places),
    )


def _disordered(entries: Iterable[Entry], places: Mapping[tuple[str, str], int]) -> int:
    """How often an event lies before one that its client had begun to send earlier."""
    last: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    found = 0
    for entry in entries:
        if entry.step is not Step.INVOKE or entry.event in seen or entry.event not in places:
            continue
        seen.add(entry.event)
        found += places[entry.event] < last.get(entry.client, -1)
        last[entry.client] = max(places[entry.event], last.get(entry.client, -1))
    return found


def _overtaken(entries: Iterable[Entry], places: Mapping[tuple[str, str], int]) -> int:
    """How many events lie before one that was acknowledged, to whomever, when nobody had begun to send them yet.

    None means that every key's events stand in the order in which anybody could have meant them.
    """
    last, found = -1, 0
    seen: set[tuple[str, str]] = set()
    for entry in sorted(entries, key=lambda entry: entry.moment):
        place = places.get(entry.event)
        if place is None:
            continue
        if entry.step is Step.OK:
            last = max(last, place)
        elif entry.step is Step.INVOKE and entry.event not in seen:
            found += place < last
            seen.add(entry.event)
    return found


def reconcile(offered: int, records: Iterable[Record], tallies: Mapping[str, int]) -> dict[str, int]:
    """Where every line that was handed in ended, and under ``missing`` how many ended nowhere."""
    kinds = Counter(record.kind for record in records)
    ends = {
        "accepted": kinds[Kind.SOURCE],
        "quarantined": kinds[Kind.QUARANTINE],
        **{name: tallies.get(name, 0) for name in ENDS_WITHOUT_RECORD},
    }
    return {**ends, "missing": offered - sum(ends.values())}


ENDS_WITHOUT_RECORD = ("repeated", "refused", "conflicts", "quarantined_again", "discarded")
