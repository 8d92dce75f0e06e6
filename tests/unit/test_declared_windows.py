"""Windows as ``views.py`` declares them: what they compile to, and what is refused with which words."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from feast import Entity, ValueType

from features.aggregates import Declaration, Shape, parse_aggregates, write_declarations
from features.declare import (
    count,
    decayed_mean,
    distinct,
    last,
    maximum,
    mean,
    minimum,
    rate,
    std,
    total,
    window_view,
)
from features.views import compile_views
from journal.clock import DAY, HOUR, MINUTE
from journal.contract import Contract
from journal.errors import Misconfigured
from journal.field import Field

FIELDS = (
    Field(name="shop", type="string", required=True),
    Field(name="price", type="number", required=True),
    Field(name="pieces", type="integer"),
    Field(name="buyer", type="string", personal=True),
)
STREAMS = {"orders": {field.name: field for field in FIELDS if not field.personal}}
CONTRACT = Contract(stream="orders", version="1.0.0", dedup_window=DAY, max_gap=DAY, fields=FIELDS)


def mistakes(feature: Declaration) -> list[str]:
    return [
        text.removeprefix("feature 'f': ") for text in parse_aggregates(write_declarations({"f": feature}), STREAMS)[1]
    ]


def test_each_kind_of_window_is_declared_by_its_spans() -> None:
    declared = {
        "sliding": count("orders", over="1h", tile="5m"),
        "today": total("orders", "price", scale=100, every="1d"),
        "yesterday": distinct("orders", "shop", every="1d", closed=True),
        "visit": minimum("orders", "pieces", integer=True, gap="30m"),
        "last_visit": std("orders", "pieces", gap="30m", keep="7d"),
        "ever": last("orders", "price"),
    }
    aggregates, wrong = parse_aggregates(write_declarations(declared), STREAMS)
    assert wrong == []
    assert [(each.kind, each.over, each.tile, each.shape, each.windowed) for each in aggregates] == [
        ("count", HOUR, 5 * MINUTE, msgspec.UNSET, True),
        ("sum", DAY, DAY, msgspec.UNSET, True),
        ("distinct", DAY, DAY, Shape(), True),
        ("min", 0, 0, Shape(gap=30 * MINUTE), True),
        ("std", 0, 0, Shape(gap=30 * MINUTE, keep=7 * DAY), True),
        ("last", 0, 0, msgspec.UNSET, False),
    ]


def test_what_counts_has_whole_numbers_and_what_measures_has_floats() -> None:
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    features: Mapping[str, Declaration] = {
        "n": distinct("orders", "price", every="1h"),
        "least": minimum("orders", "pieces", integer=True, every="1h"),
        "most": maximum("orders", "price", every="1h"),
        "all": total("orders", "pieces", integer=True, every="1h"),
        "spread": std("orders", "price", scale=100, every="1h"),
    }
    made = window_view("sales", entities=[shop], ttl=timedelta(days=1), features=features)
    (plan,), _ = compile_views([shop, made], {"orders": CONTRACT})
    assert [kind for _, kind in plan.fields] == ["int64", "int64", "float64", "int64", "float64"]


def test_a_sealed_field_is_in_no_sketch() -> None:
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    features = {"buyers": distinct("orders", "buyer", every="1h")}
    made = window_view("sales", entities=[shop], ttl=timedelta(days=1), features=features)
    with pytest.raises(Misconfigured, match="has no field 'buyer' in the clear"):
        compile_views([shop, made], {"orders": CONTRACT})


def test_an_aggregate_without_a_shape_is_written_as_before() -> None:
    """Views' digests are made of it, and live lines hold them."""
    (sliding,), _ = parse_aggregates(write_declarations({"n": count("orders", over="1h", tile="5m")}), STREAMS)
    assert b"shape" not in msgspec.json.encode(sliding)


NOTHING = "it has no window; give over and tile (sliding), every (tumbling) or gap (session)"
SLIDE: Any = {"over": "1h", "tile": "5m"}


@pytest.mark.parametrize(
    ("feature", "mistake"),
    [
        (count("orders"), NOTHING),
        (rate("orders", "pieces", at_least=1), NOTHING),
        (count("orders", over="1h"), "over goes with tile, which is missing"),
        (count("orders", tile="1h", every="1d"), "tile 1h goes with over or half_life; a tumbling window or a session"),
        (count("orders", gap="5m", **SLIDE), "over and gap are of different windows; give one of them"),
        (count("orders", every="0d"), "every 0d is no span of time"),
        (count("orders", gap="0m"), "gap 0m is no span of time"),
        (count("orders", gap="5m", keep="0m"), "keep 0m is no span of time"),
        (count("orders", gap="-5m"), "gap: '-5m' is not a span"),
        (count("orders", over="1h", tile="0m"), "over 1h is not a whole number of tiles of 0m"),
        (count("orders", closed=True, **SLIDE), "closed goes with every, which is missing"),
        (count("orders", keep="1h", every="1d"), "keep goes with gap, which is missing"),
        (
            msgspec.structs.replace(decayed_mean("orders", "pieces", half_life="1h", tile="5m"), every="1d"),
            "has a half",
        ),
        (msgspec.structs.replace(count("orders", **SLIDE), kind="median"), "kind 'median' is none of count, decayed"),
        (msgspec.structs.replace(mean("orders", "pieces", **SLIDE), column=None), "a mean is of a column; name one"),
        (total("orders", "price", **SLIDE), "say by what scale it becomes so"),
        (std("orders", "price", **SLIDE), "say by what scale it becomes so"),
        (maximum("orders", "shop", **SLIDE), "field 'shop' is a string; nothing can be computed from it"),
        (maximum("orders", "price", integer=True, **SLIDE), "field 'price' is not whole; leave integer out"),
        (total("orders", "pieces", integer=True, scale=10, **SLIDE), "an integer is not scaled; leave scale=10 out"),
        (msgspec.structs.replace(std("orders", "pieces", **SLIDE), integer=True), "a std is not made an integer"),
        (distinct("elsewhere", "shop", **SLIDE), "stream 'elsewhere' has no contract"),
    ],
)
def test_nonsense_is_named(feature: Declaration, mistake: str) -> None:
    assert any(mistake in text for text in mistakes(feature)), mistakes(feature)
