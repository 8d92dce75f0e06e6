"""Whether a journal is what was written: every page, record, id and end, in pages, with flat memory."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import apsw
import msgspec

from journal.acked import read_acked
from journal.archive import check_blob, kept_path
from journal.blobs import Blobs
from journal.errors import Corrupt, UnknownName
from journal.log import START
from journal.segment import Segment, checksum_of, record_name, unpack
from journal.sqlite_reader import SqliteReader
from journal.stamp import identity

_PAGE = 1_000
Progress = Callable[[int, int], None]
"""Told how many records are done, of how many."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        incarnation: The life of the journal.
        begins: The first offset that can be read; what lies before is no longer provable.
        end: The last offset.
        records: How many records hold.
        segments: How many files in the folder.
        archived: How many segments in blobs.
        damage: Every place that does not hold, in words; empty when all does.
        fix: What to do about it.
    """

    incarnation: str
    begins: int
    end: int
    records: int
    segments: int
    archived: int
    damage: list[str]
    fix: str


def verify(folder: Path, blobs: Blobs | None = None, progress: Progress = lambda _, __: None) -> Verified:
    """Check a whole journal, also beside an owner that writes on.

    Raises:
        Corrupt: A file cannot be opened at all.
    """
    noted = read_acked(folder)
    with closing(SqliteReader(folder, blobs)) as reader:
        count = _Count(reader.end() + 1 - reader.begins, progress)
        damage = list(_damage_of(reader, blobs, count))
        if noted.end > reader.end():
            damage.append(_lost(folder, reader.end(), noted.end))
        return Verified(
            incarnation=reader.incarnation,
            begins=reader.begins,
            end=reader.end(),
            records=count.done,
            segments=len(reader.segments()),
            archived=len(reader.chain.archive.segments),
            damage=[error.which for error in damage],
            fix=damage[0].fix if damage else "",
        )


class _Count:
    def __init__(self, of: int, progress: Progress) -> None:
        self.done, self._of, self._progress = 0, of, progress

    def __call__(self, more: int) -> None:
        self.done += more
        self._progress(self.done, self._of)


def _damage_of(reader: SqliteReader, blobs: Blobs | None, count: Callable[[int], None]) -> Iterator[Corrupt]:
    expected = reader.begins
    with tempfile.TemporaryDirectory(prefix="rivermill-verify-") as scratch:
        for archived in reader.chain.archive.segments:
            try:
                segment = check_blob(reader.folder, reader.chain.archive, archived, blobs, Path(scratch))
            except (Corrupt, UnknownName) as error:
                which = f"segment of records {archived.first} to {archived.last}: {error.which}"
                yield Corrupt(which=which, fix=error.fix)
            else:
                with closing(segment):
                    yield from damage_in(segment, count)
                segment.path.unlink()
            expected = archived.last + 1
    if kept_path(reader.folder).exists():
        with closing(Segment(kept_path(reader.folder), readonly=True)) as kept:
            yield from _pages(kept)
            yield from _records(kept, None, lambda _: None)
    for segment in reader.segments():
        if segment.first != expected:
            yield segment.corrupt(f"records {expected} to {segment.first - 1} are missing before this file")
        yield from damage_in(segment, count)
        expected = max(segment.first, (segment.last_offset() or START) + 1)


def damage_in(segment: Segment, count: Callable[[int], None] = lambda _: None) -> Iterator[Corrupt]:
    """Every page, record, id and end of one segment that does not hold."""
    try:
        yield from _pages(segment)
        yield from _records(segment, segment.first, count)
        segment.check_ends()
    except Corrupt as error:
        yield error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        yield segment.corrupt(str(error))


def _pages(segment: Segment) -> Iterator[Corrupt]:
    for (line,) in segment.db.execute("PRAGMA integrity_check(20)"):
        if line != "ok":
            yield segment.corrupt(" ".join(str(line).split()))


def _records(segment: Segment, expected: int | None, count: Callable[[int], None]) -> Iterator[Corrupt]:
    after, at = (START if expected is None else expected - 1), segment.begins_after
    identified = superseded = 0
    whole = True
    while rows := segment.rows(after, _PAGE):
        keys: list[tuple[str, int]] = []
        for offset, kind, checksum, data in rows:
            if expected is not None and offset != expected:
                whole = False
                yield segment.corrupt(f"records {expected} to {offset - 1} are missing")
            expected = None if expected is None else offset + 1
            if checksum_of(offset, data) != checksum:
                whole = False
                yield segment.corrupt(record_name(offset))
                continue
            record = unpack(offset, data)
            if record.kind != kind or record.at <= at:
                yield segment.corrupt(f"{record_name(offset)} stands in the wrong place")
            at = record.at
            if (key := identity(record)) is not None:
                keys.append((key, offset))
        found = [segment.offset_of(key) for key, _ in keys]
        for (_, offset), points in zip(keys, found, strict=True):
            if points is None or points < offset:
                yield segment.corrupt(f"the id of {record_name(offset)} is not in the index")
            superseded += points is not None and points > offset
        identified += len(keys)
        count(len(rows))
        after = rows[-1][0]
    indexed = int(segment.db.execute("SELECT count(*) FROM id").get)
    if whole and indexed != identified - superseded:
        yield segment.corrupt(f"the index holds {indexed} ids, the records {identified - superseded}")


def _lost(folder: Path, end: int, acked: int) -> Corrupt:
    return Corrupt(
        which=f"{folder}: records {end + 1} to {acked} were acknowledged and are gone",
        fix="Run `rivermill journal repair` with a backup that holds them",
    )
