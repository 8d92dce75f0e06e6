"""The outbox: accepted rows on their way to history, kept in the fold's own file until history has them.

One blob per commit and view: an Arrow IPC stream in the history table's own schema. Arrow is built column by column,
since some fifteen rows come here for every source event.
"""

import zlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import apsw
import pyarrow as pa
import pyarrow.compute as pc

from features.rows import FieldValue, Row, ViewSchema, decode_key
from journal.errors import Corrupt

EVENT = "event_timestamp"
KNOWN = "known_timestamp"
DELETED = "deleted"

_INSTANT = pa.timestamp("us", "UTC")
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY, view TEXT NOT NULL, through_known INTEGER NOT NULL, count INTEGER NOT NULL,
    rows BLOB NOT NULL, checksum INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS flushed (view TEXT PRIMARY KEY, through_known INTEGER NOT NULL) STRICT, WITHOUT ROWID;
"""


class Outbox:
    """Rows of several views: `add` and `save` by the fold, `read` and `confirm` by the flush.

    ``save`` runs inside the fold's transaction, ``confirm`` in one of its own. Rows caused by one record belong to one
    save: the mark of `features.history` relies on it.
    """

    def __init__(self, db: apsw.Connection, views: Iterable[ViewSchema]) -> None:
        self._db = db
        self._views = {view.name: view for view in views}
        self._schemas = {view.name: arrow_schema(view) for view in self._views.values()}
        self._added: dict[str, list[Row]] = {name: [] for name in self._views}
        db.execute(_SCHEMA)

    def add(self, view: str, rows: Sequence[Row]) -> None:
        """Take accepted rows, in the order of their acceptance."""
        self._added[view] += rows

    def save(self) -> None:
        """Write what was added since the last save into the caller's open transaction."""
        for view, rows in self._added.items():
            if rows:
                table = arrow_table(self._views[view], self._schemas[view], rows)
                through, blob = pc.max(table[KNOWN]).value, _encode(table)
                self._db.execute(
                    "INSERT INTO outbox (view, through_known, count, rows, checksum) VALUES (?, ?, ?, ?, ?)",
                    (view, through, len(rows), blob, zlib.crc32(blob)),
                )
                self._added[view] = []

    def pending_rows(self) -> int:
        """How many saved rows history does not have for certain."""
        count: int = self._db.execute("SELECT coalesce(sum(count), 0) FROM outbox").get
        return count

    def pending_views(self) -> list[str]:
        """The views that have saved rows, by name."""
        return [view for (view,) in self._db.execute("SELECT DISTINCT view FROM outbox ORDER BY view")]

    def read(self, view: str) -> tuple[pa.Table, int, int]:
        """A view's saved rows in order, their largest known time, and the sequence of the last save among them.

        Raises:
            Corrupt: A saved blob does not match its checksum.
        """
        tables, through, last = [self._schemas[view].empty_table()], 0, 0
        saved = self._db.execute(
            "SELECT seq, through_known, rows, checksum FROM outbox WHERE view = ? ORDER BY seq", (view,)
        )
        for seq, known, blob, checksum in saved:
            tables.append(self._decode(view, seq, blob, checksum))
            through, last = max(through, known), seq
        return pa.concat_tables(tables), through, last

    def flushed(self, view: str) -> int:
        """The largest known time that history has confirmed; 0 before the first flush."""
        row: int | None = self._db.execute("SELECT through_known FROM flushed WHERE view = ?", (view,)).get
        return row or 0

    def confirm(self, view: str, through: int, last: int) -> None:
        """Drop a view's saves up to and including sequence ``last``: history has them, durably."""
        with self._db:
            self._db.execute("DELETE FROM outbox WHERE view = ? AND seq <= ?", (view, last))
            self._db.execute(
                "INSERT INTO flushed VALUES (?, ?) ON CONFLICT DO UPDATE SET "
                "through_known = max(through_known, excluded.through_known)",
                (view, through),
            )

    def _decode(self, view: str, seq: int, blob: bytes, checksum: int) -> pa.Table:
        if zlib.crc32(blob) != checksum:
            raise Corrupt(
                which=f"{self._db.filename}, outbox {seq} of view {view!r}",
                fix="Delete this file: the fold is rebuilt from the journal at the next start",
            )
        return pa.ipc.open_stream(blob).read_all()


def arrow_schema(view: ViewSchema) -> pa.Schema:
    """The columns of a view's history: join keys, both stamps, fields, and whether the row is a delete."""
    keys = [(name, pa.type_for_alias(kind)) for name, kind in view.join_keys]
    fields = [(name, pa.type_for_alias(kind)) for name, kind in view.fields]
    return pa.schema([*keys, (EVENT, _INSTANT), (KNOWN, _INSTANT), *fields, (DELETED, pa.bool_())])


def arrow_table(view: ViewSchema, schema: pa.Schema, rows: Sequence[Row]) -> pa.Table:
    """Rows as columns, in the given order; a delete's fields are null."""
    nothing: Sequence[FieldValue] = (None,) * len(view.fields)
    keys, events, knowns, values = _transposed(rows, len(Row._fields))
    decoded = {key: decode_key(key) for key in set(keys)}
    is_end = [each is None for each in values]
    filled = [nothing if each is None else each for each in values] if any(is_end) else values
    columns: list[Sequence[FieldValue]] = [
        *_transposed([decoded[key] for key in keys], len(view.join_keys)),
        events,
        knowns,
        *_transposed(filled, len(view.fields)),
        is_end,
    ]
    return pa.Table.from_arrays([_column(*pair) for pair in zip(columns, schema.types, strict=True)], schema=schema)


def _transposed(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    # One pass over the rows and a strided copy per column: zip(*rows) would walk all rows once for each column.
    flat = list(chain.from_iterable(rows))
    return [flat[column::width] for column in range(width)]


def _column(values: Sequence[FieldValue], kind: pa.DataType) -> pa.Array:
    if kind == _INSTANT:
        return pa.array(values, pa.int64()).view(_INSTANT)
    return pa.array(values, kind)


def _encode(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_LZ4) as stream:
        stream.write_table(table)
    return sink.getvalue()
