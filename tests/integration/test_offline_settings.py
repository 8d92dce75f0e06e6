"""What the offline store's settings and Feast's own arguments change, on sources that no pipeline writes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.errors import FeatureViewNotFoundException
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64, String
from pydantic import ValidationError

from features.asof_join import Limits, connect
from features.asof_offline_store import AsofOfflineStoreConfig
from features.feast_store import apply, open_store
from journal.clock import HOUR, datetime_of, parse_time
from journal.errors import Refused

NOON = parse_time("2013-07-01T12:00:00Z")
PORT = Entity(name="port", join_keys=["port"], value_type=ValueType.STRING)
SOURCE = FileSource(
    name="crowds", path="crowds.parquet", timestamp_field="event_timestamp", created_timestamp_column="created"
)
CROWDS = FeatureView(
    name="crowds",
    entities=[PORT],
    ttl=timedelta(hours=6),
    schema=[Field(name="port", dtype=String), Field(name="people", dtype=Int64)],
    source=SOURCE,
)
BROKEN = FeatureView(
    name="broken",
    entities=[PORT],
    ttl=timedelta(0),
    schema=[Field(name="port", dtype=String), Field(name="dogs", dtype=Int64)],
    source=SOURCE,
)
REFS = ["crowds:people"]
# (hour of the event, hour in which it was created, people): an early count, one that came in late, and its correction.
COUNTS = [(-4, -4, 10), (-2, 1, 20), (-2, 3, 21)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("settings")
    (home / "history").mkdir()
    columns: dict[str, Any] = {
        "port": ["JFK"] * len(COUNTS),
        "event_timestamp": [datetime_of(NOON + event * HOUR) for event, _, _ in COUNTS],
        "created": [datetime_of(NOON + created * HOUR) for _, created, _ in COUNTS],
        "people": [people for _, _, people in COUNTS],
    }
    pq.write_table(pa.table(columns), home / "history" / "crowds.parquet")
    return home


@pytest.fixture
def store(home: Path) -> FeatureStore:
    store = open_store(home, "settings", home / "online.sqlite", home / "history", NOON, owned=False)
    logged = LoggingConfig(destination=FileLoggingDestination(path="logs"))
    apply(store, [PORT, CROWDS, FeatureService(name="told", features=[CROWDS], logging_config=logged)])
    return store


def people(store: FeatureStore, *hours: int, **options: Any) -> list[int | None]:
    moments = [datetime_of(NOON + hour * HOUR) for hour in hours]
    frame = pd.DataFrame({"port": ["JFK"] * len(hours), "event_timestamp": pd.to_datetime(moments, utc=True)})
    answers: list[int | None] = store.get_historical_features(frame, REFS, **options).to_arrow()["people"].to_pylist()
    return answers


def test_what_was_created_later_is_hidden_until_then_unless_the_store_is_told_otherwise(store: FeatureStore) -> None:
    hours = (-3, 0, 1, 2, 3)
    known = [10, 10, 20, 20, 21]
    assert people(store, *hours) == known
    assert people(store, *hours, filter_by_created_timestamp=True) == known
    store.config.offline_store.filter_by_created_timestamp = False
    assert people(store, *hours) == [10, 21, 21, 21, 21], "Feast's own default lets the correction into the past"
    assert people(store, *hours, filter_by_created_timestamp=True) == known


def test_the_age_is_the_events_whenever_it_was_created(store: FeatureStore) -> None:
    assert people(store, 4, 5) == [21, None]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_shares_of_any_size_answer_the_same_in_order(store: FeatureStore, rows: int) -> None:
    store.config.offline_store.share_rows = rows
    assert people(store, 3, -5, 0, 3, 1) == [21, None, 10, 21, 20]
    assert people(store) == []


def test_a_share_holds_at_least_one_row() -> None:
    with pytest.raises(ValidationError, match="share_rows"):
        AsofOfflineStoreConfig(share_rows=0)


def test_the_spill_folder_goes_with_its_join() -> None:
    with connect(Limits(memory="60MB", threads=1)) as db:
        row = db.execute("SELECT current_setting('temp_directory')").fetchone()
        assert row is not None
        spill = Path(row[0])
        assert spill.is_dir()
    assert not spill.exists()


def test_logged_features_are_written_once_however_often_they_are_sent(store: FeatureStore, home: Path) -> None:
    service = store.get_feature_service("told")
    moment = pa.array([datetime_of(NOON)], pa.timestamp("us", "UTC"))
    logs = pa.table(
        {
            "port": ["JFK"],
            "crowds__people": [20],
            "crowds__people__timestamp": moment,
            "crowds__people__status": pa.array([1], pa.int32()),
            "__log_timestamp": moment,
            "__log_date": moment.cast(pa.date32()),
            "__request_id": ["one"],
        }
    )
    for _ in range(2):
        store.write_logged_features(logs, service)
    pq.write_table(logs.slice(0, 0), home / "none.parquet")
    store.write_logged_features(home / "none.parquet", service)
    files = sorted((home / "history" / "logs").iterdir(), key=lambda path: path.stat().st_size)
    assert [pq.read_table(path).num_rows for path in files] == [0, 1]
    assert pq.read_table(files[1])["crowds__people"].to_pylist() == [20]


def test_logs_have_their_columns_and_go_into_plain_folders_only(store: FeatureStore) -> None:
    service = store.get_feature_service("told")
    with pytest.raises(Refused, match="crowds__people__status"):
        store.write_logged_features(pa.table({"port": ["JFK"]}), service)
    service.logging_config = LoggingConfig(destination=FileLoggingDestination(path="logs", partition_by=["port"]))
    with pytest.raises(Refused, match="logs into FileLoggingDestination"):
        store.write_logged_features(pa.table({"port": ["JFK"]}), service)


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")
def test_an_on_demand_view_answers_as_soon_as_it_is_applied(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert people(store, 3) == [21]
    assert store.registry.list_on_demand_feature_views("settings", allow_cache=True) == []
    cached = store.registry.cached_registry_proto
    monkeypatch.setattr(
        type(store.registry), "cached_registry_proto", property(lambda _: cached, lambda *_: None), raising=False
    )
    frame = pd.DataFrame({"port": ["JFK"], "event_timestamp": [datetime_of(NOON + 3 * HOUR)]})
    for name in ("first", "second"):

        @on_demand_feature_view(name=name, sources=[CROWDS], schema=[Field(name="more", dtype=Int64)], mode="pandas")  # type: ignore[untyped-decorator]
        def grown(inputs: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"more": inputs["people"] + 1})

        apply(store, [grown])
        assert store.get_historical_features(frame, [*REFS, f"{name}:more"]).to_arrow()["more"].to_pylist() == [22]


def test_names_that_nobody_declared_or_nobody_stored_are_refused(store: FeatureStore) -> None:
    frame = pd.DataFrame({"port": ["JFK"], "event_timestamp": [datetime_of(NOON)]})
    with pytest.raises(FeatureViewNotFoundException, match="strangers"):
        store.get_historical_features(frame, ["strangers:people"])
    with pytest.raises(KeyError, match="Feature cats not found in projection crowds"):
        store.get_historical_features(frame, ["crowds:cats"])
    apply(store, [BROKEN])
    with pytest.raises(Refused, match="view 'broken' reads dogs, which its rows do not have"):
        store.get_historical_features(frame, ["broken:dogs"])
