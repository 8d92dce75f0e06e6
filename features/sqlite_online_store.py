"""Feast's online store on our table: the newest row by the guard, stamps in microseconds, staleness enforced on read.

In `feature_store.yaml`: ``online_store: {type: features.sqlite_online_store.SqliteOnlineStore, path: <file>}``. With
``owned: true`` the file belongs to a pipeline's fold: Feast reads it, and only the fold writes it. Otherwise the file
is this plugin's own (one Feast project each) and ``push``, ``write_to_online_store`` and ``materialize`` write to it,
through the same guard.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import apsw
from feast.entity import Entity
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.types import Bool, FeastType, Float64, Int64, String

from features.online_table import create_table, read_rows, write_rows
from features.rows import FieldValue, Row, encode_key
from journal.clock import MICROSECOND, datetime_of, micros_of
from journal.errors import Misconfigured, Refused, UnknownName
from journal.sqlite import open_database

Place = tuple[int, str, Callable[[Any], Value]]
"""Where a feature stands among a row's values, its name, and what makes its protobuf value."""
Answer = tuple[datetime | None, dict[str, Value] | None]
Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

_PROTO: Mapping[FeastType, Callable[[Any], Value]] = {
    Int64: lambda value: Value(int64_val=value),
    Float64: lambda value: Value(double_val=value),
    String: lambda value: Value(string_val=value),
    Bool: lambda value: Value(bool_val=value),
}
_LAYOUTS = "CREATE TABLE IF NOT EXISTS layout (view TEXT PRIMARY KEY, fields TEXT NOT NULL) STRICT, WITHOUT ROWID"


class SqliteOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Which file, whose it is, and how old an answer may be.

    Attributes:
        type: Names this plugin.
        path: The SQLite file; a relative one is taken from the repository's folder.
        owned: Whether a pipeline's fold owns the file, so that nothing is written to it from here.
        enforce_ttl: Whether a row older than its view's ttl reads as missing. Feast itself never checks.
        now_us: What "now" is for that check, in microseconds: the journal's now of a pipeline with ``clock: events``,
            which may be moved between reads; None is the wall clock.
    """

    type: Literal["features.sqlite_online_store.SqliteOnlineStore"] = "features.sqlite_online_store.SqliteOnlineStore"
    path: str
    owned: bool = False
    enforce_ttl: bool = False
    now_us: int | None = None


class SqliteOnlineStore(OnlineStore):  # type: ignore[misc]
    """One connection behind a lock: Feast shares one store between all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db: apsw.Connection | None = None

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Answer]:
        """One (event time, values by feature) per key, in order; (None, None) where it is missing, deleted or stale."""
        view: str = table.name
        wanted = [(view, _key(key)) for key in entity_keys]
        with self._lock:
            rows = read_rows(self._open(config), wanted)
        oldest = _oldest(config.online_store, table)
        places = _places(table, requested_features)
        return [_answer(table, places, rows.get(pair), oldest) for pair in wanted]

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Offer rows to the guard in one transaction; a row without a created time is known when it happened.

        Raises:
            Refused: The file is a fold's.
        """
        _refuse_owned(config, f"view {table.name!r} is written only by its fold")
        names = [feature.name for feature in table.features]
        rows = [(table.name, _row(names, written)) for written in data]
        with self._lock, self._open(config) as db:
            write_rows(db, rows)
        if progress:
            progress(len(rows))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Check the views; in a file of the plugin's own also forget removed views and follow changed field lists."""
        check_views(tables_to_keep)
        if config.online_store.owned:
            return
        with self._lock, self._open(config) as db:
            for view in tables_to_keep:
                _lay_out(db, view)
            for view in tables_to_delete:
                db.execute("DELETE FROM online WHERE view = ?", (view.name,))
                db.execute("DELETE FROM layout WHERE view = ?", (view.name,))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """Forget every row of these views."""
        _refuse_owned(config, "the views of this file belong to a pipeline's fold")
        self.update(config, tables, [], [], [], True)

    def close_file(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _open(self, config: RepoConfig) -> apsw.Connection:
        if self._db is None:
            path = Path(config.repo_path or ".") / config.online_store.path
            self._db = _open_owned(path) if config.online_store.owned else _open_own(path)
        return self._db


def check_views(views: Sequence[FeatureView]) -> None:
    """Raise `Misconfigured` with every field and key whose type this store cannot hold."""
    wrong = [
        f"{view.name}.{column.name} is {column.dtype}"
        for view in views
        for column in [*view.features, *view.entity_columns]
        if column.dtype not in _PROTO
    ]
    if wrong:
        raise Misconfigured(which=", ".join(wrong), fix="Use Int64, Float64, String or Bool")


def _open_owned(path: Path) -> apsw.Connection:
    if not path.exists():
        raise UnknownName(which=f"{path} does not exist", fix="Start the pipeline once: its fold makes this file")
    return open_database(path, readonly=True)


def _open_own(path: Path) -> apsw.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = open_database(path)
    create_table(db)
    db.execute(_LAYOUTS)
    return db


def _refuse_owned(config: RepoConfig, why: str) -> None:
    if config.online_store.owned:
        raise Refused(which=why, fix="Send events to the pipeline's journal; its fold updates the view")


def _lay_out(db: apsw.Connection, view: FeatureView) -> None:
    """Stored values follow the field list; when that changes, keep by name and type what still has a place."""
    fields = [f"{field.name}:{field.dtype}" for field in view.features]
    stored = db.execute("SELECT fields FROM layout WHERE view = ?", (view.name,)).get
    if stored is not None and json.loads(stored) != fields:
        places = {field: place for place, field in enumerate(json.loads(stored))}
        _move_values(db, view.name, [places.get(field) for field in fields])
    db.execute("INSERT OR REPLACE INTO layout VALUES (?, ?)", (view.name, json.dumps(fields)))


def _move_values(db: apsw.Connection, view: str, places: Sequence[int | None]) -> None:
    found: list[Any] = db.execute("SELECT view, key FROM online WHERE view = ?", (view,)).fetchall()
    rows = read_rows(db, found)
    db.execute("DELETE FROM online WHERE view = ?", (view,))
    write_rows(db, ((view, _moved(row, places)) for row in rows.values()))


def _moved(row: Row, places: Sequence[int | None]) -> Row:
    values = row.values
    if values is None:
        return row
    return row._replace(values=[None if place is None else values[place] for place in places])


def _key(key: EntityKey) -> bytes:
    pairs = sorted(zip(key.join_keys, key.entity_values, strict=True), key=lambda pair: pair[0])
    return encode_key([_scalar(value) for name, value in pairs if name != DUMMY_ENTITY_ID])


def _scalar(value: Value) -> Any:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def _row(names: Sequence[str], written: Written) -> Row:
    key, values, event, created = written
    happened = _micros(event)
    known = happened if created is None else _micros(created)
    return Row(_key(key), happened, known, [_scalar(values[name]) for name in names])


def _micros(moment: datetime) -> int:
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _oldest(config: SqliteOnlineStoreConfig, view: FeatureView) -> int | None:
    """The smallest event time that is not stale yet; None when nothing ever is."""
    if not (config.enforce_ttl and view.ttl):
        return None
    now = time.time_ns() // 1_000 if config.now_us is None else config.now_us
    ttl: int = view.ttl // MICROSECOND
    return now - ttl


def _places(view: FeatureView, requested: Sequence[str] | None) -> list[Place]:
    return [
        (place, feature.name, _PROTO[feature.dtype])
        for place, feature in enumerate(view.features)
        if requested is None or feature.name in requested
    ]


def _answer(view: FeatureView, places: Sequence[Place], row: Row | None, oldest: int | None) -> Answer:
    if row is None or row.values is None or (oldest is not None and row.event < oldest):
        return None, None
    if len(row.values) != len(view.features):
        raise Misconfigured(
            which=f"view {view.name!r} declares {len(view.features)} features, its rows hold {len(row.values)}",
            fix="Apply the views that wrote these rows",
        )
    values = row.values
    return datetime_of(row.event), {name: _proto(make, values[place]) for place, name, make in places}


def _proto(make: Callable[[Any], Value], value: FieldValue) -> Value:
    return Value() if value is None else make(value)
