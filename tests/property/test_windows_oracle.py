"""The feature fold against an oracle that keeps every record and recomputes everything from the raw list each time."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from features.aggregates import Aggregate
from features.processor import FeatureFold
from features.rows import Row, encode_key
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.record import Kind, Record, canonical_json

WIDTH = 10
LATENESS = 45

SUMMARY = ViewPlan(
    name="by_key",
    join_keys=("key",),
    key_types=("string",),
    fields=tuple((name, "float64") for name in "abcdefghi"),
    ttl=None,
    kind="windows",
    streams=("s", "t"),
    aggregates=(
        Aggregate(kind="count", stream="s", over=30, tile=WIDTH),
        Aggregate(kind="mean", stream="s", column="x", over=30, tile=WIDTH, scale=1000, nullable=True),
        Aggregate(kind="rate", stream="s", column="x", at_least=2.5, over=30, tile=WIDTH, nullable=True),
        Aggregate(kind="rate", stream="s", column="x", at_least=-1, over=30, tile=WIDTH, nullable=True),
        Aggregate(kind="mean", stream="t", column="x", over=60, tile=20, scale=1, nullable=True),
        Aggregate(kind="last", stream="s", column="x", nullable=True),
        Aggregate(kind="decayed_mean", stream="s", column="x", half_life=30, tile=WIDTH, scale=1000, nullable=True),
        Aggregate(kind="count", stream="t", over=60, tile=20),
        Aggregate(kind="rate", stream="t", column="flag", at_least=1, over=40, tile=20),
    ),
)
TWO_KEYS = ViewPlan(
    name="by_both",
    join_keys=("key", "number"),
    key_types=("string", "int64"),
    fields=(("n", "int64"), ("m", "float64")),
    ttl=None,
    kind="windows",
    streams=("s",),
    aggregates=(
        Aggregate(kind="count", stream="s", over=WIDTH, tile=WIDTH),
        Aggregate(kind="mean", stream="s", column="number", over=WIDTH, tile=WIDTH),
    ),
)
PLANS = (SUMMARY, TWO_KEYS)


class Recording:
    """Keeps the rows that it is offered; as a table and as an outbox."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, Row]] = []
        self.out: dict[str, list[Row]] = {}

    def put(self, view: str, row: Row) -> bool:
        self.offered.append((view, row))
        return True

    def rows(self, view: str) -> list[Row]:
        return [row for named, row in self.offered if named == view]

    def flush(self) -> None:
        pass

    def add(self, view: str, rows: Sequence[Row]) -> None:
        self.out.setdefault(view, []).extend(rows)

    def save(self) -> None:
        pass


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    """Records with ties, disorder on both sides of the lateness, and gaps that cross many boundaries."""
    steps = st.one_of(st.just(0), st.integers(-LATENESS - 5, 15), st.sampled_from([-LATENESS, 9, 10, 11, 70, 500]))
    values = st.one_of(st.none(), st.integers(-5, 5), st.floats(-5, 5), st.sampled_from([0.0005, 0.0015, 2.5, 1e300]))
    records, clock, at = [], draw(st.integers(1_000, 1_100)), 0
    for n in range(draw(st.integers(1, 25))):
        time = clock + draw(steps)
        clock = max(clock, time)
        at = max(at + 1, clock)
        body: dict[str, Any] = {"key": draw(st.sampled_from(["a", "b", None])), "number": draw(st.integers(0, 1))}
        body |= {"x": draw(values), "flag": draw(st.booleans())}
        stream = draw(st.sampled_from(["s", "s", "t", "question"]))
        # Ids fall as offsets rise: the last value must not follow arrival.
        records.append(
            Record(
                kind=Kind.SOURCE,
                stream=stream,
                id=f"{99 - n}",
                time=time,
                body=canonical_json(body),
                partition=0,
                offset=n,
                at=at,
            )
        )
    return records


