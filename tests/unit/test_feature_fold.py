"""The feature fold: what it emits, when, in which order, with which stamps; what it keeps and what it refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from features.aggregates import Aggregate
from features.online_table import OnlineTable
from features.outbox import Outbox
from features.processor import FeatureFold
from features.rows import FieldValue, Row, encode_key
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.errors import Refused
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json
from journal.runner import Runner


def windows(name: str, *keys: str, streams: tuple[str, ...] = ("s",), over: int = 20) -> ViewPlan:
    aggregates = tuple(Aggregate(kind="count", stream=stream, over=over, tile=10) for stream in streams)
    return ViewPlan(
        name=name,
        join_keys=keys,
        key_types=("string",) * len(keys),
        fields=tuple((f"n_{stream}", "int64") for stream in streams),
        ttl=None,
        kind="windows",
        streams=streams,
        aggregates=aggregates,
    )


PLAIN = ViewPlan(
    name="weather",
    join_keys=("a",),
    key_types=("string",),
    fields=(("temp", "float64"), ("gusts", "int64")),
    ttl=None,
    kind="plain",
    streams=("w",),
)


class Recording:
    """A table with its guard and an outbox, in memory."""

    def __init__(self) -> None:
        self.offered: list[tuple[str, bytes, int, int, Sequence[FieldValue] | None]] = []
        self.held: dict[tuple[str, bytes], Row] = {}
        self.out: dict[str, list[Row]] = {}
        self.saves = 0

    def put(self, view: str, row: Row) -> bool:
        self.offered.append((view, *row))
        held = self.held.get((view, row.key))
        if held is not None and (row.event, row.known) <= (held.event, held.known):
            return False
        self.held[view, row.key] = row
        return True

    def rows(self, view: str) -> list[Row]:
        return [self.held[named] for named in sorted(self.held) if named[0] == view]

    def flush(self) -> None:
        self.saves += 1

    def add(self, view: str, rows: Sequence[Row]) -> None:
        self.out.setdefault(view, []).extend(rows)

    def save(self) -> None:
        self.saves += 1


class Play:
    """A fold, its journal in miniature, and what it has offered since the last look."""

    def __init__(self, *plans: ViewPlan, lateness: int = 1_000) -> None:
        self.sink = Recording()
        self.fold = FeatureFold(plans, lateness, self.sink, self.sink)
        self.offset = self.at = 0

    def __call__(self, stream: str, time: int, **data: Any) -> list[tuple[Any, ...]]:
        self.offset, self.at = self.offset + 1, max(self.at + 1, time)
        return self.apply(
            Record(
                kind=Kind.SOURCE,
                stream=stream,
                id=f"{self.offset}",
                time=time,
                body=canonical_json(data),
                partition=0,
                offset=self.offset,
                at=self.at,
            )
        )

    def apply(self, record: Record) -> list[tuple[Any, ...]]:
        before = len(self.sink.offered)
        assert self.fold.apply(record) == ()
        return self.sink.offered[before:]


def key(*values: str) -> bytes:
    return encode_key(values)


def test_a_record_gives_one_row_per_view_in_declared_order() -> None:
    play = Play(windows("z", "a"), windows("b", "a", "c"))
    assert play("s", 105, a="x", c="y") == [("z", key("x"), 105, 105, (1,)), ("b", key("x", "y"), 105, 105, (1,))]


def test_a_leaving_tile_gives_a_row_at_the_clock_known_when_the_clock_moved() -> None:
    play = Play(windows("v", "a"))
    play("s", 105, a="x")
    assert play("question", 119) == []
    assert play("question", 120) == [("v", key("x"), 120, 120, (0,))]
    assert play("question", 500) == []


def test_many_boundaries_and_an_own_event_make_one_row() -> None:
    play = Play(windows("v", "a", streams=("s", "t")))
    for time in (101, 111, 121):
        play("s", time, a="x")
    play("t", 121, a="x")
    assert play("s", 135, a="x") == [("v", key("x"), 135, 135, (2, 1))]
    assert play("s", 900, a="x") == [("v", key("x"), 900, 900, (1, 0))]


def test_rows_of_one_record_come_by_view_then_key() -> None:
    play = Play(windows("v", "a"), windows("w", "a", over=40))
    for name in ("z", "m", "b"):
        play("s", 101, a=name)
    rows = play("s", 900, a="k")
    assert [(view, entity) for view, entity, *_ in rows] == [
        (view, key(name)) for view in "vw" for name in ("b", "k", "m", "z")
    ]


def test_a_late_event_is_stamped_with_the_clock_and_one_too_late_is_only_counted() -> None:
    play = Play(windows("v", "a", over=40), lateness=20)
    play("s", 130, a="x")
    assert play("s", 110, a="x") == [("v", key("x"), 130, 131, (2,))]
    assert play("s", 109, a="x") == []
    assert play.fold.late_dropped == 1
    assert play("question", 150) == [("v", key("x"), 150, 150, (1,))]


def test_a_missing_join_key_skips_that_view_only() -> None:
    play = Play(windows("v", "a"), windows("w", "a", "c"))
    assert play("s", 105, a="x", c=None) == [("v", key("x"), 105, 105, (1,))]
    assert play("s", 106, a="x") == [("v", key("x"), 106, 106, (2,))]
    assert play("s", 107, c="y") == []


def test_nothing_derived_is_looked_at() -> None:
    """The runner passes a fold no record of another kind, so nothing derived moves the clock."""
    assert FeatureFold.kinds == {Kind.SOURCE, Kind.DECISION}


def test_a_plain_row_has_its_own_time_and_an_older_one_is_superseded_and_not_in_history() -> None:
    play = Play(PLAIN)
    assert play("w", 105, a="x", temp=40, gusts=None) == [("weather", key("x"), 105, 105, (40.0, None))]
    assert type(play.sink.held["weather", key("x")].values[0]) is float  # type: ignore[index]
    assert play("w", 104, a="x", temp=39.5, gusts=3) == [("weather", key("x"), 104, 106, (39.5, 3))]
    assert play("w", 110, a=None, temp=1.0) == []
    assert play.fold.superseded == 1
    assert play.sink.held["weather", key("x")].event == 105


@pytest.fixture
def file(tmp_path: Path) -> FoldFile:
    return FoldFile(tmp_path / "features.sqlite")


def save(fold: FeatureFold, file: FoldFile) -> None:
    with file.transaction():
        fold.save(file)


def test_accepted_rows_leave_at_save_and_once(file: FoldFile) -> None:
    play = Play(windows("v", "a"), PLAIN)
    play("s", 105, a="x")
    play("w", 106, a="x", temp=1.0)
    play("w", 100, a="x", temp=2.0)
    assert play.sink.out == {}
    save(play.fold, file)
    save(play.fold, file)
    assert {view: [row.event for row in rows] for view, rows in play.sink.out.items()} == {"v": [105], "weather": [106]}
    assert play.sink.saves == 4


def test_an_entity_without_records_is_forgotten_and_starts_anew(file: FoldFile) -> None:
    play = Play(windows("v", "a"))
    play("s", 105, a="x")
    save(play.fold, file)
    assert len(list(file.scan("windows"))) == 1
    play("question", 900)
    digest = play.fold.digest()
    save(play.fold, file)
    assert list(file.scan("windows")) == []
    assert play.fold.sizes() == {"v": 0}
    assert play.fold.digest() == digest
    assert play("s", 905, a="x") == [("v", key("x"), 905, 905, (1,))]


def test_only_what_changed_is_written(file: FoldFile) -> None:
    play = Play(windows("v", "a"))
    play("s", 105, a="x")
    play("s", 105, a="y")
    save(play.fold, file)
    file.delete("windows", [entity for entity, _ in file.scan("windows")])
    play("s", 106, a="y")
    save(play.fold, file)
    assert [entity for entity, _ in file.scan("windows")] == [b"v\0" + key("y")]


def test_load_takes_back_clock_counters_and_timers(file: FoldFile) -> None:
    play = Play(windows("v", "a"), lateness=10)
    play("s", 105, a="x")
    play("s", 90, a="x")
    save(play.fold, file)
    restarted = Play(windows("v", "a"), lateness=10)
    restarted.fold.load(file)
    assert restarted.fold.digest() == play.fold.digest()
    assert (restarted.fold.clock, restarted.fold.late_dropped) == (105, 1)
    assert restarted("question", 120) == [("v", key("x"), 120, 120, (0,))]


def test_state_of_other_definitions_is_refused(file: FoldFile) -> None:
    play = Play(windows("v", "a"))
    play("s", 105, a="x")
    save(play.fold, file)
    with pytest.raises(Refused, match="other view definitions"):
        Play(windows("v", "a", over=30)).fold.load(file)


def test_the_digest_is_of_content() -> None:
    plays = [Play(windows("v", "a")) for _ in range(3)]
    for play, order in zip(plays, ("xy", "yx", "xx"), strict=True):
        for name in order:
            play("s", 105, a=name)
    digests = [play.fold.digest() for play in plays]
    assert digests[0] == digests[1] != digests[2]


def test_it_runs_on_the_real_runner_table_and_outbox(file: FoldFile) -> None:
    plans = [windows("v", "a"), PLAIN]
    table, outbox = OnlineTable(file.db), Outbox(file.db, [plan.schema for plan in plans])
    journal = MemoryJournal("test")
    runner = Runner(FeatureFold(plans, 1_000, table, outbox), file, journal, "build")
    drafts = [
        Draft(kind=Kind.SOURCE, stream=stream, source="/t", id=f"{n}", time=time, body=canonical_json({"a": "x"}))
        for n, (stream, time) in enumerate([("s", 105), ("w", 106), ("s", 121)])
    ]
    for record in journal.append(drafts):
        assert isinstance(record, Record)
        assert not runner.step(record)
    runner.commit()
    assert [row and (row.event, list(row.values or ())) for row in table.get_many([("v", key("x"))])] == [(121, [1])]
    assert outbox.pending_rows() == 3
    again = Runner(FeatureFold(plans, 1_000, OnlineTable(file.db), outbox), file, journal, "build")
    assert again.offset == 2
    assert again.fold.digest() == runner.fold.digest()
