"""A fold of another version is rebuilt beside the file that is read, and takes over at its decision."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from journal.body import Decision, draft_of
from journal.checkpoint import FoldFile
from journal.errors import Refused
from journal.memory_log import MemoryJournal
from journal.rebuild import CUTOVER, Identity, Succession, cutovers_in, remove_fold
from journal.record import Draft, Kind, Record
from journal.runner import Runner

OLD, NEW = Identity(1, "f"), Identity(2, "f")


class Counter:
    """Counts events; its second version counts them twice."""

    name = "counter"
    kinds = frozenset({Kind.SOURCE})
    resume_offset: int | None = None

    def __init__(self, version: int) -> None:
        self.version, self.count = version, 0

    def load(self, file: FoldFile) -> None:
        self.count = int.from_bytes(file.get("count", b"") or b"")

    def apply(self, record: Record) -> Sequence[Draft]:
        del record
        self.count += self.version
        return ()

    def save(self, file: FoldFile) -> None:
        file.put("count", [(b"", self.count.to_bytes(8))])

    def digest(self) -> str:
        return hashlib.sha256(str(self.count).encode()).hexdigest()


def journal_of(count: int) -> MemoryJournal:
    journal = MemoryJournal("t")
    journal.append(
        [Draft(kind=Kind.SOURCE, stream="s", id=f"e{n}", source="/t", time=n, body=b"") for n in range(count)]
    )
    return journal


def run(folder: Path, journal: MemoryJournal, identity: Identity, most: int = 1_000) -> int:
    """One life of the worker: settle, restore, apply so many records, commit, stop."""
    succession = Succession(folder / "counter.sqlite", identity, journal)
    succession.settle()
    fold = Counter(identity.version)
    runner = Runner(fold, FoldFile(succession.writes), journal, identity.fingerprint)
    for record in journal.read(0, runner.offset, most):
        runner.step(record)
        runner.pass_over(record.offset)
    runner.commit()
    runner.close()
    return fold.count


def read(folder: Path) -> int:
    """What serving reads."""
    file = FoldFile(folder / "counter.sqlite", readonly=True)
    count = int.from_bytes(file.get("count", b"") or b"")
    file.close()
    return count


def decide(journal: MemoryJournal, folder: Path, identity: Identity) -> None:
    details = Succession(folder / "counter.sqlite", identity, journal).plan()
    decision = Decision(sequence=1, action=CUTOVER, subject="counter", why="caught up", details=details)
    journal.append([draft_of(decision, kind=Kind.DECISION, stream="control", id="decision-1")])


def test_the_old_file_is_read_until_the_decision(tmp_path: Path) -> None:
    journal = journal_of(10)
    assert run(tmp_path, journal, OLD) == read(tmp_path) == 10
    assert run(tmp_path, journal, NEW, most=4) == 8
    assert read(tmp_path) == 10
    assert run(tmp_path, journal, NEW) == 20, "an interrupted rebuild goes on"
    assert read(tmp_path) == 10
    decide(journal, tmp_path, NEW)
    assert cutovers_in(journal, "counter") == [NEW.name]
    assert run(tmp_path, journal, NEW) == read(tmp_path) == 20
    assert not Succession(tmp_path / "counter.sqlite", NEW, journal).is_beside


def test_whoever_has_the_old_file_open_reads_on_in_it(tmp_path: Path) -> None:
    journal = journal_of(5)
    run(tmp_path, journal, OLD)
    serving = FoldFile(tmp_path / "counter.sqlite", readonly=True)
    run(tmp_path, journal, NEW)
    decide(journal, tmp_path, NEW)
    run(tmp_path, journal, NEW)
    assert serving.get("count", b"") == (5).to_bytes(8)
    serving.close()
    assert read(tmp_path) == 10


def test_a_crash_before_the_rename_is_made_up_for_once(tmp_path: Path) -> None:
    journal = journal_of(5)
    run(tmp_path, journal, OLD)
    run(tmp_path, journal, NEW)
    decide(journal, tmp_path, NEW)
    succession = Succession(tmp_path / "counter.sqlite", NEW, journal)
    assert succession.settle()
    assert not succession.settle()
    assert read(tmp_path) == 10


def test_the_next_successor_replaces_the_last_and_leaves_nothing_behind(tmp_path: Path) -> None:
    journal = journal_of(5)
    run(tmp_path, journal, OLD)
    for version in (2, 3):
        identity = Identity(version, "f")
        run(tmp_path, journal, identity)
        decide_as(journal, tmp_path, identity, version)
        assert run(tmp_path, journal, identity) == read(tmp_path) == 5 * version
    kept = sorted(path.name for path in tmp_path.rglob("*.sqlite"))
    assert kept == [f"counter-{Identity(3, 'f').name}.sqlite", "counter.sqlite"]


def decide_as(journal: MemoryJournal, folder: Path, identity: Identity, sequence: int) -> None:
    details = Succession(folder / "counter.sqlite", identity, journal).plan()
    decision = Decision(sequence=sequence, action=CUTOVER, subject="counter", why="w", details=details)
    journal.append([draft_of(decision, kind=Kind.DECISION, stream="control", id=f"decision-{sequence}")])


def test_a_decision_about_another_identity_moves_nothing(tmp_path: Path) -> None:
    journal = journal_of(5)
    run(tmp_path, journal, OLD)
    run(tmp_path, journal, NEW)
    decide(journal, tmp_path, NEW)
    other = Identity(2, "another library")
    assert run(tmp_path, journal, other) == 10
    assert Succession(tmp_path / "counter.sqlite", other, journal).is_beside
    assert read(tmp_path) == 5


def test_there_is_nothing_to_decide_without_a_successor(tmp_path: Path) -> None:
    journal = journal_of(1)
    with pytest.raises(Refused, match="not rebuilt"):
        decide(journal, tmp_path, NEW)
    run(tmp_path, journal, OLD)
    with pytest.raises(Refused, match="not rebuilt"):
        decide(journal, tmp_path, OLD)


def test_an_identity_that_took_over_long_ago_has_to_be_decided_again(tmp_path: Path) -> None:
    """An upgrade, the way back, and the upgrade again."""
    journal = journal_of(5)
    run(tmp_path, journal, OLD)
    for sequence, identity in enumerate((NEW, OLD), 1):
        run(tmp_path, journal, identity)
        decide_as(journal, tmp_path, identity, sequence)
        run(tmp_path, journal, identity)
    assert run(tmp_path, journal, NEW, most=2) == 4
    assert run(tmp_path, journal, NEW, most=0) == 4
    assert read(tmp_path) == 5, "half a rebuild takes no place"
    run(tmp_path, journal, NEW)
    decide_as(journal, tmp_path, NEW, 3)
    assert run(tmp_path, journal, NEW) == read(tmp_path) == 10


def test_a_file_of_another_life_of_the_journal_is_rebuilt_in_place(tmp_path: Path) -> None:
    run(tmp_path, journal_of(5), OLD)
    restored = journal_of(3)
    assert not Succession(tmp_path / "counter.sqlite", NEW, restored).is_beside
    assert run(tmp_path, restored, NEW) == read(tmp_path) == 6


def test_a_fold_is_removed_wherever_its_path_leads_to(tmp_path: Path) -> None:
    journal = journal_of(5)
    run(tmp_path, journal, OLD)
    run(tmp_path, journal, NEW)
    decide(journal, tmp_path, NEW)
    run(tmp_path, journal, NEW)
    remove_fold(tmp_path / "counter.sqlite")
    assert not list(tmp_path.rglob("*.sqlite*"))
