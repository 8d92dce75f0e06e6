"""What our online stores do behind Feast's own API: SQLite in a file of its own, and a real Redis."""

import asyncio
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Map, PdfBytes, String, UnixTimestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.feast_row import fields_of
from features.feast_store import apply, open_store, set_now
from features.online_table import OnlineReader, OnlineTable
from features.reader import open_reader
from features.redis_line import RedisLine
from features.rows import Row, encode_key
from journal.clock import DAY, HOUR, datetime_of, parse_time
from journal.errors import Misconfigured, Refused, StoreDown, UnknownName
from journal.sqlite import open_database

NOW = parse_time("2013-07-01T12:00:00.000123Z")
SOURCE = FileSource(
    name="rows", path="rows", timestamp_field="event_timestamp", created_timestamp_column="known_timestamp"
)
# The join keys are declared out of order on purpose: the stored key follows their names.
NUMBER = Entity(name="number", join_keys=["number"], value_type=ValueType.INT64)
CARRIER = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING)
FIELDS = [
    Field(name="number", dtype=Int64),
    Field(name="carrier", dtype=String),
    Field(name="delay", dtype=Float64),
    Field(name="count", dtype=Int64),
    Field(name="gate", dtype=String),
    Field(name="late", dtype=Bool),
]
PUSHED = PushSource(name="pushed", batch_source=SOURCE)


def flights(*, ttl: timedelta = timedelta(hours=3), schema: list[Field] | None = None, name: str = "flights") -> Any:
    return FeatureView(name=name, entities=[NUMBER, CARRIER], ttl=ttl, schema=schema or FIELDS, source=PUSHED)


def frame(*rows: tuple[str, int, int, int, float | None, int, str, bool]) -> pd.DataFrame:
    columns = ["carrier", "number", "event_timestamp", "known_timestamp", "delay", "count", "gate", "late"]
    table = pd.DataFrame(rows, columns=columns)
    for stamp in ("event_timestamp", "known_timestamp"):
        table[stamp] = pd.to_datetime(table[stamp], unit="us", utc=True)
    return table


def ask(store: FeatureStore, *keys: tuple[str, int], view: str = "flights") -> dict[str, list[Any]]:
    refs = [f"{view}:{name}" for name in ("delay", "count", "gate", "late")]
    rows = [{"carrier": carrier, "number": number} for carrier, number in keys]
    answer: dict[str, list[Any]] = store.get_online_features(refs, rows).to_dict()
    return answer


@pytest.fixture(scope="module")
def redis_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server of this module's own, on loopback."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)],
        stdout=subprocess.DEVNULL,
    )
    line = RedisLine(f"redis://127.0.0.1:{port}/0", 30)
    while server.poll() is None:
        with suppress(StoreDown):
            line.ask("PING")
            break
    yield f"redis://127.0.0.1:{port}/0"
    line.close()
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, redis_address: str) -> Iterator[Any]:
    """Where a store's rows may be, by the store's kind; every call names another place."""
    databases = iter(range(1, 16))

    def place(kind: str) -> Path | str:
        if kind == "redis":
            return redis_address.removesuffix("0") + str(next(databases))
        return tmp_path_factory.mktemp("sqlite") / "online.sqlite"

    yield place


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, places: Any, kind: str) -> FeatureStore:
    """One store of the plugin's own for tests that use keys of their own: opening one takes a second."""
    home = tmp_path_factory.mktemp("own")
    store = open_store(home, "own", places(kind), home / "history", NOW, owned=False)
    apply(store, [NUMBER, CARRIER, flights(), flights(name="forever", ttl=timedelta(0))])
    return store


_numbers = itertools.count(1)


def fresh() -> tuple[str, int]:
    """A key that no other test uses."""
    return "X", next(_numbers)


def test_what_is_pushed_is_read_with_types_and_microseconds(shared: FeatureStore) -> None:
    key = fresh()
    shared.push("pushed", frame((*key, NOW - 1, NOW, None, 2**53 + 1, "ü", True)))
    answer = shared.get_online_features(
        ["flights:delay", "flights:count", "flights:gate"], [{"carrier": "X", "number": key[1]}]
    )
    assert answer.to_dict() == {
        "carrier": ["X"],
        "number": [key[1]],
        "delay": [None],
        "count": [2**53 + 1],
        "gate": ["ü"],
    }
    ((event, values),) = _read(shared, "flights", key)
    assert event == datetime_of(NOW - 1)
    assert {name: value.WhichOneof("val") for name, value in values.items()} == {
        "delay": None,
        "count": "int64_val",
        "gate": "string_val",
        "late": "bool_val",
    }


