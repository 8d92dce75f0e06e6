"""One file of the journal: a run of records with their id index and the sinks' marks as they stand at its end.

A record is stored as the msgpack array of its envelope, with a CRC-32 over its offset and bytes beside it. No
transaction spans two segments, so a segment begins with a copy of its predecessor's marks and tallies.
"""

import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
from msgspec.structs import force_setattr

from journal.errors import Corrupt
from journal.record import Cause, Kind, Record
from journal.sqlite import open_database
from journal.stamp import identity

_RARE = (Kind.GENESIS, Kind.DEFINITION, Kind.QUARANTINE, Kind.SNAPSHOT, Kind.VERSION, Kind.DECISION, Kind.ALERT)
_IS_RARE = f"kind IN ({', '.join(repr(kind.value) for kind in _RARE)})"
"""SQLite takes a partial index only where a query repeats its condition, with the same values in the same order."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS record (
    offset INTEGER PRIMARY KEY, kind TEXT NOT NULL, checksum INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS rare ON record (kind, offset) WHERE {_IS_RARE};
CREATE TABLE IF NOT EXISTS id (key TEXT PRIMARY KEY, offset INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (
    sink TEXT PRIMARY KEY, partition INTEGER NOT NULL, offset INTEGER NOT NULL, n INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tally (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
"""
_ENDS_TOO_SOON = {apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS}
_KEYS_AT_ONCE = 100
_PREFIX, _DIGITS = "segment-", 12
_ENDS = "its marks, tallies or clock"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode

StoredRow = tuple[int, str, int, bytes]


