"""What views.py may declare, what it compiles to, and every mistake at once."""

import importlib.util
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from feast import Entity, FeatureService, FeatureView, FileSource, ValueType
from feast import Field as FeastField
from feast.types import Bytes, Float64, Int64

from features.declare import count, decayed_mean, last, mean, rate, stream, window_view
from features.panes import panes_of
from features.rows import ViewSchema
from features.views import ServicePlan, ViewPlan, compile_views
from journal.clock import DAY, HOUR, MINUTE
from journal.contract import Contract, load_contracts
from journal.errors import Misconfigured
from journal.field import Field

ROOT = Path(__file__).parents[2]

ORIGIN = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
FLIGHT = Entity(name="flight", join_keys=["number"], value_type=ValueType.INT64)
DEPARTURES = Contract(
    stream="departures",
    version="1.0.0",
    dedup_window=DAY,
    max_gap=DAY,
    fields=(
        Field(name="origin", type="string", required=True),
        Field(name="number", type="integer", required=True),
        Field(name="delay", type="integer", required=True),
        Field(name="wind", type="number"),
        Field(name="pilot", type="string", personal=True),
    ),
)
CONTRACTS = {"departures": DEPARTURES}


def view(name: str = "delays", **more: Any) -> FeatureView:
    features = {
        "n": count("departures", over="1h", tile="5m"),
        "wind": mean("departures", "wind", over="1h", tile="5m", scale=100),
        "late": rate("departures", "delay", at_least=15, over="1h", tile="5m"),
        "last": last("departures", "delay", integer=True),
        "decayed": decayed_mean("departures", "delay", half_life="1d", tile="6h"),
    }
    given: dict[str, Any] = {"entities": [ORIGIN], "ttl": timedelta(days=3), "features": features}
    return window_view(name, **(given | more))


def plain(name: str = "departures", **more: Any) -> FeatureView:
    schema = [FeastField(name="delay", dtype=Int64), FeastField(name="wind", dtype=Float64)]
    given = {"entities": [ORIGIN], "ttl": timedelta(hours=3), "schema": schema, "source": stream("departures")}
    return FeatureView(name=name, **(given | more))


def compiled(*objects: Any) -> tuple[ViewPlan, ...]:
    return compile_views([ORIGIN, FLIGHT, *objects], CONTRACTS)[0]


def mistakes(*objects: Any) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        compiled(*objects)
    return [line.strip() for line in caught.value.which.splitlines()[1:]]


def test_a_window_view_is_a_feast_view_with_keys_types_and_a_delta_history() -> None:
    made = view(owner="me", description="words")
    assert [(field.name, str(field.dtype)) for field in made.entity_columns + made.features] == [
        ("origin", "String"),
        ("n", "Int64"),
        ("wind", "Float64"),
        ("late", "Float64"),
        ("last", "Int64"),
        ("decayed", "Float64"),
    ]
    source = made.batch_source
    assert isinstance(source, FileSource)
    assert (source.path, source.timestamp_field, source.created_timestamp_column) == (
        "delays",
        "event_timestamp",
        "known_timestamp",
    )
    assert str(source.file_format) == "delta"
    assert (made.owner, made.description, made.ttl) == ("me", "words", timedelta(days=3))


def test_a_window_view_compiles_also_after_a_trip_through_feasts_registry_format() -> None:
    (plan,) = compiled(view(version=2, stale="flag"))
    assert (plan.label, plan.kind, plan.streams, plan.ttl, plan.stale) == (
        "delays@2",
        "windows",
        ("departures",),
        3 * DAY,
        "flag",
    )
    assert plan.schema == ViewSchema(
        "delays",
        (("origin", "string"),),
        (("n", "int64"), ("wind", "float64"), ("late", "float64"), ("last", "int64"), ("decayed", "float64")),
    )
    wind = plan.aggregates[1]
    assert (wind.column, wind.nullable, wind.over, wind.tile, wind.scale) == ("wind", True, HOUR, 5 * MINUTE, 100)
    assert len(panes_of(plan.aggregates)) == 4
    stored = FeatureView.from_proto(view(version=2, stale="flag").to_proto())
    assert compiled(stored) == (plan,)


