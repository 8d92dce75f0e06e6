"""The read path: keys, order, staleness and its policies."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from features.reader import FeatureReader, StaleFeatures, column_name, define
from features.rows import Row, encode_key
from features.views import ServicePlan, ViewPlan

HOUR = 3_600_000_000


def view(name: str, keys: tuple[str, ...], ttl: int | None, stale: Literal["default", "fail", "flag"]) -> ViewPlan:
    return ViewPlan(
        name=name,
        join_keys=keys,
        key_types=("string",) * len(keys),
        fields=(("x", "float64"), ("y", "int64")),
        ttl=ttl,
        stale=stale,
        kind="plain",
        streams=("s",),
    )


class Rows:
    """A store of rows by (view, key) that remembers how often it was asked."""

    def __init__(self, rows: dict[tuple[str, bytes], Row]) -> None:
        self.rows, self.trips = rows, 0

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        self.trips += 1
        return [self.rows.get(pair) for pair in wanted]


def reading(stale: Literal["default", "fail", "flag"] = "default", **rows: Row) -> tuple[FeatureReader, Rows]:
    service = ServicePlan(name="s", views=(view("a", ("k",), HOUR, stale), view("b", ("j", "k"), None, "default")))
    source = Rows({(name, row.key): row for name, row in rows.items()})
    return FeatureReader(service, ["q"], source), source


QUESTION: dict[str, Any] = {"q": 7, "k": "one", "j": "two"}
A = Row(encode_key(("one",)), 1_000, 1_001, (0.5, 1))
B = Row(encode_key(("two", "one")), 2_000, 2_001, (None, 2))


def test_values_and_stamps_come_in_order_in_one_round_trip() -> None:
    reader, source = reading(a=A, b=B)
    features = reader.read(QUESTION, 5_000)
    assert features.values == [7, 0.5, 1, None, 2]
    assert features.stamps == [(1_000, 1_001), (2_000, 2_001)]
    assert (features.degraded, source.trips) == (False, 1)


def test_what_is_not_there_is_missing() -> None:
    reader, _ = reading(b=B)
    assert reader.read(QUESTION, 5_000).values == [7, None, None, None, 2]
    assert reader.read(QUESTION, 5_000).stamps == [None, (2_000, 2_001)]


def test_a_null_key_is_not_looked_up() -> None:
    reader, _ = reading(a=A, b=B)
    assert reader.read({**QUESTION, "j": None}, 5_000).stamps == [(1_000, 1_001), None]


def test_a_delete_is_missing() -> None:
    reader, _ = reading(a=A._replace(values=None))
    assert reader.read(QUESTION, 5_000).stamps == [None, None]


@pytest.mark.parametrize(("age", "fresh"), [(HOUR, True), (HOUR + 1, False)])
def test_the_ttl_ends_behind_its_last_microsecond(age: int, fresh: bool) -> None:
    reader, _ = reading(a=A)
    features = reader.read(QUESTION, A.event + age)
    assert (features.stamps[0] is not None) is fresh
    assert features.values[1:3] == ([0.5, 1] if fresh else [None, None])
    assert not features.degraded


def test_a_stale_value_may_be_served_and_flagged() -> None:
    features = reading("flag", a=A)[0].read(QUESTION, A.event + HOUR + 1)
    assert (features.values[1:3], features.degraded) == ([0.5, 1], True)
    assert not reading("flag", a=A)[0].read(QUESTION, A.event).degraded


def test_a_view_may_refuse_to_be_stale_or_missing() -> None:
    for rows in ({"a": A}, {}):
        with pytest.raises(StaleFeatures, match="'a' has no fresh row"):
            reading("fail", **rows)[0].read(QUESTION, A.event + HOUR + 1)


def test_a_definition_names_columns_as_feast_does() -> None:
    plan = ServicePlan(name="s", views=(view("a", ("k",), None, "default"),))
    made = define(plan, {"q": "int64"})
    assert made.columns == ["q", "a__x", "a__y"] == ["q", *(column_name(plan.views[0], name) for name in "xy")]
    assert made.types == ["int64", "float64", "int64"]
    assert (made.views, made.service) == (["a@1"], plan.label)
