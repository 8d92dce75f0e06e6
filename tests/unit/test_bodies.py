"""Bodies alone are those of the records: in memory, in segments, in blobs, behind what retention let go."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal.archive import seal_to_blobs
from journal.blobs import DirectoryBlobs
from journal.bodies import Body, bodies_of
from journal.clock import DAY, SECOND
from journal.errors import Corrupt
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.reading import ByKind
from journal.record import Draft, Kind
from journal.retention import apply_retention, plan_retention
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

NOON = 1_357_041_600 * SECOND
KINDS = (Kind.PREDICTION, Kind.EXAMPLE, Kind.SOURCE, Kind.DEFINITION)
RECORDS = 48


def draft(n: int) -> Draft:
    body = b'{"n":%d}' % n
    return Draft(kind=KINDS[n % 4], stream="s", source="/t", id=f"e{n}", time=NOON + n * DAY, body=body)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """Four kinds by turns, a day apart, ten records to a segment."""
    journal = SqliteJournal(tmp_path / "journal", "t", dedup_window=5 * DAY, records_per_segment=10)
    for n in range(RECORDS):
        journal.append([draft(n)])
    yield journal
    journal.close()


def agree(journal: ByKind) -> int:
    """Hold every page of bodies against the records; how many there are of all kinds."""
    seen = 0
    for kind in KINDS:
        for limit in (1, 3, 10_000):
            for after in range(START, RECORDS):
                records = journal.of_kind(kind, after, limit)
                bodies = bodies_of(journal, kind, after, limit)
                assert bodies == [Body(record.offset, record.at, record.body) for record in records]
        seen += len(bodies_of(journal, kind))
    return seen


def test_of_a_journal_in_memory() -> None:
    journal = MemoryJournal("t")
    journal.append([draft(n) for n in range(RECORDS)])
    assert agree(journal) == RECORDS


def test_of_segments_by_their_owner_and_by_a_reader(journal: SqliteJournal) -> None:
    assert agree(journal) == RECORDS
    with closing(SqliteReader(journal.folder)) as reader:
        assert agree(reader) == RECORDS


def test_of_segments_in_blobs_and_of_what_retention_left(journal: SqliteJournal, tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path / "blobs")
    assert len(seal_to_blobs(journal.folder, blobs)) == 4
    with closing(SqliteReader(journal.folder, blobs)) as reader:
        assert agree(reader) == RECORDS
    plan = plan_retention(journal.folder, readers={"join": RECORDS}, keeps=15 * DAY, remembers=5 * DAY)
    apply_retention(journal.folder, plan, blobs)
    with closing(SqliteReader(journal.folder, blobs)) as reader:
        kept = agree(reader)
        assert len(bodies_of(reader, Kind.DEFINITION)) == RECORDS // 4
    assert RECORDS // 4 < kept < RECORDS


@pytest.mark.parametrize("change", ["checksum = checksum + 1", "data = zeroblob(length(data))"])
def test_a_damaged_record_is_named(journal: SqliteJournal, change: str) -> None:
    segment = sorted(journal.folder.glob("segment-*.sqlite"))[1]
    journal.close()
    with closing(sqlite3.connect(segment)) as database, database:
        database.execute(f"UPDATE record SET {change} WHERE offset = 13")
    with closing(SqliteReader(journal.folder)) as reader:
        assert len(bodies_of(reader, Kind.PREDICTION)) == RECORDS // 4
        with pytest.raises(Corrupt, match="record 13"):
            bodies_of(reader, Kind.EXAMPLE)
