"""The catalog: what it takes from Feast objects and plans, its words for features, and what search finds."""

from datetime import timedelta
from typing import Any

import pytest
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float64

from features.aggregates import Aggregate, Shape
from features.catalog import Entry, Held, User, catalog_of, meaning, search, with_held, with_users
from features.declare import count, last, mean, stream, window_view
from features.views import compile_views
from journal.clock import DAY, HOUR, MINUTE
from journal.contract import Contract, load_contracts
from journal.errors import Misconfigured
from rivermill.settings import configs_folder

ORIGIN = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
DELAYS = window_view(
    "delays",
    entities=[ORIGIN],
    ttl=timedelta(days=3),
    owner="ops@example.org",
    description="Delays at this airport",
    features={"n_1h": count("departures", over="1h", tile="5m"), "last": last("arrivals", "delay")},
    version=2,
)


def weather(**tags: str) -> FeatureView:
    return FeatureView(
        name="weather",
        entities=[ORIGIN],
        ttl=timedelta(hours=3),
        schema=[Field(name="temp", dtype=Float64)],
        source=stream("weather"),
        tags=tags,
    )


@pytest.fixture(scope="module")
def contracts() -> dict[str, Contract]:
    return load_contracts(configs_folder() / "flights" / "contracts")


def catalog(contracts: dict[str, Contract], *objects: Any) -> list[Entry]:
    views, services = compile_views([ORIGIN, *objects], contracts)
    return catalog_of([ORIGIN, *objects], views, services.values())


@pytest.fixture
def entries(contracts: dict[str, Contract]) -> list[Entry]:
    plain = weather(trust="trusted", team="Sky")
    services = [FeatureService(name="both", features=[DELAYS, plain]), FeatureService(name="one", features=[plain])]
    return catalog(contracts, DELAYS, plain, *services)


def test_an_entry_says_what_the_view_declares(entries: list[Entry]) -> None:
    delays, sky = entries
    assert (delays.view, delays.label, delays.version) == ("delays", "delays@2", 2)
    assert (delays.owner, delays.description) == ("ops@example.org", "Delays at this airport")
    assert (delays.kind, delays.streams, delays.keys) == ("windows", ("arrivals", "departures"), {"origin": "string"})
    assert (delays.ttl, delays.ttl_text, delays.stale) == (3 * DAY, "3d", "default")
    assert [(field.name, field.type, field.meaning) for field in delays.fields] == [
        ("n_1h", "int64", "number of departures over the last 1h, in tiles of 5m"),
        ("last", "float64", "last of arrivals.delay"),
    ]
    assert [field.meaning for field in sky.fields] == ["of the newest record of weather"]
    assert (delays.services, sky.services) == (("both",), ("both", "one"))
    assert (delays.held, delays.users) == (None, ())


def test_our_own_tags_are_not_shown_as_the_users(entries: list[Entry]) -> None:
    assert [entry.tags for entry in entries] == [{}, {"team": "Sky"}]
    assert [entry.trust for entry in entries] == ["experimental", "trusted"]


def test_trust_is_one_of_three_words(contracts: dict[str, Contract]) -> None:
    with pytest.raises(Misconfigured, match=r"view weather: 'much'.*experimental, trusted, deprecated"):
        catalog(contracts, weather(trust="much"))


@pytest.mark.parametrize(
    ("aggregate", "words"),
    [
        (Aggregate(kind="count", stream="s", over=HOUR, tile=HOUR), "number of s since the last whole 1h"),
        (
            Aggregate(kind="sum", stream="s", column="x", over=DAY, tile=DAY, shape=Shape()),
            "sum of s.x over the last whole 1d",
        ),
        (
            Aggregate(kind="rate", stream="s", column="x", at_least=15, over=DAY, tile=HOUR),
            "part of s.x at or above 15 over the last 1d, in tiles of 1h",
        ),
        (
            Aggregate(kind="distinct", stream="s", column="x", shape=Shape(gap=MINUTE)),
            "number of different values of s.x in the session (gaps under 1m)",
        ),
        (
            Aggregate(kind="max", stream="s", column="x", shape=Shape(gap=MINUTE, keep=HOUR)),
            "max of s.x in the session (gaps under 1m, the last one kept for 1h)",
        ),
        (
            Aggregate(kind="decayed_mean", stream="s", column="x", half_life=DAY, tile=HOUR),
            "mean of s.x, weights halving every 1d",
        ),
        (Aggregate(kind="last", stream="s", column="x"), "last of s.x"),
    ],
)
def test_a_feature_in_words(aggregate: Aggregate, words: str) -> None:
    assert meaning(aggregate) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["delays", "weather"]),
        ("delays", ["delays"]),
        ("AIRPORT ops@", ["delays"]),
        ("temp", ["weather"]),
        ("number of departures", ["delays"]),
        ("trusted", ["weather"]),
        ("sky", ["weather"]),
        ("origin", ["delays", "weather"]),
        ("origin one", ["weather"]),
        ("champion", ["weather"]),
        ("airport temp", []),
    ],
)
def test_search_finds_what_holds_every_word(entries: list[Entry], text: str, found: list[str]) -> None:
    user = User(line="batch-1", kind="batch", state="champion", model="abc")
    assert [entry.view for entry in search(with_users(entries, {"weather@1": [user]}), text)] == found


@pytest.mark.parametrize("trust", ["experimental", "trusted", "deprecated"])
def test_a_window_view_says_how_far_it_is_trusted(contracts: dict[str, Contract], trust: str) -> None:
    def declared(**said: str) -> FeatureView:
        counted = {"n": count("departures", over="1h", tile="5m")}
        return window_view("v", entities=[ORIGIN], ttl=timedelta(days=1), features=counted, **said)  # type: ignore[arg-type]

    silent, said = (catalog(contracts, each)[0] for each in (declared(), declared(trust=trust)))
    assert (silent.trust, said.trust) == ("experimental", trust)
    assert (said.digest, said.tags) == (silent.digest, {})
    with pytest.raises(Misconfigured, match="view v: 'much'"):
        catalog(contracts, declared(trust="much"))


def test_what_is_held_goes_by_view_and_users_by_version(entries: list[Entry]) -> None:
    held = Held(entities=3, stale=1, rows=9, newest_event=5, newest_known=6)
    user = User(line="l", kind="online", state="champion", model="m")
    delays, sky = with_users(with_held(entries, {"delays": held}), {"delays@1": [user], "weather@1": [user]})
    assert (delays.held, sky.held) == (held, None)
    assert (delays.users, sky.users) == ((), (user,))


def test_a_view_without_ttl_says_so(contracts: dict[str, Contract]) -> None:
    view = window_view(
        "v",
        entities=[ORIGIN],
        ttl="none",
        features={"m": mean("departures", "delay", every="1h", closed=True)},
    )
    (entry,) = catalog(contracts, view)
    assert (entry.ttl_text, entry.fields[0].meaning) == ("none", "mean of departures.delay over the last whole 1h")
