"""The point-in-time join: what was known about each entity at each moment.

For an entity row at T a view answers with one of the rows of that key that were known at T:

- of our own history (``ordered``) the one that became known last, and with nothing when that one is a delete;
- of any other source the one with the latest event, as Feast documents it for ``filter_by_created_timestamp``: a row
  counts from the moment at which it had happened and was created (without the filter: had happened). Among equal events
  the one that was created last wins, then the one with the largest values.

It answers with nothing when T - event > ttl. Rows out are rows in, in order: duplicates, null keys and null moments
included. Times meet as integer microseconds, so no time zone takes part.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.asof_keys import as_key
from journal.errors import Refused


@dataclass(frozen=True)
class Bucket:
    """A share of all keys.

    Attributes:
        column: The entity rows' key column.
        number: Which share, from 0.
        of: How many there are.
    """

    column: str
    number: int
    of: int


@dataclass(frozen=True, kw_only=True)
class AsofView:
    """One view's side of the join.

    Attributes:
        name: The view.
        rows: Its rows: a dataset that is scanned as a stream, or a table.
        keys: Column of the entity rows -> key column of ``rows``; may be empty.
        event: Column of the event time.
        known: Column of the known time (Feast's created time); the event time's when the source has no other.
        fields: Column of ``rows`` -> name in the result, in the result's order.
        ttl: Microseconds after which a row counts as missing; 0 means never.
        deleted: Boolean column that marks deletes, if there is one.
        ordered: Whether this is our own history: a row is never known before its event, no two rows of a key share a
            known time, and a later row replaces all before it.
        by_event: Whether a row of another source counts from its event on, whenever it was created.
        stamps: Whether ``<name>__event`` and ``<name>__known`` follow the fields (int64 microseconds).
        bucket: Which of the keys to read; all of them when None.

    Raises:
        Refused: The rows lack a column, or a time of theirs is no timestamp.
    """

    name: str
    rows: ds.Dataset | pa.Table
    keys: Mapping[str, str]
    event: str
    known: str
    fields: Mapping[str, str]
    ttl: int = 0
    deleted: str | None = None
    ordered: bool = False
    by_event: bool = False
    stamps: bool = False
    bucket: Bucket | None = None

    def __post_init__(self) -> None:
        schema: pa.Schema = self.rows.schema
        absent = {self.event, self.known, *self.keys.values(), *self.fields} - set(schema.names)
        if absent:
            which = f"view {self.name!r} reads {', '.join(sorted(absent))}, which its rows do not have"
            raise Refused(which=which, fix="Correct the view's schema or its source's field_mapping and timestamps")
        for column in (self.event, self.known):
            if not pa.types.is_timestamp(schema.field(column).type):
                which = f"view {self.name!r}: {column} is {schema.field(column).type}"
                raise Refused(which=which, fix="Make it a timestamp, in UTC")

    @property
    def outputs(self) -> list[str]:
        """The columns that this view adds to the result."""
        stamps = [f"{self.name}__event", f"{self.name}__known"] if self.stamps else []
        return [*self.fields.values(), *stamps]


@dataclass(frozen=True)
class Limits:
    """What one join may use."""

    memory: str = "2GB"
    threads: int = 2


def asof_join(entities: pa.Table, at: str, views: Sequence[AsofView], limits: Limits | None = None) -> pa.Table:
    """Add each view's columns to the entity rows as they were known at each row's moment.

    Args:
        entities: One row per question; it comes back unchanged, with columns behind it.
        at: Its timestamp column. Naive timestamps are UTC.
        views: Whose columns to add, in order.
        limits: Caps on memory (the rest spills to a temporary folder) and threads.

    Raises:
        Refused: A column is missing, has two owners, or its type cannot meet the view's.
    """
    check_names(entities, at, views)
    moments = _moments(entities[at], at)
    with connect(limits or Limits()) as db:
        for view in views:
            joined = _join_one(db, entities, moments, view)
            for name in view.outputs:
                entities = entities.append_column(name, joined[name])
    return entities


@contextmanager
def connect(limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own within these limits; what does not fit spills to a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="asof") as spill:
        config = {
            "memory_limit": limits.memory,
            "threads": limits.threads,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "python_enable_replacements": False,
        }
        with duckdb.connect(config=config) as db:
            yield db


def _join_one(db: duckdb.DuckDBPyConnection, entities: pa.Table, moments: pa.Array, view: AsofView) -> pa.Table:
    rows = view.rows if isinstance(view.rows, ds.Dataset) else ds.dataset(view.rows)
    db.register("questions", _questions(entities, moments, view, rows.schema))
    db.register("answers", _answers(rows, moments, view))
    joined = db.sql(_query(view)).to_arrow_table()
    db.unregister("questions")
    db.unregister("answers")
    wanted = [rows.schema.field(column).type for column in view.fields]
    types = wanted + [pa.int64()] * (len(view.outputs) - len(wanted))
    return joined.cast(pa.schema(list(zip(view.outputs, types, strict=True))))


def _query(view: AsofView) -> str:
    fields = [f"f{n}" for n in range(len(view.fields))]
    columns = [*fields, "event", "created"] if view.stamps else fields
    lives = "NOT a.deleted" + (f" AND q.at - a.event <= {view.ttl}" if view.ttl else "")
    picked = ", ".join(
        f'CASE WHEN {lives} THEN a.{c} END AS "{n}"' for c, n in zip(columns, _quoted(view), strict=True)
    )
    keys = [f"k{n}" for n in range(len(view.keys))]
    meets = " AND ".join([*(f"q.{key} = a.{key}" for key in keys), "q.at >= a.known"])
    return f"SELECT {picked} FROM questions q ASOF LEFT JOIN {_source(view, keys, fields)} a ON {meets} ORDER BY q.row"


def _source(view: AsofView, keys: Sequence[str], fields: Sequence[str]) -> str:
    """The rows that can ever win, each known from a moment of its own: one join on that moment finds the winner."""
    rows = f"(SELECT *, known AS created FROM answers{_where(view)})"
    if view.ordered:
        return rows
    begins = "event" if view.by_event else "greatest(known, event)"
    counts = "event IS NOT NULL" if view.by_event else "event IS NOT NULL AND known IS NOT NULL"
    order = ", ".join(["known", *(f"{column} NULLS FIRST" for column in ["event", "created", *fields])])
    # One window for both questions, since the sort is what costs: is no later event known yet, and is this row the
    # last of its moment?
    window = f"({f'PARTITION BY {chr(44).join(keys)} ' if keys else ''}ORDER BY {order} ROWS UNBOUNDED PRECEDING)"
    return (
        f"(SELECT * FROM (SELECT * REPLACE ({begins} AS known) FROM {rows} WHERE {counts}) "
        f"QUALIFY event = max(event) OVER {window} AND known IS DISTINCT FROM lead(known) OVER {window})"
    )


def _where(view: AsofView) -> str:
    if view.bucket is None or view.bucket.column not in view.keys:
        return ""
    key = list(view.keys).index(view.bucket.column)
    return f" WHERE {bucket_of(f'k{key}', view.bucket.of)} = {view.bucket.number}"


def bucket_of(column: str, of: int) -> str:
    """Into which of so many shares a key falls, in SQL; the text of a key decides, whatever its type."""
    return f"(hash({column}::VARCHAR) % {of})"


def _quoted(view: AsofView) -> list[str]:
    return [name.replace('"', '""') for name in view.outputs]


def _questions(entities: pa.Table, moments: pa.Array, view: AsofView, schema: pa.Schema) -> pa.Table:
    columns = {"row": pa.array(range(len(entities)), pa.int64()), "at": moments}
    for n, (column, key) in enumerate(view.keys.items()):
        columns[f"k{n}"] = as_key(entities[column], schema.field(key).type, f"view {view.name!r}, key {column!r}")
    return pa.table(columns)


def _answers(rows: ds.Dataset, moments: pa.Array, view: AsofView) -> pa.RecordBatchReader:
    columns = {f"k{n}": ds.field(key) for n, key in enumerate(view.keys.values())}
    columns |= {f"f{n}": ds.field(column) for n, column in enumerate(view.fields)}
    columns["event"] = _micros(ds.field(view.event), rows.schema.field(view.event).type)
    columns["known"] = _micros(ds.field(view.known), rows.schema.field(view.known).type)
    columns["deleted"] = pc.coalesce(ds.field(view.deleted), pc.scalar(False)) if view.deleted else pc.scalar(False)
    return rows.scanner(columns=columns, filter=_reachable(view, moments, rows.schema)).to_reader()


def _reachable(view: AsofView, moments: pa.Array, schema: pa.Schema) -> pc.Expression:
    span = pc.min_max(moments)
    if not span["max"].is_valid:
        return pc.scalar(False)
    # Out of reach is what has not happened at the last moment, and what is stale at the first: where that could win,
    # nothing answers. Our own rows are known when they happen or later, so their known time says both.
    time = view.known if view.ordered else view.event
    column, kind = ds.field(time), pa.timestamp("us", schema.field(time).type.tz)
    # Before the next microsecond: what is finer belongs to the one it is in.
    reachable = column < pa.scalar(span["max"].as_py() + 1, kind)
    if view.ttl:
        reachable = reachable & (column >= pa.scalar(span["min"].as_py() - view.ttl, kind))
    return reachable


def _moments(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if not pa.types.is_timestamp(column.type):
        raise Refused(which=f"the entity rows' {name!r} is {column.type}", fix="Make it a timestamp, in UTC")
    return _micros(column, column.type)


def _micros(column: pa.ChunkedArray | pc.Expression, kind: pa.TimestampType) -> pa.ChunkedArray | pc.Expression:
    """Microseconds; what is finer falls to the one it is in, as every time of ours."""
    if kind.unit == "ns":
        column = pc.floor_temporal(column, unit="microsecond")
    return column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())


def check_names(entities: pa.Table, at: str, views: Sequence[AsofView]) -> None:
    """Raise `Refused` when a column that the views need is missing, or one that they add has two owners."""
    taken = dict.fromkeys(entities.column_names, "the entity rows")
    missing = [name for view in views for name in view.keys if name not in taken]
    if missing or at not in taken:
        raise Refused(which=f"the entity rows have no column {', '.join(missing or [at])}", fix="Add it")
    for view in views:
        for name in view.outputs:
            if name in taken:
                raise Refused(
                    which=f"column {name!r} would come from view {view.name!r} and from {taken[name]}",
                    fix="Rename one, or ask for full feature names",
                )
            taken[name] = f"view {view.name!r}"
