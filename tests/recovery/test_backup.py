"""R24: a backup taken while another process writes, restored elsewhere, is a prefix that goes on."""

import stat
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from journal.backup import KEYS, MANIFEST, back_up, load_backup
from journal.checkpoint import FoldFile
from journal.clock import SECOND
from journal.errors import Corrupt, Refused, UnknownName
from journal.log import START, Repeat
from journal.privacy import KeyTable
from journal.record import Cause, Draft, Kind, Record
from journal.restore import restore
from journal.runner import Runner
from journal.segment import segment_path
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.verify import verify

NOON = 1_357_041_600 * SECOND


def event(n: int) -> Draft:
    return Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=b"{}", cause=Cause(0, n, 0))


def write(folder: Path, count: int) -> None:
    journal = SqliteJournal(folder, "t", records_per_segment=10)
    for n in range(journal.end() + 1, journal.end() + 1 + count):
        journal.append([event(n)], sink="file")
    journal.close()


def all_of(folder: Path) -> list[Record]:
    reader = SqliteReader(folder)
    try:
        return reader.read(0, START, 1_000_000)
    finally:
        reader.close()


WRITING = (
    textwrap.dedent("""
    import sys
    from pathlib import Path
    from journal.record import Cause, Draft, Kind
    from journal.sqlite_log import SqliteJournal
    journal = SqliteJournal(Path(sys.argv[1]), "t", records_per_segment=700)
    n = 0
    while True:
        journal.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{m}", time=%d + m, body=b"{}",
            cause=Cause(0, m, 0)) for m in range(n, n + 50)], sink="file")
        n += 50
        print(n, flush=True)
""")
    % NOON
)


@pytest.mark.slow
def test_a_backup_beside_a_writer_is_a_prefix_and_goes_on(tmp_path: Path) -> None:
    live = tmp_path / "live"
    with subprocess.Popen([sys.executable, "-c", WRITING, str(live)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acked, ends = 0, []
        for number in range(3):
            for _ in range(15):
                acked = int(process.stdout.readline())
            ends.append(back_up(live, tmp_path / f"backup-{number}").end)
            assert ends[-1] + 1 >= acked
        process.kill()
        process.stdout.read()
    written = all_of(live)
    assert len(written) > ends[-1]
    for number, end in enumerate(ends):
        assert (end + 1) % 50 == 0
        home = tmp_path / f"restored-{number}" / "journal"
        restored = restore(tmp_path / f"backup-{number}", home)
        assert all_of(home) == written[: end + 1]
        assert verify(home).damage == []
        journal = SqliteJournal(home, "t", records_per_segment=700)
        assert journal.incarnation == restored.incarnation != restored.was
        assert journal.mark("file") == Cause(0, end, 0)
        assert journal.append([event(end)]) == [Repeat(end)]
        assert journal.append([event(10**6)])[0] == journal.read(0, end, 1)[0]
        journal.close()


def test_the_control_log_goes_along_and_keys_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "j", 25)
    for name in ("control", "keys"):
        db = apsw.Connection(str(tmp_path / f"{name}.sqlite"))
        db.execute("PRAGMA journal_mode = WAL").get  # noqa: B018
        db.execute(f"CREATE TABLE t (x); INSERT INTO t VALUES ('{name}')")
    control, keys = tmp_path / "control.sqlite", tmp_path / "keys.sqlite"
    without = back_up(tmp_path / "j", tmp_path / "without", control=control)
    assert [file.name for file in without.files if "segment" not in file.name] == ["control.sqlite"]
    assert b"keys" not in b"".join(path.read_bytes() for path in (tmp_path / "without").iterdir())
    back_up(tmp_path / "j", tmp_path / "with", control=control, keys=keys)
    home = tmp_path / "home"
    restore(tmp_path / "with", home / "journal", control=home / "control.sqlite", keys=home / "keys" / "k.sqlite")
    for path, name in ((home / "control.sqlite", "control"), (home / "keys" / "k.sqlite", "keys")):
        assert apsw.Connection(str(path)).execute("SELECT x FROM t").get == name


def test_copies_of_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    write(tmp_path / "j", 5)
    keys, again = tmp_path / "keys" / "k.sqlite", tmp_path / "home" / "keys" / "k.sqlite"
    KeyTable(keys).close()
    back_up(tmp_path / "j", tmp_path / "with", keys=keys)
    assert stat.S_IMODE((tmp_path / "with" / KEYS).stat().st_mode) == 0o600
    restore(tmp_path / "with", tmp_path / "home" / "journal", keys=again)
    KeyTable(again).close()
    assert stat.S_IMODE(again.stat().st_mode) == 0o600


def test_a_damaged_or_unfinished_backup_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path / "j", 25)
    back_up(tmp_path / "j", tmp_path / "b")
    path = segment_path(tmp_path / "b", 10)
    data = bytearray(path.read_bytes())
    data[5_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"segment-000000000010\.sqlite"):
        restore(tmp_path / "b", tmp_path / "home")
    (tmp_path / "b" / MANIFEST).write_text("{")
    with pytest.raises(Corrupt, match=MANIFEST):
        load_backup(tmp_path / "b")
    (tmp_path / "b" / MANIFEST).unlink()
    with pytest.raises(UnknownName, match="no backup"):
        restore(tmp_path / "b", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_damaged_journal_makes_no_backup(tmp_path: Path) -> None:
    write(tmp_path / "j", 25)
    path = segment_path(tmp_path / "j", 10)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"e15", b"e16", 1))
    with pytest.raises(Corrupt, match=r"segment-000000000010\.sqlite"):
        back_up(tmp_path / "j", tmp_path / "b")
    with pytest.raises(UnknownName):
        load_backup(tmp_path / "b")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    write(tmp_path / "j", 5)
    back_up(tmp_path / "j", tmp_path / "b")
    with pytest.raises(Refused, match="empty"):
        back_up(tmp_path / "j", tmp_path / "b")
    with pytest.raises(Refused, match="holds acked"):
        restore(tmp_path / "b", tmp_path / "j")
    (tmp_path / "control.sqlite").write_text("mine")
    back_up(tmp_path / "j", tmp_path / "c", control=tmp_path / "j" / "segment-000000000000.sqlite")
    with pytest.raises(Refused, match=r"control\.sqlite is there"):
        restore(tmp_path / "c", tmp_path / "home", control=tmp_path / "control.sqlite")
    assert (tmp_path / "control.sqlite").read_text() == "mine"


