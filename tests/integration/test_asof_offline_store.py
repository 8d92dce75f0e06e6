import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String

from features.feast_store import apply, open_store
from features.history import History
from features.outbox import Outbox
from features.rows import Row, ViewSchema, encode_key
from journal.clock import DAY, HOUR, SECOND, datetime_of, parse_time
from journal.errors import Refused, UnknownName
from journal.sqlite import open_database

NOON = parse_time("2013-07-01T12:00:00.000456Z")
START = NOON - 3 * HOUR - HOUR // 2
SCHEMA = ViewSchema("weather", (("origin", "string"),), (("temp", "float64"), ("code", "int64"), ("rain", "bool")))
ORIGIN = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
PLANE = Entity(name="plane", join_keys=["tail"], value_type=ValueType.INT64)
WORLD: list[FeatureView] = [
    FeatureView(
        name="weather",
        entities=[ORIGIN],
        ttl=timedelta(hours=3),
        schema=[
            Field(name="origin", dtype=String),
            Field(name="temp", dtype=Float64),
            Field(name="code", dtype=Int64),
            Field(name="rain", dtype=Bool),
        ],
        source=FileSource(
            name="weather",
            path="weather",
            timestamp_field="event_timestamp",
            created_timestamp_column="known_timestamp",
        ),
    ),
    FeatureView(
        name="planes",
        entities=[PLANE],
        ttl=timedelta(0),
        schema=[Field(name="tail", dtype=Int64), Field(name="seats", dtype=Int64)],
        source=FileSource(
            name="planes", path="planes.parquet", timestamp_field="built", field_mapping={"SEATS": "seats"}
        ),
    ),
    FeatureView(
        name="country",
        entities=[],
        ttl=timedelta(0),
        schema=[Field(name="level", dtype=String)],
        source=FileSource(name="country", path="country.parquet", timestamp_field="event_timestamp"),
    ),
]


def weather(origin: str, event: int, known: int, *values: float | bool | None) -> Row:
    return Row(encode_key([origin]), event, known, values or None)