def test_a_plain_view_takes_its_fields_from_its_stream() -> None:
    (plan,) = compiled(plain(tags={"ttl": "none", "version": "3", "stale": "fail"}, ttl=None))
    assert (plan.label, plan.kind, plan.streams, plan.ttl, plan.stale) == (
        "departures@3",
        "plain",
        ("departures",),
        None,
        "fail",
    )
    assert plan.fields == (("delay", "int64"), ("wind", "float64"))
    assert plan.aggregates == ()


def test_join_keys_are_sorted_by_name() -> None:
    (plan,) = compiled(view(entities=[ORIGIN, FLIGHT]))
    assert (plan.join_keys, plan.key_types) == (("number", "origin"), ("int64", "string"))


def test_a_service_names_its_views_in_order_and_its_digest() -> None:
    delays, other = view(), plain()
    service = FeatureService(name="answers", features=[other, delays])
    plans, services = compile_views([ORIGIN, delays, other, service], CONTRACTS, request=("hour",))
    assert services["answers"] == ServicePlan(name="answers", views=(plans[1], plans[0]), request=("hour",))
    assert services["answers"].label == f"answers@{services['answers'].digest[:12]}"


def test_digests_change_with_the_meaning_and_only_with_it() -> None:
    first, again, longer = (compiled(made)[0] for made in (view(), view(), view(ttl=timedelta(days=4))))
    assert first.digest == again.digest
    assert first.digest != longer.digest
    services = [ServicePlan(name="s", views=(plan,)).digest for plan in (first, again, longer)]
    assert services[0] == services[1] != services[2]
    assert ServicePlan(name="s", views=(first,), request=("hour",)).digest != services[0]


def test_all_mistakes_are_reported_at_once() -> None:
    features = {
        "a": count("nothing", over="1h", tile="5m"),
        "b": mean("departures", "nothing", over="1h", tile="5m"),
        "c": mean("departures", "delay", over="1h", tile="7m"),
        "d": decayed_mean("departures", "delay", half_life="90m", tile="1h"),
        "e": mean("departures", "wind", over="1h", tile="5m"),
        "f": last("departures", "origin"),
        "g": last("departures", "wind", integer=True),
        "h": mean("departures", "delay", over="1h", tile="5m", scale=0),
    }
    found = mistakes(
        view("wrong", features=features),
        plain(ttl=None),
        plain("elsewhere"),
    )
    assert found == [
        "view wrong: feature 'a': stream 'nothing' has no contract",
        "view wrong: feature 'b': stream 'departures' has no field 'nothing' in the clear",
        "view wrong: feature 'c': over 1h is not a whole number of tiles of 7m",
        "view wrong: feature 'd': half_life 90m is not a whole number of tiles of 1h",
        "view wrong: feature 'e': field 'wind' is not whole; say by what scale it becomes so, such as scale=1000",
        "view wrong: feature 'f': field 'origin' is a string; nothing can be computed from it",
        "view wrong: feature 'g': field 'wind' is not whole; leave integer out",
        "view wrong: feature 'h': scale 0 is not a whole number from 1",
        "view departures: it has no ttl; give it one, or the tag ttl: none",
        "view elsewhere: its history is 'departures'; write stream('departures', 'elsewhere')",
    ]


