"""A fold's file: keyed state, embedded tables and the position, committed as one SQLite transaction.

Whoever opens a file for writing claims its next epoch, and every commit holds only for the epoch that is the file's
still: of two writers the older one changes nothing from the moment the newer one opens.
"""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from journal.errors import Corrupt, DurabilityLost, Fenced
from journal.log import START, Position
from journal.sqlite import open_database

SUCCESSORS = "successors"
"""The folder, with one for each fold, of files that take the place of those that are read; see `journal.rebuild`."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS position (
    fold TEXT PRIMARY KEY, version INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    incarnation TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    checksum INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state (
    space TEXT, key BLOB, value BLOB NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (space, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writer (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL) STRICT;
"""
_REBUILD = "Delete this file: the fold is rebuilt from the journal at the next start"
_HAS_POSITIONS = "SELECT count(*) FROM sqlite_schema WHERE name = 'position'"
_DERIVED_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'writer'"
_ONE_WRITER = "Nothing was changed. One process at a time writes a fold: stop this one"


class FoldFile:
    """One fold's state on disk. Rows carry a checksum, so a flipped byte is an error and never a wrong feature."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self.path = path
        self.db = open_database(path, readonly=readonly)
        self.epoch = 0
        """Which writer of this file this is, from 1; 0 for a reader."""
        if not readonly:
            self.db.execute(_SCHEMA)
            self.epoch = self._claimed()

    def _claimed(self) -> int:
        claimed: int = self.db.execute(
            "INSERT INTO writer VALUES (1, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch"
        ).get
        return claimed

    def raise_epoch(self, epoch: int) -> None:
        """Go on under a higher epoch: the one that the journal's owner knows this writer by.

        Raises:
            Fenced: Another writer has claimed the file.
        """
        if epoch > self.epoch:
            with self.transaction():
                self.db.execute("UPDATE writer SET epoch = ?", (epoch,))
            self.epoch = epoch

    def _hold(self) -> None:
        """Make sure that this is the newest writer, as the open transaction's first write: so it stays that."""
        self.db.execute("UPDATE writer SET epoch = epoch WHERE epoch = ?", (self.epoch,))
        if self.db.changes() != 1:
            raise Fenced(which=f"{self.path.name}, whose writer {self.epoch} is not the last", fix=_ONE_WRITER)

    def position(self, fold: str) -> Position | None:
        """Where the fold stood at its last commit; None before the first."""
        row = self._place(fold)
        return Position(*row[2:]) if row else None

    def identity(self, fold: str) -> tuple[int, str] | None:
        """The fold's version and the library fingerprint that wrote the state."""
        row = self._place(fold)
        return (row[0], row[1]) if row else None

    def _place(self, fold: str) -> tuple[Any, ...] | None:
        row = self.db.execute(
            "SELECT version, fingerprint, incarnation, partition, offset, checksum FROM position WHERE fold = ?",
            (fold,),
        ).get
        if row is not None and _place_checksum(fold, row[:-1]) != row[-1]:
            raise Corrupt(which=f"{self.path.name}, position of fold {fold!r}", fix=_REBUILD)
        return None if row is None else row[:-1]

    def set_position(self, fold: str, version: int, fingerprint: str, position: Position) -> None:
        """Move the fold's position, inside the transaction that saves its state."""
        place = (version, fingerprint, *position)
        self.db.execute(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?, ?, ?, ?, ?)", (fold, *place, _place_checksum(fold, place))
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """State, embedded rows and position: all of it or none.

        Raises:
            DurabilityLost: The disk is full, or a write failed.
            Fenced: Another writer has claimed the file.
        """
        try:
            with self.db:
                self._hold()
                yield
        except (apsw.FullError, apsw.IOError) as error:
            raise DurabilityLost(
                which=f"{self.path.name} ({error})", fix="Make room on the disk, then start again"
            ) from error

    def put(self, space: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Write keyed state."""
        self.db.executemany(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?, ?)",
            ((space, key, value, _checksum(key, value)) for key, value in rows),
        )

    def delete(self, space: str, keys: Iterable[bytes]) -> None:
        """Forget keyed state."""
        self.db.executemany("DELETE FROM state WHERE space = ? AND key = ?", ((space, key) for key in keys))

    def get(self, space: str, key: bytes) -> bytes | None:
        """One value, or None; raises `Corrupt` when its checksum does not hold."""
        row = self.db.execute("SELECT value, checksum FROM state WHERE space = ? AND key = ?", (space, key)).get
        return self._checked(space, key, *row) if row else None

    def scan(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) of a space in key order."""
        for key, value, checksum in self.db.execute(
            "SELECT key, value, checksum FROM state WHERE space = ? ORDER BY key", (space,)
        ):
            yield key, self._checked(space, key, value, checksum)

    def check(self) -> None:
        """Verify every page and every row's checksum; raises `Corrupt`."""
        found = self.db.execute("PRAGMA integrity_check(1)").get
        if found != "ok":
            raise Corrupt(which=f"{self.path.name}: {found}", fix=_REBUILD)
        folds: list[Any] = self.db.execute("SELECT fold FROM position").fetchall()
        for (fold,) in folds:
            self._place(fold)
        spaces: list[Any] = self.db.execute("SELECT DISTINCT space FROM state").fetchall()
        for (space,) in spaces:
            for _ in self.scan(space):
                pass

    def clear(self) -> None:
        """Forget everything: every table of this file is derived from the journal and will be again."""
        with self.transaction():
            for (table,) in self.db.execute(_DERIVED_TABLES).fetchall():
                self.db.execute(f'DELETE FROM "{table}"')

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()

    def _checked(self, space: str, key: bytes, value: bytes, checksum: int) -> bytes:
        if _checksum(key, value) != checksum:
            raise Corrupt(
                which=f"{self.path.name}, state {space!r}, key {key.hex()[:40]}",
                fix=_REBUILD,
            )
        return value


class Place(NamedTuple):
    """Where a fold stood at its last commit, and what wrote its state."""

    version: int
    fingerprint: str
    position: Position


def place_in(path: Path, fold: str) -> Place | None:
    """What a fold's file says; None where it is missing, or whoever made it died before its first commit."""
    if not path.exists() or not path.stat().st_size:
        return None
    with closing(FoldFile(path, readonly=True)) as file:
        if not file.db.execute(_HAS_POSITIONS).get:
            return None
        identity, position = file.identity(fold), file.position(fold)
    return None if identity is None or position is None else Place(*identity, position)


def positions_in(folder: Path) -> dict[str, int]:
    """The offset that each fold of a folder has committed, by the fold's name; `START` before its first commit.

    A fold that is rebuilt beside its file is there twice, the second time by its path below the folder.
    """
    plain = {path.stem: path for path in sorted(folder.glob("*.sqlite"))}
    read = {path.resolve() for path in plain.values()}
    positions = {fold: _offset_in(path, fold) for fold, path in plain.items()}
    for path in sorted(folder.glob(f"{SUCCESSORS}/*/*.sqlite")):
        if path.resolve() not in read:
            positions[f"{SUCCESSORS}/{path.stem}"] = _offset_in(path, path.parent.name)
    return positions


def _offset_in(path: Path, fold: str) -> int:
    place = place_in(path, fold)
    return START if place is None else place.position.offset


def _place_checksum(fold: str, place: tuple[Any, ...]) -> int:
    return zlib.crc32(repr((fold, *place)).encode())


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))
