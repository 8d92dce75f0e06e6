"""The flights pipeline as a plain script: windows in plain Python and a bare River model, nothing of Rivermill.

It answers two questions about the pipeline. How good must it be? The accuracy printed here is the one that it has to
meet. How fast could it be? The loop below does the same arithmetic and nothing else: no journal, no contract, no
checkpoint, no digest. (Only the recorded events, the estimator and River are shared.)

Views never time out here, except the weather after three hours.

    python benchmarks/plain_flights.py [--weeks N] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from sys import intern
from time import perf_counter, process_time
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
LATE_MINUTES = 15
WEATHER_TTL = 3 * HOUR
PENDING_FOR = 36 * HOUR
WARM_UP = 60 * DAY
_UNITS = {"m": MINUTE, "h": HOUR, "d": DAY}

# Per stream: what its events carry as numbers. The aggregates below are over departures and arrivals.
NUMBERS = {
    "schedule": ("distance", "hour", "weekday"),
    "weather": ("temp", "humid", "wind_speed", "precip", "pressure", "visib"),
    "planes": ("year", "seats", "engines"),
}

ALL, MEAN_RATE, MEAN, COUNT_MEAN = ("count", "mean", "rate"), ("mean", "rate"), ("mean",), ("count", "mean")
DECAYED, LAST = ("decayed",), ("last",)
# Per view: (stream, window or half-life, tile, aggregates), in the order of the model's input.
VIEWS: dict[str, tuple[tuple[str, str, str, tuple[str, ...]], ...]] = {
    "origin_delays": (
        ("dep", "1h", "5m", ALL),
        ("dep", "3h", "15m", MEAN_RATE),
        ("dep", "1d", "1h", MEAN_RATE),
        ("arr", "3h", "15m", ALL),
        ("arr", "1d", "1h", MEAN_RATE),
    ),
    "carrier_delays": (
        ("dep", "3h", "15m", ALL),
        ("dep", "1d", "1h", MEAN_RATE),
        ("arr", "1d", "1h", MEAN_RATE),
        ("arr", "7d", "6h", MEAN_RATE),
    ),
    "dest_delays": (("arr", "3h", "15m", ALL), ("arr", "1d", "1h", MEAN_RATE), ("arr", "7d", "6h", MEAN_RATE)),
    "route_delays": (("arr", "1d", "1h", MEAN), ("arr", "14d", "1d", ALL), ("arr", "1d", "1h", DECAYED)),
    "flight_delays": (("arr", "14d", "1d", ALL), ("arr", "", "", LAST), ("dep", "3d", "6h", DECAYED)),
    "tail_delays": (
        ("dep", "", "", LAST),
        ("arr", "", "", LAST),
        ("arr", "1d", "1h", COUNT_MEAN),
        ("dep", "12h", "1h", DECAYED),
    ),
    "carrier_origin_delays": (
        ("dep", "3h", "15m", MEAN_RATE),
        ("dep", "1d", "1h", MEAN_RATE),
        ("arr", "1d", "1h", MEAN),
    ),
}

Features = dict[str, float | str]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Window:
    """Count, mean and late rate of the delays in the last whole tiles, the current one included.

    The open tile is counted apart: adding touches three integers, and the sums over the closed tiles change only when
    a tile closes or leaves.
    """

    __slots__ = (
        "closed",
        "count",
        "late",
        "names",
        "open",
        "open_count",
        "open_late",
        "open_total",
        "total",
        "width",
        "within",
    )

    def __init__(self, width: int, within: int, names: tuple[str | None, str | None, str | None]) -> None:
        self.width, self.within, self.names = width, within, names
        self.closed: deque[tuple[int, int, int, int]] = deque()
        self.count = self.total = self.late = 0
        self.open = self.open_count = self.open_total = self.open_late = 0

    def add(self, now: int, delay: int) -> None:
        """Count one record in the tile of now."""
        tile = now // self.width
        if tile != self.open:
            self._roll(tile)
        self.open_count += 1
        self.open_total += delay
        if delay >= LATE_MINUTES:
            self.open_late += 1

    def _roll(self, tile: int) -> None:
        """Close the open tile, let go what has left the window, and open this one."""
        if self.open_count:
            self.closed.append((self.open, self.open_count, self.open_total, self.open_late))
            self.count += self.open_count
            self.total += self.open_total
            self.late += self.open_late
        self.open = tile
        self.open_count = self.open_total = self.open_late = 0
        closed, gone = self.closed, tile - self.within
        while closed and closed[0][0] <= gone:
            _, count, total, late = closed.popleft()
            self.count -= count
            self.total -= total
            self.late -= late

    def read(self, now: int, into: Features) -> None:
        """Write what the window holds now; mean and rate of nothing are missing."""
        tile = now // self.width
        if tile != self.open:
            self._roll(tile)
        count_name, mean_name, rate_name = self.names
        count = self.count + self.open_count
        if count_name:
            into[count_name] = float(count)
        if count:
            if mean_name:
                into[mean_name] = (self.total + self.open_total) / count
            if rate_name:
                into[rate_name] = (self.late + self.open_late) / count


class Decayed:
    """A mean whose terms halve in weight with every half-life, each weighted to the end of its tile."""

    __slots__ = ("half_lives", "name", "tile", "total", "weight", "width")

    def __init__(self, width: int, half_life: int, name: str) -> None:
        self.width, self.half_lives, self.name = width, width / half_life, name
        self.tile = 0
        self.total = self.weight = 0.0

    def add(self, now: int, delay: int) -> None:
        """Add one term, after letting the others fade to its tile."""
        tile = now // self.width
        if tile != self.tile:
            decay = 0.5 ** ((tile - self.tile) * self.half_lives)
            self.total *= decay
            self.weight *= decay
            self.tile = tile
        self.total += delay
        self.weight += 1.0

    def read(self, _now: int, into: Features) -> None:
        """Write the mean: that it fades in both its parts leaves it as it was."""
        if self.weight:
            into[self.name] = self.total / self.weight


class Last:
    """The newest delay; the events come in the order that breaks ties."""

    __slots__ = ("delay", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.delay: float | None = None

    def add(self, _now: int, delay: int) -> None:
        """Keep this delay."""
        self.delay = float(delay)

    def read(self, _now: int, into: Features) -> None:
        """Write the newest delay, if there is one."""
        if self.delay is not None:
            into[self.name] = self.delay


Slot = Window | Decayed | Last


class State(NamedTuple):
    """The slots of one key: those that departures feed, those that arrivals feed, and all in the order of reading."""

    dep: list[Slot]
    arr: list[Slot]
    all: list[Slot]


class View:
    """One view: its states by key. A key that no record has named is missing as a whole."""

    def __init__(self, name: str) -> None:
        self.makers = [(row[0], _maker(name, *row)) for row in VIEWS[name]]
        self.states: dict[Any, State] = {}

    def state(self, key: Any) -> State:
        """The state of this key, empty if it is new."""
        found = self.states.get(key)
        if found is None:
            made = [(stream, make()) for stream, make in self.makers]
            dep, arr = ([slot for stream, slot in made if stream == wanted] for wanted in ("dep", "arr"))
            found = self.states[key] = State(dep, arr, [slot for _, slot in made])
        return found


def _maker(view: str, stream: str, window: str, tile: str, aggregates: tuple[str, ...]) -> Callable[[], Slot]:
    """What makes an empty slot; the features' names are spelled here, once."""
    if aggregates == LAST:
        return lambda: Last(f"{view}__{stream}_last")
    width, span = _span(tile), _span(window)
    if aggregates == DECAYED:
        return lambda: Decayed(width, span, f"{view}__{stream}_decayed_{window}")
    count, mean, rate = (f"{view}__{stream}_{name}_{window}" if name in aggregates else None for name in ALL)
    return lambda: Window(width, span // width, (count, mean, rate))


def _span(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]]


