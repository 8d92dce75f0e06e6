"""The plain script is the oracle of the flights pipeline, so it has slow and obvious oracles of its own."""

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from math import log
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from journal.clock import DAY, HOUR, MINUTE

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "plain_flights.py"
Delays = list[tuple[int, int]]


def loaded() -> ModuleType:
    spec = spec_from_file_location("plain_flights_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


plain = loaded()


def history(seed: int, count: int = 300) -> Delays:
    """Delays at growing times: dense, then with gaps of up to two days, some at one and the same time."""
    draw = random.Random(seed)
    now, made = 15_000 * DAY, []
    for _ in range(count):
        now += (
            draw.choice([0, 1, 7 * MINUTE, 5 * HOUR, 2 * DAY]) if draw.random() < 0.3 else draw.randrange(20 * MINUTE)
        )
        made.append((now, draw.randrange(-30, 200)))
    return made


def event(stream: str, time: int, **fields: Any) -> Any:
    given = {"trip": "t", "carrier": "UA", "flight": 1, "origin": "EWR", "dest": "IAH", "tailnum": "N1", "delay": 0}
    return plain.Event(stream=stream, time=time, **{**given, "numbers": {}, **fields})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("over", "tile"), [(HOUR, 5 * MINUTE), (3 * HOUR, 15 * MINUTE), (14 * DAY, DAY)])
