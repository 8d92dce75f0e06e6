"""Following a journal that another process owns: every record once, whatever its owner is doing to the files."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal.clock import DAY, SECOND
from journal.log import START
from journal.record import Cause, Draft, Kind, Record
from journal.segment import Segment, segment_path, segment_paths
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

NOON = 1_357_041_600 * SECOND


def event(n: int, id_: str | None = None, kind: Kind = Kind.SOURCE, cause: Cause | None = None) -> Draft:
    return Draft(kind=kind, stream="s", source="/t", id=id_ or f"e{n}", time=NOON + n, body=b"{}", cause=cause)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path, "t", dedup_window=DAY, records_per_segment=3)
    yield journal
    journal.close()


@pytest.fixture
def reader(journal: SqliteJournal) -> Iterator[SqliteReader]:
    reader = SqliteReader(journal.folder)
    yield reader
    reader.close()


def follow(reader: SqliteReader, after: int, limit: int = 2) -> list[Record]:
    records: list[Record] = []
    reader.refresh()
    while page := reader.read(0, after, limit):
        records += page
        after = page[-1].offset
    return records


def test_new_segments_are_taken_up_by_a_refresh(journal: SqliteJournal, reader: SqliteReader) -> None:
    written = []
    for n in range(8):
        written += journal.append([event(n)])
        assert follow(reader, START) == written
        assert (reader.end(), reader.clock, reader.last_at) == (n, NOON + n, written[-1].at)  # type: ignore[union-attr]
    assert len(reader.segments()) == 3
    assert reader.incarnation == journal.incarnation


def test_a_folder_without_a_journal_is_followed_from_its_first_record(tmp_path: Path) -> None:
    reader = SqliteReader(tmp_path)
    assert (reader.end(), reader.clock, reader.last_at, reader.mark("x"), reader.incarnation) == (START, 0, 0, None, "")
    journal = SqliteJournal(tmp_path, "t")
    written = journal.append([event(0)])
    assert follow(reader, START) == written
    reader.close()
    journal.close()


@pytest.mark.parametrize("statements", [[], ["CREATE TABLE meta (key TEXT, value ANY)"]], ids=["empty", "tables"])
def test_a_segment_that_is_still_being_made_is_left_alone(
    journal: SqliteJournal, reader: SqliteReader, statements: list[str]
) -> None:
    written = journal.append([event(n) for n in range(3)])
    unborn = Segment(journal.folder / "segment-000000000003.sqlite")
    for table in ("meta", "record", "id", "mark", "tally"):
        unborn.db.execute(f"DROP TABLE {table}")
    for statement in statements:
        unborn.db.execute(statement)
    assert follow(reader, START) == written
    assert (len(reader.segments()), reader.end(), reader.clock) == (1, 2, NOON + 2)
    unborn.close()
    unborn.path.unlink()
    written += journal.append([event(3)])
    assert follow(reader, START) == written
    assert len(reader.segments()) == 2


HALF_MADE = """
import os, sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("PRAGMA cache_size = 1; BEGIN; CREATE TABLE meta (value); INSERT INTO meta VALUES (zeroblob(1000000))")
os._exit(0)
"""


def test_a_segment_whose_maker_died_in_mid_write_is_left_to_the_next_owner(
    journal: SqliteJournal, reader: SqliteReader
) -> None:
    """Its rollback journal is there, and whoever only reads may not roll back."""
    written = journal.append([event(n) for n in range(3)])
    path = segment_path(journal.folder, 3)
    subprocess.run([sys.executable, "-c", HALF_MADE, str(path)], check=True)
    assert path.with_name(f"{path.name}-journal").exists()
    assert follow(reader, START) == written
    journal.close()
    with closing(SqliteJournal(journal.folder, "t", dedup_window=DAY, records_per_segment=3)) as owner:
        written += owner.append([event(3)])
        assert follow(reader, START) == written


def test_marks_are_the_last_commits(journal: SqliteJournal, reader: SqliteReader) -> None:
    for n in range(5):
        journal.append([event(n, cause=Cause(0, n, 0))], sink="file")
        reader.refresh()
        assert reader.mark("file") == journal.mark("file") == Cause(0, n, 0)
    with journal.group():
        journal.append([event(5, cause=Cause(0, 5, 1))], sink="file")
        assert reader.mark("file") == Cause(0, 4, 0)
    assert reader.mark("file") == Cause(0, 5, 1)
    assert reader.mark("other") is None


def test_an_id_is_found_by_kind_and_source(journal: SqliteJournal, reader: SqliteReader) -> None:
    journal.append([event(n) for n in range(7)])
    journal.append([event(7, "e1", Kind.QUESTION)])
    reader.refresh()
    assert [reader.find(Kind.SOURCE, "/t", f"e{n}") for n in range(7)] == list(range(7))
    assert reader.find(Kind.QUESTION, "/t", "e1") == 7
    assert reader.find(Kind.QUESTION, "/t", "e2") is None
    assert reader.find(Kind.SOURCE, "/elsewhere", "e1") is None


def test_of_two_under_one_id_the_newer_is_found(journal: SqliteJournal, reader: SqliteReader) -> None:
    first, _, again = journal.append([event(0), event(3 * DAY, "x"), event(3 * DAY, "e0")])
    assert isinstance(first, Record)
    assert isinstance(again, Record)
    journal.append([event(3 * DAY + n) for n in range(1, 4)])
    reader.refresh()
    assert reader.find(Kind.SOURCE, "/t", "e0") == again.offset != first.offset


def test_a_reader_beside_a_writer_misses_and_repeats_nothing(tmp_path: Path) -> None:
    """The owner writes groups over many segments while a reader follows; a second owner takes over in between."""
    journal = SqliteJournal(tmp_path, "t", records_per_segment=40)
    journal.append([event(0)])
    done = threading.Event()

    def write(journal: SqliteJournal, numbers: range) -> None:
        for n in numbers:
            journal.append([event(3 * n + part) for part in range(3)])

    def write_all() -> None:
        write(journal, range(1, 150))
        journal.close()
        successor = SqliteJournal(tmp_path, "t", records_per_segment=40)
        write(successor, range(150, 300))
        successor.close()
        done.set()

    writer = threading.Thread(target=write_all)
    reader = SqliteReader(tmp_path)
    writer.start()
    seen: list[Record] = []
    while not done.is_set() or reader.end() > seen[-1].offset:
        seen += follow(reader, seen[-1].offset if seen else START, 50)
    writer.join()
    reader.close()
    assert [record.offset for record in seen] == list(range(1 + 299 * 3))
    assert [record.id for record in seen] == ["e0", *(f"e{n}" for n in range(3, 900))]
    assert len(segment_paths(tmp_path)) > 15
