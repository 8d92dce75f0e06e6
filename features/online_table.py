"""The online store's table: the newest row of each entity in each view, and the guard that keeps it the newest.

The guard (`features.stored_row`) lets the largest stamp stay, whatever order rows come in. A delete is a row with
stamps and no values; it reads as missing.
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, Protocol

import apsw

from features.rows import Row
from features.stored_row import Wanted, living, pack, unpack, unpack_time
from journal.errors import Corrupt, UnknownName
from journal.sqlite import open_database

PAIRS_PER_SELECT = 10_000
"""SQLite binds at most 32,766 values in one statement, two for each row asked for."""

MOST_ABSENT = 100_000
"""Of these keys some megabytes are remembered: whoever asks about new entities all day must not fill the memory."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS online (
    view TEXT, key BLOB, row BLOB NOT NULL, PRIMARY KEY (key, view)) STRICT, WITHOUT ROWID;
"""
"""An entity's rows of all views lie on one page: a question reads them together, and so halves what finding them costs.
For that, whoever reads a whole view passes by the rows of the others."""
_UPSERT = """
INSERT INTO online VALUES (?, ?, ?) ON CONFLICT (key, view) DO UPDATE SET row = excluded.row
WHERE substr(excluded.row, 5, 16) > substr(online.row, 5, 16)
"""
_COLUMNS = "SELECT view, key, row FROM online"
_FIND = """
WITH wanted (n, v, k) AS (VALUES {})
SELECT n, row FROM wanted CROSS JOIN online ON view = v AND key = k
"""
_PAGE = f"{_COLUMNS} WHERE view = ? AND key > ? ORDER BY key LIMIT ?"

ROWS_PER_PAGE = 2_000
"""How many rows `OnlineTable.stored` reads at a time."""


class Copy(Protocol):
    """Another place that is kept like the table."""

    def take(self, changed: Mapping[str, Mapping[bytes, Row]], table: "OnlineTable") -> None:
        """Take what is about to be committed; what cannot be taken now is taken later."""
        ...

    def tend(self, table: "OnlineTable") -> None:
        """Go on with what could not be taken, while nothing changes."""
        ...


def create_table(db: apsw.Connection) -> None:
    """Make the table where it is missing."""
    db.execute(_SCHEMA)


def write_rows(db: apsw.Connection, rows: Iterable[tuple[str, Row]]) -> None:
    """Upsert (view, row) pairs, each behind the guard; the transaction is the caller's."""
    db.executemany(_UPSERT, ((view, row.key, pack(view, row)) for view, row in rows))


def read_rows(db: apsw.Connection, wanted: Wanted) -> list[Row | None]:
    """The stored rows asked for, in order, deletes included, from one snapshot per `PAIRS_PER_SELECT`.

    Raises:
        Corrupt: A checksum does not hold, or a page of the file is damaged.
    """
    found: list[Row | None] = []
    try:
        for start in range(0, len(wanted), PAIRS_PER_SELECT):
            found += _select(db, wanted[start : start + PAIRS_PER_SELECT])
    except apsw.CorruptError as error:
        raise _corrupt(db, str(error)) from error
    return found


