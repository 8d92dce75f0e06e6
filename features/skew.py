"""Skew: the features that predictions were served with, against a rebuild from the journal.

The rules:

- A prediction recorded which row of each view it read, by its stamp (event, known). The rebuild must have that very row
  for that entity, and every value must be equal to the last bit.
- A row past its view's TTL must not have been served, unless the view's policy is to flag it. The prediction tells at
  which moment this was judged.
- A view that answered nothing must have had nothing to say: no row, a delete, or a stale one. A question that came as
  an event is answered from the fold's own table, so its record says what was there; one over HTTP was answered from
  what had been committed, which was at least the newest of the rows that it read and at most what the journal held.
- That a newer row existed when the prediction was recorded is freshness, and no skew.
- What answered without features (a store that was down, a view that must not be stale) has nothing to compare.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from features.replay import KEPT, Replay, RowMemory, RowPlace, Rules, from_the_beginning, rows_at
from features.rows import Row, encode_values
from features.served import LateEvents, ServedView, Slot, key_of, sight_of, slots_of
from features.skew_report import MOST_EXAMPLES, WHOLE_ROW, Cause, Mismatch, Skew, Tally
from journal.body import Definition, Prediction, decode
from journal.log import START
from journal.reading import Pages
from journal.record import Kind, Record

MOST_OLDER = 100_000
"""Served rows that are looked up at a time in a second replay, since the first had let go of them."""


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
        NoLongerProvable: Retention let go of the journal's beginning, which every row may follow from.
    """
    comparison = _Comparison(journal, rules, known, kept)
    for record in _through(journal, range_):
        progress(record)
        comparison.take(record, is_wanted=range_.holds(record.at))
    return comparison.result()


def _through(journal: Pages, range_: Range) -> Iterator[Record]:
    for record in from_the_beginning(journal):
        if range_.is_over(record.at):
            return
        yield record


class _Comparison:
    """The state of a comparison on its way through a journal."""

    def __init__(self, journal: Pages, rules: Rules, known: Known, kept: int) -> None:
        self._journal, self._rules, self._known = journal, rules, known
        self._table, self._late = RowMemory(kept), LateEvents(rules.views)
        self._replay = Replay(rules, self._table)
        self._plans = {plan.label: plan for plan in rules.views}
        self._slots: dict[str, list[Slot]] = {}
        self._tallies: dict[str, Tally] = {}
        self._undeclared = Counter[str]()
        self._older: list[tuple[ServedView, RowPlace]] = []
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
                self._slots[definition.service] = list(slots_of(definition, self._plans))
            case Kind.PREDICTION if is_wanted:
                self._compare(record, decode(record.body, Prediction))

    def _compare(self, record: Record, prediction: Prediction) -> None:
        self._predictions += 1
        if prediction.degraded and not any(prediction.stamps):
            self._without_features += 1
            return
        question = self._rules.lift(self._journal.read(0, prediction.question - 1, 1)[0])
        sight = sight_of(record, prediction, question)
        for slot, stamp in zip(self._slots[prediction.service], prediction.stamps, strict=True):
            if slot.plan is None:
                self._undeclared[slot.label] += 1
                continue
            key = key_of(slot.plan, question)
            late = self._late.last(slot.plan.name, key)
            served = ServedView(record, prediction, slot, slot.plan, key, stamp, sight, late)
            if stamp is None:
                self._expect_nothing(served)
            else:
                self._look_up(served, stamp[1])

    def _expect_nothing(self, served: ServedView) -> None:
        row = self._unseen(served)
        if row is not None:
            cause: Cause = "unknown" if served.plan.ttl is None else "ttl"
            self._differs(served, WHOLE_ROW, cause, None, None, row)
        elif any(value is not None for value in served.values):
            self._differs(served, WHOLE_ROW, "unknown", served.values, None, None)
        else:
            self._tally(served).missing += 1

    def _unseen(self, served: ServedView) -> Row | None:
        """The row that was there to be served, whichever rows the answer had seen."""
        plan, key = served.plan, served.key
        row = self._table.as_of(plan.name, key, served.sight.least) if key else None
        if row is None or row.values is None or served.is_stale(row):
            return None
        newer = self._table.between(plan.name, key, served.sight.least, served.sight.most)
        return None if any(each.values is None for each in newer) else row

    def _look_up(self, served: ServedView, known: int) -> None:
        view, key = served.plan.name, served.key
        newest = self._table.newest(view, key)
        self._tally(served).lags.append(max(0, newest.known - known) if newest is not None else 0)
        row = self._table.at(view, key, known)
        if row is None and self._table.has_forgotten:
            self._older.append((served, (view, key, known)))
            if len(self._older) >= MOST_OLDER:
                self._look_up_older()
        else:
            self._judge(served, row)

    def _look_up_older(self) -> None:
        """Replay once more, for rows that the first replay had let go of."""
        older, self._older = self._older, []
        rows = rows_at(self._journal, self._rules, [place for _, place in older])
        for served, place in older:
            self._judge(served, rows.get(place))

    def _judge(self, served: ServedView, row: Row | None) -> None:
        tally, plan = self._tally(served), served.plan
        tally.rows += 1
        tally.values += len(plan.fields)
        if row is None or row.values is None or (row.event, row.known) != served.stamp:
            self._differs(served, WHOLE_ROW, "unknown", served.values, row and row.values, row)
            return
        if served.is_stale(row):
            self._differs(served, WHOLE_ROW, "ttl", served.values, None, row)
        if len(served.values) != len(row.values):
            self._differs(served, WHOLE_ROW, "definition", served.values, row.values, row)
        elif encode_values(served.values) != encode_values(row.values):
            for (name, _), mine, rebuilt in zip(plan.fields, served.values, row.values, strict=True):
                if encode_values([mine]) != encode_values([rebuilt]):
                    self._differs(served, name, "unknown", mine, rebuilt, row)

    def _differs(
        self, served: ServedView, feature: str, found: Cause, value: Any, rebuilt: Any, row: Row | None
    ) -> None:
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
                    stamp=served.stamp,
                    rebuilt_stamp=None if row is None else (row.event, row.known),
                )
            )

    def _cause(self, served: ServedView, found: Cause, row: Row | None) -> Cause:
        known = row.known if row is not None else served.stamp[1] if served.stamp is not None else START
        if served.prediction.service not in self._known.services:
            return "definition"
        if known < self._known.published.get(served.slot.label, START):
            return "backfill"
        if found != "unknown":
            return found
        return "late event" if served.last_late >= known - served.reach else "unknown"

    def _tally(self, served: ServedView) -> Tally:
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