def _read(store: FeatureStore, view: str, *keys: tuple[str, int], reverse: bool = False) -> Any:
    protos = []
    for carrier, number in keys:
        names, values = ["number", "carrier"], [Value(int64_val=number), Value(string_val=carrier)]
        step = -1 if reverse else 1
        protos.append(EntityKey(join_keys=names[::step], entity_values=values[::step]))
    return store.provider.online_read(store.config, store.get_feature_view(view), protos, None)


def test_the_order_of_join_keys_does_not_matter(shared: FeatureStore) -> None:
    key = fresh()
    shared.write_to_online_store("flights", frame((*key, NOW, NOW, 1.0, 1, "g", True)))
    assert _read(shared, "flights", key) == _read(shared, "flights", key, reverse=True) != [(None, None)]


def test_missing_keys_answer_in_their_place(shared: FeatureStore) -> None:
    key, unknown = fresh(), fresh()
    shared.write_to_online_store("flights", frame((*key, NOW, NOW, 1.5, 1, "g", True)))
    assert ask(shared, unknown, key, unknown, key)["delay"] == [None, 1.5, None, 1.5]
    assert _read(shared, "flights", unknown) == [(None, None)]


def test_a_batch_takes_the_newest_of_each_key(shared: FeatureStore) -> None:
    key = fresh()
    shared.write_to_online_store(
        "flights", frame((*key, NOW, NOW, 2.0, 2, "g", True), (*key, NOW - 5, NOW + 9, 1.0, 1, "g", True))
    )
    assert ask(shared, key)["count"] == [2]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stamps=st.permutations([(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]), cut=st.integers(1, 5))
def test_any_order_of_writes_leaves_the_largest_stamp(
    shared: FeatureStore, stamps: list[tuple[int, int]], cut: int
) -> None:
    key = fresh()
    rows = [(*key, NOW + event, NOW + event + known, 0.0, 10 * event + known, "g", True) for event, known in stamps]
    shared.write_to_online_store("flights", frame(*rows[:cut]))
    shared.write_to_online_store("flights", frame(*rows[cut:]))
    assert ask(shared, key)["count"] == [21]


@pytest.mark.parametrize(("age", "found"), [(3 * HOUR, [7]), (3 * HOUR + 1, [None]), (-HOUR, [7])])
def test_a_row_is_missing_beyond_its_ttl_and_not_at_it(shared: FeatureStore, age: int, found: list[int | None]) -> None:
    key = fresh()
    rows = frame((*key, NOW - age, NOW, 0.0, 7, "g", True))
    shared.write_to_online_store("flights", rows)
    shared.write_to_online_store("forever", rows)
    assert ask(shared, key)["count"] == found
    assert ask(shared, key, view="forever")["count"] == [7]


def test_now_may_be_moved_between_reads(shared: FeatureStore) -> None:
    key = fresh()
    shared.write_to_online_store("flights", frame((*key, NOW, NOW, 0.0, 7, "g", True)))
    try:
        set_now(shared, NOW + DAY)
        assert ask(shared, key)["count"] == [None]
    finally:
        set_now(shared, NOW)
    assert ask(shared, key)["count"] == [7]


def test_reads_may_be_awaited(shared: FeatureStore) -> None:
    key = fresh()
    shared.write_to_online_store("flights", frame((*key, NOW, NOW, 0.5, 7, "g", True)))
    rows = [{"carrier": key[0], "number": key[1]}]
    awaited = asyncio.run(shared.get_online_features_async(["flights:count"], rows)).to_dict()
    assert awaited == shared.get_online_features(["flights:count"], rows).to_dict()
    assert awaited["count"] == [7]


