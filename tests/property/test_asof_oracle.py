import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.asof_join import AsofView, Limits, asof_join
from features.sharded_join import sharded_join
from journal.errors import Refused

BASE = 1_365_000_000_000_000
TINY = Limits(memory="200MB", threads=1)
UTC_MICROS = pa.timestamp("us", "UTC")

KEYS = st.one_of(st.none(), st.sampled_from(["a", "b", "unknown"]))
MOMENTS = st.one_of(st.none(), st.integers(0, 12))
ENTITIES = st.lists(st.tuples(KEYS, MOMENTS), max_size=12)
# (key, event, known - event or None where nobody noted it, value, deleted)
ROWS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from(["a", "b"])),
        st.integers(0, 12),
        st.one_of(st.integers(-3, 3), st.none()),
        st.one_of(st.none(), st.integers(-3, 3), st.just(2**53 + 1)),
        st.booleans(),
    ),
    max_size=14,
)


def instants(values: list[int | None]) -> pa.Array:
    return pa.array([None if value is None else BASE + value for value in values], pa.int64()).view(UTC_MICROS)


def questions(entities: list[tuple[Any, Any]]) -> pa.Table:
    return pa.table(
        {
            "k": pa.array([key for key, _ in entities], pa.string()),
            "at": instants([moment for _, moment in entities]),
            "n": pa.array(range(len(entities)), pa.int64()),
        }
    )


