"""A retrain from its trigger to its decision: once, whatever dies on the way, and refused where it cannot be done."""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from journal.clock import HOUR, MINUTE
from journal.digest import digest_journal, digest_parts
from journal.errors import Refused
from journal.log import START
from journal.record import Draft, Kind
from rivermill.agenda import Retrains
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.registry_wiring import lines_of, retrainer_of
from rivermill.retraining import Order, scheduled_job
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run

pytestmark = pytest.mark.slow

EVENTS_TO_THE_TRIGGER = 1_516


class Crash(Exception):
    """The process dies here."""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "phishing")


@pytest.fixture(scope="module")
def events(pipeline: Pipeline) -> list[bytes]:
    assert pipeline.recorded is not None
    return list(islice(pipeline.recorded(), EVENTS_TO_THE_TRIGGER + 100))


def hurried(pipeline: Pipeline, first: int, every: int) -> Pipeline:
    """The same pipeline with retrains at other times."""
    assert pipeline.retrain is not None
    settings = msgspec.structs.replace(pipeline.retrain, first=first, every=every, gap=5 * MINUTE)
    return dataclasses.replace(pipeline, retrain=settings)


def digest(run: Run) -> str:
    folds = {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners}
    return digest_parts({"journal": digest_journal(run.journal)[0], **folds})


def retrains_of(run: Run, said: list[str] | None = None) -> Retrains:
    say = (lambda _: None) if said is None else said.append
    return Retrains(run, retrainer_of(run, lines_of(run)), ray_once=False, say=say)


def play(
    pipeline: Pipeline, root: Path, events: Iterable[bytes], said: list[str] | None = None, group: int = 500
) -> str:
    run = open_run(pipeline, Home(root, "phishing"))
    try:
        run.lockstep.play(events, "test", agenda=retrains_of(run, said), group=group)
        return digest(run)
    finally:
        run.close()


def counts(run: Run) -> tuple[int, int]:
    """Versions, and decisions but for the bootstrap."""
    kinds = (Kind.VERSION, Kind.DECISION)
    versions, decisions = (len(run.journal.of_kind(kind, START, 1_000)) for kind in kinds)
    return versions, decisions - 1