ROWS = [
    weather("JFK", START, START, 10.0, 1, False),
    weather("LGA", NOON - 3 * HOUR, NOON - 3 * HOUR + 1, 20.0, 2**53 + 1, True),
    weather("JFK", NOON - HOUR, NOON - HOUR + 5 * SECOND, 11.0, 2, None),
    weather("EWR", NOON - HOUR, NOON - HOUR + 6 * SECOND, 30.0, 3, True),
    weather("EWR", NOON - 1, NOON),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("offline")
    db = open_database(home / "fold.sqlite")
    outbox, history = Outbox(db, [SCHEMA]), History(home / "history", [SCHEMA])
    # Several flushes: several files, as in a run.
    for rows in (ROWS[:2], ROWS[2:3], ROWS[3:]):
        with db:
            outbox.add("weather", rows)
            outbox.save()
        history.flush(outbox)
    built = pd.to_datetime([NOON - DAY, NOON - DAY, NOON], unit="us")
    planes = pa.table({"tail": [1, 2, 2], "SEATS": [2**53 + 1, 50, 60], "built": pa.array(built, pa.timestamp("ns"))})
    pq.write_table(planes, home / "history" / "planes.parquet")
    country = pa.table({"level": ["low", "high"], "event_timestamp": [datetime_of(NOON - HOUR), datetime_of(NOON)]})
    pq.write_table(country, home / "history" / "country.parquet")
    return home


@pytest.fixture(scope="module")
def store(home: Path) -> FeatureStore:
    store = open_store(home, "offline", home / "online.sqlite", home / "history", NOON, owned=False)
    service = FeatureService(name="all", features=[WORLD[0], WORLD[1]])
    apply(store, [ORIGIN, PLANE, *WORLD, service])
    return store


def asked(*rows: tuple[str | None, int | None], **columns: list[Any]) -> pd.DataFrame:
    moments = [None if moment is None else datetime_of(moment) for _, moment in rows]
    table = pd.DataFrame({"origin": [origin for origin, _ in rows], **columns})
    table["event_timestamp"] = pd.to_datetime(pd.Series(moments, dtype=object), utc=True)
    return table


def join(store: FeatureStore, frame: pd.DataFrame, *refs: str, **options: Any) -> pa.Table:
    return store.get_historical_features(frame, list(refs), **options).to_arrow()


def test_times_under_other_names_and_finer_than_a_microsecond_are_read(tmp_path: Path) -> None:
    """Feast maps timestamp columns back, too; what lies within a microsecond belongs to it."""
    (tmp_path / "history").mkdir()
    fine = NOON * 1_000 + 999
    seen = pa.table({
        "tail": [1, 1], "seats": [50, 60],
        "et": pa.array([fine - DAY * 1_000, fine], pa.timestamp("ns", "UTC")),
        "ct": pa.array([fine - DAY * 1_000, fine], pa.timestamp("ns", "UTC")),
    })  # fmt: skip
    pq.write_table(seen, tmp_path / "history" / "seen.parquet")
    mapped = FileSource(
        name="seen", path="seen.parquet", timestamp_field="happened", created_timestamp_column="created",
        field_mapping={"et": "happened", "ct": "created"},
    )  # fmt: skip
    schema = [Field(name="tail", dtype=Int64), Field(name="seats", dtype=Int64)]
    view = FeatureView(name="seen", entities=[PLANE], ttl=timedelta(days=9), schema=schema, source=mapped)
    store = open_store(tmp_path, "mapped", tmp_path / "online.sqlite", tmp_path / "history", NOON, owned=False)
    apply(store, [PLANE, view])
    moments = pd.to_datetime([NOON * 1_000 - 1, NOON * 1_000 + 1], unit="ns", utc=True)
    frame = pd.DataFrame({"tail": [1, 1], "event_timestamp": moments})
    assert join(store, frame, "seen:seats")["seats"].to_pylist() == [50, 60]


@pytest.mark.parametrize(
    ("origin", "moment", "temp"),
    [
        ("LGA", NOON - 3 * HOUR + 1, 20.0),
        ("LGA", NOON - 3 * HOUR, None),
        ("LGA", NOON, 20.0),
        ("LGA", NOON + 1, None),
        ("LGA", NOON - 4 * HOUR, None),
        ("JFK", NOON - HOUR + 5 * SECOND - 1, 10.0),
        ("JFK", NOON - HOUR + 5 * SECOND, 11.0),
        ("JFK", NOON - HOUR, 10.0),
        ("EWR", NOON - 1, 30.0),
        ("EWR", NOON, None),
        ("BOS", NOON, None),
        (None, NOON, None),
        ("JFK", None, None),
    ],
    ids=[
        "known at the very moment",
        "happened but not known",
        "as old as its ttl",
        "older than its ttl",
        "before the first",
        "a microsecond before the newer is known",
        "when the newer is known",
        "when the newer happened, unknown",
        "before the delete",
        "deleted",
        "unknown key",
        "null key",
        "null moment",
    ],
)
def test_each_edge_of_the_join(store: FeatureStore, origin: str | None, moment: int | None, temp: float | None) -> None:
    result = join(store, asked((origin, moment), ("JFK", NOON)), "weather:temp")
    assert result["temp"].to_pylist() == [temp, 11.0]


def test_rows_out_are_rows_in_with_every_duplicate_in_order(store: FeatureStore) -> None:
    rows = [("JFK", NOON), (None, NOON), ("EWR", NOON), ("JFK", NOON), ("LGA", None), ("JFK", NOON - 3 * HOUR)]
    frame = asked(*rows, label=[3, 1, 4, 1, 5, 9], tail=[1, 1, 2, 2, 1, 2])
    result = store.get_historical_features(frame, store.get_feature_service("all")).to_arrow()
    assert result["label"].to_pylist() == [3, 1, 4, 1, 5, 9]
    assert result["origin"].to_pylist() == [origin for origin, _ in rows]
    assert result["temp"].to_pylist() == [11.0, None, None, 11.0, None, 10.0]
    assert result["seats"].to_pylist() == [2**53 + 1, 2**53 + 1, 60, 60, None, 50]


def test_integers_and_booleans_stay_what_they_are_among_nulls(store: FeatureStore) -> None:
    result = join(store, asked(("LGA", NOON), ("BOS", NOON)), "weather:code", "weather:rain")
    assert (result["code"].type, result["code"].to_pylist()) == (pa.int64(), [2**53 + 1, None])
    assert (result["rain"].type, result["rain"].to_pylist()) == (pa.bool_(), [True, None])


def test_no_entity_rows_give_no_rows_with_the_same_columns(store: FeatureStore) -> None:
    result = join(store, asked().astype({"origin": str}), "weather:code")
    assert (len(result), result["code"].type) == (0, pa.int64())


def test_naive_moments_are_utc(store: FeatureStore) -> None:
    frame = asked(("LGA", NOON), ("LGA", NOON + 1))
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_localize(None)
    assert join(store, frame, "weather:temp")["temp"].to_pylist() == [20.0, None]


def test_full_names_and_clashes(store: FeatureStore) -> None:
    frame = asked(("JFK", NOON), temp=[0.0])
    assert join(store, frame, "weather:temp", full_feature_names=True)["weather__temp"].to_pylist() == [11.0]
    with pytest.raises(Refused, match="'temp' would come from view 'weather' and from the entity rows"):
        join(store, frame, "weather:temp")
    with pytest.raises(Refused, match="no column tail"):
        join(store, frame, "planes:seats")


def test_the_created_filter_changes_nothing(store: FeatureStore) -> None:
    frame = asked(("JFK", NOON - HOUR), ("LGA", NOON))
    strict = join(store, frame, "weather:temp", filter_by_created_timestamp=True)
    assert strict == join(store, frame, "weather:temp")


def test_a_renamed_join_key_and_an_alias(store: FeatureStore) -> None:
    here = store.get_feature_view("weather").with_name("here")[["temp"]]
    there = store.get_feature_view("weather").with_name("there").with_join_key_map({"origin": "dest"})[["temp"]]
    apply(store, [FeatureService(name="both", features=[here, there])])
    service = store.get_feature_service("both")
    frame = asked(("JFK", NOON), dest=["LGA"])
    result = store.get_historical_features(frame, service, full_feature_names=True).to_arrow()
    assert [result[name].to_pylist() for name in ("here__temp", "there__temp")] == [[11.0], [20.0]]


def test_a_view_without_entities(store: FeatureStore) -> None:
    assert join(store, asked(("JFK", NOON), (None, NOON - 1)), "country:level")["level"].to_pylist() == ["high", "low"]


def test_stamps_come_with_the_values_when_asked_for(store: FeatureStore) -> None:
    store.config.offline_store.stamps = True
    try:
        result = join(store, asked(("JFK", NOON), ("EWR", NOON), ("LGA", NOON)), "weather:temp")
    finally:
        store.config.offline_store.stamps = False
    assert result["weather__event"].to_pylist() == [NOON - HOUR, None, NOON - 3 * HOUR]
    assert result["weather__known"].to_pylist() == [NOON - HOUR + 5 * SECOND, None, NOON - 3 * HOUR + 1]


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")
def test_feast_computes_on_demand_views_from_the_joined_rows(store: FeatureStore) -> None:
    wind = RequestSource(name="wind", schema=[Field(name="wind", dtype=Float64)])

    @on_demand_feature_view(sources=[WORLD[0], wind], schema=[Field(name="chill", dtype=Float64)], mode="python")  # type: ignore[untyped-decorator]
    def chill(inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"chill": [temp - wind for temp, wind in zip(inputs["temp"], inputs["wind"], strict=True)]}

    apply(store, [chill])
    result = join(store, asked(("JFK", NOON), wind=[4.0]), "weather:temp", "chill:chill")
    assert result["chill"].to_pylist() == [7.0]


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")
def test_feast_computes_on_demand_views_in_pandas_too(store: FeatureStore) -> None:
    @on_demand_feature_view(sources=[WORLD[0]], schema=[Field(name="warmer", dtype=Float64)], mode="pandas")  # type: ignore[untyped-decorator]
    def warmer(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"warmer": inputs["temp"] + 1.0})

    apply(store, [warmer])
    result = join(store, asked(("JFK", NOON), ("BOS", NOON)), "weather:temp", "warmer:warmer")
    assert result["warmer"].to_pylist()[0] == 12.0
    assert result.num_rows == 2


