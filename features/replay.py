"""The feature fold over memory alone: what views said at any moment, computed again from the journal.

Nothing is read but the journal and nothing is written. Memory holds the state of every entity, its newest row, and the
last `KEPT` rows that were superseded: whoever served a row from a moment ago finds it.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from features.processor import FeatureFold
from features.rows import Row
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.errors import NoLongerProvable
from journal.log import START
from journal.reading import Pages, each
from journal.record import Record
from journal.upcast import Lift, as_stored

KEPT = 100_000
"""Superseded rows that stay at hand: about 80 MB, and at seven rows per event a quarter of an hour of busy traffic."""
_RECORDS_PER_SAVE = 10_000
_RESTORE = "Restore a backup that holds them into another --home, and ask again there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a pipeline's rows follow from, beside its journal.

    Attributes:
        views: The views, as the fold computes them.
        lateness: How late an event may still correct a window, in microseconds.
        lift: What each record goes through before the fold sees it.
        skips: Offsets that the fold passes over by decision.
    """

    views: Sequence[ViewPlan]
    lateness: int
    lift: Lift = as_stored
    skips: frozenset[int] = frozenset()


class RowMemory:
    """The fold's table: every entity's newest row behind the online guard, and some that it has superseded."""

    def __init__(self, kept: int = KEPT) -> None:
        self._rows: defaultdict[str, dict[bytes, list[Row]]] = defaultdict(dict)
        self._superseded: deque[list[Row]] = deque()
        self._kept = kept
        self.has_forgotten = False

    def put(self, view: str, row: Row) -> bool:
        """See `features.processor.Table`."""
        rows = self._rows[view].get(row.key)
        if rows is None:
            self._rows[view][row.key] = [row]
            return True
        newest = rows[-1]
        if (row.event, row.known) <= (newest.event, newest.known):
            return False
        rows.append(row)
        self._superseded.append(rows)
        if len(self._superseded) > self._kept:
            self._superseded.popleft().pop(0)
            self.has_forgotten = True
        return True

    def rows(self, view: str) -> Iterator[Row]:
        """See `features.processor.Table`."""
        held = self._rows[view]
        return (held[key][-1] for key in sorted(held))

    def flush(self) -> None:
        """Nothing is written."""

    def newest(self, view: str, key: bytes) -> Row | None:
        """The newest row of an entity, deletes included."""
        rows = self._rows[view].get(key)
        return rows[-1] if rows else None

    def as_of(self, view: str, key: bytes, known: int) -> Row | None:
        """The newest row of an entity that was known at a moment, as far as rows are still at hand."""
        rows = self._rows[view].get(key, ())
        return next((row for row in reversed(rows) if row.known <= known), None)

    def between(self, view: str, key: bytes, since: int, until: int) -> Iterator[Row]:
        """The rows of an entity that became known after ``since`` and not after ``until``, newest first."""
        rows = self._rows[view].get(key, ())
        return (row for row in reversed(rows) if since < row.known <= until)

    def at(self, view: str, key: bytes, known: int) -> Row | None:
        """The row of an entity that became known at exactly this moment, if it is still at hand."""
        row = self.as_of(view, key, known)
        return row if row is not None and row.known == known else None


class Replay:
    """A feature fold that begins at the journal's beginning and keeps what it computes in memory."""

    def __init__(self, rules: Rules, table: RowMemory) -> None:
        self.table, self._rules = table, rules
        self._outbox, self._file, self._applied = _NoOutbox(), _NoFile(), 0
        self._fold = FeatureFold(rules.views, rules.lateness, table, self._outbox)

    @property
    def clock(self) -> int:
        """The largest time of the source events so far, in microseconds."""
        return self._fold.clock

    def apply(self, record: Record) -> None:
        """Take the next record, of whatever kind."""
        if record.kind not in self._fold.kinds or record.offset in self._rules.skips:
            return
        self._fold.apply(self._rules.lift(record))
        self._applied += 1
        if self._applied % _RECORDS_PER_SAVE == 0:
            # The fold hands out its rows, and forgets entities that are empty, only when it saves.
            self._fold.save(self._file)


RowPlace = tuple[str, bytes, int]
"""A row by its view, its entity's encoded key, and its known time."""


def rows_at(
    journal: Pages, rules: Rules, wanted: Collection[RowPlace], progress: Callable[[Record], None] = lambda _: None
) -> dict[RowPlace, Row]:
    """Replay a journal for some rows alone.

    Args:
        journal: From its first record on.
        rules: What rows follow from.
        wanted: Which rows.
        progress: Called with each record.

    Returns:
        Those of them that there are, deletes included.

    Raises:
        NoLongerProvable: Retention let go of the journal's beginning.
    """
    sought = _WantedRows(wanted)
    replay, last = Replay(rules, sought), max((known for _, _, known in wanted), default=START)
    for record in from_the_beginning(journal):
        if record.at > last:
            break
        progress(record)
        replay.apply(record)
    return sought.found


def from_the_beginning(journal: Pages) -> Iterator[Record]:
    """Every record, for whom all of them are needed; raises NoLongerProvable, which says what to do."""
    try:
        yield from each(journal)
    except NoLongerProvable as error:
        raise NoLongerProvable(
            which=f"features follow from the journal's first record on, and {error.which} are gone", fix=_RESTORE
        ) from error


class _WantedRows(RowMemory):
    """Keeps the rows that are looked for, and otherwise the newest alone."""

    def __init__(self, wanted: Iterable[RowPlace]) -> None:
        super().__init__(kept=0)
        self._wanted = frozenset(wanted)
        self.found: dict[RowPlace, Row] = {}

    def put(self, view: str, row: Row) -> bool:
        """See `RowMemory.put`."""
        taken = super().put(view, row)
        if taken and (view, row.key, row.known) in self._wanted:
            self.found[view, row.key, row.known] = row
        return taken


class _NoOutbox:
    """Rows do not go to history from here."""

    def add(self, view: str, rows: Sequence[Row]) -> None:
        """Let go of them."""

    def save(self) -> None:
        """Nothing is written."""


class _NoFile(FoldFile):
    """A checkpoint that is never written, nor even encoded."""

    def __init__(self) -> None:
        self.path = Path("memory")

    def put(self, space: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Nothing is written."""

    def delete(self, space: str, keys: Iterable[bytes]) -> None:
        """Nothing is written."""
