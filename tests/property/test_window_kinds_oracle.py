"""Every aggregate over every kind of window, against an oracle that recomputes all from the list of raw records."""

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import features.sketch
from features.aggregates import Aggregate, Shape
from features.processor import FeatureFold
from features.rows import Row, encode_key
from features.sketch import hash_of
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.record import Kind, Record, canonical_json

LATENESS = 45
SLIDING: dict[str, Any] = {"over": 30, "tile": 10}
TUMBLING: dict[str, Any] = {"over": 20, "tile": 20}
CLOSED: dict[str, Any] = {"over": 20, "tile": 20, "shape": Shape()}
OPEN: dict[str, Any] = {"shape": Shape(gap=15)}
KEPT_SHORT: dict[str, Any] = {"shape": Shape(gap=15, keep=20)}
KEPT_LONG: dict[str, Any] = {"shape": Shape(gap=15, keep=100)}


def aggregates_over(window: dict[str, Any]) -> tuple[Aggregate, ...]:
    """One of each kind, so that every pane that can be shared is shared."""
    x: dict[str, Any] = {"stream": "s", "column": "x", "nullable": True, **window}
    whole: dict[str, Any] = {"stream": "s", "column": "number", **window}
    return (
        Aggregate(kind="count", stream="s", **window),
        Aggregate(kind="sum", scale=1000, **x),
        Aggregate(kind="mean", scale=1000, **x),
        Aggregate(kind="rate", at_least=2.5, **x),
        Aggregate(kind="std", scale=1000, **x),
        Aggregate(kind="std", scale=10, **x),
        Aggregate(kind="min", **x),
        Aggregate(kind="max", **x),
        Aggregate(kind="distinct", **x),
        Aggregate(kind="last", **x),
        Aggregate(kind="sum", integer=True, **whole),
        Aggregate(kind="max", integer=True, **whole),
        Aggregate(kind="distinct", stream="s", column="name", nullable=True, **window),
    )


def view(name: str, aggregates: tuple[Aggregate, ...]) -> ViewPlan:
    return ViewPlan(
        name=name,
        join_keys=("key",),
        key_types=("string",),
        fields=tuple((f"f{n}", "float64") for n in range(len(aggregates))),
        ttl=None,
        kind="windows",
        streams=tuple(sorted({aggregate.stream for aggregate in aggregates})),
        aggregates=aggregates,
    )


MIXED = view(
    "mixed",
    (
        Aggregate(kind="count", stream="s", **SLIDING),
        Aggregate(kind="mean", stream="t", column="number", **OPEN),
        Aggregate(kind="min", stream="t", column="x", nullable=True, **CLOSED),
        Aggregate(kind="last", stream="t", column="number", integer=True),
        Aggregate(kind="distinct", stream="s", column="number", **KEPT_SHORT),
        Aggregate(kind="sum", stream="s", column="x", nullable=True, scale=7, over=80, tile=40),
    ),
)
PLANS = {
    "sliding": view("sliding", aggregates_over(SLIDING)),
    "tumbling": view("tumbling", aggregates_over(TUMBLING)),
    "closed": view("closed", aggregates_over(CLOSED)),
    "open": view("open", aggregates_over(OPEN)),
    "kept_short": view("kept_short", aggregates_over(KEPT_SHORT)),
    "kept_long": view("kept_long", aggregates_over(KEPT_LONG)),
    "mixed": MIXED,
}


class Recording:
    """Keeps the rows that it is offered; as a table and as an outbox."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, Row]] = []

    def put(self, view: str, row: Row) -> bool:
        self.offered.append((view, row))
        return True

    def rows(self, view: str) -> list[Row]:
        return [row for named, row in self.offered if named == view]

    def flush(self) -> None:
        pass

    def add(self, view: str, rows: Sequence[Row]) -> None:
        pass

    def save(self) -> None:
        pass


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Ties, disorder on both sides of the lateness, steps about the gap and the tiles, and leaps over many of them."""
    steps = st.one_of(
        st.integers(-LATENESS - 5, 20), st.sampled_from([0, 1, 14, 15, 16, 20, 70, 500, -1, -10, -14, -15, -30])
    )
    values = st.one_of(
        st.none(), st.integers(-3, 3), st.floats(-5, 5), st.sampled_from([0.0, -0.0, 1.0, 0.0005, 2.5, 1e300])
    )
    records, clock, at = [], draw(st.integers(1_000, 1_040)), 0
    for n in range(draw(st.integers(1, 22))):
        time = clock + draw(steps)
        clock = max(clock, time)
        at = max(at + 1, clock)
        body = {
            "key": draw(st.sampled_from(["a", "a", "b", None])),
            "x": draw(values),
            "number": draw(st.sampled_from([0, 1, 2, -(2**62), 2**63 - 1, 2**64 - 1])),
            "name": draw(st.sampled_from(["", "a", "b", "ä", None])),
        }
        records.append(
            Record(
                kind=Kind.SOURCE,
                stream=draw(st.sampled_from(["s", "s", "s", "t", "question"])),
                id=f"{99 - n}",
                time=time,
                body=canonical_json(body),
                partition=0,
                offset=n,
                at=at,
            )
        )
    return records


