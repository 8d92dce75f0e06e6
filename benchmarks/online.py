"""What reading and writing online features costs, over Feast's SDK (G4, G5) and over the bare store.

``python -m benchmarks.online [--entities 100000] [--own 10000] [--rounds 7] [--stores sqlite,redis]`` fills five views
of ten features each, then measures in turns, round by round:

- reading one question and a hundred at once: Feast's ``get_online_features(...).to_dict()`` over Feast's own store of
  that database and over ours, the fast reader, and the limit L3: the bare SELECT or MGET of the same blobs;
- writing a hundred rows of one view: Feast's ``push`` into its own store and into ours, our own write, and the limit
  L4: the same guarded upsert of finished blobs, in one transaction or one script.

Feast's own store holds ``--own`` entities, since filling it takes long; fewer make it faster.

Answers of Feast and of the reader are compared before anything is timed.
"""

import argparse
import contextlib
import gc
import random
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import apsw
import pandas as pd
import redis
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    ValueType,
)
from feast.types import Bool, Float64, Int64, String

from features.feast_row import fields_of
from features.feast_store import apply, open_store
from features.reader import open_reader
from features.redis_guard import GUARD
from features.rows import FieldValue, Row, encode_key
from features.stored_row import pack
from journal.clock import DAY
from journal.sqlite import open_database

VIEWS = 5
KINDS = (Float64, Float64, Int64, Float64, Bool, Float64, Int64, String, Float64, Float64)
NAMES = [f"f{n}" for n in range(len(KINDS))]
WRITTEN = 100
NOW = time.time_ns() // 1_000
USER = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
BATCH = FileSource(
    name="rows", path="rows", timestamp_field="event_timestamp", created_timestamp_column="known_timestamp"
)
_FILL = 10_000
_UPSERT = """
INSERT INTO online VALUES (?, ?, ?) ON CONFLICT (key, view) DO UPDATE SET row = excluded.row
WHERE substr(excluded.row, 5, 16) > substr(online.row, 5, 16)"""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bare store: reads the blobs of these users, writes these rows."""

    read: Callable[[Sequence[int]], Any]
    prepare: Callable[[Sequence[Row]], Callable[[], Any]]


def view(name: str) -> FeatureView:
    """A view of ten features with a push source of its own."""
    schema = [Field(name="user", dtype=Int64)]
    schema += [Field(name=name, dtype=kind) for name, kind in zip(NAMES, KINDS, strict=True)]
    source = PushSource(name=f"to_{name}", batch_source=BATCH)
    return FeatureView(name=name, entities=[USER], ttl=timedelta(days=30), schema=schema, source=source)


def project(home: Path, online: Path | str, entities: int) -> FeatureStore:
    """A Feast project whose store, one of ours, holds every entity in every view."""
    views = [view(f"view{n}") for n in range(VIEWS)]
    store = open_store(home, "bench", online, home / "history", owned=False)
    apply(store, declared(views))
    shelf = store.provider.online_store.shelf(store.config)
    rng = random.Random(5)
    for each in views:
        for start in range(0, entities, _FILL):
            rows = rows_of(rng, range(start, min(start + _FILL, entities)), NOW - DAY)
            shelf.write(each.name, fields_of(each), rows, None)
    return store


def own_project(home: Path, online: Mapping[str, str], entities: int) -> FeatureStore:
    """The same project over Feast's own store of a database."""
    views = [view(f"view{n}") for n in range(VIEWS)]
    registry = {"registry_type": "sql", "path": f"sqlite:///{home}/own.sqlite", "cache_ttl_seconds": 60}
    config = RepoConfig(
        project="own",
        provider="local",
        registry=registry,
        online_store=dict(online),
        entity_key_serialization_version=3,
    )
    store, rng = FeatureStore(config=config), random.Random(5)
    store.apply(declared(views))
    for each in views:
        for start in range(0, entities, _FILL):
            users = range(start, min(start + _FILL, entities))
            store.push(f"to_{each.name}", frame_of(users, rows_of(rng, users, NOW - DAY)))
    return store