def test_what_cannot_be_joined_is_refused_with_a_reason(store: FeatureStore, home: Path) -> None:
    with pytest.raises(Refused, match=r"query for entity rows \(.*nowhere"):
        store.get_historical_features("SELECT * FROM nowhere", ["weather:temp"])
    with pytest.raises(Refused, match=r"different keys: .*weather \(origin\).*planes \(tail\)|planes \(tail\)"):
        store.get_historical_features(None, ["weather:temp", "planes:seats"], end_date=datetime_of(NOON))
    absent = FileSource(name="absent", path="absent.parquet", timestamp_field="t")
    with pytest.raises(UnknownName, match=r"absent\.parquet holds no rows"):
        store.provider.validate_data_source(store.config, absent)
    store.provider.validate_data_source(store.config, WORLD[0].batch_source)
    assert (home / "history" / "weather").is_dir()
    rows = pd.DataFrame({"tail": [1], "SEATS": [1], "built": [datetime_of(NOON)]})
    with pytest.raises(Refused, match="the offline side of view 'planes'"):
        store.write_to_offline_store("planes", rows)


def test_a_query_gives_the_entity_rows(store: FeatureStore) -> None:
    query = f"""
        SELECT * FROM (VALUES ('JFK', 7), ('BOS', 8), ('JFK', 9)) AS t (origin, label),
        (SELECT make_timestamptz({NOON}::BIGINT) AS event_timestamp)
    """
    found = store.get_historical_features(query, ["weather:temp"]).to_arrow()
    assert found.select(["origin", "label", "temp"]).to_pylist() == [
        {"origin": "JFK", "label": 7, "temp": 11.0},
        {"origin": "BOS", "label": 8, "temp": None},
        {"origin": "JFK", "label": 9, "temp": 11.0},
    ]