def time_of(record: Record) -> int:
    assert record.time is not None
    return record.time


def clock_of(records: Sequence[Record]) -> int:
    return max((time_of(record) for record in records), default=0)


@dataclass
class Window:
    """One aggregate's window for one entity: which of these records it holds, and when the clock changes that."""

    aggregate: Aggregate
    records: list[Record]

    @property
    def keep(self) -> int:
        return self.aggregate.shape.keep if isinstance(self.aggregate.shape, Shape) else 0

    @property
    def gap(self) -> int:
        return self.aggregate.shape.gap if isinstance(self.aggregate.shape, Shape) else 0

    def held(self, clock: int) -> list[Record]:
        if not self.aggregate.windowed:
            return self.records
        if self.gap:
            return self.session(clock)
        width, span = self.aggregate.tile, self.aggregate.over // self.aggregate.tile
        newest = clock // width - isinstance(self.aggregate.shape, Shape)
        return [record for record in self.records if newest - span < time_of(record) // width <= newest]

    def session(self, clock: int) -> list[Record]:
        if not self.keep:
            return next((each for each in self.sessions() if self.closes(each) > clock), [])
        closed = [each for each in self.sessions() if self.closes(each) <= clock]
        return closed[-1] if closed and self.closes(closed[-1]) + self.keep > clock else []

    def sessions(self) -> list[list[Record]]:
        sessions: list[list[Record]] = []
        for record in sorted(self.records, key=time_of):
            if sessions and time_of(record) - time_of(sessions[-1][-1]) < self.gap:
                sessions[-1].append(record)
            else:
                sessions.append([record])
        return sessions

    def closes(self, session: list[Record]) -> int:
        return time_of(session[-1]) + self.gap

    def boundaries(self) -> Iterator[int]:
        """At each of these the entity gets a row."""
        if self.gap:
            for session in self.sessions():
                closes = self.closes(session)
                yield closes
                if self.keep and self.session(closes + self.keep - 1) == session:
                    yield closes + self.keep
        elif self.aggregate.windowed:
            for record in self.records:
                leaves = time_of(record) // self.aggregate.tile * self.aggregate.tile + self.aggregate.over
                closing = isinstance(self.aggregate.shape, Shape)
                yield from (leaves, leaves + self.aggregate.over) if closing else (leaves,)

    def value(self, clock: int) -> Any:
        records = self.held(clock)
        kind = self.aggregate.kind
        if kind == "count":
            return len(records)
        values = [record.data[self.aggregate.column or ""] for record in records]
        if kind == "distinct":
            return distinct(values)
        if kind == "sum":
            return self.shown(sum(self.amounts(values), Fraction(0)))
        return self.of_some(kind, records, values) if values else None

    def of_some(self, kind: str, records: list[Record], values: list[Any]) -> Any:
        match kind:
            case "last":
                return self.shown(max(records, key=lambda r: (time_of(r), r.id)).data[self.aggregate.column or ""])
            case "min" | "max":
                return self.shown({"min": min, "max": max}[kind](values))
            case "rate":
                return float(Fraction(sum(value >= (self.aggregate.at_least or 0) for value in values), len(values)))
            case "std":
                return statistics.stdev(self.amounts(values)) if len(values) > 1 else None
        return float(sum(self.amounts(values), Fraction(0)) / len(values))

    def amounts(self, values: list[Any]) -> list[Fraction]:
        return [Fraction(round(Fraction(value) * self.aggregate.scale), self.aggregate.scale) for value in values]

    def shown(self, value: Fraction | float) -> float | int | None:
        if not self.aggregate.integer:
            return float(value) + 0.0
        return int(value) if -(2**63) <= int(value) < 2**63 else None


def distinct(values: list[Any]) -> int:
    different = set(values)
    kept = features.sketch.KEPT
    if len(different) < kept:
        return len(different)
    return max(kept, (kept - 1) * 2**64 // (sorted(map(hash_of, different))[kept - 1] + 1))


def expected_rows(plan: ViewPlan, records: Sequence[Record]) -> Iterator[Row]:
    """The rows that the last of these records causes, by key."""
    before, clock, last = clock_of(records[:-1]), clock_of(records), records[-1]
    touched = {last.data["key"]} if last in kept(plan, records) else set[str]()
    for key in {record.data["key"] for record in kept(plan, records[:-1])}:
        moments = [moment for window in windows(plan, records[:-1], key) for moment in window.boundaries()]
        if any(before < moment <= clock for moment in moments):
            touched.add(key)
    for key in sorted(touched):
        values = tuple(window.value(clock) for window in windows(plan, records, key))
        yield Row(encode_key([key]), clock, last.at, values)


def kept(plan: ViewPlan, records: Sequence[Record]) -> list[Record]:
    """Those of this view's streams that have its key and were not too late when they came."""
    return [
        record
        for n, record in enumerate(records)
        if record.stream in plan.streams
        and record.data["key"] is not None
        and time_of(record) >= clock_of(records[: n + 1]) - LATENESS
    ]


def windows(plan: ViewPlan, records: Sequence[Record], key: str) -> list[Window]:
    mine = [record for record in kept(plan, records) if record.data["key"] == key]
    return [
        Window(each, [r for r in mine if r.stream == each.stream and r.data[each.column or "number"] is not None])
        for each in plan.aggregates
    ]


def play(plans: Sequence[ViewPlan], records: Sequence[Record], cuts: frozenset[int]) -> tuple[Recording, str]:
    """Apply the records; after those whose number is a cut, save and start again from the file."""
    sink = Recording()
    with tempfile.TemporaryDirectory() as folder:
        file = FoldFile(Path(folder) / "features.sqlite")
        file.db.execute("PRAGMA synchronous = OFF")  # what dies here is the fold, not the machine
        fold = FeatureFold(plans, LATENESS, sink, sink)
        for n, record in enumerate(records):
            fold.apply(record)
            if n in cuts:
                with file.transaction():
                    fold.save(file)
                before, fold = fold.digest(), FeatureFold(plans, LATENESS, sink, sink)
                fold.load(file)
                assert fold.digest() == before
        file.close()
    return sink, fold.digest()


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=40, deadline=None)
@given(records=histories())
def test_every_row_is_the_oracles_to_the_last_bit(name: str, records: list[Record]) -> None:
    plan = PLANS[name]
    expected = [(name, row) for n in range(1, len(records) + 1) for row in expected_rows(plan, records[:n])]
    assert repr(play([plan], records, frozenset())[0].offered) == repr(expected)


@settings(max_examples=40, deadline=None)
@given(histories())
def test_a_sketch_that_is_full_is_the_oracles_too(records: list[Record]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features.sketch, "KEPT", 2)
        for plan in (PLANS["sliding"], PLANS["open"]):
            expected = [
                (plan.name, row) for n in range(1, len(records) + 1) for row in expected_rows(plan, records[:n])
            ]
            assert repr(play([plan], records, frozenset())[0].offered) == repr(expected)


@settings(max_examples=60, deadline=None)
@given(histories(), st.frozensets(st.integers(0, 21)))
def test_a_restart_anywhere_changes_no_row_and_no_digest(records: list[Record], cuts: frozenset[int]) -> None:
    plans = list(PLANS.values())
    whole, digest = play(plans, records, frozenset())
    cut, cut_digest = play(plans, records, cuts)
    assert (repr(cut.offered), cut_digest) == (repr(whole.offered), digest)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_when_all_is_over_nothing_is_held_but_what_has_no_window(records: list[Record]) -> None:
    end = msgspec.structs.replace(records[-1], stream="question", time=clock_of(records) + 1_000, offset=99, at=10_000)
    plans = [plan for plan in PLANS.values() if plan is not MIXED]
    sink = Recording()
    fold = FeatureFold(plans, LATENESS, sink, sink)
    with tempfile.TemporaryDirectory() as folder:
        file = FoldFile(Path(folder) / "features.sqlite")
        for record in (*records, end):
            fold.apply(record)
            if record.offset in {len(records) - 1, end.offset}:
                with file.transaction():
                    fold.save(file)
        assert list(file.scan("windows")) == []
        file.close()
    assert fold.sizes() == {plan.name: 0 for plan in plans}
