"""Sealed segments in blobs, and segments that retention let go: what can be read, what is kept, what is said."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from journal.archive import load_archive, seal_to_blobs
from journal.backup import back_up
from journal.blobs import DirectoryBlobs
from journal.body import Alert, Decision, Quarantined, draft_of, encode
from journal.clock import DAY, SECOND
from journal.errors import Corrupt, LostRace, NoLongerProvable
from journal.log import START, Repeat
from journal.quality import stopped_streams
from journal.reading import read_one
from journal.record import Draft, Kind, Record
from journal.restore import restore
from journal.retention import RetentionPlan, apply_retention, longest, plan_retention
from journal.segment import segment_path, segment_paths
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.trail import trail_of
from journal.verify import verify

NOON = 1_357_041_600 * SECOND
WINDOW = 5 * DAY


BODIES = {
    Kind.QUARANTINE: encode(Quarantined(reason="r", event="")),
    Kind.DECISION: encode(Decision(sequence=1, action="promote", subject="line", why="w", details={})),
}


def event(n: int, kind: Kind = Kind.SOURCE) -> Draft:
    return Draft(kind=kind, stream="s", source="/t", id=f"e{n}", time=NOON + n * DAY, body=BODIES.get(kind, b"{}"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def journal(home: Path) -> Iterator[SqliteJournal]:
    """Thirty days, an event a day, ten records to a file; the records 0, 1, 7 and 13 are of kinds that are kept."""
    journal = SqliteJournal(home / "journal", "t", dedup_window=WINDOW, records_per_segment=10)
    kinds = {0: Kind.GENESIS, 1: Kind.DEFINITION, 5: Kind.QUARANTINE, 7: Kind.DECISION, 13: Kind.VERSION}
    for n in range(35):
        journal.append([event(n, kinds.get(n, Kind.SOURCE))])
    yield journal
    journal.close()


@pytest.fixture
def written(journal: SqliteJournal) -> list[Record]:
    return journal.read(0, START, 99)


@pytest.fixture
def blobs(home: Path) -> DirectoryBlobs:
    return DirectoryBlobs(home / "blobs")


def test_segments_in_blobs_are_read_as_before(
    journal: SqliteJournal, written: list[Record], blobs: DirectoryBlobs
) -> None:
    moved = seal_to_blobs(journal.folder, blobs)
    assert [(segment.first, segment.last) for segment in moved] == [(0, 9), (10, 19), (20, 29)]
    assert [path.name for path in segment_paths(journal.folder)] == ["segment-000000000030.sqlite"]
    reader = SqliteReader(journal.folder)
    assert reader.read(0, START, 99) == written
    assert [reader.read(0, after, 1)[0] for after in range(-1, 34)] == written
    assert reader.read(0, 7, 5) == written[8:13]
    for kind in (Kind.GENESIS, Kind.QUARANTINE, Kind.DECISION, Kind.VERSION, Kind.SOURCE):
        of_kind = [record for record in written if record.kind is kind]
        assert reader.of_kind(kind, START, 99) == of_kind
        assert reader.of_kind(kind, START, 1) == of_kind[:1]
        assert reader.last_of_kind(kind, 12) == of_kind[-12:]
    assert reader.find(Kind.SOURCE, "/t", "e3") == 3
    assert reader.find(Kind.DECISION, "/t", "e7") == 7
    assert reader.end() == 34
    reader.close()
    found = verify(journal.folder)
    assert (found.records, found.archived, found.segments, found.damage) == (35, 3, 1, [])


def test_an_owner_goes_on_above_segments_in_blobs(home: Path, journal: SqliteJournal, blobs: DirectoryBlobs) -> None:
    seal_to_blobs(journal.folder, blobs)
    journal.append([event(35)])
    journal.close()
    again = SqliteJournal(home / "journal", "t", dedup_window=10 * DAY, records_per_segment=10)
    assert again.end() == 35
    assert again.append([event(28)]) == [Repeat(28)]
    assert again.append([event(7, Kind.DECISION)]) == [Repeat(7)]
    assert [record.id for record in again.read(0, START, 99)] == [f"e{n}" for n in range(36)]
    again.close()


def test_only_what_is_old_enough_moves(journal: SqliteJournal, blobs: DirectoryBlobs) -> None:
    assert [segment.first for segment in seal_to_blobs(journal.folder, blobs, before=NOON + 20 * DAY)] == [0, 10]
    assert [segment.first for segment in seal_to_blobs(journal.folder, blobs)] == [20]
    assert seal_to_blobs(journal.folder, blobs) == []


def test_a_damaged_blob_is_found_by_name(journal: SqliteJournal, home: Path, blobs: DirectoryBlobs) -> None:
    moved = seal_to_blobs(journal.folder, blobs)
    path = home / "blobs" / moved[1].blob[:2] / moved[1].blob
    data = bytearray(path.read_bytes())
    data[9_000] ^= 1
    path.write_bytes(data)
    reader = SqliteReader(journal.folder)
    assert len(reader.read(0, START, 10)) == 10
    with pytest.raises(Corrupt, match=moved[1].blob[:16]):
        reader.read(0, 9, 1)
    reader.close()
    (damage,) = verify(journal.folder).damage
    assert damage.startswith("segment of records 10 to 19")


def test_a_damaged_segment_stays_where_it_is(journal: SqliteJournal, blobs: DirectoryBlobs) -> None:
    journal._chain.local[1].db.execute("UPDATE record SET checksum = 1 WHERE offset = 15")
    with pytest.raises(Corrupt, match="record 15"):
        seal_to_blobs(journal.folder, blobs)
    assert [segment.first for segment in load_archive(journal.folder).segments] == [0]
    assert segment_path(journal.folder, 10).exists()


def test_a_crash_before_the_files_went_is_swept_up(
    journal: SqliteJournal, home: Path, written: list[Record], blobs: DirectoryBlobs
) -> None:
    left = segment_path(journal.folder, 0)
    data = left.read_bytes()
    seal_to_blobs(journal.folder, blobs)
    left.write_bytes(data)
    reader = SqliteReader(journal.folder)
    assert reader.read(0, START, 99) == written
    reader.close()
    journal.close()
    SqliteJournal(home / "journal", "t", dedup_window=WINDOW).close()
    assert not left.exists()


def test_a_changed_manifest_is_found(journal: SqliteJournal, blobs: DirectoryBlobs) -> None:
    seal_to_blobs(journal.folder, blobs)
    path = journal.folder / "archive.json"
    path.write_bytes(path.read_bytes().replace(b'"begins": 0', b'"begins": 9'))
    with pytest.raises(Corrupt, match=r"archive\.json"):
        SqliteReader(journal.folder)


def plan_of(journal: SqliteJournal, *, at: int = 34, keeps: int | None = 8 * DAY) -> list[tuple[int, str]]:
    plan = plan_retention(journal.folder, readers={"learner": at, "join": 34}, keeps=keeps, remembers=WINDOW)
    return [(segment.first, segment.stays) for segment in plan.segments]


def test_what_stays_says_why(journal: SqliteJournal) -> None:
    assert [stays for _, stays in plan_of(journal)][:2] == ["", ""]
    assert "the contracts keep" in plan_of(journal)[2][1]
    assert plan_of(journal, at=15)[1] == (10, "fold 'learner' has read up to record 15")
    assert all("for ever" in stays for _, stays in plan_of(journal, keeps=None))
    nobody = plan_retention(journal.folder, readers={}, keeps=DAY, remembers=DAY)
    assert all("no reader" in segment.stays for segment in nobody.segments)
    assert [segment.first for segment in nobody.segments] == [0, 10, 20]
    assert nobody.explain()[-1] == "Nothing leaves."


def test_a_plan_says_how_many_undecided_events_would_go(journal: SqliteJournal) -> None:
    def planned() -> RetentionPlan:
        return plan_retention(journal.folder, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW)

    assert planned().waiting == 1
    assert "1 quarantined event(s) still wait and would be gone" in planned().explain()[-1]
    settled = Decision(sequence=0, action="discard", subject="e5", why="w", details={})
    journal.append([draft_of(settled, kind=Kind.DECISION, stream="decisions", id="settle-e5")])
    assert planned().waiting == 0
    assert planned().explain()[-1].startswith("Records 0 to 19")


def test_ids_within_the_dedup_window_stay(journal: SqliteJournal) -> None:
    plan = plan_retention(journal.folder, readers={"join": 34}, keeps=0, remembers=20 * DAY)
    assert [bool(segment.stays) for segment in plan.segments] == [False, True, True]


def test_the_longest_contract_decides() -> None:
    assert longest([DAY, 3 * DAY]) == 3 * DAY
    assert longest([DAY, None]) is None
    assert longest([]) is None


@pytest.mark.parametrize("archived", [False, True])
def test_what_was_let_go_is_no_longer_provable(
    journal: SqliteJournal, home: Path, written: list[Record], blobs: DirectoryBlobs, archived: bool
) -> None:
    moved = seal_to_blobs(journal.folder, blobs) if archived else []
    plan = plan_retention(journal.folder, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW)
    assert (plan.begins, plan.then) == (0, 20)
    assert "Records 0 to 19 are no longer provable" in plan.explain()[-2]
    assert verify(journal.folder).begins == 0
    apply_retention(journal.folder, plan)
    assert not any((home / "blobs" / s.blob[:2] / s.blob).exists() for s in moved[:2])
    journal.close()
    reader = SqliteReader(home / "journal")
    assert reader.begins == 20
    with pytest.raises(NoLongerProvable, match="records 0 to 19"):
        reader.read(0, START, 1)
    with pytest.raises(NoLongerProvable):
        reader.read(0, 18, 1)
    assert reader.read(0, 19, 99) == written[20:]
    assert reader.of_kind(Kind.GENESIS, START, 9) == written[:1]
    assert reader.of_kind(Kind.DECISION, START, 9) == [written[7]]
    assert reader.last_of_kind(Kind.VERSION, 9) == [written[13]]
    assert read_one(reader)(13) == written[13], "what a line answers from is found all the same"
    with pytest.raises(NoLongerProvable):
        read_one(reader)(12)
    assert trail_of(reader, "nobody", {}, begins=reader.begins).examples == 0
    assert reader.of_kind(Kind.QUARANTINE, START, 9) == []
    assert reader.find(Kind.DECISION, "/t", "e7") == 7
    reader.close()
    found = verify(home / "journal")
    assert (found.begins, found.records, found.damage) == (20, 15, [])
    again = SqliteJournal(home / "journal", "t", dedup_window=WINDOW, records_per_segment=10)
    assert again.append([event(7, Kind.DECISION)]) == [Repeat(7)]
    assert again.append([event(13, Kind.VERSION)]) == [Repeat(13)]
    assert isinstance(again.append([event(3)])[0], Record)
    again.close()


def test_an_alert_that_stands_holds_its_stream_however_long_ago_it_was_raised(
    journal: SqliteJournal, blobs: DirectoryBlobs
) -> None:
    bad = Alert(
        name="odd", stage="intake", stream="s", field="", metric="duplicates", measured=0.9, most=0.1,
        begins=NOON, ends=NOON + DAY, stop=True, events=10,
    )  # fmt: skip
    early = SqliteJournal(journal.folder.parent / "early", "t", dedup_window=WINDOW, records_per_segment=10)
    early.append([draft_of(bad, kind=Kind.ALERT, stream="quality", id="odd-1")])
    for n in range(35):
        early.append([event(n)])
    seal_to_blobs(early.folder, blobs)
    apply_retention(
        early.folder, plan_retention(early.folder, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW), blobs
    )
    early.close()
    with closing(SqliteReader(early.folder)) as reader:
        assert reader.begins > 0
        assert stopped_streams(reader) == {"s": bad}


def test_a_plan_that_somebody_overtook_is_not_applied(journal: SqliteJournal) -> None:
    plan = plan_retention(journal.folder, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW)
    apply_retention(journal.folder, plan)
    with pytest.raises(LostRace, match="begins at 20"):
        apply_retention(journal.folder, plan)


def test_a_backup_holds_blobs_and_what_is_kept(
    journal: SqliteJournal, tmp_path: Path, written: list[Record], blobs: DirectoryBlobs
) -> None:
    plan = plan_retention(journal.folder, readers={"join": 9}, keeps=8 * DAY, remembers=WINDOW)
    apply_retention(journal.folder, plan)
    seal_to_blobs(journal.folder, blobs)
    made = back_up(journal.folder, tmp_path / "backup")
    assert (made.begins, made.end) == (10, 34)
    restore(tmp_path / "backup", tmp_path / "new" / "journal")
    reader = SqliteReader(tmp_path / "new" / "journal")
    assert reader.read(0, 9, 99) == written[10:]
    assert reader.of_kind(Kind.DECISION, START, 9) == [written[7]]
    assert reader.of_kind(Kind.VERSION, START, 9) == [written[13]]
    with pytest.raises(NoLongerProvable):
        reader.read(0, START, 1)
    reader.close()
    assert verify(tmp_path / "new" / "journal").damage == []


def test_copies_that_a_dead_archiver_left_are_removed(journal: SqliteJournal, blobs: DirectoryBlobs) -> None:
    left = journal.folder / "segment-000000000010.sqlite.4711.partial"
    left.write_bytes(b"half a segment")
    seal_to_blobs(journal.folder, blobs, before=0)
    assert not left.exists()


class DiesBeforeRemoving(DirectoryBlobs):
    """The process ends where a blob would be removed."""

    def remove(self, address: str) -> None:
        raise KeyboardInterrupt


def test_blobs_that_a_crash_left_behind_go_with_the_next_retention(
    journal: SqliteJournal, home: Path, blobs: DirectoryBlobs
) -> None:
    seal_to_blobs(journal.folder, blobs)
    plan = plan_retention(journal.folder, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW)
    with pytest.raises(KeyboardInterrupt):
        apply_retention(journal.folder, plan, DiesBeforeRemoving(home / "blobs"))
    again = plan_retention(journal.folder, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW)
    assert (again.begins, again.then) == (20, 20)
    assert len(list((home / "blobs").rglob("*"))) > 2
    apply_retention(journal.folder, again, blobs)
    left = [path.name for path in (home / "blobs").rglob("*") if path.is_file()]
    assert left == [segment.blob for segment in load_archive(journal.folder).segments]
    assert len(left) == 1


class Meanwhile(DirectoryBlobs):
    """Somebody lets go of segments while one is put into a blob."""

    def __init__(self, root: Path, journal: Path) -> None:
        super().__init__(root)
        self._journal = journal

    def put_file(self, path: Path) -> str:
        plan = plan_retention(self._journal, readers={"join": 34}, keeps=8 * DAY, remembers=WINDOW)
        with pytest.raises(LostRace, match="another process"):
            apply_retention(self._journal, plan)
        return super().put_file(path)


def test_one_at_a_time_changes_what_is_archived(journal: SqliteJournal, written: list[Record], home: Path) -> None:
    """Each would write the manifest without what the other wrote: a segment could leave and be named nowhere."""
    seal_to_blobs(journal.folder, Meanwhile(home / "blobs", journal.folder))
    with closing(SqliteReader(journal.folder)) as reader:
        assert reader.read(0, START, 99) == written
