"""Attempts: who is accused of a death, when a record is found, and what leads past it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from journal.body import Decision, draft_of
from journal.errors import Corrupt, Refused
from journal.memory_log import MemoryJournal
from journal.poison import MOST_DEATHS, Attempts, skip_plan, skips_in, stopped_at
from journal.record import Draft, Kind, Record

MOST = 64


class Died(BaseException):
    """The process ends here."""


def records(count: int) -> list[Record]:
    journal = MemoryJournal("t")
    journal.append(
        [Draft(kind=Kind.SOURCE, stream="s", id=f"e{n}", source="/t", time=n, body=b"") for n in range(count)]
    )
    return journal.read(0, -1, count)


def live(path: Path, journal: list[Record], done: int, die_at: Callable[[Record], bool], build: str = "b") -> int:
    """One process over two folds, from a committed position on; returns the position it dies or stops at."""
    attempts = Attempts(path, build, MOST)
    while done < len(journal) and attempts.stopped is None:
        batch = attempts.cut(journal[done:])
        attempts.begin(batch)
        for record in batch:
            for fold in ("first", "second"):
                if len(batch) == 1:
                    attempts.enter(fold)
                if fold == "second" and die_at(record):
                    return done
        done += len(batch)
        attempts.passed(batch[-1].offset)
    attempts.leave()
    return done


@pytest.mark.parametrize("poison", [0, 1, 63, 64, 100, 199])
def test_deaths_lead_to_the_one_record_and_no_further(tmp_path: Path, poison: int) -> None:
    journal, path, done, lives = records(200), tmp_path / "attempts.json", 0, 0
    while stopped_at(path) is None:
        done = live(path, journal, done, lambda record: record.offset == poison)
        lives += 1
        assert done <= poison
        assert lives < 20
    suspect = stopped_at(path)
    assert suspect is not None
    assert (suspect.fold, suspect.offset, suspect.deaths) == ("second", poison, MOST_DEATHS)
    assert done == poison


def test_a_death_that_does_not_come_again_accuses_nobody(tmp_path: Path) -> None:
    journal, path, done = records(200), tmp_path / "attempts.json", 0
    for unlucky in (10, 5, 2, 0):
        done = live(path, journal, done, lambda record, at=unlucky: record.offset == at)  # type: ignore[misc]
    assert live(path, journal, done, lambda _: False) == 200
    assert stopped_at(path) is None
    assert not path.exists()


def test_a_process_that_dies_before_its_first_batch_accuses_nobody(tmp_path: Path) -> None:
    journal, path = records(4), tmp_path / "attempts.json"
    live(path, journal, 0, lambda record: record.offset == 0)
    while Attempts(path, "b", MOST).limit > 1:
        live(path, journal, 0, lambda record: record.offset == 0)
    live(path, journal, 0, lambda record: record.offset == 0)
    for _ in range(10):
        assert Attempts(path, "b", MOST).stopped is None


def test_a_healthy_batch_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "attempts.json"
    attempts = Attempts(path, "b", MOST)
    path.unlink()
    for record in records(5):
        attempts.begin([record])
        attempts.enter("first")
        attempts.passed(record.offset)
    assert not path.exists()


def test_an_exception_names_its_record_and_it_is_tried_alone(tmp_path: Path) -> None:
    journal, path = records(20), tmp_path / "attempts.json"
    attempts = Attempts(path, "b", MOST)
    assert len(attempts.cut(journal)) == 20
    for death in range(1, MOST_DEATHS + 1):
        assert attempts.stopped is None
        suspect = attempts.raised("first", 7, ValueError("no"))
        assert (suspect.deaths, suspect.error) == (death, "ValueError: no")
        assert [record.offset for record in attempts.cut(journal)] == list(range(7))
        assert [record.offset for record in attempts.cut(journal[7:])] == [7]
    assert attempts.stopped == stopped_at(path) == suspect


def test_another_record_or_fold_is_counted_anew(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "attempts.json", "b", MOST)
    assert attempts.raised("first", 7, ValueError()).deaths == 1
    assert attempts.raised("first", 7, ValueError()).deaths == 2
    assert attempts.raised("second", 7, ValueError()).deaths == 1
    assert attempts.raised("second", 8, ValueError()).deaths == 1


def stop_at(path: Path, offset: int) -> None:
    attempts = Attempts(path, "b", MOST)
    for _ in range(MOST_DEATHS):
        attempts.raised("join", offset, ValueError("no"))


def test_a_restart_stays_there_and_another_build_tries_again(tmp_path: Path) -> None:
    path = tmp_path / "attempts.json"
    stop_at(path, 3)
    assert Attempts(path, "b", MOST).stopped is not None
    again = Attempts(path, "mended", MOST)
    assert (again.stopped, again.is_careful, again.limit) == (None, False, MOST)


def test_only_the_record_that_is_stopped_at_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "attempts.json"
    with pytest.raises(Refused, match="no fold is stopped"):
        skip_plan(path, "join", 3)
    stop_at(path, 3)
    for fold, offset in (("join", 4), ("learner", 3)):
        with pytest.raises(Refused, match="join is stopped at 3"):
            skip_plan(path, fold, offset)
    assert skip_plan(path, "join", 3) == {"fold": "join", "offset": 3}


def test_a_damaged_attempt_file_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "attempts.json"
    path.write_bytes(b"{")
    with pytest.raises(Corrupt, match="Delete this file"):
        Attempts(path, "b", MOST)


def test_skips_are_read_from_the_echoes(tmp_path: Path) -> None:
    del tmp_path
    journal = MemoryJournal("t")
    for n, (action, fold, offset) in enumerate(
        [("skip", "join", 3), ("skip", "join", 9), ("reject", "join", 4), ("skip", "learner", 3)]
    ):
        decision = Decision(
            sequence=n + 1, action=action, subject=fold, why="w", details={"fold": fold, "offset": offset}
        )
        journal.append([draft_of(decision, kind=Kind.DECISION, stream="control", id=f"decision-{n + 1}")])
    assert skips_in(journal) == {"join": frozenset({3, 9}), "learner": frozenset({3})}