def test_threads_share_a_store_while_one_writes(shared: FeatureStore) -> None:
    keys = [fresh() for _ in range(20)]
    rounds = 15
    wrong: list[list[int]] = []
    shared.write_to_online_store("flights", frame(*((*key, NOW, NOW, 0.0, 0, "g", True) for key in keys)))
    view = shared.get_feature_view("flights")

    def read() -> None:
        last = 0
        while last < rounds and not wrong:
            protos = [
                EntityKey(join_keys=["number", "carrier"], entity_values=[Value(int64_val=n), Value(string_val=c)])
                for c, n in keys
            ]
            counts = [
                values["count"].int64_val if values else -1
                for _, values in shared.provider.online_read(shared.config, view, protos, None)
            ]
            if len(set(counts)) != 1 or counts[0] < last:
                wrong.append(counts)
            last = counts[0]

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(1, rounds + 1):
        shared.write_to_online_store("flights", frame(*((*key, NOW + n, NOW + n, 0.0, n, "g", True) for key in keys)))
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_fold_writes_and_feast_reads_the_same_as_the_fast_reader(tmp_path: Path) -> None:
    path, rng = tmp_path / "fold.sqlite", random.Random(11)
    db = open_database(path)
    table = OnlineTable(db)
    keys = [(rng.choice("ABC"), n) for n in range(40)]
    for carrier, number in keys[:30]:
        values = [rng.choice([None, rng.random()]), rng.randrange(2**62), rng.choice(["", "g"]), rng.random() < 0.5]
        table.put("flights", Row(encode_key([carrier, number]), NOW - number, NOW, values))
    carrier, number = keys[3]
    table.delete("flights", encode_key([carrier, number]), NOW, NOW + 1)
    with db:
        table.flush()
    store = open_store(tmp_path, "owned", path, tmp_path / "history", NOW)
    apply(store, [NUMBER, CARRIER, flights(), FeatureService(name="all", features=[flights()])])
    rng.shuffle(keys)
    wanted = [("flights", encode_key([carrier, number])) for carrier, number in keys]
    rows = OnlineReader(path).get_many(wanted)
    answer = ask(store, *keys)
    for place, name in enumerate(("delay", "count", "gate", "late")):
        assert answer[name] == [row.values[place] if row and row.values else None for row in rows]
    stamps = [event for event, _ in _read(store, "flights", *keys)]
    assert stamps == [datetime_of(row.event) if row else None for row in rows]
    assert sum(row is None for row in rows) == 11
    service = store.get_feature_service("all")
    assert store.get_online_features(service, [{"carrier": keys[0][0], "number": keys[0][1]}]).to_dict()["count"] == [
        answer["count"][0]
    ]


def test_feast_never_writes_to_a_folds_file(tmp_path: Path) -> None:
    path = tmp_path / "fold.sqlite"
    db = open_database(path)
    OnlineTable(db)
    store = open_store(tmp_path, "owned", path, tmp_path / "history", NOW)
    view = flights()
    apply(store, [NUMBER, CARRIER, view])
    before = path.read_bytes()
    with pytest.raises(Refused, match="'flights' is written only by its fold, and no stream feeds it"):
        store.push("pushed", frame(("A", 1, NOW, NOW, 1.0, 1, "g", True)))
    with pytest.raises(Refused, match="belong to a pipeline's fold"):
        store.teardown()
    store.provider.online_store.update(store.config, [view], [], [], [], False)
    assert path.read_bytes() == before


def test_a_fold_that_never_ran_is_named(tmp_path: Path) -> None:
    store = open_store(tmp_path, "owned", tmp_path / "absent.sqlite", tmp_path / "history", NOW)
    apply(store, [NUMBER, CARRIER, flights()])
    with pytest.raises(UnknownName, match=r"absent\.sqlite does not exist"):
        ask(store, ("A", 1))


def test_types_that_the_store_cannot_hold_are_refused_all_at_once(tmp_path: Path) -> None:
    store = open_store(tmp_path, "wrong", tmp_path / "online.sqlite", tmp_path / "history", NOW, owned=False)
    odd = [*FIELDS, Field(name="map", dtype=Map), Field(name="scan", dtype=PdfBytes)]
    with pytest.raises(Misconfigured, match=r"flights\.map.*flights\.scan"):
        apply(store, [NUMBER, CARRIER, flights(schema=odd)])
    assert store.list_feature_views() == []


def test_every_type_that_is_held_comes_back_as_it_was_written(tmp_path: Path, places: Any, kind: str) -> None:
    said: dict[str, tuple[Any, Any]] = {
        "small": (Int32, -7),
        "single": (Float32, 0.1),
        "raw": (Bytes, b"\0\xff"),
        "moment": (UnixTimestamp, 1_372_680_000),
        "ints": (Array(Int64), [1, 2**60]),
        "singles": (Array(Float32), [0.5, 0.25]),
        "words": (Array(String), ["a", ""]),
    }
    fields = [Field(name="code", dtype=Int32), *(Field(name=name, dtype=dtype) for name, (dtype, _) in said.items())]
    code = Entity(name="code", join_keys=["code"], value_type=ValueType.INT32)
    view = FeatureView(name="typed", entities=[code], ttl=timedelta(hours=3), schema=fields, source=PUSHED)
    store = open_store(tmp_path, "typed", places(kind), tmp_path / "history", NOW, owned=False)
    apply(store, [code, view, FeatureService(name="typed", features=[view])])
    key = EntityKey(join_keys=["code"], entity_values=[Value(int32_val=3)])
    values = python_values_to_proto_values
    written = {name: values([value], dtype.to_value_type())[0] for name, (dtype, value) in said.items()}
    moment = datetime_of(NOW)
    store.provider.online_store.online_write_batch(store.config, view, [(key, written, moment, moment)], None)
    ((_, found),) = store.provider.online_read(store.config, view, [key], list(said))
    assert found == written
    answer = open_reader(store, "typed").read({"code": 3}, NOW)
    assert answer.values == [pytest.approx(value) if name == "single" else value for name, (_, value) in said.items()]