class Event(NamedTuple):
    """One recorded event, parsed. ``numbers`` are the request, the observation or the plane, what is null left out."""

    stream: str
    time: int
    trip: str
    carrier: str
    flight: int
    origin: str
    dest: str
    tailnum: str | None
    delay: int
    numbers: Features


class Windows:
    """All views, fed record by record in the order of time."""

    def __init__(self) -> None:
        self.views = [View(name) for name in VIEWS]
        self.weather: dict[str, tuple[int, Features]] = {}
        self.planes: dict[str | None, Features] = {}

    def take(self, event: Event) -> None:
        """Update the views with a departure, an arrival, an observation or a plane."""
        if event.stream == "weather":
            self.weather[event.origin] = (event.time, event.numbers)
        elif event.stream == "planes":
            self.planes[event.tailnum] = event.numbers
        else:
            self._delayed(event, event.stream == "departures")

    def _delayed(self, event: Event, departed: bool) -> None:
        now, delay = event.time, event.delay
        for view, key in zip(self.views, _keys(event), strict=True):
            if key is not None:
                state = view.state(key)
                for slot in state.dep if departed else state.arr:
                    slot.add(now, delay)

    def features(self, event: Event) -> Features:
        """What a question may see, in the order of the model's input; what is missing is left out."""
        now = event.time
        x: Features = {**event.numbers, "carrier": event.carrier, "origin": event.origin, "dest": event.dest}
        for view, key in zip(self.views, _keys(event), strict=True):
            state = view.states.get(key)
            if state is not None:
                for slot in state.all:
                    slot.read(now, x)
        observed, weather = self.weather.get(event.origin, (0, {}))
        if now - observed <= WEATHER_TTL:
            x.update(weather)
        x.update(self.planes.get(event.tailnum, {}))
        return x


def _keys(event: Event) -> tuple[Any, ...]:
    """The entity of each view, in the order of `VIEWS`; None for an unknown plane."""
    _, _, _, carrier, flight, origin, dest, tailnum, _, _ = event
    return origin, carrier, dest, (origin, dest), (carrier, flight), tailnum, (carrier, origin)


class Run(NamedTuple):
    """What one pass over the events gave: per example, in the order learned, and the seconds of the loop."""

    asked: list[int]
    probabilities: list[float]
    outcomes: list[bool]
    seconds: float
    cpu_seconds: float
    predicting: float
    learning: float