def test_a_window_is_its_whole_tiles(seed: int, over: int, tile: int) -> None:
    window = plain.Window(tile, over // tile, ("count", "mean", "rate"))
    seen: Delays = []
    for now, delay in history(seed):
        before = seen[-1][0] if seen else now
        for probe in ((before + now) // 2, now):
            read: dict[str, float] = {}
            window.read(probe, read)
            assert read == by_hand(seen, probe, over // tile, tile)
        window.add(now, delay)
        seen.append((now, delay))


def by_hand(seen: Delays, now: int, within: int, tile: int) -> dict[str, float]:
    held = [delay for time, delay in seen if now // tile - within < time // tile <= now // tile]
    if not held:
        return {"count": 0.0}
    late = sum(delay >= 15 for delay in held)
    return {"count": float(len(held)), "mean": sum(held) / len(held), "rate": late / len(held)}


@pytest.mark.parametrize("seed", range(3))
def test_a_decayed_mean_weights_each_term_to_the_end_of_its_tile(seed: int) -> None:
    tile, half_life = 6 * HOUR, 3 * DAY
    decayed = plain.Decayed(tile, half_life, "mean")
    seen = history(seed)
    for now, delay in seen:
        decayed.add(now, delay)
    first = seen[0][0] // tile
    weights = [2.0 ** ((time // tile - first) * tile / half_life) for time, _ in seen]
    expected = sum(w * delay for w, (_, delay) in zip(weights, seen, strict=True)) / sum(weights)
    read: dict[str, float] = {}
    decayed.read(seen[-1][0] + 30 * DAY, read)
    assert read["mean"] == pytest.approx(expected, rel=1e-12)


def test_a_key_without_records_is_missing_and_a_quiet_one_counts_zero() -> None:
    windows, now = plain.Windows(), 15_000 * DAY
    windows.take(event("departures", now, delay=20))
    x = windows.features(event("schedule", now, origin="JFK", carrier="UA", dest="IAH", flight=2))
    assert not [name for name in x if name.startswith(("origin_delays", "route_delays", "flight_delays"))]
    assert (x["carrier_delays__dep_count_3h"], x["carrier_delays__dep_rate_3h"]) == (1.0, 1.0)
    later = windows.features(event("schedule", now + DAY))
    assert (later["origin_delays__dep_count_1h"], later["origin_delays__arr_count_3h"]) == (0.0, 0.0)
    assert "origin_delays__dep_mean_1d" not in later
    assert later["tail_delays__dep_last"] == 20.0


def test_the_weather_is_missing_once_it_is_three_hours_old() -> None:
    windows, now = plain.Windows(), 15_000 * DAY
    windows.take(event("weather", now, numbers={"weather__temp": 40.0}))
    assert windows.features(event("schedule", now + 3 * HOUR))["weather__temp"] == 40.0
    assert "weather__temp" not in windows.features(event("schedule", now + 3 * HOUR + 1))


def test_an_unknown_plane_has_no_views() -> None:
    windows, now = plain.Windows(), 15_000 * DAY
    windows.take(event("planes", now, numbers={"planes__seats": 55.0}))
    windows.take(event("arrivals", now, tailnum=None, delay=9))
    x = windows.features(event("schedule", now, tailnum=None))
    assert not [name for name in x if name.startswith(("tail_delays", "planes"))]
    assert x["dest_delays__arr_mean_3h"] == 9.0


def test_features_come_in_the_order_of_the_request_and_the_views() -> None:
    windows, now = plain.Windows(), 15_000 * DAY
    windows.take(event("planes", now, numbers={"planes__year": 2001.0}))
    windows.take(event("weather", now, numbers={"weather__temp": 40.0}))
    for stream in ("departures", "arrivals"):
        windows.take(event(stream, now, delay=20))
    x = list(windows.features(event("schedule", now, numbers={"distance": 1.0, "hour": 2.0, "weekday": 3.0})))
    assert x[:6] == ["distance", "hour", "weekday", "carrier", "origin", "dest"]
    views = list(dict.fromkeys(name.partition("__")[0] for name in x[6:]))
    assert views == [*plain.VIEWS, "weather", "planes"]
    assert x[-6:] == [
        "carrier_origin_delays__dep_rate_3h",
        "carrier_origin_delays__dep_mean_1d",
        "carrier_origin_delays__dep_rate_1d",
        "carrier_origin_delays__arr_mean_1d",
        "weather__temp",
        "planes__year",
    ]
    assert len(x) == len(set(x)) == 6 + 48 + 2


def test_auc_and_log_loss_agree_with_their_definitions() -> None:
    draw = random.Random(3)
    scores = [draw.randrange(1, 20) / 20 for _ in range(200)]
    outcomes = [draw.random() < score for score in scores]
    late = [s for s, y in zip(scores, outcomes, strict=True) if y]
    others = [s for s, y in zip(scores, outcomes, strict=True) if not y]
    wins = sum((a > b) + 0.5 * (a == b) for a in late for b in others)
    assert plain.auc(np.array(scores), np.array(outcomes)) == pytest.approx(wins / (len(late) * len(others)))
    loss = -sum(log(s if y else 1 - s) for s, y in zip(scores, outcomes, strict=True)) / len(scores)
    assert plain.log_loss(np.array(scores), np.array(outcomes)) == pytest.approx(loss)


class Remembering:
    """Answers with how many examples it has learned, so that a test can tell when it was asked."""

    def __init__(self) -> None:
        self.learned: list[tuple[float, bool]] = []

    def predict_proba_one(self, _x: dict[str, Any]) -> dict[bool, float]:
        return {True: float(len(self.learned))}

    def learn_one(self, x: dict[str, Any], y: bool) -> None:
        self.learned.append((x["hour"], y))


def test_the_number_kept_at_the_question_is_scored_and_the_features_as_asked_are_learned() -> None:
    now, model = 15_000 * DAY, Remembering()
    events = [
        event("schedule", now, trip="a", numbers={"hour": 1.0}),
        event("schedule", now, trip="b", numbers={"hour": 2.0}),
        event("schedule", now, trip="forgotten", numbers={"hour": 3.0}),
        event("arrivals", now + HOUR, trip="b", delay=15),
        event("arrivals", now + 2 * HOUR, trip="a", delay=14),
        event("arrivals", now + 2 * HOUR, trip="never asked", delay=60),
        event("schedule", now + 36 * HOUR + 1, trip="c", numbers={"hour": 4.0}),
        event("arrivals", now + 36 * HOUR + 1, trip="forgotten", delay=1),
        event("arrivals", now + 37 * HOUR, trip="c", delay=100),
    ]
    done = plain.run(events, model)
    assert model.learned == [(2.0, True), (1.0, False), (4.0, True)]
    assert done.probabilities == [0.0, 0.0, 2.0]
    assert done.outcomes == [True, False, True]
    assert done.asked == [now, now, now + 36 * HOUR + 1]