class Segment:
    """A segment's file, opened for writing by the owner or read-only by anyone."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self._unwritten: list[tuple[int, str, int, bytes]] = []
        self._new_ids: dict[str, int] = {}
        self._free_ids: set[str] = set()
        self.wal_pages = 0
        self.first, self.begins_after = first_of(path), 0
        self.db = open_database(path, readonly=readonly)
        try:
            with self._intact():
                if not readonly:
                    self.db.execute(_SCHEMA)
                    self.db.set_wal_hook(self._count_pages)
                if self._has_tables():
                    self.begins_after = self.meta("begins_after") or 0
        except Corrupt:
            self.close()
            raise

    def _count_pages(self, _: apsw.Connection, __: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def is_born(self) -> bool:
        """Whether the owner has finished making this file; before that nobody may read it."""
        return self._has_tables() and self.meta("born") is not None

    def _has_tables(self) -> bool:
        return self.db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").get is not None

    def meta(self, key: str) -> Any:
        """A value of the segment's own facts, or None."""
        with self._intact():
            return self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).get

    def set_meta(self, **facts: int | str) -> None:
        """Write facts inside the open transaction."""
        # An upsert leaves the index alone, which a replacement would write anew.
        self.db.executemany(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", facts.items()
        )

    def insert(self, record: Record, key: str | None) -> None:
        """Take one record, and its id where its kind is identified; `write` puts them into the open transaction."""
        data = _pack(record)
        self._unwritten.append((record.offset, record.kind, checksum_of(record.offset, data), data))
        if key is not None:
            self._new_ids[key] = record.offset

    def write(self) -> None:
        """Write what was inserted, in one go: half the cost of a statement per record."""
        self.db.executemany("INSERT INTO record VALUES (?, ?, ?, ?)", self._unwritten)
        self.db.executemany("INSERT OR REPLACE INTO id VALUES (?, ?)", self._new_ids.items())
        self.forget()

    def rest(self) -> None:
        """Hold few pages from now on: a journal has many segments, and one at a time that everybody reads."""
        self.db.execute("PRAGMA cache_size = -2048")
        self.db.execute("PRAGMA shrink_memory")

    def checkpoint(self, *, wholly: bool = False) -> None:
        """Move committed pages from the write-ahead log into the file, as far as readers let it.

        SQLite would do so by itself inside a commit, and swallow a sync that failed.

        Args:
            wholly: Wait for readers, and leave an empty log.
        """
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if wholly else apsw.SQLITE_CHECKPOINT_PASSIVE
        self.db.wal_checkpoint(mode=mode)
        self.wal_pages = 0

    def abandon(self) -> None:
        """Close without another try at writing: what a sync that failed left behind is the next start's to mend."""
        self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.close()

    def forget(self) -> None:
        """Drop what was inserted and not written: its group failed."""
        self._unwritten.clear()
        self._new_ids.clear()
        self._free_ids.clear()

    def foresee(self, keys: Sequence[str]) -> None:
        """Note which ids do not stand here, for the rest of this group: one statement costs a tenth of one for each."""
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[first : first + _KEYS_AT_ONCE]
            places = ",".join("?" * len(some))
            self._free_ids.update(some)
            self._free_ids.difference_update(
                key for (key,) in self.db.execute(f"SELECT key FROM id WHERE key IN ({places})", some)
            )

    def offset_of(self, key: str) -> int | None:
        """Where an id stands in this segment."""
        offset: int | None = self._new_ids.get(key)
        if offset is None and key not in self._free_ids:
            offset = self.db.execute("SELECT offset FROM id WHERE key = ?", (key,)).get
        return offset

    def last_offset(self) -> int | None:
        """The offset of the last record, None while there is none."""
        with self._intact():
            offset: int | None = self.db.execute("SELECT max(offset) FROM record").get
        return offset

    def read(self, after: int, limit: int) -> list[Record]:
        """Up to ``limit`` records behind ``after``; raises `Corrupt` at the first whose checksum fails."""
        return self._records("WHERE offset > ? ORDER BY offset LIMIT ?", (after, limit))

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """The same for one kind."""
        return self._records(f"WHERE {_kind_clause(kind)} AND offset > ? ORDER BY offset LIMIT ?", (after, limit))

    def last_of_kind(self, kind: Kind, count: int) -> list[Record]:
        """The last ``count`` records of one kind, in order."""
        return self._records(f"WHERE {_kind_clause(kind)} ORDER BY offset DESC LIMIT ?", (count,))[::-1]

    def marks(self) -> dict[str, Cause]:
        """Every sink's mark."""
        with self._intact():
            return {sink: Cause(*cause) for sink, *cause in self.db.execute("SELECT * FROM mark")}

    def mark(self, sink: str) -> Cause | None:
        """One sink's mark."""
        row: Any = self.db.execute("SELECT partition, offset, n FROM mark WHERE sink = ?", (sink,)).get
        return None if row is None else Cause(*row)

    def set_marks(self, marks: dict[str, Cause]) -> None:
        """Write sinks' marks inside the open transaction."""
        self.db.executemany(
            "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", ((sink, *cause) for sink, cause in marks.items())
        )

    def tallies(self) -> dict[str, int]:
        """Every count."""
        with self._intact():
            return dict(self.db.execute("SELECT name, count FROM tally ORDER BY name"))

    def set_tallies(self, tallies: dict[str, int]) -> None:
        """Write counts inside the open transaction."""
        self.db.executemany("INSERT OR REPLACE INTO tally VALUES (?, ?)", tallies.items())

    def seal_ends(self, marks: dict[str, Cause], tallies: dict[str, int], last_at: int, clock: int) -> None:
        """Write a checksum over what a segment ends with; inside the transaction that changed it."""
        self.set_meta(ends=_ends_checksum(marks, tallies, last_at, clock))

    def check_ends(self) -> None:
        """Raise `Corrupt` when marks, tallies, clock or last stamp are not what the last commit wrote."""
        ends = self.meta("ends")
        found = _ends_checksum(self.marks(), self.tallies(), self.meta("last_at") or 0, self.meta("clock") or 0)
        if ends is not None and ends != found:
            raise self.corrupt(_ENDS)

    def damage(self) -> Iterator[Corrupt]:
        """Every page, record, id and end of this file that does not hold; see `journal.verify`."""
        from journal.verify import damage_in  # noqa: PLC0415 - it reads segments

        return damage_in(self)

    def rows(self, after: int, limit: int) -> list[StoredRow]:
        """Stored records as they are, unchecked: (offset, kind, checksum, data), in order."""
        with self._intact():
            found: list[Any] = self.db.execute(
                "SELECT offset, kind, checksum, data FROM record WHERE offset > ? ORDER BY offset LIMIT ?",
                (after, limit),
            ).fetchall()
        return found

    def rows_of(self, kind: Kind, after: int, limit: int) -> list[StoredRow]:
        """The same for one kind."""
        with self._intact():
            found: list[Any] = self.db.execute(
                f"SELECT offset, kind, checksum, data FROM record WHERE {_kind_clause(kind)} AND offset > ? "
                "ORDER BY offset LIMIT ?",
                (after, limit),
            ).fetchall()
        return found

    def take_rows(self, rows: Collection[StoredRow]) -> None:
        """Write stored records with their ids, whose checksums the caller has checked; what is here already stays."""
        self.db.executemany("INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?)", rows)
        keys = ((identity(unpack(offset, data)), offset) for offset, _, _, data in rows)
        self.db.executemany("INSERT OR REPLACE INTO id VALUES (?, ?)", (pair for pair in keys if pair[0] is not None))

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    def _records(self, where: str, bindings: tuple[int, ...]) -> list[Record]:
        if self._unwritten:
            self.write()
        with self._intact():
            rows: list[Any] = self.db.execute(f"SELECT offset, checksum, data FROM record {where}", bindings).fetchall()
        for offset, checksum, data in rows:
            if zlib.crc32(data, offset & 0xFFFFFFFF) != checksum:
                raise self.corrupt(record_name(offset))
        return [unpack(offset, data) for offset, _, data in rows]

    @contextmanager
    def _intact(self) -> Iterator[None]:
        """What SQLite says of a damaged file, as an error that names it."""
        try:
            yield
        except (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.MismatchError) as error:
            raise self.corrupt(str(error)) from error
        except apsw.IOError as error:
            if getattr(error, "extendedresult", 0) not in _ENDS_TOO_SOON:
                raise
            raise self.corrupt(str(error)) from error

    def corrupt(self, what: str) -> Corrupt:
        """An error about this file."""
        return Corrupt(
            which=f"{self.path.name}: {what}",
            fix="Nothing was cut: run `rivermill journal verify` for the extent, then `rivermill journal repair` "
            "with a backup",
        )


