"""G11: how fast a dataset version is built from a journal, over the bare join and over Feast's own duckdb store.

    python -m benchmarks.dataset [--rows N] [--rounds N] [--feast-rows N --feast-python PYTHON] [--year JOURNAL]

L8, the limit, has everything in Arrow tables already: DuckDB ASOF joins of five views, one pandera pass, one Parquet
write. Ours starts from the journal's files and ends with a version: read, joined with its outcomes, checked, hashed,
written and synced. Both give the same cells, which is asserted. Rounds are interleaved; both run without Python's
cycle collector, as the child does that builds for a retrain.
"""

import argparse
import gc
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features import dataset
from features.dataset_process import build_apart
from journal.body import Definition, Example, Prediction, draft_of
from journal.clock import SECOND, parse_time
from journal.record import Draft, Kind, Record, canonical_json
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

VIEWS, FIELDS, ENTITIES = 5, 10, 10_000
_BEGIN = parse_time("2024-01-01T00:00:00Z")
_GROUP = 5_000
_LATE = 0.3


@dataclass(frozen=True)
class Story:
    """The same facts twice: as a journal, and as the tables that a join without one would begin with."""

    journal: Path
    views: list[pa.Table]
    asked: pa.Table


def main() -> None:
    """Measure, and print the ratios."""
    options = _arguments()
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="dataset-") as name:
        folder = Path(name)
        figures = measure(folder, options.rows, options.rounds)
        if options.feast_python:
            figures |= over_feast(folder, options.feast_rows, options.feast_python, figures)
    if options.year is not None:
        figures |= year(options.year)
    for name, value in figures.items():
        sys.stdout.write(json.dumps({name: value}) + "\n" if options.json else f"{name:<28}{value}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="predictions, each with an outcome")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--feast-rows", type=int, default=20_000, help="rows for Feast's store")
    parser.add_argument("--feast-python", help="the Python of an environment with feast[duckdb]; none leaves it out")
    parser.add_argument("--year", type=Path, help="a journal's folder: print what building all of it takes")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Ours and L8, in turn."""
    story = tell(folder, rows)
    with_journal = SqliteReader(story.journal)
    end = with_journal.end()
    seconds: dict[str, list[float]] = {"ours": [], "ours, by a child": [], "L8": []}
    made: dict[str, Any] = {}

    def ours() -> None:
        made["ours"] = dataset.build(with_journal, folder / "versions", "bench", end, "bench")

    def apart() -> None:
        build_apart(story.journal, folder / "versions", "bench", end, "bench")

    def limit() -> None:
        made["limit"] = bare(story, folder / "limit.parquet")

    for number in range(rounds + 1):
        for name, run in (("ours", ours), ("L8", limit), ("ours, by a child", apart)):
            shutil.rmtree(folder / "versions", ignore_errors=True)
            took = timed(run)
            if number:
                seconds[name].append(took)
    same = equal(dataset.read(folder / "versions", made["ours"].version), made["limit"])
    assert same, "the dataset and the bare join differ"
    over = {
        name: [bound / took for took, bound in zip(seconds[name], seconds["L8"], strict=True)]
        for name in ("ours", "ours, by a child")
    }
    with_journal.close()
    return {
        "rows": rows,
        "features": VIEWS * FIELDS,
        **{f"{name}, rows/s": round(rows / statistics.median(took)) for name, took in seconds.items()},
        "over L8": spread(over["ours"]),
        "over L8, by a child": spread(over["ours, by a child"]),
        "goal": "accept 0.5, aim 0.8",
        "peak memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000),
    }


def timed(run: Callable[[], None]) -> float:
    """Seconds of wall time that it took."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def spread(ratios: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def tell(folder: Path, rows: int) -> Story:
    """Make up a story: every view has as many rows as there are questions, and every question an outcome."""
    random = np.random.default_rng(11)
    at = _BEGIN + np.arange(rows, dtype=np.int64) * SECOND
    keys = random.integers(0, ENTITIES, rows)
    views, predicted = [], np.full((rows, VIEWS * FIELDS), np.nan)
    for number in range(VIEWS):
        table, found = _view(random, at, keys)
        views.append(table)
        known = found >= 0
        columns = slice(number * FIELDS, (number + 1) * FIELDS)
        values = np.stack([table[f"f{field}"].to_numpy() for field in range(FIELDS)], axis=1)
        predicted[known, columns] = values[found[known]]
    outcomes = random.random(rows) < _LATE
    journal = SqliteJournal(folder / "journal", "bench")
    journal.append([draft_of(_definition(), kind=Kind.DEFINITION, stream="features", id="s@1")])
    offsets = list(_append(journal, at, keys, predicted, outcomes))
    journal.close()
    asked = pa.table({"prediction": offsets, "at": at, "k": keys, "outcome": outcomes})
    return Story(folder / "journal", views, asked)