def declared(views: Sequence[FeatureView]) -> list[Any]:
    """What both projects apply."""
    return [USER, *views, FeatureService(name="all", features=list(views))]


def rows_of(rng: random.Random, users: Sequence[int], event: int) -> list[Row]:
    """One row of each user."""
    return [Row(encode_key([user]), event, event, values_of(rng)) for user in users]


def values_of(rng: random.Random) -> list[FieldValue]:
    """Ten values."""
    return [
        rng.choice("abc") if kind is String else rng.choice((False, True)) if kind is Bool
        else rng.randrange(1_000) if kind is Int64 else rng.random()
        for kind in KINDS
    ]  # fmt: skip


def frame_of(users: Sequence[int], rows: Sequence[Row]) -> pd.DataFrame:
    """The same rows as a push takes them."""
    frame = pd.DataFrame([row.values for row in rows], columns=NAMES)
    frame["user"] = users
    moment = pd.to_datetime(rows[0].event, unit="us", utc=True)
    return frame.assign(event_timestamp=moment, known_timestamp=moment)


def sqlite_limits(path: Path) -> Limits:
    """One SELECT of the blobs, and one transaction of the guarded upsert."""
    reading, writing = open_database(path, readonly=True), open_database(path)

    def read(users: Sequence[int]) -> Any:
        pairs = [part for user in users for n in range(VIEWS) for part in (f"view{n}", encode_key([user]))]
        marks = ", ".join(["(?, ?)"] * (len(pairs) // 2))
        return reading.execute(f"SELECT row FROM online WHERE (view, key) IN (VALUES {marks})", pairs).fetchall()

    def prepare(rows: Sequence[Row]) -> Callable[[], Any]:
        finished = [("view0", row.key, pack("view0", row)) for row in rows]

        def write() -> None:
            with writing:
                writing.executemany(_UPSERT, finished)

        return write

    return Limits(read, prepare)


def redis_limits(address: str) -> Limits:
    """One MGET through Redis's own client, and the guard's script over finished blobs."""
    client = redis.Redis.from_url(address)
    guard, layout = client.script_load(GUARD), client.get("bench:view0:layout")

    def read(users: Sequence[int]) -> Any:
        return client.mget([b"bench:view%d:" % n + encode_key([user]) for user in users for n in range(VIEWS)])

    def prepare(rows: Sequence[Row]) -> Callable[[], Any]:
        keys = ["bench:view0:layout", *(b"bench:view0:" + row.key for row in rows)]
        given: list[Any] = [*keys, layout, 0, *(pack("view0", row) for row in rows)]
        return partial(client.evalsha, guard, len(keys), *given)

    return Limits(read, prepare)


def timed(way: Callable[[], Any], times: int) -> float:
    """Microseconds of one call."""
    start = time.perf_counter_ns()
    for _ in range(times):
        way()
    return (time.perf_counter_ns() - start) / times / 1_000


def asked_of(store: FeatureStore, service: Any, entities: Sequence[Mapping[str, int]]) -> dict[str, list[Any]]:
    """What Feast's SDK answers."""
    answer: dict[str, list[Any]] = store.get_online_features(service, list(entities), True).to_dict()
    return answer


def compare_reads(own: FeatureStore, store: FeatureStore, limits: Limits, options: argparse.Namespace) -> None:
    """Print medians over the rounds, and the ratios' medians and ranges."""
    reader, service, rng = open_reader(store, "all"), store.get_feature_service("all"), random.Random(7)
    own_service, now = own.get_feature_service("all"), time.time_ns() // 1_000
    for count, times in ((1, 300), (100, 10)):
        users = rng.sample(range(options.entities), count)
        questions = [{"user": user} for user in users]
        present = [{"user": user} for user in rng.sample(range(options.own), count)]
        ways: dict[str, Callable[[], Any]] = {
            "Feast's own": partial(asked_of, own, own_service, present),
            "Feast": partial(asked_of, store, service, questions),
            "reader": partial(reader.read_many, questions, now),
            "L3": partial(limits.read, users),
        }
        require_equal(ways["Feast"](), reader.columns, ways["reader"]())
        report(f"read {count:>3}", [{n: timed(way, times) for n, way in ways.items()} for _ in range(options.rounds)])


def require_equal(feast: Mapping[str, list[Any]], columns: Sequence[str], ours: Sequence[Any]) -> None:
    """Both say the same."""
    for place, column in enumerate(columns):
        assert feast[column] == [features.values[place] for features in ours], column


def compare_writes(own: FeatureStore, store: FeatureStore, limits: Limits, options: argparse.Namespace) -> None:
    """The same for writes, each of newer rows than the last."""
    shelf, fields = store.provider.online_store.shelf(store.config), fields_of(store.get_feature_view("view0"))
    rng, event, found = random.Random(9), NOW, []
    for _ in range(options.rounds):
        spent: dict[str, list[float]] = {"Feast's own": [], "Feast": [], "write": [], "L4": []}
        for _ in range(10):
            users = rng.sample(range(options.own), WRITTEN)
            rows = [rows_of(rng, users, event + n) for n in (1, 2, 3)]
            event += 3
            frame, finished = frame_of(users, rows[0]), limits.prepare(rows[2])
            spent["Feast's own"].append(timed(partial(own.push, "to_view0", frame), 1))
            spent["Feast"].append(timed(partial(store.push, "to_view0", frame), 1))
            spent["write"].append(timed(partial(shelf.write, "view0", fields, rows[1], None), 1))
            spent["L4"].append(timed(finished, 1))
        found.append({name: median(each) for name, each in spent.items()})
    report(f"write {WRITTEN}", found)


def report(what: str, rounds: Sequence[Mapping[str, float]]) -> None:
    """One line: microseconds of each way, then Feast over ours, twice, and ours over the limit."""
    own, feast, ours, limit = list(rounds[0])
    shown = ", ".join(f"{name} {median(each[name] for each in rounds):,.0f} us" for name in rounds[0])
    print(f"  {what:<9} {shown}", flush=True)
    for above, below in ((own, ours), (feast, ours), (ours, limit)):
        found = [each[above] / each[below] for each in rounds]
        print(f"{'':12}{above} / {below}: {median(found):.2f} ({min(found):.2f}-{max(found):.2f})", flush=True)


@contextlib.contextmanager
def redis_server(home: Path) -> Iterator[str]:
    """A server on loopback that keeps nothing on disk; its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200))
        client.ping()
        yield f"redis://127.0.0.1:{port}/0"
        print(f"  redis-server: {client.info('memory')['used_memory_rss'] / 1e6:,.0f} MB resident")
    finally:
        server.terminate()
        server.wait()


def measure(own: FeatureStore, store: FeatureStore, limits: Limits, options: argparse.Namespace) -> None:
    """Both comparisons on one database."""
    gc.collect()
    gc.freeze()
    compare_reads(own, store, limits, options)
    compare_writes(own, store, limits, options)


def main() -> None:
    """Run on each store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entities", type=int, default=100_000)
    parser.add_argument("--own", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--stores", default="sqlite,redis")
    options = parser.parse_args()
    print(f"{options.entities:,} entities, {VIEWS} views of {len(KINDS)} features; SQLite {apsw.sqlite_lib_version()}")
    for name in options.stores.split(","):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            home = Path(folder)
            print(name)
            if name == "sqlite":
                path = home / "online.sqlite"
                own = own_project(home, {"type": "sqlite", "path": str(home / "own-online.sqlite")}, options.own)
                measure(own, project(home, path, options.entities), sqlite_limits(path), options)
                print(f"  file: {path.stat().st_size / 1e6:,.0f} MB")
            else:
                address = stack.enter_context(redis_server(home))
                place = address.removeprefix("redis://").removesuffix("/0")
                own = own_project(home, {"type": "redis", "connection_string": place}, options.own)
                measure(own, project(home, address, options.entities), redis_limits(address), options)
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB at most")


if __name__ == "__main__":
    main()
