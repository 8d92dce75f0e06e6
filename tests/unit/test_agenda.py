"""What lock-step stops for, and what it knows again after a restart: from the journal and the control log alone."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from journal.blobs import DirectoryBlobs
from journal.clock import DAY, HOUR
from journal.control import ControlLog, echo_of
from journal.errors import JobFailed, Refused
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind
from registry.signing import Signer
from rivermill.agenda import Agenda, DemoRollback, Retrains
from rivermill.evaluation import Evaluation
from rivermill.lines import Lines
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.retraining import Order, Retrainer, scheduled_job
from rivermill.settings import configs_folder
from rivermill.wiring import Run
from serving.predictor import Predictor


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "phishing")


class World:
    """A journal in memory, a real control log, and retrains that this test answers for."""

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        self.pipeline, self.start = pipeline, pipeline.starts[0]
        self.journal = MemoryJournal("phishing")
        self.control = ControlLog(f"sqlite:///{folder / 'control.sqlite'}")
        self.signer = Signer.open(folder / "signing.key")
        self.run = cast(Run, SimpleNamespace(pipeline=pipeline, journal=self.journal))
        self.lines = self._lines(folder)
        self.ordered: list[Order] = []
        self.said: list[str] = []
        self.outcome: Callable[[Order], dict[str, Any]] = self.promoted
        self.decide("bootstrap", "first", "bootstrap")

    def _lines(self, folder: Path) -> Lines:
        def no_predictor() -> Predictor:
            raise AssertionError

        nothing = np.array([], dtype=[("prediction", "<i8"), ("at", "<i8"), ("score", "<f8"), ("outcome", "?")])
        blobs = DirectoryBlobs(folder / "blobs")
        return Lines(
            pipeline=self.pipeline,
            control=self.control,
            evaluation=Evaluation(self.pipeline, self.journal, blobs, no_predictor, lambda: nothing),
            land=lambda draft: cast(None, self.journal.append((draft,))),
            clock=lambda: self.journal.clock,
            signer=self.signer,
            lockstep=True,
        )

    def decide(self, action: str, subject: str, key: str, **details: Any) -> None:
        head = self.control.head("phishing")
        entry = self.control.append(
            "phishing",
            expected=head.sequence if head else 0,
            action=action,
            subject=subject,
            why="a test",
            details=details,
            at=self.journal.clock,
            principal="test",
            key=key,
            signer=self.signer,
        )
        self.journal.append((echo_of(entry),))

    def tick(self, since_start: int) -> None:
        """Something happens at a moment."""
        time = self.start + since_start
        self.journal.append((Draft(kind=Kind.SOURCE, stream="visits", id=f"e{time}", body=b"{}", time=time),))

    def promoted(self, order: Order) -> dict[str, Any]:
        self.decide("promote", f"line-{len(self.ordered)}", order.job, trigger=order.trigger)
        return {"line": "line", "rows": 1_234, "decision": {"action": "promote", "line": "line"}}

    def retrain(self, order: Order) -> dict[str, Any]:
        self.ordered.append(order)
        return self.outcome(order)

    def retrains(self, *, ray_once: bool = False) -> Retrains:
        """As after a restart."""
        retrainer = cast(Retrainer, SimpleNamespace(run=self.retrain, lines=self.lines))
        return Retrains(self.run, retrainer, ray_once=ray_once, say=self.said.append)

    def rollback(self) -> DemoRollback:
        return DemoRollback(self.run, self.lines, say=self.said.append)

    @property
    def actions(self) -> list[tuple[str, str]]:
        return [(entry.action, entry.subject) for entry in self.control.entries("phishing")]


@pytest.fixture
def world(tmp_path: Path, pipeline: Pipeline) -> World:
    return World(tmp_path, pipeline)


def refused(order: Order) -> dict[str, Any]:
    raise Refused(which=f"too few rows for {order.job}")


def test_a_retrain_is_due_on_the_grid_and_done_once(world: World) -> None:
    agenda = world.retrains()
    assert agenda.due == world.start + 14 * HOUR
    world.tick(14 * HOUR + 5)
    agenda.act()
    assert [order.trigger for order in world.ordered] == [world.start + 14 * HOUR]
    assert world.ordered[0].job == scheduled_job("phishing", world.start + 14 * HOUR)
    assert agenda.due == world.start + 17 * HOUR


def test_after_a_restart_the_journal_tells_what_was_done(world: World) -> None:
    world.tick(14 * HOUR)
    world.retrains().act()
    assert world.retrains().due == world.start + 17 * HOUR


def test_a_gap_is_one_retrain_for_its_last_moment(world: World) -> None:
    agenda = world.retrains()
    world.tick(14 * HOUR + 10 * 3 * HOUR + 1)
    agenda.act()
    assert [order.trigger for order in world.ordered] == [world.start + 44 * HOUR]
    assert agenda.due == world.start + 47 * HOUR


def test_the_first_retrain_alone_is_asked_to_run_on_ray(world: World) -> None:
    agenda = world.retrains(ray_once=True)
    for hours in (14, 17):
        world.tick(hours * HOUR)
        agenda.act()
    assert [order.executor for order in world.ordered] == ["ray", "auto"]
    world.tick(20 * HOUR)
    world.retrains(ray_once=True).act()
    assert world.ordered[-1].executor == "auto"


def test_a_refused_retrain_is_told_and_counts_as_handled(world: World) -> None:
    world.outcome = refused
    agenda = world.retrains(ray_once=True)
    world.tick(14 * HOUR)
    before = world.journal.end()
    agenda.act()
    assert agenda.due == world.start + 17 * HOUR
    assert "too few rows" in world.said[-1]
    assert world.journal.end() == before
    world.outcome = world.promoted
    world.tick(17 * HOUR)
    agenda.act()
    assert [order.executor for order in world.ordered] == ["ray", "ray"]


def test_a_refused_retrain_is_not_tried_again_later_over_more_rows(world: World) -> None:
    """It would succeed by now, and the digest would depend on where the process died."""
    world.outcome = refused
    world.tick(14 * HOUR)
    world.retrains().act()
    world.outcome = world.promoted
    world.tick(16 * HOUR)
    assert world.retrains().due == world.start + 17 * HOUR
    world.tick(17 * HOUR)
    world.retrains().act()
    assert [order.trigger - world.start for order in world.ordered] == [14 * HOUR, 17 * HOUR]


def test_a_crash_before_the_refusal_was_remembered_meets_it_again_at_the_same_place(world: World) -> None:
    class Crash(Exception):
        pass

    def killed(order: Order) -> dict[str, Any]:
        raise Crash(order.job)

    world.outcome = killed
    world.tick(14 * HOUR)
    with pytest.raises(Crash):
        world.retrains().act()
    world.outcome = refused
    again = world.retrains()
    assert again.due == world.start + 14 * HOUR
    again.act()
    assert again.due == world.start + 17 * HOUR


def test_a_refusal_in_another_life_of_the_journal_says_nothing_about_this_one(world: World) -> None:
    world.outcome = refused
    world.tick(14 * HOUR)
    world.retrains().act()
    world.journal.incarnation = "another"
    assert world.retrains().due == world.start + 14 * HOUR


def test_a_refusal_that_lies_behind_the_end_is_still_to_come(world: World, tmp_path: Path, pipeline: Pipeline) -> None:
    """The journal was put back from a backup."""
    world.outcome = refused
    for minutes in range(5):
        world.tick(14 * HOUR + minutes)
    world.retrains().act()
    fresh = tmp_path / "put back"
    fresh.mkdir()
    again = World(fresh, pipeline)
    again.lines = world.lines
    again.tick(14 * HOUR)
    assert again.journal.end() < world.journal.end()
    assert again.retrains().due == world.start + 14 * HOUR


def test_a_job_that_failed_ends_the_run_and_stays_due(world: World) -> None:
    def failed(order: Order) -> dict[str, Any]:
        raise JobFailed(which=order.job)

    world.outcome = failed
    world.tick(14 * HOUR)
    agenda = world.retrains()
    with pytest.raises(JobFailed):
        agenda.act()
    assert agenda.due == world.retrains().due == world.start + 14 * HOUR


def test_nothing_is_rolled_back_before_something_was_promoted(world: World) -> None:
    assert world.rollback().due is None


def test_the_demo_goes_back_two_days_after_the_first_promotion(world: World) -> None:
    world.tick(HOUR)
    world.decide("promote", "second", "a")
    promoted_at = world.journal.read(0, world.journal.end() - 1, 1)[0].at
    rollback = world.rollback()
    assert rollback.due == promoted_at + 2 * DAY
    world.tick(2 * DAY + 2 * HOUR)
    rollback.act()
    assert world.actions[-1] == ("roll_back", "first")
    back_at = world.journal.read(0, world.journal.end() - 1, 1)[0].at
    assert rollback.due == world.rollback().due == back_at + 2 * DAY


def test_after_the_second_promotion_the_demo_is_done(world: World) -> None:
    for action, line in (("promote", "second"), ("roll_back", "first"), ("promote", "second")):
        assert world.rollback().due is not None or action == "promote"
        world.decide(action, line, f"{action} {len(world.actions)}")
    assert world.rollback().due is None


def test_a_promotion_that_is_refused_does_not_end_the_run(world: World) -> None:
    """The online line has published nothing here, so nothing can be said for it."""
    world.decide("promote", "online", "a")
    world.decide("roll_back", "first", "b")
    rollback = world.rollback()
    before = world.actions
    world.tick(3 * DAY)
    rollback.act()
    assert "published nothing" in world.said[-1]
    assert world.actions == before
    assert rollback.due is world.rollback().due is None


def test_the_earlier_of_two_moments_comes_first_and_a_promotion_plans_a_rollback(world: World) -> None:
    agenda = Agenda(world.retrains(), world.rollback())
    world.tick(14 * HOUR)
    agenda.act()
    assert len(world.ordered) == 1
    promoted_at = world.journal.read(0, world.journal.end() - 1, 1)[0].at
    for hours in range(17, 63, 3):
        assert agenda.due == world.start + hours * HOUR
        world.tick(hours * HOUR)
        agenda.act()
    assert agenda.due == promoted_at + 2 * DAY < world.start + 65 * HOUR
    world.tick(63 * HOUR)
    agenda.act()
    assert world.actions[-1][0] == "roll_back"
    assert agenda.due == world.start + 65 * HOUR


def test_without_a_rollback_retrains_are_all_there_is(world: World) -> None:
    agenda = Agenda(world.retrains(), None)
    assert agenda.due == world.start + 14 * HOUR
    world.tick(14 * HOUR)
    agenda.act()
    assert agenda.due == world.start + 17 * HOUR
