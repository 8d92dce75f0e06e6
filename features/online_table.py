"""The online store's table: the newest row of each entity in each view, and the guard that keeps it the newest.

The guard: a row is taken when its stamp (event, known) is larger than the held one, and in no other case. So whatever
order rows come in, the largest stamp stays. A delete is a row with stamps and no values; it reads as missing.
"""

import threading
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw
import msgspec

from features.rows import Row, decode_values, encode_values
from journal.errors import Corrupt, UnknownName
from journal.sqlite import open_database

Wanted = Sequence[tuple[str, bytes]]
"""(view, encoded key) of each row asked for."""

PAIRS_PER_SELECT = 10_000
"""SQLite binds at most 32,766 values in one statement, two for each row asked for."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS online (
    view TEXT, key BLOB, event INTEGER NOT NULL, known INTEGER NOT NULL, value BLOB, checksum INTEGER NOT NULL,
    PRIMARY KEY (view, key)) STRICT, WITHOUT ROWID;
"""
_UPSERT = """
INSERT INTO online VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (view, key) DO UPDATE SET
    event = excluded.event, known = excluded.known, value = excluded.value, checksum = excluded.checksum
WHERE (excluded.event, excluded.known) > (online.event, online.known)
"""
_COLUMNS = "SELECT view, key, event, known, value, checksum FROM online"

_Stored = tuple[str, bytes, int, int, bytes | None, int]
_encode = msgspec.msgpack.Encoder().encode


def create_table(db: apsw.Connection) -> None:
    """Make the table where it is missing."""
    db.execute(_SCHEMA)


def write_rows(db: apsw.Connection, rows: Iterable[tuple[str, Row]]) -> None:
    """Upsert (view, row) pairs, each behind the guard; the transaction is the caller's."""
    db.executemany(_UPSERT, (_stored(view, row) for view, row in rows))


def read_rows(db: apsw.Connection, wanted: Wanted) -> dict[tuple[str, bytes], Row]:
    """The stored rows among those asked for, deletes included, from one snapshot per `PAIRS_PER_SELECT`.

    Raises:
        Corrupt: A checksum does not hold, or a page of the file is damaged.
    """
    found: dict[tuple[str, bytes], Row] = {}
    try:
        for start in range(0, len(wanted), PAIRS_PER_SELECT):
            for stored in _select(db, wanted[start : start + PAIRS_PER_SELECT]):
                found[stored[0], stored[1]] = _row(db, stored)
    except apsw.CorruptError as error:
        raise _corrupt(db, str(error)) from error
    return found


class OnlineTable:
    """The table as the one fold that owns it sees it: newest rows in memory, written back at `flush`.

    Memory holds one row per entity that was written or read, and a None per entity that was asked for in vain. A row's
    values are kept as given: hand over a sequence that nothing changes afterwards.
    """

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._held: defaultdict[str, dict[bytes, Row | None]] = defaultdict(dict)
        self._pending: defaultdict[str, dict[bytes, Row]] = defaultdict(dict)
        create_table(db)

    def put(self, view: str, row: Row) -> bool:
        """Offer a row; whether the guard took it. It is in the file after the next `flush`."""
        key = row[0]
        rows = self._held[view]
        held = rows[key] if key in rows else self._read(view, key)
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
        held = self._held
        unread = [pair for pair in wanted if pair[1] not in held[pair[0]]]
        if unread:
            loaded = read_rows(self._db, unread)
            for view, key in unread:
                held[view][key] = loaded.get((view, key))
        return [_living(held[view][key]) for view, key in wanted]

    def flush(self) -> None:
        """Write what changed into the caller's transaction."""
        write_rows(self._db, ((view, row) for view, rows in self._pending.items() for row in rows.values()))
        self._pending.clear()

    def rows(self, view: str) -> Iterator[Row]:
        """Every row of a view in key order, deletes included, pending ones too."""
        self._read_all(view)
        held = self._held[view]
        return (row for key in sorted(held) if (row := held[key]) is not None)

    def _read(self, view: str, key: bytes) -> Row | None:
        row = self._held[view][key] = read_rows(self._db, [(view, key)]).get((view, key))
        return row

    def _read_all(self, view: str) -> None:
        held = self._held[view]
        for stored in self._db.execute(f"{_COLUMNS} WHERE view = ?", (view,)):
            if held.get(stored[1]) is None:
                held[stored[1]] = _row(self._db, stored)


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
        return [_living(found.get(pair)) for pair in wanted]

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


def _select(db: apsw.Connection, wanted: Wanted) -> Iterator[_Stored]:
    marks = ", ".join(["(?, ?)"] * len(wanted))
    bindings = [value for pair in wanted for value in pair]
    return db.execute(f"{_COLUMNS} WHERE (view, key) IN (VALUES {marks})", bindings)


def _living(row: Row | None) -> Row | None:
    return None if row is None or row.values is None else row


def _stored(view: str, row: Row) -> _Stored:
    value = None if row.values is None else encode_values(row.values)
    return view, row.key, row.event, row.known, value, _checksum(view, row.key, row.event, row.known, value)


def _row(db: apsw.Connection, stored: _Stored) -> Row:
    view, key, event, known, value, checksum = stored
    if _checksum(view, key, event, known, value) != checksum:
        raise _corrupt(db, f"view {view!r}, key {key.hex()[:40]}")
    return Row(key, event, known, None if value is None else decode_values(value))


def _checksum(view: str, key: bytes, event: int, known: int, value: bytes | None) -> int:
    return zlib.crc32(_encode((view, key, event, known, value)))


def _corrupt(db: apsw.Connection, what: str) -> Corrupt:
    fix = (
        "Delete this file if a fold owns it: the fold is rebuilt from the journal; otherwise materialize the view again"
    )
    return Corrupt(which=f"{Path(db.filename).name}, online table, {what}", fix=fix)
