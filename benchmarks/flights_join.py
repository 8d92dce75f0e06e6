"""G11 on real flights: every question's features as of its time, through Feast's API over our store and Feast's own.

    python -m benchmarks.flights_join --home H [--rows N] [--feast-python PYTHON] [--rounds N]

H is the home of a finished demo of the flights. Ours reads the history that the folds wrote, as it lies there; Feast's
duckdb store reads the same rows from one Parquet file per view, in a child that may take 8 GB, of an environment with
``feast[duckdb]``. Views have TTLs of 3 hours to 30 days, and their keys hundreds of rows within them: what
`benchmarks.dataset` and `benchmarks.offline` do not have.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from journal.body import Prediction, decode
from journal.log import START
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import feast_store

if TYPE_CHECKING:
    from feast import FeatureStore

_PAGE = 5_000


def main() -> None:
    """Print rows per second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=5_000, help="questions that Feast's store is asked, evenly spread")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--feast-python", help="a Python with feast[duckdb]")
    options = parser.parse_args()
    pipeline = load_pipeline(configs_folder() / "flights")
    home = Home(options.home, pipeline.name)
    reader = SqliteReader(home.journal)
    store = feast_store(home, reader.incarnation, reader.clock)
    asked = questions(reader, pipeline)
    part = asked.take(pa.array(range(0, len(asked), max(1, len(asked) // options.rows)))).slice(0, options.rows)
    figures = {f"ours, {len(rows):,} questions": ours(store, pipeline, rows, options.rounds) for rows in (asked, part)}
    for name, speed in figures.items():
        print(f"{name}: {speed:,.0f} rows/s", flush=True)
    if options.feast_python:
        with tempfile.TemporaryDirectory(prefix="flights-") as name:
            folder = Path(name)
            export(home, reader.incarnation, pipeline, folder)
            pq.write_table(part, folder / "entities.parquet")
            program = Path(__file__).with_name("feast_duckdb.py").resolve()
            command = [options.feast_python, str(program), str(folder)]
            told = subprocess.run(
                command, stdout=subprocess.PIPE, check=True, cwd=folder, env={**os.environ, "TZ": "UTC"}
            )
        theirs = len(part) / float(json.loads(told.stdout))
        print(f"Feast's duckdb store, {len(part):,} questions: {theirs:,.0f} rows/s")
        whole, same = figures.values()
        print(f"over Feast's duckdb store: {whole / theirs:.1f} with all questions, {same / theirs:.1f} with the same")


def questions(reader: SqliteReader, pipeline: Pipeline) -> pa.Table:
    """Every question's join keys, and when it was answered."""
    keys = sorted({key for view in pipeline.views for key in view.join_keys})
    stream, data, found, after = pipeline.question.stream, {}, [], START
    while page := reader.read(0, after, _PAGE):
        after = page[-1].offset
        for record in page:
            if record.kind is Kind.SOURCE and record.stream == stream:
                data[record.offset] = record.data
            elif record.kind is Kind.PREDICTION:
                found.append((record.at, data.pop(decode(record.body, Prediction).question)))
    moments = pa.array([at for at, _ in found], pa.timestamp("us", "UTC"))
    return pa.table({"event_timestamp": moments, **{key: [asked[key] for _, asked in found] for key in keys}})


def ours(store: "FeatureStore", pipeline: Pipeline, rows: pa.Table, rounds: int) -> float:
    """Rows per second of one historical read, after one that warms it up."""
    service, frame, spent = store.get_feature_service(pipeline.service.name), rows.to_pandas(), []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        found = store.get_historical_features(frame, service, full_feature_names=True).to_arrow()
        spent.append(time.perf_counter() - began)
        assert len(found) == len(rows)
    return len(rows) / median(spent[1:])


def export(home: Home, incarnation: str, pipeline: Pipeline, folder: Path) -> None:
    """The views' rows, one Parquet file each, and what `benchmarks.feast_duckdb` has to know of them."""
    views = {}
    for view in pipeline.views:
        rows = DeltaTable(str(home.history(incarnation) / view.name)).to_pyarrow_table()
        rows = rows.filter(pc.invert(rows["deleted"])).drop_columns(["deleted"])
        pq.write_table(rows, folder / f"{view.name}.parquet")
        views[view.name] = {
            "keys": list(view.join_keys),
            "event": "event_timestamp",
            "created": "known_timestamp",
            "ttl": None if view.ttl is None else view.ttl / 1_000_000,
        }
    (folder / "views.json").write_text(json.dumps(views))


if __name__ == "__main__":
    main()