def test_a_changed_field_list_keeps_what_still_has_a_place(tmp_path: Path, places: Any, kind: str) -> None:
    store = open_store(tmp_path, "moved", places(kind), tmp_path / "history", NOW, owned=False)
    apply(store, [NUMBER, CARRIER, flights()])
    store.write_to_online_store("flights", frame(("A", 1, NOW, NOW, 1.5, 7, "g", True)))
    turned = [*FIELDS[:2], FIELDS[5], Field(name="gate", dtype=Int64), Field(name="new", dtype=String), FIELDS[3]]
    apply(store, [NUMBER, CARRIER, flights(schema=turned)])
    refs = [f"flights:{name}" for name in ("late", "gate", "new", "count")]
    answer = store.get_online_features(refs, [{"carrier": "A", "number": 1}]).to_dict()
    assert [answer[name] for name in ("late", "gate", "new", "count")] == [[True], [None], [None], [7]]
    shelf = store.provider.online_store.shelf(store.config)
    with pytest.raises(Refused, match="fields of view 'flights' have changed"):
        shelf.write(
            "flights", fields_of(flights()), [Row(encode_key(["A", 1]), NOW + 1, NOW + 1, [2.0, 8, "h", 0])], None
        )
    assert store.get_online_features(refs, [{"carrier": "A", "number": 1}]).to_dict() == answer


def test_removed_views_and_teardown_forget_rows(tmp_path: Path, places: Any, kind: str) -> None:
    online = places(kind)
    store = open_store(tmp_path, "removed", online, tmp_path / "history", NOW, owned=False)
    neighbour = open_store(tmp_path / "n", "removed2", online, tmp_path / "history", NOW, owned=False)
    kept, gone = flights(name="kept"), flights(name="gone*")
    apply(store, [NUMBER, CARRIER, kept, gone])
    if kind == "redis":
        apply(neighbour, [NUMBER, CARRIER, flights(name="gone*")])
        neighbour.write_to_online_store("gone*", frame(("A", 1, NOW, NOW, 1.5, 7, "g", True)))
    for view in ("kept", "gone*"):
        store.write_to_online_store(view, frame(("A", 1, NOW, NOW, 1.5, 7, "g", True)))
    store.apply([NUMBER, CARRIER, kept], objects_to_delete=[gone], partial=False)
    wanted = [("kept", encode_key(["A", 1])), ("gone*", encode_key(["A", 1]))]
    shelf = store.provider.online_store.shelf(store.config)
    assert [row is None for row in shelf.read(wanted)] == [False, True]
    store.teardown()
    assert shelf.read(wanted) == [None, None]
    if kind == "redis":
        assert _read(neighbour, "gone*", ("A", 1)) != [(None, None)]
        left = RedisLine(str(online), 5).ask("KEYS", "*")
        assert sorted(left) == [b"removed2:gone*:layout", b"removed2:gone*:" + encode_key(["A", 1])]


ZONED = """
import sys
from pathlib import Path
from features.feast_store import open_store
home, now = Path(sys.argv[1]), int(sys.argv[2])
store = open_store(home, "zoned", home / "online.sqlite", home / "history", now, owned=False)
answer = store.get_online_features(["flights:count"], [{"carrier": "A", "number": n} for n in (1, 2)])
print(answer.to_dict()["count"], [stamp.seconds for stamp in answer.proto.results[-1].event_timestamps])
"""


@pytest.mark.slow
def test_a_process_in_another_time_zone_reads_the_same(tmp_path: Path) -> None:
    store = open_store(tmp_path, "zoned", tmp_path / "online.sqlite", tmp_path / "history", NOW, owned=False)
    apply(store, [NUMBER, CARRIER, flights()])
    naive = frame(
        ("A", 1, NOW - 3 * HOUR, NOW, 1.0, 1, "g", True), ("A", 2, NOW - 3 * HOUR - 1, NOW, 1.0, 2, "g", True)
    )
    naive["event_timestamp"] = naive["event_timestamp"].dt.tz_localize(None)
    store.write_to_online_store("flights", naive)
    command = [sys.executable, "-c", ZONED, str(tmp_path), str(NOW)]
    environment = os.environ | {"TZ": "America/New_York", "PYTHONPATH": str(Path.cwd())}
    result = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    at = (NOW - 3 * HOUR) // 1_000_000
    assert result.stdout == f"[1, None] [{at}, 0]\n"
    assert [event for event, _ in _read(store, "flights", ("A", 1), ("A", 2))] == [datetime_of(NOW - 3 * HOUR), None]
