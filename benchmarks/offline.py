"""The offline store through Feast's own API, over the bare join and over Feast's duckdb store.

    python -m benchmarks.offline [--rows N] [--entities N] [--rounds N] [--feast-rows N] [--feast-python PATH]

Rows that ask about some entities, five views with ten features each, half of them with a created time. The limit is
the same join in bare DuckDB (an ASOF join per view) on Arrow tables that lie in memory already; ours reads Parquet.
L8 is that limit with one pandera pass over its result and one Parquet file of it; ours is then checked and written too.
Feast's duckdb store runs in a child capped at 8 GB, on fewer rows, beside ours on the same; its cells are compared. It
needs ``feast[duckdb]``, which is not among our libraries: name the Python of an environment that has it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from journal.clock import DAY, HOUR, SECOND, parse_time

if TYPE_CHECKING:
    from feast import FeatureStore

VIEWS, FIELDS = 5, 10
TTL = 2 * DAY
_BEGIN = parse_time("2024-01-01T00:00:00Z")
_ZONED = pa.timestamp("us", "UTC")
_MOST_MEMORY = 8 << 30
_REFS = [f"v{view}:v{view}_f{field}" for view in range(VIEWS) for field in range(FIELDS)]


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--entities", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--feast-rows", type=int, default=20_000)
    parser.add_argument("--feast-python", default=sys.executable)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.child:
        sys.stdout.write(json.dumps(_by_feast(Path(given.child[0]), int(given.child[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="offline-") as name:
        for figure, value in measure(Path(name), given).items():
            print(f"{figure:<34}{value}", flush=True)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Ours and the limit in turn, then ours and Feast's."""
    rows, rounds = given.rows, given.rounds
    tables, asked = _tables(rows, given.entities), _asked(rows, given.entities)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"v{number}.parquet")
    pq.write_table(asked, folder / "asked.parquet")
    frame = asked.to_pandas()
    store = _ours(folder)
    runs: dict[str, Callable[[], pa.Table]] = {
        "ours": lambda: _join(store, frame),
        "bare": lambda: _bare(tables, asked),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", "bare", "ours, finished", "L8")}
    for number in range(rounds + 1):
        for (name, run), finished in zip(runs.items(), ("ours, finished", "L8"), strict=True):
            began = time.perf_counter()
            table = run()
            joined = time.perf_counter()
            _finish(table, folder / "finished.parquet")
            if number:
                seconds[name].append(joined - began)
                seconds[finished].append(time.perf_counter() - began)
    figures = {
        "rows": rows,
        "features": VIEWS * FIELDS,
        "ours, rows/s": round(rows / statistics.median(seconds["ours"])),
        "bare join, rows/s": round(rows / statistics.median(seconds["bare"])),
        "over the bare join": _over(seconds["ours"], seconds["bare"]),
        "over L8 (accept 0.5)": _over(seconds["ours, finished"], seconds["L8"]),
        "peak memory, MB": _peak(),
    }
    if not given.feast_rows:
        return figures
    return figures | _beside_feast(folder, store, frame.head(given.feast_rows), given.feast_python)


def _over(took: list[float], limit: list[float]) -> str:
    ratios = [bound / ours for ours, bound in zip(took, limit, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _finish(table: pa.Table, path: Path) -> None:
    """What L8 counts beside the join: one pass of a check over all features, one file."""
    import pandera.pandas as pandera  # noqa: PLC0415 - a second that is no part of the limit

    finite = pandera.Check(np.isfinite, ignore_na=True)
    columns = {ref.partition(":")[2]: pandera.Column(checks=[finite], nullable=True) for ref in _REFS}
    pandera.DataFrameSchema(columns).validate(table.to_pandas(), lazy=True)
    pq.write_table(table, path)


def _beside_feast(folder: Path, store: "FeatureStore", frame: Any, python: str) -> dict[str, Any]:
    ours = min(_timed(lambda: _join(store, frame)) for _ in range(3))
    command = [python, "-m", "benchmarks.offline", "--child", str(folder), str(len(frame))]
    # Feast's duckdb store looks for relative paths where it runs.
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=path)
    if child.returncode:
        return {"Feast's duckdb store": f"failed: {child.stderr.strip()[-400:]}"}
    told = json.loads(child.stdout)
    mine = _join(store, frame).select([ref.partition(":")[2] for ref in _REFS])
    same = pq.read_table(folder / "theirs.parquet").equals(mine)
    return {
        f"Feast's duckdb, {len(frame)} rows, s": round(told["seconds"], 2),
        "ours on these, s": round(ours, 3),
        "over Feast's duckdb": f"{told['seconds'] / ours:.1f}; every cell equal: {same}",
        "Feast's peak memory, MB": told["memory"],
    }


def _tables(rows: int, entities: int) -> list[pa.Table]:
    """As many rows in each view as ask; every second view is created up to an hour behind its events."""
    random = np.random.default_rng(11)
    tables = []
    for view in range(VIEWS):
        # No two at the same moment: which of two rows with equal stamps answers, Feast leaves open.
        events = _BEGIN + np.arange(rows) * SECOND + view
        columns: dict[str, Any] = {
            "k": random.integers(0, entities, rows),
            "event_timestamp": pa.array(events).cast(_ZONED),
            "created": pa.array(events + random.integers(0, HOUR, rows) * (view % 2)).cast(_ZONED),
        }
        columns |= {f"v{view}_f{field}": random.normal(size=rows) for field in range(FIELDS)}
        tables.append(pa.table(columns))
    return tables


def _asked(rows: int, entities: int) -> pa.Table:
    random = np.random.default_rng(12)
    moments = pa.array(_BEGIN + np.arange(rows) * SECOND).cast(_ZONED)
    return pa.table({"k": random.integers(0, entities, rows), "event_timestamp": moments})


def _ours(folder: Path) -> "FeatureStore":
    from features.feast_store import apply, open_store  # noqa: PLC0415

    store = open_store(folder, "bench", folder / "online.sqlite", folder, 0, owned=False)
    apply(store, _declared())
    return store


def _declared() -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType  # noqa: PLC0415
    from feast.types import Float64, Int64  # noqa: PLC0415

    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    found: list[Any] = [entity]
    for view in range(VIEWS):
        fields = [Field(name="k", dtype=Int64)]
        fields += [Field(name=f"v{view}_f{field}", dtype=Float64) for field in range(FIELDS)]
        source = FileSource(
            name=f"v{view}",
            path=f"v{view}.parquet",
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        )
        ttl = timedelta(microseconds=TTL)
        found.append(FeatureView(name=f"v{view}", entities=[entity], ttl=ttl, schema=fields, source=source))
    return found


def _join(store: "FeatureStore", frame: Any) -> pa.Table:
    return store.get_historical_features(frame, _REFS, filter_by_created_timestamp=True).to_arrow()


def _bare(tables: list[pa.Table], asked: pa.Table) -> pa.Table:
    """One ASOF join per view on the created time: what the answer costs where no rule needs more."""
    with duckdb.connect() as db:
        db.execute("SET threads = 2")
        db.register("asked", asked)
        for number, table in enumerate(tables):
            db.register(f"t{number}", table)
        joins = " ".join(
            f"ASOF LEFT JOIN t{n} ON asked.k = t{n}.k AND asked.event_timestamp >= t{n}.created" for n in range(VIEWS)
        )
        fields = ", ".join(f"t{n}.v{n}_f{field}" for n in range(VIEWS) for field in range(FIELDS))
        return db.sql(f"SELECT asked.*, {fields} FROM asked {joins}").to_arrow_table()


def _by_feast(folder: Path, rows: int) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    from feast import FeatureStore, RepoConfig  # noqa: PLC0415

    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            entity_key_serialization_version=3,
            repo_path=folder,
            online_store=None,
            registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'feast' / 'registry.sqlite'}"},
            offline_store={"type": "duckdb"},
        )
    )
    frame = pq.read_table(folder / "asked.parquet").slice(0, rows).to_pandas()
    began = time.perf_counter()
    found = store.get_historical_features(frame, _REFS, filter_by_created_timestamp=True).to_df()
    seconds = time.perf_counter() - began
    # Their order is not promised; every moment is asked once.
    columns = [ref.partition(":")[2] for ref in _REFS]
    ordered = pa.Table.from_pandas(found.sort_values("event_timestamp")[columns], preserve_index=False)
    pq.write_table(ordered.replace_schema_metadata(None), folder / "theirs.parquet")
    return {"seconds": seconds, "memory": _peak()}


def _peak() -> int:
    """The most memory that this process has held, in MB; `getrusage` would count its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1_000


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