def run(events: list[Event], model: Any) -> Run:
    """Ask, keep the answer until the outcome is known, score the answer that was kept, learn from what was asked."""
    windows = Windows()
    pending: dict[str, tuple[int, float, Features]] = {}
    waiting: deque[tuple[int, str]] = deque()
    asked, probabilities, outcomes = [], [], []
    predicting = learning = 0.0
    began, cpu_began = perf_counter(), process_time()
    for event in events:
        if event.stream == "schedule":
            x = windows.features(event)
            mark = perf_counter()
            probability = model.predict_proba_one(x)[True]
            predicting += perf_counter() - mark
            pending[event.trip] = (event.time, probability, x)
            waiting.append((event.time, event.trip))
            while waiting[0][0] < event.time - PENDING_FOR:
                pending.pop(waiting.popleft()[1], None)
            continue
        windows.take(event)
        if event.stream == "arrivals" and event.trip in pending:
            time, probability, x = pending.pop(event.trip)
            late = event.delay >= LATE_MINUTES
            asked.append(time)
            probabilities.append(probability)
            outcomes.append(late)
            mark = perf_counter()
            model.learn_one(x, late)
            learning += perf_counter() - mark
    seconds, cpu_seconds = perf_counter() - began, process_time() - cpu_began
    return Run(asked, probabilities, outcomes, seconds, cpu_seconds, predicting, learning)


def parsed(lines: Iterator[bytes]) -> list[Event]:
    """Parse the recorded events once, so that the loop is timed without it."""
    return [_event(orjson.loads(line)) for line in lines]


def _event(line: dict[str, Any]) -> Event:
    stream, data = line["type"], line["data"]
    names = NUMBERS.get(stream, ())
    prefix = "" if stream == "schedule" else f"{stream}__"
    return Event(
        stream=intern(stream),
        time=int(datetime.fromisoformat(line["time"]).timestamp()) * SECOND,
        trip=data.get("trip", ""),
        carrier=intern(data.get("carrier", "")),
        flight=data.get("flight", 0),
        origin=intern(data.get("origin", "")),
        dest=intern(data.get("dest", "")),
        tailnum=data.get("tailnum"),
        delay=data.get("delay", 0),
        numbers={prefix + name: float(data[name]) for name in names if data[name] is not None},
    )


def auc(scores: Floats, outcomes: Bools) -> float:
    """The exact area under the ROC curve: how often a late flight scores above one that is not; ties count a half."""
    _, rank, count = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(count)
    ranks = (upper - (count - 1) / 2)[rank]
    late = int(outcomes.sum())
    return float((ranks[outcomes].sum() - late * (late + 1) / 2) / (late * (len(outcomes) - late)))


def log_loss(scores: Floats, outcomes: Bools) -> float:
    """The mean of minus the logarithm of the probability given to what happened, in nats."""
    given = np.where(outcomes, scores, 1 - scores)
    return float(-np.log(np.clip(given, 1e-15, 1)).mean())


def report(events: list[Event], done: Run, start: int) -> dict[str, float]:
    """The figures: accuracy over the flights asked about from day 60 on, speed over all."""
    scored = np.asarray(done.asked) >= start + WARM_UP
    scores, outcomes = np.asarray(done.probabilities)[scored], np.asarray(done.outcomes, dtype=bool)[scored]
    both = 0 < outcomes.sum() < len(outcomes)
    return {
        "events": len(events),
        "flights": sum(event.stream == "schedule" for event in events),
        "examples": len(done.asked),
        "scored": len(scores),
        "auc": auc(scores, outcomes) if both else float("nan"),
        "log_loss": log_loss(scores, outcomes) if both else float("nan"),
        "seconds": done.seconds,
        "cpu_seconds": done.cpu_seconds,
        "seconds_windows": done.seconds - done.predicting - done.learning,
        "seconds_predict": done.predicting,
        "seconds_learn": done.learning,
        "events_per_second": len(events) / done.seconds,
        "flights_per_second": len(done.asked) / done.seconds,
    }


def load(path: Path) -> ModuleType:
    """Load a module by its path, under a name of its own."""
    spec = spec_from_file_location(f"plain_{path.stem}", path)
    if spec is None or spec.loader is None:
        message = f"{path} is not a Python file"
        raise ImportError(message)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Run the loop and print its figures."""
    parser = argparse.ArgumentParser(description="The flights pipeline as a plain script: the oracle and the limit.")
    parser.add_argument("--weeks", type=int, help="how many weeks from the start; the whole year when left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    folder = Path(__file__).resolve().parent.parent / "configs" / "flights"
    recorded, models = load(folder / "recorded.py"), load(folder / "models.py")
    events = parsed(recorded.events(options.weeks))
    gc.freeze()  # A million parsed events are no garbage: looking through them again would be timed with the loop.
    figures = report(events, run(events, models.online()), recorded.START)
    if options.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        sys.stdout.writelines(f"{name:20} {value:14,.4f}\n" for name, value in figures.items())


if __name__ == "__main__":
    main()