@dataclass
class Oracle:
    """Everything from the definition, nothing incremental."""

    plan: ViewPlan

    def rows(self, records: Sequence[Record]) -> Iterator[Row]:
        """The rows that the last of these records causes, by key."""
        record = records[-1]
        assert record.time is not None
        before, clock = self.clock(records[:-1]), self.clock(records)
        touched = {self.key(kept) for kept in self.kept(records[:-1]) if self.leaves(kept, before, clock)}
        if record in self.kept(records):
            touched.add(self.key(record))
        for key in sorted(touched):
            values = [self.value(aggregate, self.kept(records), key, clock) for aggregate in self.plan.aggregates]
            yield Row(key, clock, record.at, tuple(values))

    def clock(self, records: Sequence[Record]) -> int:
        return max((record.time or 0 for record in records), default=0)

    def kept(self, records: Sequence[Record]) -> list[Record]:
        """Those of this view's streams that have its keys and were not too late when they came."""
        return [
            record
            for n, record in enumerate(records)
            if record.stream in self.plan.streams
            and None not in [record.data[name] for name in self.plan.join_keys]
            and (record.time or 0) >= self.clock(records[: n + 1]) - LATENESS
        ]

    def key(self, record: Record) -> bytes:
        return encode_key([record.data[name] for name in self.plan.join_keys])

    def leaves(self, record: Record, before: int, clock: int) -> bool:
        return any(
            self.held(aggregate, record, before) and not self.held(aggregate, record, clock)
            for aggregate in self.plan.aggregates
            if aggregate.over and self.seen(aggregate, record)
        )

    def held(self, aggregate: Aggregate, record: Record, clock: int) -> bool:
        now, tile = clock // aggregate.tile, (record.time or 0) // aggregate.tile
        return now - aggregate.over // aggregate.tile < tile <= now

    def seen(self, aggregate: Aggregate, record: Record) -> bool:
        has_value = aggregate.column is None or record.data[aggregate.column] is not None
        return record.stream == aggregate.stream and has_value

    def value(self, aggregate: Aggregate, records: Sequence[Record], key: bytes, clock: int) -> Any:
        mine = [record for record in records if self.key(record) == key and self.seen(aggregate, record)]
        if aggregate.over:
            mine = [record for record in mine if self.held(aggregate, record, clock)]
        if aggregate.kind == "count":
            return len(mine)
        if not mine:
            return None
        values = [record.data[aggregate.column or ""] for record in mine]
        if aggregate.kind == "last":
            return float(
                max((record.time or 0, record.id, value) for record, value in zip(mine, values, strict=True))[2]
            )
        if aggregate.kind == "rate":
            assert aggregate.at_least is not None
            return float(Fraction(sum(value >= aggregate.at_least for value in values), len(values)))
        amounts = [Fraction(round(Fraction(value) * aggregate.scale), aggregate.scale) for value in values]
        weights = [Fraction(1)] * len(values)
        if aggregate.kind == "decayed_mean":
            weights = [self.weight(aggregate, record) for record in mine]
        total = sum((weight * amount for weight, amount in zip(weights, amounts, strict=True)), Fraction(0))
        return float(total / sum(weights))

    def weight(self, aggregate: Aggregate, record: Record) -> Fraction:
        tiles = aggregate.half_life // aggregate.tile
        power, step = divmod((record.time or 0) // aggregate.tile, tiles)
        with localcontext() as context:
            context.prec = 50
            return Fraction(2) ** power * round(2 ** (40 + Decimal(step) / tiles))


def play(records: Sequence[Record], cuts: frozenset[int] = frozenset()) -> tuple[Recording, str]:
    """Apply the records; after those whose number is a cut, save and start again from the file."""
    sink = Recording()
    with tempfile.TemporaryDirectory() as folder:
        file = FoldFile(Path(folder) / "features.sqlite")
        file.db.execute("PRAGMA synchronous = OFF")  # what dies here is the fold, not the machine
        fold = FeatureFold(PLANS, LATENESS, sink, sink)
        for n, record in enumerate(records):
            assert fold.apply(record) == ()
            if n in cuts:
                with file.transaction():
                    fold.save(file)
                fold = FeatureFold(PLANS, LATENESS, sink, sink)
                fold.load(file)
        digest = fold.digest()
        with file.transaction():
            fold.save(file)
        file.close()
    return sink, digest


@settings(max_examples=150, deadline=None)
@given(histories())
def test_every_row_is_the_oracles_to_the_last_bit(records: list[Record]) -> None:
    expected = []
    for n in range(1, len(records) + 1):
        for plan in PLANS:
            expected += [(plan.name, row) for row in Oracle(plan).rows(records[:n])]
    assert repr(play(records)[0].offered) == repr(expected)


@settings(max_examples=60, deadline=None)
@given(histories(), st.frozensets(st.integers(0, 24)))
def test_a_restart_anywhere_changes_no_row_and_no_digest(records: list[Record], cuts: frozenset[int]) -> None:
    whole, digest = play(records)
    cut, cut_digest = play(records, cuts)
    assert (repr(cut.offered), repr(cut.out), cut_digest) == (repr(whole.offered), repr(whole.out), digest)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_stamps_of_an_entity_never_fall_and_no_record_gives_it_two_rows(records: list[Record]) -> None:
    sink, _ = play(records)
    by_entity: dict[tuple[str, bytes], list[Row]] = {}
    for view, row in sink.offered:
        by_entity.setdefault((view, row.key), []).append(row)
    for rows in by_entity.values():
        assert all(old.event <= new.event and old.known < new.known for old, new in pairwise(rows))
        assert all(row.event <= row.known for row in rows)
    assert sink.out == {plan.name: [row for view, row in sink.offered if view == plan.name] for plan in PLANS}