def test_without_entity_rows_every_key_of_the_range_answers_once_at_its_end(store: FeatureStore) -> None:
    span = {"start_date": datetime_of(NOON - HOUR), "end_date": datetime_of(NOON - 1)}
    found = store.get_historical_features(None, ["weather:temp", "country:level"], **span).to_arrow()
    assert found.to_pylist() == [
        {"origin": "EWR", "event_timestamp": span["end_date"], "temp": 30.0, "level": "low"},
        {"origin": "JFK", "event_timestamp": span["end_date"], "temp": 11.0, "level": "low"},
    ]
    naive = {name: moment.replace(tzinfo=None) for name, moment in span.items()}
    assert store.get_historical_features(None, ["weather:temp", "country:level"], **naive).to_arrow() == found
    alone = store.get_historical_features(None, ["country:level"], end_date=datetime_of(NOON)).to_arrow()
    assert alone["level"].to_pylist() == ["high"]


@pytest.mark.filterwarnings("ignore:Saving dataset is an experimental feature:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Retrieving datasets is an experimental feature:RuntimeWarning")
def test_a_saved_dataset_comes_back_as_it_was(store: FeatureStore, home: Path) -> None:
    frame = asked(("JFK", NOON), ("BOS", NOON), ("JFK", NOON), label=[1, None, 3])
    job = store.get_historical_features(frame, ["weather:temp", "weather:code"])
    storage = SavedDatasetFileStorage(path="saved/first.parquet")
    saved = store.create_saved_dataset(job, "first", storage)
    assert pq.read_table(home / "history" / "saved" / "first.parquet").to_pylist() == job.to_arrow().to_pylist()
    assert [path.name for path in (home / "history" / "saved").iterdir()] == ["first.parquet"]
    assert saved.to_arrow()["temp"].to_pylist() == [11.0, None, 11.0]
    with pytest.raises(Refused, match=r"saved/first\.parquet exists"):
        store.create_saved_dataset(job, "first", storage)
    store.create_saved_dataset(job, "first", storage, allow_overwrite=True)
    asked_again = store.get_saved_dataset("first").to_arrow().sort_by("origin")
    assert asked_again["code"].to_pylist() == [None, 2, 2]