class OnlineTable:
    """The table as the one fold that owns it sees it: newest rows in memory, written back at `flush`.

    Memory holds one row per entity that was written or read, and up to `MOST_ABSENT` keys that were asked for in vain.
    A row's values are kept as given: hand over a sequence that nothing changes afterwards.
    """

    def __init__(self, db: apsw.Connection, copy: Copy | None = None) -> None:
        """Take over the table in a fold's file, made where it is missing; ``copy`` is written before each commit."""
        self._db, self._copy = db, copy
        self._held: defaultdict[str, dict[bytes, Row]] = defaultdict(dict)
        self._absent: set[tuple[str, bytes]] = set()
        self._pending: defaultdict[str, dict[bytes, Row]] = defaultdict(dict)
        create_table(db)

    def put(self, view: str, row: Row) -> bool:
        """Offer a row; whether the guard took it. It is in the file after the next `flush`."""
        key = row[0]
        rows = self._held[view]
        held = rows.get(key) or self._read(view, key)
        if held is not None and (row[1] < held[1] or (row[1] == held[1] and row[2] <= held[2])):
            return False
        rows[key] = row
        self._pending[view][key] = row
        return True

    def delete(self, view: str, key: bytes, event: int, known: int) -> bool:
        """Offer the end of an entity's value; whether the guard took it."""
        return self.put(view, Row(key, event, known, None))

    def get_many(self, wanted: Wanted) -> list[Row | None]:
        """One answer per (view, key), in order; None where there is no row, or a delete."""
        held, absent = self._held, self._absent
        unread = [pair for pair in wanted if pair[1] not in held[pair[0]] and pair not in absent]
        if unread:
            self._take_up(unread)
        return [living(held[view].get(key)) for view, key in wanted]

    def flush(self) -> None:
        """Write what changed into the copy, and then into the caller's transaction."""
        if self._copy is not None:
            self._copy.take(self._pending, self)
        write_rows(self._db, ((view, row) for view, rows in self._pending.items() for row in rows.values()))
        self._pending.clear()

    def tend(self) -> None:
        """While there is nothing to flush: let the copy catch up."""
        if self._copy is not None:
            self._copy.tend(self)

    def stored(self, view: str) -> Iterator[Row]:
        """Every row of a view that is in the file, in key order and in pages, none of which stay in memory."""
        after = b""
        while page := [_row(self._db, *stored) for stored in self._db.execute(_PAGE, (view, after, ROWS_PER_PAGE))]:
            yield from page
            after = page[-1].key

    def newest_known(self) -> int | None:
        """The largest known time of any row in the file."""
        newest: bytes | None = self._db.execute("SELECT max(substr(row, 13, 8)) FROM online").get
        return None if newest is None else unpack_time(newest)

    def rows(self, view: str) -> Iterator[Row]:
        """Every row of a view in key order, deletes included, pending ones too."""
        self._read_all(view)
        held = self._held[view]
        return (held[key] for key in sorted(held))

    def _read(self, view: str, key: bytes) -> Row | None:
        if (view, key) not in self._absent:
            self._take_up([(view, key)])
        return self._held[view].get(key)

    def _take_up(self, wanted: Wanted) -> None:
        if len(self._absent) > MOST_ABSENT:
            self._absent.clear()
        for (view, key), row in zip(wanted, read_rows(self._db, wanted), strict=True):
            if row is None:
                self._absent.add((view, key))
            else:
                self._held[view][key] = row

    def _read_all(self, view: str) -> None:
        held = self._held[view]
        for _, key, stored in self._db.execute(f"{_COLUMNS} WHERE view = ?", (view,)):
            if key not in held:
                held[key] = _row(self._db, view, key, stored)


class OnlineReader:
    """The table as everybody else sees it: read-only, what is committed, safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self._db = open_database(path, readonly=True)
        self._lock = threading.Lock()
        if not self._db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'online'").get:
            self._db.close()
            raise UnknownName(which=f"{path} holds no online table", fix="Let its fold start once, then read")

    def get_many(self, wanted: Wanted) -> list[Row | None]:
        """One answer per (view, key), in order, in one round trip; None where there is no row, or a delete."""
        with self._lock:
            found = read_rows(self._db, wanted)
        return [living(row) for row in found]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


def _select(db: apsw.Connection, wanted: Wanted) -> list[Row | None]:
    found: list[Row | None] = [None] * len(wanted)
    # Fetched before anything is decoded, which is faster than in turns.
    stored: list[Any] = db.execute(_find(len(wanted)), tuple(chain.from_iterable(wanted))).fetchall()
    for n, blob in stored:
        view, key = wanted[n]
        found[n] = unpack(view, key, blob) or _damaged(db, view, key)
    return found


@lru_cache(maxsize=64)
def _find(count: int) -> str:
    """The statement that finds so many rows, with the place of each as a number in it."""
    return _FIND.format(", ".join(f"({n}, ?, ?)" for n in range(count)))


def _row(db: apsw.Connection, view: str, key: bytes, blob: bytes) -> Row:
    return unpack(view, key, blob) or _damaged(db, view, key)


def _damaged(db: apsw.Connection, view: str, key: bytes) -> NoReturn:
    raise _corrupt(db, f"view {view!r}, key {key.hex()[:40]}")


def _corrupt(db: apsw.Connection, what: str) -> Corrupt:
    fix = (
        "Delete this file if a fold owns it: the fold is rebuilt from the journal; otherwise materialize the view again"
    )
    return Corrupt(which=f"{Path(db.filename).name}, online table, {what}", fix=fix)