@pytest.mark.parametrize(
    ("made", "mistake"),
    [
        (view(features={"n": last("departures", "pilot")}), "feature 'n': stream 'departures' has no field 'pilot' in"),
        (view(features={"known_timestamp": last("departures", "delay")}), "field 'known_timestamp' has the name of"),
        (view(features={"n": count("departures", over="1x", tile="1s")}), "feature 'n': over: '1x' is not a span"),
        (view("a__b"), "'__' parts a view from its field"),
        (view(stale="perhaps"), "tag stale is 'perhaps'; use default, fail, flag"),
        (view(version=0), "tag version is '0', not a whole number from 1"),
        (plain(tags={"ttl": "none"}), "it has both a ttl and the tag ttl: none"),
        (plain(source=None), "no stream feeds it"),
        (plain("x", source=stream("y", "x")), "stream 'y' has no contract"),
        (plain(schema=[FeastField(name="gate", dtype=Int64)]), "stream 'departures' has no field 'gate'"),
        (plain(schema=[FeastField(name="wind", dtype=Int64)]), "field 'wind' is int64, in 'departures' number"),
        (plain(schema=[FeastField(name="delay", dtype=Bytes)]), "field 'delay' is Bytes; use Int64"),
        (
            view(entities=[Entity(name="gate", join_keys=["gate"], value_type=ValueType.STRING)]),
            "its entity 'gate' is not an object of views.py",
        ),
        (FeatureService(name="s", features=[view()]), "service s: view 'delays' is not in views.py"),
    ],
)
def test_a_mistake_says_where_what_and_what_to_do(made: Any, mistake: str) -> None:
    assert mistake in " ".join(mistakes(made))


def test_keys_must_be_in_every_feeding_stream_and_of_its_type() -> None:
    gate = Entity(name="gate", join_keys=["gate"], value_type=ValueType.STRING)
    wind = Entity(name="gusts", join_keys=["wind"], value_type=ValueType.INT64)
    price = Entity(name="price", join_keys=["delay"], value_type=ValueType.DOUBLE)
    features = {"n": count("departures", over="1h", tile="5m")}
    assert mistakes(gate, wind, price, view(entities=[gate, wind, price], features=features)) == [
        "entity price: DOUBLE is no key; use INT64, STRING, BOOL",
        "view delays: stream 'departures' has no join key 'gate' in the clear",
        "view delays: join key 'wind' is int64, in 'departures' number",
    ]


def test_a_service_takes_whole_views_and_names_are_unique() -> None:
    delays = view()
    part = FeatureService(name="part", features=[delays[["n"]]])
    assert mistakes(delays, view(), part) == [
        "service part: takes a part of view 'delays'; a service takes whole views",
        "view delays: 2 views have this name",
    ]


def shipped(name: str) -> tuple[tuple[ViewPlan, ...], dict[str, ServicePlan]]:
    path = ROOT / "configs" / name / "views.py"
    spec = importlib.util.spec_from_file_location(f"shipped_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return compile_views(vars(module).values(), load_contracts(path.parent / "contracts"))


def test_the_flights_views_compile_against_their_contracts() -> None:
    plans, services = shipped("flights")
    assert {plan.name: (plan.kind, len(plan.fields), plan.ttl) for plan in plans} == {
        "origin_delays": ("windows", 12, 3 * DAY),
        "carrier_delays": ("windows", 9, 14 * DAY),
        "dest_delays": ("windows", 7, 14 * DAY),
        "route_delays": ("windows", 5, 30 * DAY),
        "flight_delays": ("windows", 5, 30 * DAY),
        "tail_delays": ("windows", 5, 30 * DAY),
        "carrier_origin_delays": ("windows", 5, 14 * DAY),
        "weather": ("plain", 6, 3 * HOUR),
        "planes": ("plain", 3, None),
    }
    assert services["flight_delay"].views == plans
    origin = plans[0]
    assert [name for name, _ in origin.fields[:3]] == ["dep_count_1h", "dep_mean_1h", "dep_late_1h"]
    assert len(panes_of(origin.aggregates)) == 5


def test_the_phishing_views_compile_against_their_contracts() -> None:
    plans, services = shipped("phishing")
    assert [(plan.name, plan.key_types, len(plan.fields)) for plan in plans] == [("reports_by_ip", ("int64",), 3)]
    assert services["phishing"].views == plans


def test_plans_and_the_fold_need_no_feast() -> None:
    code = "import sys, features.views, features.processor; print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