def test_threads_join_at_the_same_time(store: FeatureStore) -> None:
    results: list[list[float | None]] = []

    def work() -> None:
        for _ in range(3):
            results.append(join(store, asked(("JFK", NOON), ("BOS", NOON)), "weather:temp")["temp"].to_pylist())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[11.0, None]] * 9


def test_materialize_offers_the_newest_rows_of_the_range_to_the_guard(store: FeatureStore) -> None:
    refs, rows = ["planes:seats"], [{"tail": 1}, {"tail": 2}]
    store.materialize(datetime_of(NOON - 2 * DAY), datetime_of(NOON), ["planes"])
    assert store.get_online_features(refs, rows).to_dict()["seats"] == [2**53 + 1, 60]
    store.materialize(datetime_of(NOON - 2 * DAY), datetime_of(NOON - HOUR), ["planes"])
    assert store.get_online_features(refs, rows).to_dict()["seats"] == [2**53 + 1, 60]


def test_materialize_leaves_deletes_out_and_takes_views_without_entities(store: FeatureStore) -> None:
    store.materialize(datetime_of(NOON - DAY), datetime_of(NOON), ["weather", "country"])
    answer = store.get_online_features(
        ["weather:temp", "country:level"], [{"origin": origin} for origin in ("JFK", "LGA", "EWR")]
    ).to_dict()
    assert answer["temp"] == [11.0, 20.0, None]
    assert answer["level"] == ["high"] * 3


def test_every_row_of_a_range_but_what_a_delete_ended(store: FeatureStore) -> None:
    source = store.get_feature_view("weather").batch_source
    job = store.provider.offline_store.pull_all_from_table_or_query(
        store.config,
        source,
        ["origin"],
        ["temp"],
        "event_timestamp",
        "known_timestamp",
        datetime_of(NOON - 3 * HOUR),
        None,
    )
    assert sorted(job.to_df()["temp"]) == [11.0, 20.0]


ZONED = """
import sys
from pathlib import Path
import pandas as pd
from features.feast_store import open_store
home, noon = Path(sys.argv[1]), int(sys.argv[2])
store = open_store(home, "offline", home / "online.sqlite", home / "history", noon, owned=False)
moments = pd.to_datetime([noon, noon + 1, noon - 3600_000_000], unit="us")
frame = pd.DataFrame({"origin": ["LGA", "LGA", "JFK"], "tail": [1, 2, 2], "event_timestamp": moments})
table = store.get_historical_features(frame, ["weather:temp", "planes:seats"]).to_arrow()
source, noon = store.get_feature_view("planes").batch_source, pd.Timestamp(noon, unit="us").to_pydatetime()
latest = store.provider.offline_store.pull_latest_from_table_or_query
planes = latest(store.config, source, ["tail"], ["SEATS"], "built", None, noon, noon).to_arrow()
print(table["temp"].to_pylist(), table["seats"].to_pylist(), planes["SEATS"].to_pylist())
"""


@pytest.mark.slow
def test_a_process_in_another_time_zone_joins_the_same(store: FeatureStore, home: Path) -> None:
    assert store.list_feature_views()
    command = [sys.executable, "-c", ZONED, str(home), str(NOON)]
    environment = os.environ | {"TZ": "America/New_York", "PYTHONPATH": str(Path.cwd())}
    result = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert result.stdout == f"[20.0, None, 10.0] [{2**53 + 1}, 60, 50] [60]\n"
