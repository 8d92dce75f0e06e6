"""The SQLite journal over its files: restarts, owners, damage, full disks."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import apsw
import pytest

from journal.clock import DAY, SECOND
from journal.errors import Corrupt, DurabilityLost, Misconfigured, NotWritable, OwnedElsewhere
from journal.log import START, Repeat, Replayed
from journal.record import Cause, Draft, Kind
from journal.segment import segment_paths
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

NOON = 1_357_041_600 * SECOND


def event(n: int, cause: Cause | None = None) -> Draft:
    return Draft(
        kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=b'{"n":%d}' % n, cause=cause
    )


def test_a_restart_stands_where_the_last_owner_stood(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t", records_per_segment=3)
    written = [journal.append([event(n, Cause(0, n, 0))], sink="file")[0] for n in range(8)]
    with journal.group():
        journal.tally("refused")
    life = journal.incarnation
    journal.close()
    again = SqliteJournal(tmp_path, "t", records_per_segment=3)
    assert again.read(0, START, 100) == written
    assert (again.incarnation, again.clock, again.end()) == (life, NOON + 7, 7)
    assert again.mark("file") == Cause(0, 7, 0)
    assert again.tallies() == {"refused": 1}
    assert again.append([event(3)]) == [Repeat(3)]
    assert again.append([event(9, Cause(0, 7, 0))], sink="file") == [Replayed()]
    assert len(segment_paths(tmp_path)) == 3
    again.close()


def test_only_the_newest_segment_may_hold_many_pages(tmp_path: Path) -> None:
    """A journal has ever more segments: what each of them kept in memory would be kept for ever."""
    journal = SqliteJournal(tmp_path, "t", records_per_segment=3)
    for n in range(10):
        journal.append([event(n)])
    reader = SqliteReader(tmp_path)
    for chain in (journal._chain, reader._chain):
        *sealed, newest = [segment.db.pragma("cache_size") for segment in chain.local]
        assert len(sealed) == 3
        assert newest < min(sealed) == max(sealed), "in KiB, as negative numbers"
    reader.close()
    journal.close()


def test_a_segment_interrupted_at_birth_is_discarded(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t", records_per_segment=3)
    journal.append([event(n) for n in range(3)])
    journal.close()
    apsw.Connection(str(tmp_path / "segment-000000000003.sqlite")).execute("CREATE TABLE meta (key TEXT, value ANY)")
    again = SqliteJournal(tmp_path, "t", records_per_segment=3)
    assert again.append([event(3)])[0].offset == 3  # type: ignore[union-attr]
    again.close()


def test_a_second_owner_is_refused_and_told_the_first(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    code = f"from pathlib import Path; from journal.owner import OwnerLock; OwnerLock(Path({str(tmp_path)!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OwnedElsewhere" in other.stderr
    assert f"process {os.getpid()}" in other.stderr
    with pytest.raises(OwnedElsewhere):
        SqliteJournal(tmp_path, "t")
    journal.close()
    SqliteJournal(tmp_path, "t").close()


def test_readers_see_what_was_committed_and_nothing_else(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(0)])
    with journal.group():
        journal.append([event(1)])
        reader = SqliteReader(tmp_path)
        assert [record.id for record in reader.read(0, START, 10)] == ["e0"]
    assert reader.end() == 1
    reader.close()
    journal.close()


def test_a_killed_owner_leaves_whole_groups(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from pathlib import Path
        from journal.record import Draft, Kind
        from journal.sqlite_log import SqliteJournal
        journal = SqliteJournal(Path({str(tmp_path)!r}), "t", records_per_segment=7)
        event = lambda n: Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{{n}}", time={NOON} + n, body=b"")
        n = 0
        while True:
            with journal.group():
                for _ in range(5):
                    journal.append([event(n)])
                    n += 1
            print(n, flush=True)
    """)
    acked = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(4):
            acked = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        journal = SqliteJournal(tmp_path, "t", records_per_segment=7)
        assert journal.end() + 1 >= acked
        assert (journal.end() + 1) % 5 == 0
        assert [r.id for r in journal.read(0, START, 10_000)] == [f"e{n}" for n in range(journal.end() + 1)]
        journal.close()
        for path in (*tmp_path.glob("segment-*"), tmp_path / "acked"):
            path.unlink()


