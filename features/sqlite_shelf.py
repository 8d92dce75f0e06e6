"""A SQLite file with the online table, as the Feast plugin and its processes write it.

Rows are one per view and entity behind the guard; beside them stands what field list they follow.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from features.online_table import create_table, read_rows, write_rows
from features.rows import Row
from features.stored_row import Wanted, layout_of, move
from journal.errors import Busy, Refused, UnknownName
from journal.sqlite import open_database

PATIENCE_MS = 30_000
"""How long a write waits for those of other processes: SQLite's lock is not fair, and somebody may wait long."""

_LAYOUTS = "CREATE TABLE IF NOT EXISTS layout (view TEXT PRIMARY KEY, fields TEXT NOT NULL) STRICT, WITHOUT ROWID"


class SqliteShelf:
    """A file with the table. See `features.guarded_online_store.Shelf`."""

    def __init__(self, path: Path, *, owned: bool) -> None:
        self._lock = threading.Lock()
        self._db = _open_owned(path) if owned else _open_own(path)

    def read(self, wanted: Wanted) -> list[Row | None]:
        """The stored rows asked for, in order, deletes included."""
        with self._lock:
            return read_rows(self._db, wanted)

    def write(self, view: str, fields: Sequence[str], rows: Sequence[Row], keep: int | None) -> None:  # noqa: ARG002
        """Offer rows to the guard in one transaction; nothing is ever forgotten by age."""
        layout = layout_of(fields)
        with self._writing() as db:
            stored = _layout(db, view)
            if stored is None:
                _set_layout(db, view, layout)
            elif stored != layout:
                raise Refused(
                    which=f"the fields of view {view!r} have changed", fix="Refresh the registry, write again"
                )
            write_rows(db, ((view, row) for row in rows))

    def lay_out(self, view: str, fields: Sequence[str]) -> None:
        """Move the stored values where the fields have changed."""
        with self._writing() as db:
            stored = _layout(db, view)
            if stored is not None and stored != layout_of(fields):
                _move_values(db, view, stored, fields)
            _set_layout(db, view, layout_of(fields))

    def forget(self, view: str) -> None:
        """Remove the view's rows and field list."""
        with self._writing() as db:
            db.execute("DELETE FROM online WHERE view = ?", (view,))
            db.execute("DELETE FROM layout WHERE view = ?", (view,))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """A transaction that has the write lock from its beginning: one that gets it later may fail instead of wait."""
        with self._lock:
            db = self._db
            try:
                db.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
            except apsw.BusyError as error:
                name = Path(db.filename).name
                raise Busy(which=f"{name} was locked for {PATIENCE_MS // 1_000} s", fix="Write it again") from error


def _open_owned(path: Path) -> apsw.Connection:
    if not path.exists():
        raise UnknownName(which=f"{path} does not exist", fix="Start the pipeline once: its fold makes this file")
    return open_database(path, readonly=True)


def _open_own(path: Path) -> apsw.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = open_database(path)
    db.set_busy_timeout(PATIENCE_MS)
    create_table(db)
    db.execute(_LAYOUTS)
    return db


def _layout(db: apsw.Connection, view: str) -> bytes | None:
    fields: str | None = db.execute("SELECT fields FROM layout WHERE view = ?", (view,)).get
    return None if fields is None else fields.encode()


def _set_layout(db: apsw.Connection, view: str, layout: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO layout VALUES (?, ?)", (view, layout.decode()))


def _move_values(db: apsw.Connection, view: str, stored: bytes, fields: Sequence[str]) -> None:
    found: list[Any] = db.execute("SELECT view, key FROM online WHERE view = ?", (view,)).fetchall()
    rows = read_rows(db, found)
    db.execute("DELETE FROM online WHERE view = ?", (view,))
    write_rows(db, ((view, move(row, stored, fields)) for row in rows if row is not None))
