"""The whole loop on the tiny pipeline: batch sizes, crashes at any event and restarts change nothing."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from journal.digest import digest_journal, digest_parts
from rivermill.agenda import Retrains
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.registry_wiring import lines_of, retrainer_of
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run

EVENTS = 700
UP_TO_THE_SECOND_RETRAIN = 1_950


class Crash(Exception):
    """The process dies here."""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "phishing")


@pytest.fixture(scope="module")
def events(pipeline: Pipeline) -> list[bytes]:
    assert pipeline.recorded is not None
    return list(islice(pipeline.recorded(), EVENTS))


def digest(run: Run) -> str:
    folds = {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners}
    return digest_parts({"journal": digest_journal(run.journal)[0], **folds})


def played(pipeline: Pipeline, home: Path, events: Iterator[bytes] | list[bytes], group: int) -> str:
    run = open_run(pipeline, Home(home, "phishing"))
    try:
        run.lockstep.play(events, "test", group=group)
        return digest(run)
    finally:
        run.close()


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline, events: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    return played(pipeline, tmp_path_factory.mktemp("expected"), events, EVENTS)


@pytest.mark.parametrize("group", [1, 7, 100])
def test_batch_sizes_change_nothing(
    pipeline: Pipeline, events: list[bytes], expected: str, tmp_path: Path, group: int
) -> None:
    assert played(pipeline, tmp_path, events[: EVENTS if group > 1 else 60], group) == (
        expected if group > 1 else played(pipeline, tmp_path / "again", events[:60], 60)
    )


@pytest.mark.parametrize("seed", range(4))
def test_crashes_change_nothing(
    pipeline: Pipeline, events: list[bytes], expected: str, tmp_path: Path, seed: int
) -> None:
    """Each life dies at a random event of a random group; what it had not committed never happened."""
    chance = random.Random(seed)

    def mortal() -> Iterator[bytes]:
        life = chance.randrange(30, 300)
        for line, raw in enumerate(events):
            if line - start >= life:
                raise Crash
            yield raw

    for _ in range(6):
        run = open_run(pipeline, Home(tmp_path, "phishing"))
        mark = run.journal.mark("test")
        start = mark.offset + 1 if mark else 0
        run.close()
        try:
            played(pipeline, tmp_path, mortal(), chance.choice([5, 40, 90]))
        except Crash:
            continue
    assert played(pipeline, tmp_path, events, 50) == expected


@pytest.mark.parametrize("fold", ["features", "answer", "join", "learner"])
def test_a_crash_between_the_commits_of_two_folds_changes_nothing(
    pipeline: Pipeline, events: list[bytes], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: str
) -> None:
    """The journal has committed, the folds before this one too, this one not."""
    run = open_run(pipeline, Home(tmp_path, "phishing"))
    runner = next(runner for runner in run.lockstep.runners if runner.fold.name == fold)
    commits = iter([runner.commit, runner.commit])

    def commit() -> None:
        following = next(commits, None)
        if following is None:
            raise Crash
        following()

    monkeypatch.setattr(runner, "commit", commit)
    with pytest.raises(Crash):
        run.lockstep.play(events, "test", group=70)
    run.close()
    assert played(pipeline, tmp_path, events, 70) == expected


def test_the_same_events_again_are_all_repeats(
    pipeline: Pipeline, events: list[bytes], expected: str, tmp_path: Path
) -> None:
    played(pipeline, tmp_path, events, 100)
    run = open_run(pipeline, Home(tmp_path, "phishing"))
    run.lockstep.play(events, "another input with the same events")
    assert run.journal.tallies() == {"repeated": EVENTS}
    assert digest(run) == expected
    run.close()


def with_retrains(pipeline: Pipeline, home: Path, events: list[bytes], group: int) -> tuple[str, int]:
    """The digest of a run that retrains on its schedule, and how many decisions that led to."""
    run = open_run(pipeline, Home(home, "phishing"))
    agenda = Retrains(run, retrainer_of(run, lines_of(run)), ray_once=False, say=lambda _: None)
    run.lockstep.play(events, "test", group=group, agenda=agenda)
    found = digest(run), len(lines_of(run).history())
    run.close()
    return found


@pytest.mark.slow
def test_with_retrains_any_group_size_gives_the_same_digest(pipeline: Pipeline, tmp_path: Path) -> None:
    """A group ends at the event that reaches the moment, so every retrain sees the same rows."""
    assert pipeline.recorded is not None
    events = list(islice(pipeline.recorded(), UP_TO_THE_SECOND_RETRAIN))
    whole = with_retrains(pipeline, tmp_path / "whole", events, len(events))
    assert whole[1] == 3
    assert with_retrains(pipeline, tmp_path / "small", events, 7) == whole
