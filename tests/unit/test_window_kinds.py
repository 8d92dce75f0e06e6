"""Tumbling windows, closed ones and sessions: what they show when, what they keep, and which panes they share."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from features.aggregates import Aggregate, Shape
from features.closing import Closed, ClosedPane
from features.measure import Measure, Sample
from features.panes import panes_of
from features.processor import FeatureFold
from features.rows import FieldValue, Row, encode_key
from features.sessions import SessionPane, Sessions
from features.summaries import Different, Extremes, Newest, Sums
from features.tiles import TilePane, Tiles
from features.views import ViewPlan
from features.windows import WindowPane
from journal.body import Decision
from journal.checkpoint import FoldFile
from journal.record import Kind, Record, canonical_json

DELAY = Measure("delay")
COUNT_AND_SUM = Sums(count=0, sum=1)


def sample(time: int, value: int = 1, clock: int | None = None) -> Sample:
    return time, f"{time}", time if clock is None else clock, value, 0, value


def sessions(keep: int = 0, lateness: int = 50) -> tuple[Sessions, list[FieldValue]]:
    values: list[FieldValue] = [None, None]
    return SessionPane("s", DELAY, 10, keep, lateness, COUNT_AND_SUM).open(values), values


def test_a_session_grows_until_the_gap_has_passed_and_then_shows_nothing() -> None:
    state, values = sessions()
    assert state.add(sample(100, 2)) == 110
    assert state.add(sample(109, 3)) is None, "the wake-up at 110 finds out"
    assert values == [2, 5.0]
    assert (state.leave(110), state.again) == (False, 119)
    assert (state.leave(119), state.again) == (True, 169)
    assert values == [0, 0.0]
    assert not state.is_empty(), "a late record may still reach it"
    assert (state.leave(169), state.again) == (False, None)
    assert state.is_empty()


def test_a_record_a_whole_gap_later_begins_a_session_of_its_own() -> None:
    state, values = sessions()
    state.add(sample(100))
    state.leave(110)
    state.add(sample(110, 7))
    assert values == [1, 7.0]
    assert [content[:2] for content in state.dump()] == [(100, 100), (110, 110)]


def test_a_late_record_merges_two_sessions_into_the_open_one() -> None:
    state, values = sessions()
    state.add(sample(100, 1))
    state.leave(110)
    state.add(sample(118, 2))
    assert values == [1, 2.0]
    state.add(sample(109, 4, clock=118))
    assert values == [3, 7.0]
    assert [content[:2] for content in state.dump()] == [(100, 118)]


def test_a_late_record_opens_a_closed_session_again() -> None:
    state, values = sessions()
    state.add(sample(100, 1))
    state.leave(110)
    assert values == [0, 0.0]
    assert state.add(sample(105, 2, clock=112)) == 115
    assert values == [2, 3.0]
    assert state.leave(115)


def test_the_last_closed_session_is_kept_and_a_newer_one_takes_its_place() -> None:
    state, values = sessions(keep=30)
    state.add(sample(100, 1))
    assert values == [0, 0.0]
    assert state.leave(110)
    assert values == [1, 1.0]
    state.add(sample(120, 5))
    assert values == [1, 1.0]
    assert (state.leave(130), state.again) == (True, 140)
    assert values == [1, 5.0]
    assert (state.leave(140), state.again) == (False, 160), "the older one expires unseen"
    assert state.leave(160)
    assert values == [0, 0.0]


def test_a_final_session_is_held_only_while_it_is_shown() -> None:
    state, values = sessions(keep=1_000, lateness=20)
    for start in (100, 200, 300):
        assert (state.add(sample(start)), state.leave(start + 10)) == (start + 10, True)
        state.leave(start + 30)
    assert [content[0] for content in state.dump()] == [300]
    assert values == [1, 1.0]


def test_a_wake_up_that_was_overtaken_is_passed_over() -> None:
    state, _ = sessions(lateness=0)
    assert state.add(sample(100)) == 110
    earlier, _ = sessions()
    assert earlier.add(sample(100)) == 110
    assert earlier.add(sample(60, clock=100)) is None, "it closed long ago, and is final at 120"
    assert earlier.add(sample(51, clock=100)) is None
    assert state.leave(110)
    assert (state.leave(110), state.again) == (None, None)
    assert (earlier.leave(109), earlier.again, earlier.boundaries()) == (None, None, [110])


def closed() -> tuple[Closed, list[FieldValue]]:
    values: list[FieldValue] = [None, None]
    return ClosedPane("s", DELAY, 10, COUNT_AND_SUM).open(values), values


def test_a_closed_window_is_shown_while_the_next_one_runs() -> None:
    state, values = closed()
    assert state.add(sample(103, 4)) == 110
    assert values == [0, 0.0]
    assert (state.leave(110), state.again) == (True, 120)
    assert values == [1, 4.0]
    assert state.add(sample(109, 1, clock=115)) is None
    assert values == [2, 5.0], "a late record corrects it"
    assert state.add(sample(99, 1, clock=115)) is None
    assert values == [2, 5.0], "its tile has left"
    assert (state.leave(120), state.again) == (True, None)
    assert values == [0, 0.0]
    assert state.is_empty()


def test_a_tumbling_window_resets_at_whole_multiples_of_its_width() -> None:
    values: list[FieldValue] = [None, None]
    state: Tiles = TilePane("s", DELAY, 10, 1, COUNT_AND_SUM).open(values)
    assert state.add(sample(109, 4)) == 110
    assert values == [1, 4.0]
    assert state.leave(110)
    assert values == [0, 0.0]
    assert state.is_empty()


@pytest.mark.parametrize("state_of", [sessions, closed])
def test_what_was_dumped_is_loaded_with_its_wake_up(state_of: Any) -> None:
    state, values = state_of()
    state.add(sample(100, 2**70))
    state.add(sample(103, 1))
    again, copied = state_of()
    again.load(state.dump(), 103)
    assert (again.dump(), copied, again.boundaries()) == (state.dump(), values, [113 if state_of is sessions else 110])


def aggregate(kind: str, **more: Any) -> Aggregate:
    given: dict[str, Any] = {"kind": kind, "stream": "s", "column": "d", "over": 30, "tile": 10}
    return Aggregate(**(given | more))


def test_sums_over_one_column_share_a_pane_and_so_do_both_extremes() -> None:
    kinds = ("std", "max", "count", "min", "sum", "last", "distinct")
    panes = panes_of([aggregate(kind, column=None if kind == "count" else "d") for kind in kinds])
    value = Measure("d", takes="value")
    assert panes == (
        TilePane("s", Measure("d"), 10, 3, Sums(std=0, count=2, sum=4)),
        TilePane("s", value, 10, 3, Extremes(high=1, low=3)),
        TilePane("s", value, 10, 3, Newest(5)),
        TilePane("s", Measure("d", takes="hash"), 10, 3, Different(6)),
    )


def test_scales_that_differ_do_not_share_and_a_count_goes_with_sums() -> None:
    panes = panes_of(
        [
            aggregate("sum", scale=10),
            aggregate("mean", scale=100),
            aggregate("count", column=None, stream="t"),
            aggregate("distinct", column="name", stream="t"),
            aggregate("mean", stream="t"),
        ]
    )
    assert panes[0] == TilePane("s", Measure("d", 10), 10, 3, Sums(scale=10, sum=0))
    assert panes[1] == WindowPane("s", Measure("d", 100), 10, 3, mean=1)
    assert panes[2] == WindowPane("t", Measure("d"), 10, 3, count=2, mean=4)


def test_each_shape_has_panes_of_its_own() -> None:
    none: dict[str, Any] = {"column": None, "over": 0, "tile": 0}
    panes = panes_of(
        [
            aggregate("count", column=None, over=10),
            aggregate("count", column=None, over=10, shape=Shape()),
            aggregate("count", **none, shape=Shape(gap=5)),
            aggregate("count", **none, shape=Shape(gap=5, keep=9)),
        ],
        lateness=7,
    )
    whole = Measure(None)
    assert panes == (
        WindowPane("s", whole, 10, 1, count=0),
        ClosedPane("s", whole, 10, Sums(count=1)),
        SessionPane("s", whole, 5, 0, 7, Sums(count=2)),
        SessionPane("s", whole, 5, 9, 7, Sums(count=3)),
    )


class Accepting:
    """A table and an outbox that take everything."""

    def __init__(self) -> None:
        self.held: dict[bytes, Row] = {}
        self.values: list[Any] = []

    def put(self, view: str, row: Row) -> bool:
        self.held[row.key] = row
        self.values.append(row.values and tuple(row.values))
        return True

    def rows(self, view: str) -> list[Row]:
        return list(self.held.values())

    def flush(self) -> None:
        pass

    def add(self, view: str, rows: Any) -> None:
        pass

    def save(self) -> None:
        pass


VISITS = ViewPlan(
    name="visits",
    join_keys=("key",),
    key_types=("string",),
    fields=(("n", "int64"),),
    ttl=None,
    kind="windows",
    streams=("s",),
    aggregates=(Aggregate(kind="count", stream="s", shape=Shape(gap=10)),),
)


class Play:
    """A fold over the view of visits, a record at a time."""

    def __init__(self, lateness: int = 20) -> None:
        self.sink = Accepting()
        self.fold = FeatureFold([VISITS], lateness, self.sink, self.sink)
        self.offset = 0

    def __call__(self, time: int, key: str | None = "a", **more: Any) -> list[Any]:
        self.offset += 1
        given: dict[str, Any] = {"kind": Kind.SOURCE, "stream": "s", "id": f"{self.offset}"}
        given["body"] = canonical_json({"key": key})
        before = len(self.sink.values)
        self.fold.apply(Record(**(given | more), time=time, partition=0, offset=self.offset, at=10_000 + self.offset))
        return self.sink.values[before:]

    def decide(self, action: str, details: dict[str, Any]) -> None:
        body = Decision(sequence=1, action=action, subject="", why="", details=details)
        self(self.fold.clock, kind=Kind.DECISION, body=msgspec.json.encode(body))


@pytest.fixture
def file(tmp_path: Path) -> FoldFile:
    return FoldFile(tmp_path / "features.sqlite")


def save(play: Play, file: FoldFile) -> None:
    with file.transaction():
        play.fold.save(file)


def test_a_session_gives_a_row_when_it_closes_and_none_when_it_is_let_go(file: FoldFile) -> None:
    play = Play()
    assert play(100) == [(1,)]
    assert play(105) == [(2,)]
    assert play(114, key=None) == []
    assert play(115, key=None) == [(0,)]
    save(play, file)
    assert len(list(file.scan("windows"))) == 1
    assert play(135, key=None) == []
    save(play, file)
    assert list(file.scan("windows")) == []
    assert play.fold.sizes() == {"visits": 0}
    assert play(136) == [(1,)]


def test_a_released_event_changes_no_session_whose_neighbours_may_be_gone() -> None:
    play = Play()
    for time in (100, 109, 118, 127):
        play(time)
    play.decide("release", {"event": "late"})
    assert play(95, id="late") == [(4,)], "it gives a row, as every accepted event does, and counts for no session"
    assert play(107) == [(5,)]
    assert play.fold.late_dropped == 0


def test_an_erased_entity_stays_gone_when_its_sessions_wake(file: FoldFile) -> None:
    play = Play()
    play(100)
    save(play, file)
    play.decide("erase", {"pseudonyms": {"key": ["a"]}})
    assert play.sink.values[-1] is None
    save(play, file)
    assert list(file.scan("windows")) == []
    play(102)
    play(115, key=None)
    save(play, file)
    assert [key for key, _ in file.scan("windows")] == [b"visits\0" + encode_key(["a"])]
    assert play(130, key=None) == []
    save(play, file)
    assert [key for key, _ in file.scan("windows")] == [b"visits\0" + encode_key(["a"])], "102 + 10 + 20 is to come"


def test_what_was_too_late_is_counted_by_stream_and_survives_a_restart(file: FoldFile) -> None:
    play = Play()
    for time in (100, 79, 100, 10, 80):
        play(time)
    assert (play.fold.late_dropped, play.fold.late_by_stream) == (2, {"s": 2})
    save(play, file)
    again = Play()
    again.fold.load(file)
    assert (again.fold.late_by_stream, again.fold.digest()) == ({"s": 2}, play.fold.digest())


def test_a_deviation_that_no_float_can_hold_is_missing() -> None:
    scale = 1 << 1074
    sums = Sums(count=0, std=1, scale=scale)
    values: list[FieldValue] = [None, 0.0]
    amounts = [int(sign * 1.7e308) * scale for sign in (1, -1)]
    sums.show((2, sum(amounts), 0, sum(amount * amount for amount in amounts)), values)
    assert values == [2, None]