def first_of(path: Path) -> int:
    """The first offset of a segment, by its file's name; 0 of files that are not numbered."""
    digits = path.name.removeprefix(_PREFIX)[:_DIGITS]
    return int(digits) if digits.isdigit() else 0


def segment_path(folder: Path, first: int) -> Path:
    """Where the segment that begins with an offset lies."""
    return folder / f"{_PREFIX}{first:0{_DIGITS}d}.sqlite"


def segment_paths(folder: Path) -> list[Path]:
    """The segments' files, oldest first."""
    return sorted(folder.glob(f"{_PREFIX}*.sqlite"))


def _kind_clause(kind: Kind) -> str:
    # A literal lets SQLite prove that the partial index applies; a bound parameter does not.
    literal = f"kind = '{kind.value}'"
    return f"{literal} AND {_IS_RARE}" if kind in _RARE else literal


def _ends_checksum(marks: dict[str, Cause], tallies: dict[str, int], last_at: int, clock: int) -> int:
    return zlib.crc32(_encode((sorted(marks.items()), sorted(tallies.items()), last_at, clock)))


def record_name(offset: int) -> str:
    """How errors call a record."""
    return f"record {offset}"


def checksum_of(offset: int, data: bytes) -> int:
    """What is stored beside a record's bytes."""
    return zlib.crc32(data, offset & 0xFFFFFFFF)


def _pack(record: Record) -> bytes:
    return _encode(
        (
            record.format,
            record.kind,
            record.stream,
            record.id,
            record.time,
            record.at,
            record.source,
            record.schema,
            record.subject,
            record.sealed,
            record.conflict,
            record.principal,
            record.trace,
            record.cause,
            record.body,
        )
    )


def unpack(offset: int, data: bytes) -> Record:
    """A record from its stored bytes."""
    record = _decode(data)
    # Nobody has seen it yet. To make another one with its offset costs four times as much.
    force_setattr(record, "offset", offset)
    return record