def flip(path: Path, needle: bytes) -> None:
    data = bytearray(path.read_bytes())
    index = data.index(needle)
    data[index] ^= 0x40
    path.write_bytes(data)


def test_a_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(n) for n in range(1000, 1010)])
    journal.close()
    (path,) = segment_paths(tmp_path)
    flip(path, b'{"n":1004}')
    reader = SqliteReader(tmp_path)
    assert len(reader.read(0, START, 4)) == 4
    with pytest.raises(Corrupt, match=r"segment-000000000000.sqlite: record 4\."):
        reader.read(0, START, 5)
    assert [error.which for error in reader.segments()[0].damage()] == ["segment-000000000000.sqlite: record 4"]
    reader.close()


def test_missing_records_are_found(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(n) for n in range(10)])
    journal._current.db.execute("DELETE FROM record WHERE offset IN (3, 4)")
    journal.close()
    reader = SqliteReader(tmp_path)
    assert [e.which for e in reader.segments()[0].damage()] == [
        "segment-000000000000.sqlite: records 3 to 4 are missing"
    ]
    reader.close()


@pytest.mark.parametrize(
    "change",
    ["UPDATE mark SET offset = 3", "UPDATE tally SET count = 7", "UPDATE meta SET value = 5 WHERE key = 'clock'"],
)
def test_a_changed_mark_count_or_clock_is_found(tmp_path: Path, change: str) -> None:
    journal = SqliteJournal(tmp_path, "t")
    with journal.group():
        journal.append([event(0, Cause(0, 9, 0))], sink="file")
        journal.tally("refused")
    journal._current.db.execute(change)
    journal.close()
    with pytest.raises(Corrupt, match="marks, tallies or clock"):
        SqliteJournal(tmp_path, "t")


def test_a_truncated_segment_is_found(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(n) for n in range(2_000)])
    journal.close()
    (path,) = segment_paths(tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(Corrupt, match="segment-000000000000"):
        SqliteReader(tmp_path).read(0, START, 5_000)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "segment-000000000000.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 50)
    with pytest.raises(Corrupt, match="segment-000000000000"):
        SqliteJournal(tmp_path, "t")


def test_a_failed_sync_stops_the_owner(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(0)])
    with pytest.raises(DurabilityLost, match="owner stops"), journal.group():
        journal.append([event(1)])
        raise apsw.IOError
    with pytest.raises(DurabilityLost, match="failed before"):
        journal.append([event(2)])
    assert journal.end() == 0
    journal.close()


def test_a_full_disk_heals(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(0)])
    pages = journal._current.db.execute("PRAGMA page_count").get
    journal._current.db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DurabilityLost, match="Make room"):
        journal.append([event(n) for n in range(1, 5_000)])
    assert journal.end() == 0
    journal._current.db.execute("PRAGMA max_page_count = 1000000")
    assert len(journal.append([event(n) for n in range(1, 5_000)])) == 4_999
    assert len(journal.read(0, START, 10_000)) == 5_000
    journal.close()


def test_another_pipelines_journal_is_refused(tmp_path: Path) -> None:
    SqliteJournal(tmp_path, "flights").close()
    with pytest.raises(Misconfigured, match="'flights', not of 'phishing'"):
        SqliteJournal(tmp_path, "phishing")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotWritable, match="file/journal"):
        SqliteJournal(tmp_path / "file" / "journal", "t")


def test_forgotten_ids_need_no_old_segments(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t", dedup_window=DAY, records_per_segment=1)
    journal.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id="a", time=NOON, body=b"")])
    journal.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id="b", time=NOON + 3 * DAY, body=b"")])
    journal.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id="c", time=NOON + 6 * DAY, body=b"")])
    assert journal.append([event(0)])[0].offset == 3  # type: ignore[union-attr]
    journal.close()


def test_the_files_are_plain_sqlite(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, "t")
    journal.append([event(0)])
    journal.close()
    (path,) = segment_paths(tmp_path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM record").fetchone() == (1,)
    connection.close()
