"""The whole lock-step path over the bare loop: the same windows in plain Python, the same River model, nothing else.

Both run in this process on the same events, in turn, for several rounds; what counts is the ratio of each round. Time
is processor time, which other work on the machine disturbs least; wall time is printed beside it. Ours start from JSON
and end on disk. The bare loop's events are parsed beforehand; a second ratio counts its parsing too.

    python -m benchmarks.lockstep [--weeks N] [--rounds N] [--profile]
"""

import argparse
import cProfile
import gc
import pstats
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from benchmarks import plain_flights
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import HISTORY_ROWS_PER_FLUSH, open_run

GOAL = 0.3
_MEGABYTE = 1024


def ours(pipeline: Pipeline, events: list[bytes], profile: cProfile.Profile | None = None) -> tuple[float, float]:
    """Seconds of processor and wall time from the first event to the last flush of history."""
    with tempfile.TemporaryDirectory() as home:
        run = open_run(pipeline, Home(Path(home), pipeline.name))
        gc.collect()
        wall, cpu = perf_counter(), process_time()
        if profile:
            profile.enable()
        run.lockstep.play(events, "benchmark", progress=lambda _: run.folds.flush_history(HISTORY_ROWS_PER_FLUSH))
        run.folds.flush_history()
        if profile:
            profile.disable()
        took = process_time() - cpu, perf_counter() - wall
        run.close()
    return took


def bare(pipeline: Pipeline, parsed: list[plain_flights.Event]) -> tuple[float, float]:
    """The same for the plain script."""
    gc.collect()
    done = plain_flights.run(parsed, pipeline.line.make_model())
    return done.cpu_seconds, done.seconds


def main() -> None:
    """Print each round and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    options = parser.parse_args()
    pipeline = load_pipeline(configs_folder() / "flights")
    assert pipeline.recorded is not None
    events = list(pipeline.recorded(weeks=options.weeks))
    if options.profile:
        profile = cProfile.Profile()
        ours(pipeline, events, profile)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    begun = process_time()
    parsed = plain_flights.parsed(iter(events))
    parsing = process_time() - begun
    rounds = [(ours(pipeline, events), bare(pipeline, parsed)) for _ in range(options.rounds)]
    ratios = [limit[0] / own[0] for own, limit in rounds]
    for (own_cpu, own_wall), (bare_cpu, bare_wall) in rounds:
        sys.stdout.write(
            f"ours {own_cpu:6.2f} s cpu ({own_wall:6.2f} wall) {len(events) / own_cpu:7,.0f} events/s · "
            f"bare loop {bare_cpu:6.2f} ({bare_wall:6.2f}) {len(events) / bare_cpu:7,.0f} · "
            f"ratio {bare_cpu / own_cpu:.3f}\n"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MEGABYTE
    sys.stdout.write(
        f"{len(events):,} events · ratio median {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}), "
        f"goal {GOAL} · peak memory {peak:,.0f} MB\n"
        f"with the bare loop's parsing of the same JSON ({parsing:.2f} s) counted: "
        f"{statistics.median((limit[0] + parsing) / own[0] for own, limit in rounds):.3f}\n"
    )


if __name__ == "__main__":
    main()
