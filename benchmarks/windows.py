"""What features cost: the fold over real flights, and running totals against merging tiles.

``python -m benchmarks.windows [--weeks 4] [--rounds 5]`` prints three ratios, each to a limit measured in the same run,
in turns:

- the feature fold over reading the same records' bodies, and what an event of each stream costs;
- a window that merges its tiles, oldest to newest, whenever it shows itself, over one with running totals. Both give
  the same bits, which is checked;
- each aggregate over each kind of window over a sliding count: the departures of one airport through a pane, its
  wake-ups included.
"""

import argparse
import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from features.aggregates import Aggregate, Shape
from features.entities import Timers
from features.measure import Measure, Sample
from features.panes import TimedState, panes_of
from features.processor import FeatureFold
from features.rows import FieldValue, Row
from features.windows import Window, WindowPane
from journal.checkpoint import FoldFile
from journal.clock import DAY, HOUR, MINUTE, parse_time
from journal.record import Kind, Record, canonical_json
from rivermill.pipeline import Pipeline, load_pipeline

EVENTS_PER_SAVE = 4_000
SAVES = "(saves)"
KINDS = ("count", "mean", "rate", "sum", "std", "min", "max", "last", "distinct")
KINDS_OF_WINDOW: dict[str, dict[str, Any]] = {
    "3h by 15m": {"over": 3 * HOUR, "tile": 15 * MINUTE},
    "every 1d": {"over": DAY, "tile": DAY},
    "1d closed": {"over": DAY, "tile": DAY, "shape": Shape()},
    "gap 5m": {"shape": Shape(gap=5 * MINUTE)},
    "gap 5m kept 1h": {"shape": Shape(gap=5 * MINUTE, keep=HOUR)},
}
SHAPES = {"1h by 5m": (5 * MINUTE, 12), "14d by 1d": (DAY, 14), "7d by 6h": (6 * HOUR, 28)}


class Nowhere:
    """A table and an outbox that accept every row and keep none, so that the fold alone is measured."""

    taken = 0

    def put(self, view: str, row: Row) -> bool:  # noqa: ARG002
        """Count it."""
        self.taken += 1
        return True

    def rows(self, view: str) -> Sequence[Row]:  # noqa: ARG002
        """None are kept."""
        return ()

    def flush(self) -> None:
        """Nothing to write."""

    def add(self, view: str, rows: Sequence[Row]) -> None:
        """Drop them."""

    def save(self) -> None:
        """Nothing to write."""


class Merging(Window):
    """The same window without running totals."""

    __slots__ = ()

    def _show(self) -> None:
        self.count = self._total = self._high = 0
        for tile in sorted(self._tiles):
            count, total, high = self._tiles[tile]
            self.count += count
            self._total += total
            self._high += high
        super()._show()


def records_of(pipeline: Pipeline, weeks: int) -> Iterator[Record]:
    """The recorded events, with the journal's stamps."""
    assert pipeline.recorded is not None
    at = 0
    for offset, raw in enumerate(pipeline.recorded(weeks=weeks)):
        event = orjson.loads(raw)
        moment = parse_time(event["time"])
        at = max(at + 1, moment)
        yield Record(
            kind=Kind.SOURCE,
            stream=event["type"],
            id=event["id"],
            time=moment,
            body=canonical_json(event["data"]),
            partition=0,
            offset=offset,
            at=at,
        )


def time_parsing(records: Sequence[Record]) -> float:
    """Seconds to parse every body: what any reader pays."""
    start = time.process_time()
    for record in records:
        orjson.loads(record.body)
    return time.process_time() - start


def time_fold(pipeline: Pipeline, records: Sequence[Record]) -> tuple[Counter[str], Nowhere]:
    """Nanoseconds that the fold took by stream, its saves into a file in memory apart, and where its rows went."""
    sink, file = Nowhere(), FoldFile(Path(":memory:"))
    fold = FeatureFold(pipeline.views, pipeline.lateness, sink, sink)
    spent = Counter[str]()
    for record in records:
        start = time.process_time_ns()
        fold.apply(record)
        applied = time.process_time_ns()
        spent[record.stream] += applied - start
        if record.offset % EVENTS_PER_SAVE == EVENTS_PER_SAVE - 1:
            with file.transaction():
                fold.save(file)
            spent[SAVES] += time.process_time_ns() - applied
    file.close()
    return spent, sink