def test_a_restore_that_was_interrupted_can_be_made_again(tmp_path: Path) -> None:
    write(tmp_path / "j", 15)
    back_up(tmp_path / "j", tmp_path / "b")
    (tmp_path / "home.restoring").mkdir()
    (tmp_path / "home.restoring" / "segment-000000000099.sqlite").write_bytes(b"half")
    restore(tmp_path / "b", tmp_path / "home")
    assert all_of(tmp_path / "home") == all_of(tmp_path / "j")
    assert not (tmp_path / "home.restoring").exists()


class Ids:
    name, version, kinds, resume_offset = "ids", 1, frozenset({Kind.SOURCE}), None

    def __init__(self) -> None:
        self.seen: list[str] = []

    def load(self, file: FoldFile) -> None:
        self.seen = [value.decode() for _, value in file.scan("ids")]

    def apply(self, record: Record) -> Sequence[Draft]:
        self.seen.append(record.id)
        return ()

    def save(self, file: FoldFile) -> None:
        file.put("ids", ((b"%09d" % n, id_.encode()) for n, id_ in enumerate(self.seen)))

    def digest(self) -> str:
        return repr(self.seen)


def fold(journal: SqliteJournal, path: Path) -> tuple[int, list[str]]:
    """Where the fold stood when it was opened, and what it has seen after it caught up."""
    runner = Runner(Ids(), FoldFile(path), journal, "f")
    stood = runner.offset
    while page := journal.read(0, runner.offset, 7):
        for record in page:
            runner.step(record)
        runner.commit()
    seen = runner.fold.seen  # type: ignore[attr-defined]
    runner.close()
    return stood, seen


def test_checkpoints_of_the_life_before_are_rebuilt(tmp_path: Path) -> None:
    """The backup is older than the checkpoints beside it; what came after it was other events."""
    write(tmp_path / "j", 15)
    back_up(tmp_path / "j", tmp_path / "b")
    write(tmp_path / "j", 15)
    lost = SqliteJournal(tmp_path / "j", "t", records_per_segment=10)
    assert fold(lost, tmp_path / "ids.sqlite") == (START, [f"e{n}" for n in range(30)])
    lost.close()
    restore(tmp_path / "b", tmp_path / "again")
    journal = SqliteJournal(tmp_path / "again", "t", records_per_segment=10)
    journal.append([event(n) for n in range(100, 130)])
    stood, seen = fold(journal, tmp_path / "ids.sqlite")
    assert stood == START
    assert seen == [f"e{n}" for n in [*range(15), *range(100, 130)]]
    assert fold(journal, tmp_path / "ids.sqlite") == (journal.end(), seen)
    journal.close()
