"""One runner under crashes at every point: the journal and the fold end as if nothing had happened."""

import hashlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from journal.checkpoint import FoldFile
from journal.clock import SECOND
from journal.errors import Corrupt, NoLongerProvable
from journal.log import START, Journal, Replayed
from journal.record import Cause, Draft, Kind, Record
from journal.retention import apply_retention, plan_retention
from journal.runner import Runner
from journal.sqlite_log import SqliteJournal

NOON = 1_357_041_600 * SECOND


class Doubler:
    """Emits two records per source event and counts by stream; the smallest fold with state and outputs."""

    name, version = "doubler", 1
    kinds = frozenset({Kind.SOURCE})
    resume_offset: int | None = None

    def __init__(self) -> None:
        self.seen: list[str] = []

    def load(self, file: FoldFile) -> None:
        self.seen = [value.decode() for _, value in file.scan("seen")]

    def apply(self, record: Record) -> Sequence[Draft]:
        self.seen.append(record.id)
        return [Draft(kind=Kind.EXAMPLE, stream="d", id=f"{record.id}-{n}", body=b"") for n in range(2)]

    def save(self, file: FoldFile) -> None:
        file.put("seen", ((n.to_bytes(4), id_.encode()) for n, id_ in enumerate(self.seen)))

    def digest(self) -> str:
        return hashlib.sha256(repr(self.seen).encode()).hexdigest()


def event(n: int) -> Draft:
    return Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=b"")


def catch_up(runner: Runner, journal: Journal) -> None:
    while page := journal.read(0, runner.offset, 3):
        for record in page:
            runner.step(record)


def start(tmp_path: Path, fingerprint: str = "f") -> tuple[Runner, SqliteJournal]:
    journal = SqliteJournal(tmp_path / "journal", "t")
    return Runner(Doubler(), FoldFile(tmp_path / "doubler.sqlite"), journal, fingerprint), journal


def stop(runner: Runner, journal: SqliteJournal) -> None:
    runner.close()
    journal.close()


def contents(journal: Journal) -> list[tuple[str, int]]:
    return [(record.id, record.at) for record in journal.read(0, START, 1_000)]


def test_crash_before_every_commit(tmp_path: Path) -> None:
    """Process 1 event, die without committing the fold, start again; as data: [0, ABORT, 1, ABORT, 2, ...]."""
    for n in range(6):
        runner, journal = start(tmp_path)
        catch_up(runner, journal)
        with journal.group():
            for record in journal.append([event(n)]):
                assert isinstance(record, Record)
                assert len(runner.step(record)) == 2
        if n % 3 == 2:
            runner.commit()
        stop(runner, journal)
    runner, journal = start(tmp_path)
    catch_up(runner, journal)
    assert isinstance(runner.fold, Doubler)
    assert runner.fold.seen == [f"e{n}" for n in range(6)]
    assert [id_ for id_, _ in contents(journal)] == [x for n in range(6) for x in (f"e{n}", f"e{n}-0", f"e{n}-1")]
    stop(runner, journal)


@pytest.mark.parametrize("reason", ["fingerprint", "incarnation", "ahead"])
def test_a_checkpoint_of_something_else_is_rebuilt(tmp_path: Path, reason: str) -> None:
    runner, journal = start(tmp_path)
    journal.append([event(n) for n in range(4)])
    catch_up(runner, journal)
    runner.commit()
    before, digest = contents(journal), runner.fold.digest()
    file = FoldFile(tmp_path / "doubler.sqlite")
    position = file.position("doubler")
    assert position is not None
    changed = {
        "fingerprint": position,
        "incarnation": position._replace(incarnation="another life"),
        "ahead": position._replace(offset=10_000),
    }[reason]
    file.set_position("doubler", 1, "other" if reason == "fingerprint" else "f", changed)
    file.close()
    stop(runner, journal)
    runner, journal = start(tmp_path)
    assert runner.offset == START
    catch_up(runner, journal)
    assert (contents(journal), runner.fold.digest()) == (before, digest)
    stop(runner, journal)