def time_window(kind: type[Window], pane: WindowPane, samples: Sequence[Sample]) -> tuple[float, list[Any]]:
    """Seconds that one window takes for these samples, and every value that it showed."""
    values: list[FieldValue] = [None] * 3
    window, waiting, shown = kind(pane, values), list[int](), list[Any]()
    start = time.process_time()
    for sample in samples:
        while waiting and waiting[0] <= sample[0]:
            window.leave(waiting.pop(0))
        boundary = window.add(sample)
        if boundary is not None:
            waiting.append(boundary)
        shown.append(tuple(values))
    return time.process_time() - start, shown


def compare_windows(records: Sequence[Record], rounds: int) -> None:
    """Print the ratio for each shape, over the departures of one airport."""
    sampler = Measure("delay", threshold=15).sampler()
    busy = [record for record in records if record.stream == "departures" and record.data["origin"] == "EWR"]
    samples = [s for r in busy if (s := sampler(r.data, r.time or 0, r.id, r.time or 0)) is not None]
    for name, (width, span) in SHAPES.items():
        pane = WindowPane("departures", Measure("delay", threshold=15), width, span, 0, 1, 2)
        ratios = []
        for _ in range(rounds):
            merging, seen = time_window(Merging, pane, samples)
            running, shown = time_window(Window, pane, samples)
            assert shown == seen
            ratios.append(merging / running)
        print(f"window {name}: merging takes {median(ratios):.1f} times as long as running totals, same bits")


def time_kind(aggregate: Aggregate, records: Sequence[Record]) -> float:
    """Seconds that one feature of one entity takes for these records, samples and wake-ups included."""
    (pane,) = panes_of([aggregate], lateness=HOUR)
    state, sampler, timers = pane.open([None]), pane.measure.sampler(), Timers()
    assert isinstance(state, TimedState)
    state.owner = None
    clock, start = 0, time.process_time()
    for record in records:
        moment = record.time or 0
        clock = max(clock, moment)
        for _ in timers.fire(clock):
            pass
        timers.unseen.clear()
        sample = sampler(record.data, moment, record.id, clock)
        if sample is not None and (boundary := state.add(sample)) is not None:
            timers.schedule(boundary, state)
    return time.process_time() - start


def compare_kinds(records: Sequence[Record], rounds: int) -> None:
    """Print what a record costs in each kind of window, by aggregate, beside a sliding count."""
    busy = [record for record in records if record.stream == "departures" and record.data["origin"] == "EWR"]
    base = Aggregate(kind="count", stream="departures", **KINDS_OF_WINDOW["3h by 15m"])
    print(f"one feature, {len(busy):,} records, microseconds each (and times a sliding count)")
    for name, window in KINDS_OF_WINDOW.items():
        costs = []
        for kind in KINDS:
            column = None if kind == "count" else "delay"
            threshold = 15 if kind == "rate" else None
            one = Aggregate(kind=kind, stream="departures", column=column, at_least=threshold, **window)
            pairs = [(time_kind(one, busy), time_kind(base, busy)) for _ in range(rounds)]
            cost, ratio = median(pair[0] for pair in pairs), median(pair[0] / pair[1] for pair in pairs)
            costs.append(f"{kind} {cost / len(busy) * 1e6:.1f} ({ratio:.1f})")
        print(f"  {name:<15}{'  '.join(costs)}")


def compare_fold(pipeline: Pipeline, records: Sequence[Record], rounds: int) -> None:
    """Print what the fold costs by stream, and its ratio to parsing."""
    counts = Counter(record.stream for record in records) | Counter({SAVES: len(records)})
    ratios, costs = [], []
    for _ in range(rounds):
        parsing = time_parsing(records)
        spent, sink = time_fold(pipeline, records)
        ratios.append(spent.total() / 1e9 / parsing)
        costs.append(spent)
    print(
        f"{len(records):,} records, {sink.taken:,} rows; the fold takes {median(ratios):.0f} times as long as parsing"
    )
    for stream, count in counts.items():
        micros = median(spent[stream] for spent in costs) / 1e3 / count
        print(f"  {stream:<11}{count:>9,} events {micros:>7.1f} us each")


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weeks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pipeline = load_pipeline(Path(__file__).parents[1] / "configs" / "flights")
    records = list(records_of(pipeline, options.weeks))
    for record in records:
        record.data  # noqa: B018 (parsed once for all folds)
    gc.freeze()
    compare_fold(pipeline, records, options.rounds)
    compare_windows(records, options.rounds)
    compare_kinds(records, options.rounds)


if __name__ == "__main__":
    main()
