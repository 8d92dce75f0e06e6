"""Skew: the features that predictions were served with, against a rebuild from the journal.

The rules:

- A prediction recorded which row of each view it read, by its stamp (event, known). The rebuild must have that very row
  for that entity, and every value must be equal to the last bit.
- A row past its view's TTL must not have been served, unless the view's policy is to flag it. Over HTTP the moment that
  this was judged at is not recorded and lies a little behind the journal, so there such rows are counted apart.
- A view that answered nothing must have had nothing to say: no row, a delete, or a stale one. A question that came as
  an event is answered from the fold's own table, so its record is the moment that counts; one over HTTP was answered
  from what had been committed, which was at least the newest of the rows that it read.
- That a newer row existed when the prediction was recorded is freshness, and no skew.
- What answered without features (a store that was down, a view that must not be stale) has nothing to compare.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from features.replay import KEPT, Replay, RowMemory, Rules
from features.rows import Row, encode_key, encode_values
from features.skew_report import MOST_EXAMPLES, WHOLE_ROW, Cause, Mismatch, Skew, Tally
from features.views import ViewPlan
from journal.body import Definition, Prediction, Stamp, decode
from journal.log import START
from journal.reading import Pages, each
from journal.record import Kind, Record

MOST_OLDER = 100_000
"""Served rows that are looked up at a time in a second replay, since the first had let go of them."""

_NEVER = -(2**63)


class Range(NamedTuple):
    """Which predictions: those with ``since`` <= at < ``until``, in microseconds; None is open."""

    since: int | None = None
    until: int | None = None

    def holds(self, at: int) -> bool:
        """Whether a moment lies in it."""
        return self.since is None or at >= self.since

    def is_over(self, at: int) -> bool:
        """Whether it lies before a moment."""
        return self.until is not None and at >= self.until


class Known(NamedTuple):
    """What is known about views, beside their plans.

    Attributes:
        services: The services that are declared today, as predictions name them: another one says that a definition
            changed.
        published: From when on a view was live, in microseconds of known time, by label: rows before that came from a
            backfill.
    """

    services: frozenset[str]
    published: Mapping[str, int] = {}


def compare(
    journal: Pages,
    rules: Rules,
    known: Known,
    range_: Range,
    progress: Callable[[Record], None] = lambda _: None,
    *,
    kept: int = KEPT,
) -> Skew:
    """Replay the feature fold over a journal and compare every prediction of a range with it.

    Memory holds the fold's state and a bounded number of older rows, whatever the journal's length; see
    `features.replay`.

    Args:
        journal: From its first record on.
        rules: What rows follow from.
        known: What is declared today.
        range_: Which predictions are compared.
        progress: Called with each record.
        kept: How many superseded rows stay at hand; it changes nothing but speed and memory.

    Raises:
        NoLongerProvable: The journal's beginning is gone.
    """
    comparison = _Comparison(journal, rules, known, kept)
    for record in _through(journal, range_):
        progress(record)
        comparison.take(record, is_wanted=range_.holds(record.at))
    return comparison.result()


def _through(journal: Pages, range_: Range) -> Iterator[Record]:
    for record in each(journal):
        if range_.is_over(record.at):
            return
        yield record


class _Slot(NamedTuple):
    """Where a view's values stand among a prediction's."""

    label: str
    plan: ViewPlan | None
    first: int
    end: int


class _Served(NamedTuple):
    """What a prediction holds of one view."""

    record: Record
    prediction: Prediction
    slot: _Slot
    plan: ViewPlan
    key: bytes
    stamp: Stamp
    seen: int
    is_event: bool
    last_late: int

    @property
    def values(self) -> Sequence[Any]:
        return self.prediction.values[self.slot.first : self.slot.end]


class _Comparison:
    """The state of a comparison on its way through a journal."""

    def __init__(self, journal: Pages, rules: Rules, known: Known, kept: int) -> None:
        self._journal, self._rules, self._known = journal, rules, known
        self._table, self._late = RowMemory(kept), _LateEvents(rules.views)
        self._replay = Replay(rules, self._table)
        self._plans = {plan.label: plan for plan in rules.views}
        self._slots: dict[str, list[_Slot]] = {}
        self._tallies: dict[str, Tally] = {}
        self._undeclared = Counter[str]()
        self._older: list[_Served] = []
        self._examples: list[Mismatch] = []
        self._predictions = self._without_features = 0

    def take(self, record: Record, *, is_wanted: bool) -> None:
        """Take the next record."""
        match record.kind:
            case Kind.SOURCE | Kind.DECISION:
                self._late.note(record, self._replay.clock)
                self._replay.apply(record)
            case Kind.DEFINITION:
                definition = decode(record.body, Definition)
                self._slots[definition.service] = list(_slots_of(definition, self._plans))
            case Kind.PREDICTION if is_wanted:
                self._compare(record, decode(record.body, Prediction))

    def _compare(self, record: Record, prediction: Prediction) -> None:
        self._predictions += 1
        if prediction.degraded and not any(prediction.stamps):
            self._without_features += 1
            return
        question = self._rules.lift(self._journal.read(0, prediction.question - 1, 1)[0])
        is_event = question.kind is Kind.SOURCE
        seen = question.at if is_event else max((stamp[1] for stamp in prediction.stamps if stamp), default=START)
        for slot, stamp in zip(self._slots[prediction.service], prediction.stamps, strict=True):
            if slot.plan is None:
                self._undeclared[slot.label] += 1
                continue
            inputs = [question.data[name] for name in slot.plan.join_keys]
            key = b"" if None in inputs else encode_key(inputs)
            late = self._late.last(slot.plan.name, key)
            # Where nothing was served there is no stamp: the row that ought to have been is looked for instead.
            served = _Served(record, prediction, slot, slot.plan, key, stamp or (START, START), seen, is_event, late)
            if stamp is None:
                self._expect_nothing(served)
            else:
                self._look_up(served)

    def _expect_nothing(self, served: _Served) -> None:
        tally, plan = self._tally(served), served.plan
        row = self._table.as_of(plan.name, served.key, served.seen) if served.key else None
        is_there = row is not None and row.values is not None
        if is_there and row is not None and (plan.stale == "flag" or not _is_stale(plan, row, served.record.at)):
            cause: Cause = "unknown" if plan.ttl is None else "ttl"
            self._differs(served, WHOLE_ROW, cause, None, None, row)
        elif any(value is not None for value in served.values):
            self._differs(served, WHOLE_ROW, "unknown", served.values, None, None)
        else:
            tally.missing += 1

    def _look_up(self, served: _Served) -> None:
        event_known = served.stamp[1]
        newest = self._table.newest(served.plan.name, served.key)
        behind = newest is not None and newest.known > event_known
        self._tally(served).lags.append(newest.known - event_known if newest is not None and behind else 0)
        row = self._table.at(served.plan.name, served.key, event_known)
        if row is None and self._table.has_forgotten:
            self._older.append(served)
            if len(self._older) >= MOST_OLDER:
                self._look_up_older()
        else:
            self._judge(served, row)

    def _look_up_older(self) -> None:
        """Replay once more, for rows that the first replay had let go of."""
        older, self._older = self._older, []
        wanted = _WantedRows((served.plan.name, served.key, served.stamp[1]) for served in older)
        replay = Replay(self._rules, wanted)
        last = max(served.stamp[1] for served in older)
        for record in each(self._journal):
            if record.at > last:
                break
            replay.apply(record)
        for served in older:
            self._judge(served, wanted.found.get((served.plan.name, served.key, served.stamp[1])))

    def _judge(self, served: _Served, row: Row | None) -> None:
        tally, plan = self._tally(served), served.plan
        tally.rows += 1
        tally.values += len(plan.fields)
        if row is None or row.values is None or row.event != served.stamp[0]:
            self._differs(served, WHOLE_ROW, "unknown", served.values, row and row.values, row)
            return
        if plan.stale != "flag" and _is_stale(plan, row, served.seen):
            if served.is_event:
                self._differs(served, WHOLE_ROW, "ttl", served.values, None, row)
            else:
                tally.past_ttl += 1
        if encode_values(served.values) != encode_values(row.values):
            for (name, _), mine, rebuilt in zip(plan.fields, served.values, row.values, strict=True):
                if encode_values([mine]) != encode_values([rebuilt]):
                    self._differs(served, name, "unknown", mine, rebuilt, row)

    def _differs(self, served: _Served, feature: str, found: Cause, value: Any, rebuilt: Any, row: Row | None) -> None:
        tally, cause = self._tally(served), self._cause(served, found, row)
        tally.causes[cause] += 1
        tally.features[feature] += 1
        if len(self._examples) < MOST_EXAMPLES:
            self._examples.append(
                Mismatch(
                    prediction=served.record.offset,
                    at=served.record.at,
                    key=served.prediction.key,
                    view=served.slot.label,
                    feature=feature,
                    cause=cause,
                    served=value,
                    rebuilt=rebuilt,
                    stamp=None if served.stamp[1] == START else served.stamp,
                    rebuilt_stamp=None if row is None else (row.event, row.known),
                )
            )

    def _cause(self, served: _Served, found: Cause, row: Row | None) -> Cause:
        known = served.stamp[1] if row is None else row.known
        if served.prediction.service not in self._known.services:
            return "definition"
        if known < self._known.published.get(served.slot.label, START):
            return "backfill"
        if found != "unknown":
            return found
        return "late event" if served.last_late >= known - _reach(served.plan) else "unknown"

    def _tally(self, served: _Served) -> Tally:
        return self._tallies.setdefault(served.slot.label, Tally())

    def result(self) -> Skew:
        """What was found."""
        if self._older:
            self._look_up_older()
        views = [tally.report(label) for label, tally in self._tallies.items()]
        causes = Counter[str]()
        for view in views:
            causes.update(view.causes)
        return Skew(
            predictions=self._predictions,
            without_features=self._without_features,
            undeclared=dict(sorted(self._undeclared.items())),
            rows=sum(view.rows for view in views),
            values=sum(view.values for view in views),
            mismatches=causes.total(),
            causes=dict(sorted(causes.items())),
            views=views,
            examples=sorted(self._examples, key=lambda each: each.prediction),
        )


class _LateEvents:
    """When an event that came late was last about an entity, whether or not it changed anything."""

    def __init__(self, views: Iterable[ViewPlan]) -> None:
        self._views: dict[str, list[ViewPlan]] = {}
        for view in views:
            for stream in view.streams:
                self._views.setdefault(stream, []).append(view)
        self._last: dict[tuple[str, bytes], int] = {}

    def note(self, record: Record, clock: int) -> None:
        """Look at the next record, as the clock stands before it."""
        if record.time is None or record.time >= clock:
            return
        for view in self._views.get(record.stream, ()):
            inputs = [value for name in view.join_keys if (value := record.data.get(name)) is not None]
            if len(inputs) == len(view.join_keys):
                self._last[view.name, encode_key(inputs)] = record.at

    def last(self, view: str, key: bytes) -> int:
        """The known time of the last one; long ago before the first."""
        return self._last.get((view, key), _NEVER)


class _WantedRows(RowMemory):
    """Keeps the rows that are looked for, and otherwise the newest alone."""

    def __init__(self, wanted: Iterable[tuple[str, bytes, int]]) -> None:
        super().__init__(kept=0)
        self._wanted = frozenset(wanted)
        self.found: dict[tuple[str, bytes, int], Row] = {}

    def put(self, view: str, row: Row) -> bool:
        """See `RowMemory.put`."""
        taken = super().put(view, row)
        if taken and (view, row.key, row.known) in self._wanted:
            self.found[view, row.key, row.known] = row
        return taken


def _slots_of(definition: Definition, plans: Mapping[str, ViewPlan]) -> Iterator[_Slot]:
    first = len(definition.request)
    for label in definition.views:
        prefix = label.rpartition("@")[0] + "__"
        end = first + sum(column.startswith(prefix) for column in definition.columns[len(definition.request) :])
        yield _Slot(label, plans.get(label), first, end)
        first = end


def _reach(plan: ViewPlan) -> int:
    """For how long an event shows in a view's windows, in microseconds; 0 in a plain view."""
    return max((aggregate.over + aggregate.tile for aggregate in plan.aggregates), default=0)


def _is_stale(plan: ViewPlan, row: Row, now: int) -> bool:
    return plan.ttl is not None and now - row.event > plan.ttl