def answers(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table(
        {
            "key": pa.array([row[0] for row in rows], pa.string()),
            "event": instants([row[1] for row in rows]),
            "known": instants([None if row[2] is None else row[1] + row[2] for row in rows]),
            "x": pa.array([row[3] for row in rows], pa.int64()),
            "gone": pa.array([row[4] for row in rows], pa.bool_()),
        }
    )


def view(rows: pa.Table | ds.Dataset, **changes: Any) -> AsofView:
    declared: dict[str, Any] = {
        "name": "v",
        "rows": rows,
        "keys": {"k": "key"},
        "event": "event",
        "known": "known",
        "fields": {"x": "x"},
        "deleted": "gone" if changes.get("ordered") else None,
        "stamps": True,
    }
    return AsofView(**declared | changes)


def oracle(
    entity: tuple[Any, Any], rows: list[tuple[Any, ...]], ttl: int, *, keyed: bool = True, created: bool = True
) -> tuple[Any, Any, Any]:
    """Feast's rule, looked up row by row: of what had happened (and was created) the latest event."""
    key, moment = entity
    mine = [row for row in rows if not keyed or (key is not None and row[0] == key)]
    known = [row for row in mine if moment is not None and row[1] <= moment]
    if created:
        known = [row for row in known if row[2] is not None and row[1] + row[2] <= moment]
    return _told(max(known, key=_rank, default=None), moment, ttl)


def _rank(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The latest event, of these what was created last, of these the largest value; what is missing is the least."""
    return row[1], row[2] is not None, row[2] or 0, row[3] is not None, row[3] or 0


def history_oracle(entity: tuple[Any, Any], rows: list[tuple[Any, ...]], ttl: int) -> tuple[Any, Any, Any]:
    """Our own rule: of what was known, what became known last."""
    key, moment = entity
    known = [row for row in rows if key == row[0] and moment is not None and row[1] + row[2] <= moment]
    best = max(known, key=lambda row: int(row[1] + row[2]), default=None)
    return _told(None if best is None or best[4] else best, moment, ttl)


def _told(best: tuple[Any, ...] | None, moment: Any, ttl: int) -> tuple[Any, Any, Any]:
    if best is None or (ttl and moment - best[1] > ttl):
        return None, None, None
    return best[3], BASE + best[1], None if best[2] is None else BASE + best[1] + best[2]


def joined(table: pa.Table) -> list[tuple[Any, Any, Any]]:
    return list(zip(*(table[name].to_pylist() for name in ("x", "v__event", "v__known")), strict=True))


@settings(max_examples=120, deadline=None)
@given(entities=ENTITIES, rows=ROWS, ttl=st.sampled_from([0, 1, 3, 12]), scanned=st.booleans(), created=st.booleans())
def test_the_join_equals_the_quadratic_search(
    entities: list[tuple[Any, Any]], rows: list[tuple[Any, ...]], ttl: int, scanned: bool, created: bool
) -> None:
    table = answers(rows)
    asked = questions(entities)
    found = view(ds.dataset(table) if scanned else table, ttl=ttl, by_event=not created)
    result = asof_join(asked, "at", [found], TINY)
    assert result.select(asked.column_names) == asked
    assert joined(result) == [oracle(entity, rows, ttl, created=created) for entity in entities]


@settings(max_examples=60, deadline=None)
@given(
    entities=ENTITIES,
    steps=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.booleans()), max_size=14),
    ttl=st.sampled_from([0, 1, 3]),
)
def test_history_needs_no_rule_for_ties(
    entities: list[tuple[Any, Any]], steps: list[tuple[str, int, bool]], ttl: int
) -> None:
    rows = [(key, max(n - behind, 0), min(behind, n), n, deleted) for n, (key, behind, deleted) in enumerate(steps)]
    result = asof_join(questions(entities), "at", [view(answers(rows), ttl=ttl, ordered=True)], TINY)
    assert joined(result) == [history_oracle(entity, rows, ttl) for entity in entities]


@settings(max_examples=40, deadline=None)
@given(entities=ENTITIES, rows=ROWS, ttl=st.sampled_from([0, 3]))
def test_a_view_without_keys_answers_by_time_alone(
    entities: list[tuple[Any, Any]], rows: list[tuple[Any, ...]], ttl: int
) -> None:
    result = asof_join(questions(entities), "at", [view(answers(rows), keys={}, ttl=ttl)], TINY)
    assert joined(result) == [oracle(entity, rows, ttl, keyed=False) for entity in entities]


@settings(max_examples=60, deadline=None)
@given(
    entities=ENTITIES,
    rows=ROWS,
    ttl=st.sampled_from([0, 3]),
    slices=st.integers(1, 4),
    buckets=st.integers(1, 3),
)
def test_shares_answer_what_one_join_does(
    entities: list[tuple[Any, Any]], rows: list[tuple[Any, ...]], ttl: int, slices: int, buckets: int
) -> None:
    views = [view(answers(rows), ttl=ttl), view(answers(rows), name="all", keys={}, fields={"x": "y"})]
    whole = asof_join(questions(entities), "at", views, TINY)
    shared = sharded_join(questions(entities), "at", views, map, slices=slices, buckets=buckets, by="k", limits=TINY)
    assert shared == whole


def test_shares_go_to_other_processes_and_a_strange_key_cuts_nothing(tmp_path: Path) -> None:
    rows = [("a", n, 0, n, False) for n in range(12)] + [("b", n, 1, -n, False) for n in range(12)]
    pq.write_table(answers(rows), tmp_path / "rows.parquet")
    views = [view(ds.dataset(tmp_path / "rows.parquet"), ttl=2)]
    asked = questions([(key, n) for n in (9, 3, 12, 0) for key in ("b", "a", None)])
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = sharded_join(asked, "at", views, pool.map, slices=2, buckets=2, by="k", limits=TINY)
    assert found == asof_join(asked, "at", views, TINY)
    with pytest.raises(Refused, match="key 'n' is no view's"):
        sharded_join(asked, "at", views, map, slices=1, buckets=2, by="n")


def test_several_views_with_several_keys_follow_each_other() -> None:
    asked = pa.table({"k": ["a", "b"], "m": pa.array([1, None], pa.int64()), "at": instants([5, 5])})
    two = pa.table({"k": ["a", "a"], "m": [1, 2], "t": instants([4, 4]), "y": ["one", "two"]})
    pair = AsofView(name="two", rows=two, keys={"k": "k", "m": "m"}, event="t", known="t", fields={"y": "two__y"})
    rows = answers([("b", 5, 0, 7, False)])
    result = asof_join(asked, "at", [pair, view(rows, stamps=False)], TINY)
    assert result.column_names == ["k", "m", "at", "two__y", "x"]
    assert result["two__y"].to_pylist() == ["one", None]
    assert result["x"].to_pylist() == [None, 7]


@pytest.mark.parametrize("kind", [pa.timestamp("ns", "UTC"), pa.timestamp("ns"), pa.timestamp("ms"), UTC_MICROS])
@pytest.mark.parametrize("entity_kind", [pa.timestamp("ns", "America/New_York"), pa.timestamp("us")])
def test_units_and_zones_of_timestamps_do_not_matter(kind: pa.DataType, entity_kind: pa.DataType) -> None:
    moment = 1_365_000_000_000
    rows = pa.table({"k": ["a"], "t": pa.array([moment], pa.timestamp("ms")).cast(kind), "x": [1]})
    asked = pa.table(
        {"k": ["a"], "at": pa.array([moment * 1000], pa.int64()).view(pa.timestamp("us")).cast(entity_kind)}
    )
    found = AsofView(name="v", rows=rows, keys={"k": "k"}, event="t", known="t", fields={"x": "x"}, ttl=1)
    assert asof_join(asked, "at", [found], TINY)["x"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("keys", "kind", "found"),
    [
        (pa.array([1.0, None]), pa.int64(), [7, None]),
        (pa.array([1, 2], pa.int32()), pa.int64(), [7, None]),
        (pa.array([None, None], pa.null()), pa.int64(), [None, None]),
        (pa.array(["1", "2"]).dictionary_encode(), pa.string(), [7, None]),
        (pa.array(["1", "2"], pa.large_string()), pa.string(), [7, None]),
        (pa.array([True, False]), pa.bool_(), [7, None]),
    ],
)
def test_keys_of_one_family_meet(keys: pa.Array, kind: pa.DataType, found: list[int | None]) -> None:
    rows = pa.table({"k": pa.array([1]).cast(kind), "t": instants([0]), "x": [7]})
    asked = pa.table({"k": keys, "at": instants([1, 1])})
    answer = AsofView(name="v", rows=rows, keys={"k": "k"}, event="t", known="t", fields={"x": "x"})
    assert asof_join(asked, "at", [answer], TINY)["x"].to_pylist() == found


@pytest.mark.parametrize("keys", [["a", "b"], [True, False], [1.5, 2.0]])
def test_keys_of_two_families_are_refused(keys: list[Any]) -> None:
    rows = pa.table({"k": [1], "t": instants([0]), "x": [7]})
    answer = AsofView(name="v", rows=rows, keys={"k": "k"}, event="t", known="t", fields={"x": "x"})
    with pytest.raises(Refused, match="key 'k'"):
        asof_join(pa.table({"k": keys, "at": instants([1, 1])}), "at", [answer], TINY)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fields": {"x": "n"}}, "'n' would come from view 'v' and from the entity rows"),
        ({"fields": {"x": "y", "gone": "y"}}, "'y' would come from view 'v' and from view 'v'"),
        ({"keys": {"nobody": "key"}}, "no column nobody"),
    ],
)
def test_columns_have_one_owner(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        asof_join(questions([("a", 1)]), "at", [view(answers([]), **changes)], TINY)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"fields": {"x": "x", "speed": "speed"}}, "view 'v' reads speed, which its rows do not have"),
        ({"keys": {"k": "id"}, "event": "when"}, "view 'v' reads id, when, which"),
        ({"known": "x"}, "view 'v': x is int64"),
    ],
)
def test_a_view_that_its_rows_cannot_fill_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        view(answers([]), **changes)


def test_the_moment_must_be_a_timestamp() -> None:
    with pytest.raises(Refused, match="'n' is int64"):
        asof_join(questions([("a", 1)]), "n", [view(answers([]))], TINY)


def test_a_join_spills_under_its_memory_cap_and_refuses_nothing() -> None:
    many = 150_000
    rows = pa.table(
        {
            "k": pa.array([f"key-{n % 1000:060}" for n in range(many)]),
            "t": instants(list(range(many))),
            "x": pa.array(range(many), pa.int64()),
        }
    )
    asked = pa.table({"k": rows["k"], "at": rows["t"]})
    answer = AsofView(name="v", rows=rows, keys={"k": "k"}, event="t", known="t", fields={"x": "x"}, ordered=True)
    result = asof_join(asked, "at", [answer], Limits(memory="60MB", threads=1))
    assert result["x"].to_pylist() == list(range(many))
    with pytest.raises(duckdb.OutOfMemoryException):
        asof_join(asked, "at", [answer], Limits(memory="1MB", threads=1))