def _view(random: np.random.Generator, at: Any, keys: Any) -> tuple[pa.Table, Any]:
    """A view's history, and for each question the row that it sees, or -1."""
    rows = len(at)
    owners = random.integers(0, ENTITIES, rows)
    columns = {f"f{field}": random.normal(size=rows) for field in range(FIELDS)}
    newest, found = np.full(ENTITIES, -1), np.full(rows, -1)
    for row, (owner, key) in enumerate(zip(owners.tolist(), keys.tolist(), strict=True)):
        newest[owner] = row
        found[row] = newest[key]
    # A row is known half a second before the question of its second.
    return pa.table({"k": owners, "known": at - SECOND // 2, **columns}), found


def _definition() -> Definition:
    columns = [f"v{view}__f{field}" for view in range(VIEWS) for field in range(FIELDS)]
    labels = [f"v{view}@1" for view in range(VIEWS)]
    return Definition(service="s@1", request=[], views=labels, columns=columns, types=["float64"] * len(columns))


def _append(journal: SqliteJournal, at: Any, keys: Any, predicted: Any, outcomes: Any) -> Iterator[int]:
    for start in range(0, len(at), _GROUP):
        stop = min(start + _GROUP, len(at))
        asked = [_event("questions", n, int(at[n]), {"k": int(keys[n])}) for n in range(start, stop)]
        first, *_ = _places(journal, asked)
        answers = [_answer(n, first + n - start, keys, predicted) for n in range(start, stop)]
        answered = _places(journal, answers)
        yield from answered
        told = [_event("labels", n, int(at[n]), {"late": bool(outcomes[n])}) for n in range(start, stop)]
        labels = _places(journal, told)
        numbers = zip(range(start, stop), answered, labels, strict=True)
        journal.append([_example(n, answer, label, bool(outcomes[n])) for n, answer, label in numbers])


def _places(journal: SqliteJournal, drafts: list[Draft]) -> list[int]:
    return [record.offset for record in journal.append(drafts) if isinstance(record, Record)]


def _event(stream: str, number: int, time: int, data: dict[str, Any]) -> Draft:
    return Draft(kind=Kind.SOURCE, stream=stream, id=f"{stream}-{number}", time=time, body=canonical_json(data))


def _answer(number: int, question: int, keys: Any, predicted: Any) -> Draft:
    values = [None if value != value else value for value in predicted[number].tolist()]  # noqa: PLR0124 - NaN alone
    body = Prediction(
        key=str(int(keys[number])),
        question=question,
        service="s@1",
        values=values,
        stamps=[(0, 0)] * VIEWS,
        score=0.5,
        line="online",
        model="0" * 64,
        snapshot=0,
        control=1,
        degraded=False,
        build="0" * 12,
    )
    return draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{number}")


def _example(number: int, prediction: int, label: int, outcome: bool) -> Draft:
    body = Example(key=str(number), prediction=prediction, label=label, outcome=outcome)
    return draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"e-{number}")


def bare(story: Story, path: Path) -> pa.Table:
    """L8: the join, a check, a file."""
    with duckdb.connect(config={"threads": 2}) as db:
        db.register("asked", story.asked)
        picked, joins = ["q.*"], []
        for number, view in enumerate(story.views):
            db.register(f"view{number}", view)
            picked += [f"a{number}.f{field} AS v{number}__f{field}" for field in range(FIELDS)]
            joins.append(f"ASOF LEFT JOIN view{number} a{number} ON q.k = a{number}.k AND q.at >= a{number}.known")
        query = f"SELECT {', '.join(picked)} FROM asked q {' '.join(joins)} ORDER BY q.prediction"
        table = db.sql(query).to_arrow_table()
    _validate(table)
    pq.write_table(table, path, compression="zstd")
    return table


def _validate(table: pa.Table) -> None:
    import pandera.pandas as pandera  # noqa: PLC0415 - a second that is no part of the limit

    finite = pandera.Check(np.isfinite, ignore_na=True)
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    columns = {name: pandera.Column(checks=[finite], nullable=True) for name in floats}
    columns |= {"prediction": pandera.Column(unique=True), "outcome": pandera.Column(nullable=False)}
    pandera.DataFrameSchema(columns).validate(table.to_pandas(), lazy=True)


def equal(made: pa.Table, limit: pa.Table) -> bool:
    """Whether the versions' features and outcomes are the bare join's, cell by cell."""
    names = [name for name in limit.column_names if name not in ("at", "k")]
    return all(made[name].combine_chunks().equals(limit[name].combine_chunks().cast(made[name].type)) for name in names)


def over_feast(folder: Path, rows: int, python: str, figures: dict[str, Any]) -> dict[str, Any]:
    """The same questions asked of Feast's duckdb store, in a child that may not take all memory."""
    story_folder = folder / "feast"
    story_folder.mkdir()
    story = tell(story_folder, rows)
    for number, view in enumerate(story.views):
        known = pa.array(view["known"].to_numpy()).cast(pa.timestamp("us", "UTC"))
        pq.write_table(view.set_column(1, "known", known), story_folder / f"view{number}.parquet")
    told = {"keys": ["k"], "event": "known", "created": None, "ttl": 365 * 86_400}
    (story_folder / "views.json").write_text(json.dumps({f"view{n}": told for n in range(len(story.views))}))
    at = pa.array(story.asked["at"].to_numpy()).cast(pa.timestamp("us", "UTC"))
    entities = story.asked.select(["k"]).append_column("event_timestamp", at)
    pq.write_table(entities, story_folder / "entities.parquet")
    program = Path(__file__).with_name("feast_duckdb.py")
    done = subprocess.run(
        [python, str(program), str(story_folder)], stdout=subprocess.PIPE, check=True, cwd=story_folder
    )
    took: float = json.loads(done.stdout)
    speed, ours = rows / took, figures["ours, rows/s"]
    return {
        "Feast's duckdb store, rows/s": round(speed),
        "over Feast's duckdb store": f"{ours / speed:.1f}x",
        "goal over Feast": "accept 10x, aim 20x",
    }


def year(journal: Path) -> dict[str, Any]:
    """What building all of a journal takes, in a child of its own."""
    with tempfile.TemporaryDirectory(prefix="dataset-") as name:
        reader = SqliteReader(journal)
        end = reader.end()
        reader.close()
        began = time.perf_counter()
        made = build_apart(journal, Path(name), "year", end, "bench")
        took = time.perf_counter() - began
        size = sum(path.stat().st_size for path in Path(name).rglob("*.parquet"))
    return {
        "year: rows": made.rows_out,
        "year: features": len(made.made_of.definition.columns),
        "year: seconds": round(took, 1),
        "year: peak memory, MB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1_000),
        "year: file, MB": round(size / 1e6),
    }


if __name__ == "__main__":
    main()
