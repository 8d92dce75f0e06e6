"""The pipeline's accuracy beside the plain script's: exact ROC AUC and log loss over the flights asked from day 60 on.

python -m benchmarks.accuracy [--weeks N]
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import plain_flights
from rivermill.lockstep import Progress
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import HISTORY_ROWS_PER_FLUSH, open_run

GOAL = 0.002
_RESIDENT = Path("/proc/self/statm")


def resident_megabytes() -> float:
    """What this process holds in memory now."""
    return int(_RESIDENT.read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Play the recording both ways; print figures, their difference, and memory as the run goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, help="the whole year when left out")
    options = parser.parse_args()
    pipeline = load_pipeline(configs_folder() / "flights")
    assert pipeline.recorded is not None
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        run = open_run(pipeline, Home(Path(home), pipeline.name))

        def after(_: Progress) -> None:
            run.folds.flush_history(HISTORY_ROWS_PER_FLUSH)
            memory.append(resident_megabytes())

        started = perf_counter()
        lines = run.lockstep.play(pipeline.recorded(weeks=options.weeks), "benchmark", progress=after)
        seconds = perf_counter() - started
        start = pipeline.starts[0] + 5 * plain_flights.HOUR
        own = run.folds.learner.report(start + plain_flights.WARM_UP)
        run.close()
    tenths = [f"{memory[int(len(memory) * tenth / 10)]:,.0f}" for tenth in range(1, 10)] + [f"{memory[-1]:,.0f}"]
    sys.stdout.write(f"{lines:,} events in {seconds:,.0f} s ({lines / seconds:,.0f} a second)\n")
    sys.stdout.write(f"memory after each tenth, MB: {' '.join(tenths)}\n")
    events = plain_flights.parsed(pipeline.recorded(weeks=options.weeks))
    plain = plain_flights.report(events, plain_flights.run(events, pipeline.line.make_model()), start)
    sys.stdout.write(
        f"rivermill  {own['examples']:,} scored · ROC AUC {own['auc']:.6f} · log loss {own['log_loss']:.6f}\n"
    )
    sys.stdout.write(
        f"plain      {plain['scored']:,} scored · ROC AUC {plain['auc']:.6f} · log loss {plain['log_loss']:.6f}\n"
    )
    difference = np.abs(own["auc"] - plain["auc"])
    sys.stdout.write(f"difference in ROC AUC {difference:.6f}, goal {GOAL}\n")


if __name__ == "__main__":
    main()