def test_a_flipped_byte_in_a_checkpoint_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    runner, journal = start(tmp_path)
    journal.append([event(n) for n in range(4)])
    catch_up(runner, journal)
    runner.commit()
    digest = runner.fold.digest()
    stop(runner, journal)
    path = tmp_path / "doubler.sqlite"
    data = bytearray(path.read_bytes())
    row = b"seen" + (2).to_bytes(4) + b"e2"
    data[data.index(row) + len(row) - 1] ^= 1
    path.write_bytes(data)
    journal = SqliteJournal(tmp_path / "journal", "t")
    with pytest.raises(Corrupt, match=r"doubler.sqlite, state 'seen'.*Delete this file"):
        Runner(Doubler(), FoldFile(path), journal, "f")
    journal.close()
    path.unlink()
    runner, journal = start(tmp_path)
    catch_up(runner, journal)
    assert runner.fold.digest() == digest
    stop(runner, journal)


def test_a_changed_position_is_an_error_too(tmp_path: Path) -> None:
    runner, journal = start(tmp_path)
    journal.append([event(n) for n in range(4)])
    catch_up(runner, journal)
    runner.commit()
    stop(runner, journal)
    file = FoldFile(tmp_path / "doubler.sqlite")
    file.db.execute("UPDATE position SET offset = offset - 1")
    with pytest.raises(Corrupt, match="position of fold 'doubler'"):
        file.check()
    with pytest.raises(Corrupt, match="Delete this file"):
        Runner(Doubler(), file, journal, "f")
    file.close()


def test_what_another_process_appends_is_what_a_step_would_have_appended(tmp_path: Path) -> None:
    """Drafts handed over with their causes leave the same records, and come again without a trace."""
    inner, journal = start(tmp_path / "inner")
    outer, followed = start(tmp_path / "outer")
    for owned in (journal, followed):
        owned.append([event(n) for n in range(3)])
    catch_up(inner, journal)
    handed = [outer.apply(record) for record in followed.read(0, START, 3)]
    for drafts in handed:
        followed.append(drafts, sink="doubler")
    assert followed.read(0, START, 99) == journal.read(0, START, 99)
    assert [draft.cause for draft in handed[1]] == [Cause(0, 1, 0), Cause(0, 1, 1)]
    assert (outer.offset, inner.fold.digest()) == (2, outer.fold.digest())
    assert followed.append(handed[1], sink="doubler") == [Replayed()] * 2
    stop(inner, journal)
    stop(outer, followed)


def test_applied_records_are_behind_it(tmp_path: Path) -> None:
    runner, journal = start(tmp_path)
    source, other = journal.append([event(0), Draft(kind=Kind.EXAMPLE, stream="x", id="x", body=b"")])
    assert isinstance(source, Record)
    assert isinstance(other, Record)
    assert len(runner.apply(source)) == 2
    assert list(runner.apply(source)) == []
    assert list(runner.apply(other)) == []
    assert runner.offset == other.offset
    assert isinstance(runner.fold, Doubler)
    assert runner.fold.seen == ["e0"]
    stop(runner, journal)


def test_a_state_that_cannot_be_built_again_stays_as_it_is(tmp_path: Path) -> None:
    """Other libraries ask for a rebuild from the first record; where retention let go of that, nothing is cleared."""
    journal = SqliteJournal(tmp_path / "journal", "t", dedup_window=SECOND, records_per_segment=10)
    runner = Runner(Doubler(), FoldFile(tmp_path / "doubler.sqlite"), journal, "f")
    for n in range(20):
        journal.append([event(n * SECOND)])
    catch_up(runner, journal)
    runner.commit()
    runner.close()
    plan = plan_retention(journal.folder, readers={"doubler": journal.end()}, keeps=SECOND, remembers=SECOND)
    apply_retention(journal.folder, plan)
    journal.close()
    again = SqliteJournal(tmp_path / "journal", "t", dedup_window=SECOND, records_per_segment=10)
    assert again.end() > plan.then > 0
    for _ in range(2):
        with closing(FoldFile(tmp_path / "doubler.sqlite")) as file, pytest.raises(NoLongerProvable):
            Runner(Doubler(), file, again, "other libraries")
    same = Runner(Doubler(), FoldFile(tmp_path / "doubler.sqlite"), again, "f")
    assert same.offset == runner.offset
    assert isinstance(same.fold, Doubler)
    assert len(same.fold.seen) == 20
    stop(same, again)