@pytest.fixture(scope="module")
def due(pipeline: Pipeline, events: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clock has just reached the first trigger, with nothing done about it."""
    root = tmp_path_factory.mktemp("due")
    run = open_run(pipeline, Home(root, "phishing"))
    run.lockstep.play(events[:EVENTS_TO_THE_TRIGGER], "test")
    assert retrains_of(run).due == run.journal.clock
    run.close()
    return root


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline, events: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an undisturbed run comes to."""
    return play(pipeline, tmp_path_factory.mktemp("undisturbed"), events)


@pytest.fixture
def root(due: Path, tmp_path: Path) -> Path:
    shutil.copytree(due, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def run(pipeline: Pipeline, root: Path) -> Iterator[Run]:
    run = open_run(pipeline, Home(root, "phishing"))
    yield run
    run.close()


def dying(run: Run, kind: Kind, moment: str) -> Retrains:
    """Retrains that die before or after a record of a kind has landed."""

    def land(draft: Draft) -> None:
        if draft.kind is kind and moment == "before":
            raise Crash
        run.lockstep.land(draft)
        if draft.kind is kind:
            raise Crash

    lines = dataclasses.replace(lines_of(run), land=land)
    retrainer = dataclasses.replace(retrainer_of(run, lines), land=land)
    return Retrains(run, retrainer, ray_once=False, say=lambda _: None)


def test_one_trigger_is_one_version_and_one_decision_however_often_its_job_runs(run: Run) -> None:
    order = Order(job=scheduled_job("phishing", run.journal.clock), trigger=run.journal.clock)
    first = retrainer_of(run, lines_of(run)).run(order)
    end = run.journal.end()
    assert retrainer_of(run, lines_of(run)).run(order) == first
    assert run.journal.end() == end
    assert counts(run) == (1, 1)
    assert first["decision"]["sequence"] == 2
    assert first["rows"] > 100
    assert first["line"].startswith(first["winner"])


def test_a_job_that_is_not_to_promote_leaves_a_candidate(run: Run) -> None:
    order = Order(job="job-by-hand", trigger=run.journal.clock, promote=False, principal="tester")
    made = retrainer_of(run, lines_of(run)).run(order)
    assert made["decision"] is None
    assert counts(run) == (1, 0)
    shown = lines_of(run).show(made["line"])
    assert shown["state"] == "candidate"
    assert shown["dataset"] == made["dataset"]
    assert lines_of(run).unstaged() == []


def test_a_model_that_answers_already_is_refused_and_the_run_goes_on(run: Run, events: list[bytes]) -> None:
    """No example came since: the same rows give the same model, and there is nothing to decide."""
    made = retrainer_of(run, lines_of(run)).run(Order(job="job-by-hand", trigger=run.journal.clock))
    assert made["decision"]["line"] == made["line"]
    said: list[str] = []
    retrains = retrains_of(run, said)
    retrains._handled = None
    run.lockstep.play(events, "test", agenda=retrains)
    assert "answers already" in said[-1]
    assert run.journal.mark("test") == (0, len(events) - 1, 0)
    assert counts(run) == (1, 1)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", [Kind.VERSION, Kind.DECISION])
def test_a_crash_between_two_steps_changes_nothing(
    pipeline: Pipeline, root: Path, events: list[bytes], expected: str, kind: Kind, moment: str
) -> None:
    run = open_run(pipeline, Home(root, "phishing"))
    with pytest.raises(Crash):
        run.lockstep.play(events, "test", agenda=dying(run, kind, moment))
    run.close()
    assert play(pipeline, root, events) == expected
    run = open_run(pipeline, Home(root, "phishing"))
    assert counts(run) == (1, 1)
    (line,) = run.folds.answer.champion.state.places.keys() - {"online"}
    assert lines_of(run).judged(line)["report"], "the gate's word survives, too"
    run.close()


# Where it cannot be done


def test_too_few_rows_are_refused_before_a_job_is_started(pipeline: Pipeline, run: Run) -> None:
    assert pipeline.retrain is not None
    far = msgspec.structs.replace(pipeline.retrain, folds=9)
    retrainer = dataclasses.replace(
        retrainer_of(run, lines_of(run)), pipeline=dataclasses.replace(pipeline, retrain=far)
    )
    with pytest.raises(Refused, match="fewer than 20"):
        retrainer.run(Order(job="job-early", trigger=run.journal.clock))
    assert not (run.home.jobs / "job-early").exists()
    assert counts(run) == (0, 0)


def test_refused_retrains_are_told_and_later_ones_succeed(
    pipeline: Pipeline, events: list[bytes], tmp_path: Path
) -> None:
    hourly = hurried(pipeline, first=HOUR, every=2 * HOUR)
    said: list[str] = []
    play(hourly, tmp_path, events[:600], said)
    fates = [line.partition(":")[0].partition(" on ")[0].partition("-")[0] for line in said if line != "retraining"]
    assert fates[:2] == ["no retrain this time"] * 2
    assert fates[-1] in ("logistic", "tree")


def test_a_refused_retrain_does_not_succeed_elsewhere_after_a_crash(
    pipeline: Pipeline, events: list[bytes], tmp_path: Path
) -> None:
    """By the time of the crash there are rows enough."""
    early = hurried(pipeline, first=2 * HOUR, every=1_000 * HOUR)
    expected = play(early, tmp_path / "undisturbed", events[:600])

    def mortal() -> Iterator[bytes]:
        yield from events[:550]
        raise Crash

    with pytest.raises(Crash):
        play(early, tmp_path / "killed", mortal(), group=50)
    said: list[str] = []
    assert play(early, tmp_path / "killed", events[:600], said) == expected
    assert said == []
    run = open_run(early, Home(tmp_path / "killed", "phishing"))
    assert counts(run) == (0, 0)
    made = retrainer_of(run, lines_of(run)).run(Order(job="job-by-hand", trigger=run.journal.clock))
    assert made["decision"] is not None, "now it could be done"
    run.close()


def test_a_crash_before_a_refusal_is_remembered_meets_it_again(
    pipeline: Pipeline, events: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = hurried(pipeline, first=2 * HOUR, every=1_000 * HOUR)
    expected = play(early, tmp_path / "undisturbed", events[:600])
    run = open_run(early, Home(tmp_path / "killed", "phishing"))
    retrains = retrains_of(run)

    def killed(key: str, why: Refused) -> None:
        raise Crash(key) from why

    monkeypatch.setattr(retrains._refusals, "remember", killed)
    with pytest.raises(Crash):
        run.lockstep.play(events[:600], "test", agenda=retrains, group=50)
    run.close()
    said: list[str] = []
    assert play(early, tmp_path / "killed", events[:600], said) == expected
    assert said[-1].startswith("no retrain this time")
