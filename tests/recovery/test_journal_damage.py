"""R4: what was acknowledged and is damaged or gone is said aloud, never cut; a backup puts it back."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal.archive import seal_to_blobs
from journal.backup import back_up
from journal.blobs import DirectoryBlobs
from journal.clock import SECOND
from journal.errors import Corrupt, Refused
from journal.log import START, Repeat
from journal.record import Cause, Draft, Kind, Record
from journal.repair import repair
from journal.segment import segment_path
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.verify import verify

NOON = 1_357_041_600 * SECOND


def event(n: int) -> Draft:
    body = b'{"n":%d,"text":"%s"}' % (n, b"y" * 300)
    return Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=body, cause=Cause(0, n, 0))


def write(folder: Path, count: int, *, first: int = 0, per_segment: int = 100) -> list[Record]:
    journal = SqliteJournal(folder, "t", records_per_segment=per_segment)
    outcomes = [outcome for n in range(first, first + count) for outcome in journal.append([event(n)], sink="file")]
    journal.close()
    return [outcome for outcome in outcomes if isinstance(outcome, Record)]


def all_of(folder: Path) -> list[Record]:
    reader = SqliteReader(folder)
    try:
        return reader.read(0, START, 10_000)
    finally:
        reader.close()


def flip(path: Path, place: int, bit: int = 0x40) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    path.write_bytes(data)


def kill_while_open(folder: Path, count: int) -> None:
    """Leave a journal whose last records are in the write-ahead log alone, all of them acknowledged."""
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from journal.record import Cause, Draft, Kind
        from journal.sqlite_log import SqliteJournal
        journal = SqliteJournal(Path({str(folder)!r}), "t", records_per_segment=100)
        for n in range({count}):
            journal.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{{n}}", time={NOON} + n,
                body=b'{{"n":%d,"text":"%s"}}' % (n, b"y" * 300), cause=Cause(0, n, 0))], sink="file")
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    subprocess.run([sys.executable, "-c", code], check=False)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    kill_while_open(folder, 30)
    assert (folder / "segment-000000000000.sqlite-wal").stat().st_size > 0
    return folder


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_damage_in_the_log_never_cuts_an_acknowledged_record(
    killed: Path, tmp_path: Path, how: str, share: float
) -> None:
    folder = shutil.copytree(killed, tmp_path / "j")
    log = folder / "segment-000000000000.sqlite-wal"
    place = int(log.stat().st_size * share)
    if how == "flip":
        flip(log, place)
    else:
        os.truncate(log, place)
    with pytest.raises(Corrupt, match=r"records \d+ to 29 were acknowledged and are gone"):
        SqliteJournal(folder, "t")
    assert any("were acknowledged and are gone" in each for each in verify(folder).damage)


def test_a_damaged_header_of_the_log_and_a_log_that_is_gone_are_found(killed: Path, tmp_path: Path) -> None:
    for number in range(2):
        folder = shutil.copytree(killed, tmp_path / f"{number}")
        log = folder / "segment-000000000000.sqlite-wal"
        if number:
            log.unlink()
        else:
            flip(log, 20)
        with pytest.raises(Corrupt):
            SqliteJournal(folder, "t")


def test_what_was_never_acknowledged_is_cut(killed: Path, tmp_path: Path) -> None:
    """A torn frame behind the last commit: the crash came while it was written."""
    folder = shutil.copytree(killed, tmp_path / "j")
    with (folder / "segment-000000000000.sqlite-wal").open("ab") as log:
        log.write(os.urandom(3_000))
    journal = SqliteJournal(folder, "t")
    assert [record.id for record in journal.read(0, START, 99)] == [f"e{n}" for n in range(30)]
    journal.close()
    assert verify(folder).damage == []


def test_every_flipped_bit_is_harmless_or_found(tmp_path: Path) -> None:
    """Anywhere in the file: either every record still reads as it was written, or an error names the file."""
    written = write(tmp_path / "whole", 60)
    size = segment_path(tmp_path / "whole", 0).stat().st_size
    chance, found = random.Random(4), 0
    places = [*range(0, 100, 8), *(chance.randrange(size) for _ in range(40))]
    for place in places:
        folder = shutil.copytree(tmp_path / "whole", tmp_path / "j")
        flip(segment_path(folder, 0), place, 1 << chance.randrange(8))
        try:
            damage = verify(folder).damage
            records = all_of(folder) if not damage else written
        except Corrupt as error:
            damage, records = [str(error)], written
        assert records == written, place
        assert all("segment-000000000000" in each or "acknowledged" in each for each in damage), damage
        found += bool(damage)
        shutil.rmtree(folder)
    assert found >= 10


@pytest.mark.parametrize("pages", [1, 2, 5])
def test_a_truncated_file_is_found(tmp_path: Path, pages: int) -> None:
    write(tmp_path / "j", 60)
    path = segment_path(tmp_path / "j", 0)
    os.truncate(path, path.stat().st_size - 4_096 * pages)
    with pytest.raises(Corrupt, match=r"segment-000000000000\.sqlite"):
        found = verify(tmp_path / "j")
        assert found.damage
        raise Corrupt(which=found.damage[0])


@pytest.mark.parametrize("offset", [37, 59], ids=["middle", "last"])
def test_readers_stop_before_a_damaged_record_and_a_repair_moves_them_on(tmp_path: Path, offset: int) -> None:
    folder = tmp_path / "j"
    written = write(folder, 50)
    back_up(folder, tmp_path / "early")
    written += write(folder, 10, first=50)
    back_up(folder, tmp_path / "late")
    path = segment_path(folder, 0)
    flip(path, path.read_bytes().index(b'{"n":%d,' % offset) + 12)
    reader = SqliteReader(folder)
    assert reader.read(0, START, offset) == written[:offset]
    with pytest.raises(Corrupt, match=rf"segment-000000000000\.sqlite: record {offset}\."):
        reader.read(0, offset - 1, 1)
    assert reader.read(0, offset, 99) == written[offset + 1 :]
    reader.close()
    (done,) = repair(folder, tmp_path / ("early" if offset < 50 else "late"))
    assert (done.put_back, done.kept) == (1, 10 if offset < 50 else 0)
    assert (folder / done.aside).exists()
    assert all_of(folder) == written
    assert verify(folder).damage == []
    journal = SqliteJournal(folder, "t")
    assert journal.append([event(offset)]) == [Repeat(offset)]
    assert journal.mark("file") == Cause(0, 59, 0)
    journal.close()


def test_a_lost_tail_is_put_back(killed: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(killed, tmp_path / "whole")
    SqliteJournal(whole, "t").close()
    back_up(whole, tmp_path / "backup")
    folder = shutil.copytree(killed, tmp_path / "j")
    os.truncate(folder / "segment-000000000000.sqlite-wal", 40_000)
    (done,) = repair(folder, tmp_path / "backup")
    assert done.put_back > 0
    assert [record.id for record in all_of(folder)] == [f"e{n}" for n in range(30)]
    SqliteJournal(folder, "t").close()


def test_a_record_newer_than_the_backup_is_not_given_up_silently(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    write(folder, 50)
    back_up(folder, tmp_path / "backup")
    write(folder, 10, first=50)
    path = segment_path(folder, 0)
    before = path.read_bytes()
    flip(path, before.index(b'{"n":55,') + 12)
    damaged = path.read_bytes()
    with pytest.raises(Corrupt, match="record 55 and 0 more are newer than the backup"):
        repair(folder, tmp_path / "backup")
    assert path.read_bytes() == damaged


def test_a_sealed_segments_tail_that_is_in_neither_is_named(tmp_path: Path) -> None:
    """The damaged file is not the last: how far it reached is what the next one says, not what is left of it."""
    folder = tmp_path / "j"
    write(folder, 15, per_segment=10)
    back_up(folder, tmp_path / "backup")
    write(folder, 10, first=15, per_segment=10)
    path = segment_path(folder, 10)
    path.write_bytes(path.read_bytes()[:4_096])
    damaged = path.read_bytes()
    with pytest.raises(Corrupt, match="record 15 and 4 more are newer than the backup"):
        repair(folder, tmp_path / "backup")
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("suffixes", [("",), ("", "-wal"), ("", "-wal", "-shm")])
def test_a_repair_that_died_while_the_damaged_file_went_aside_goes_on(
    killed: Path, tmp_path: Path, suffixes: tuple[str, ...]
) -> None:
    """What only the damaged file holds lies aside by then."""
    early = tmp_path / "early"
    with closing(SqliteReader(killed)) as reader:
        written = reader.read(0, START, 100)
    folder = shutil.copytree(killed, tmp_path / "j")
    shutil.copytree(killed, early)
    back_up(early, tmp_path / "backup")
    path = segment_path(folder, 0)
    with closing(SqliteJournal(folder, "t")) as journal:
        (newer,) = [outcome for outcome in journal.append([event(30)], sink="file") if isinstance(outcome, Record)]
        shutil.copytree(folder, tmp_path / "living")
    living = segment_path(tmp_path / "living", 0)
    shutil.copy(living, living.with_name(f"{living.name}.repairing"))
    (living.parent / "damaged").mkdir()
    for suffix in suffixes:
        file = living.with_name(living.name + suffix)
        file.rename(living.parent / "damaged" / file.name)
    (done,) = repair(living.parent, tmp_path / "backup")
    assert (done.kept, done.aside) == (1, f"damaged/{path.name}")
    assert all_of(living.parent) == [*written, newer]


def test_a_backup_of_another_life_is_refused(tmp_path: Path) -> None:
    for name in ("j", "other"):
        write(tmp_path / name, 20)
    back_up(tmp_path / "other", tmp_path / "backup")
    path = segment_path(tmp_path / "j", 0)
    flip(path, path.read_bytes().index(b'{"n":7,') + 12)
    with pytest.raises(Refused, match="backup is of life"):
        repair(tmp_path / "j", tmp_path / "backup")


def test_a_middle_segment_that_is_gone_is_missed_and_put_back(tmp_path: Path) -> None:
    written = write(tmp_path / "j", 35, per_segment=10)
    back_up(tmp_path / "j", tmp_path / "backup")
    segment_path(tmp_path / "j", 10).unlink()
    reader = SqliteReader(tmp_path / "j")
    assert reader.read(0, START, 10) == written[:10]
    with pytest.raises(Corrupt, match="records 10 to 19 are missing"):
        reader.read(0, 9, 5)
    reader.close()
    assert any("records 10 to 19 are missing" in each for each in verify(tmp_path / "j").damage)
    repair(tmp_path / "j", tmp_path / "backup")
    assert all_of(tmp_path / "j") == written


def test_a_segment_that_left_for_a_blob_is_not_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    written = write(folder, 35, per_segment=10)
    back_up(folder, tmp_path / "backup")
    seal_to_blobs(folder, DirectoryBlobs(tmp_path / "blobs"), before=NOON + 15)
    path = segment_path(folder, 20)
    flip(path, path.read_bytes().index(b'{"n":25,') + 12)
    assert [done.segment for done in repair(folder, tmp_path / "backup")] == [path.name]
    assert all_of(folder) == written


def test_the_last_segment_that_is_gone_is_missed(tmp_path: Path) -> None:
    write(tmp_path / "j", 25, per_segment=10)
    segment_path(tmp_path / "j", 20).unlink()
    with pytest.raises(Corrupt, match="records 20 to 24 were acknowledged"):
        SqliteJournal(tmp_path / "j", "t")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "j", "t")
    yield journal
    journal.close()


def test_ids_and_order_are_verified_too(journal: SqliteJournal) -> None:
    journal.append([event(n) for n in range(5)])
    db = journal._current.db
    db.execute("DELETE FROM id WHERE offset = 3")
    assert verify(journal.folder).damage == [
        "segment-000000000000.sqlite: the id of record 3 is not in the index",
        "segment-000000000000.sqlite: the index holds 4 ids, the records 5",
    ]
    db.execute("INSERT INTO id VALUES ('source' || char(0) || '/t' || char(0) || 'e3', 3), ('x', 1)")
    assert [each.partition(": ")[2] for each in verify(journal.folder).damage] == [
        "the index holds 6 ids, the records 5"
    ]


def test_verify_counts_what_it_checks(tmp_path: Path) -> None:
    write(tmp_path / "j", 25, per_segment=10)
    seen: list[tuple[int, int]] = []
    found = verify(tmp_path / "j", progress=lambda done, of: seen.append((done, of)))
    assert (found.records, found.segments, found.begins, found.end) == (25, 3, 0, 24)
    assert seen == [(10, 25), (20, 25), (25, 25)]
