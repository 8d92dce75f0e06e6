"""Retrains because of drift: what they are compared with, when they are due, and that a restart changes nothing."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from features import dataset
from features.drift import Limits
from journal.blobs import DirectoryBlobs
from journal.body import Definition, Example, Prediction, Version, draft_of
from journal.clock import DAY, HOUR, format_time
from journal.control import ControlLog, echo_of
from journal.errors import Refused
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record
from registry.signing import Signer
from rivermill.agenda import Agenda, DriftRetrains, Retrains
from rivermill.drift_settings import DriftSettings
from rivermill.drift_watch import DriftWatch, LiveDrift, drift_job, drift_key, watch_of
from rivermill.evaluation import Evaluation
from rivermill.feature_drift import EARLIER, DriftGauge
from rivermill.lines import Lines
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.retraining import Order, Retrainer
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run
from serving.predictor import Predictor
from training.jobs import JobTable

START = 1_000 * DAY
SETTINGS = DriftSettings(limits=Limits(minimum=20), window=2 * DAY, retrain=True, every=DAY, rest=3 * DAY)
DEFINITION = Definition(service="s@1", request=["hour"], views=[], columns=["hour"], types=["float64"])


class World:
    """A journal of one prediction an hour whose only feature is what this test says, and retrains it answers for."""

    def __init__(self, folder: Path, pipeline: Pipeline) -> None:
        self.folder, self.journal = folder, MemoryJournal("p")
        self.control = ControlLog(f"sqlite:///{folder / 'control.sqlite'}")
        self.signer = Signer.open(folder / "signing.key")
        self.pipeline = pipeline
        self.run = cast(Run, SimpleNamespace(pipeline=pipeline, journal=self.journal))
        self.ordered: list[Order] = []
        self.said: list[str] = []
        self.outcome: Callable[[Order], dict[str, Any]] = self.promoted
        self.journal.append([draft_of(DEFINITION, kind=Kind.DEFINITION, stream="f", id="s@1")])
        self.decide("bootstrap", "online", "bootstrap")
        self.lines = self._lines()

    def _lines(self) -> Lines:
        def no_predictor() -> Predictor:
            raise AssertionError

        nothing = np.array([], dtype=[("prediction", "<i8"), ("at", "<i8"), ("score", "<f8"), ("outcome", "?")])
        evaluation = Evaluation(
            self.pipeline, self.journal, DirectoryBlobs(self.folder / "blobs"), no_predictor, lambda: nothing
        )
        return Lines(
            pipeline=self.pipeline,
            control=self.control,
            evaluation=evaluation,
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

    def hours(self, first: int, last: int, value: Callable[[int], float]) -> None:
        """A prediction an hour, and the outcome at once."""
        for hour in range(first, last):
            time = START + hour * HOUR
            event = Draft(kind=Kind.SOURCE, stream="visits", id=f"e{hour}", body=b"{}", time=time)
            (question,) = self.journal.append((event,))
            assert isinstance(question, Record)
            answer = Prediction(
                key=str(hour),
                question=question.offset,
                service="s@1",
                values=[value(hour)],
                stamps=[],
                score=0.5,
                line="online",
                model="",
                snapshot=-1,
                control=1,
                degraded=False,
                build="b",
            )
            (asked,) = self.journal.append((draft_of(answer, kind=Kind.PREDICTION, stream="p", id=f"p{hour}"),))
            assert isinstance(asked, Record)
            joined = Example(key=str(hour), prediction=asked.offset, label=0, outcome=bool(hour % 2))
            self.journal.append((draft_of(joined, kind=Kind.EXAMPLE, stream="e", id=f"x{hour}"),))

    def fit(self, line: str) -> str:
        """A batch line over everything so far, promoted."""
        made = dataset.build(self.journal, self.folder / "datasets", "phishing", self.journal.end(), "b")
        version = Version(
            line=line,
            family="batch",
            model=line,
            blob="",
            signature="",
            service="s@1",
            dataset=made.version,
            job="j",
            trigger=self.journal.clock,
            recipe="r",
            evidence={},
        )
        self.journal.append((draft_of(version, kind=Kind.VERSION, stream="v", id=line),))
        self.decide("promote", line, line, version=self.journal.end())
        return made.version

    def gauge(self) -> DriftGauge:
        return DriftGauge(
            pipeline="phishing",
            settings=SETTINGS,
            journal=self.journal,
            control=self.control,
            datasets=self.folder / "datasets",
        )

    def watch(self) -> DriftWatch:
        return DriftWatch(settings=SETTINGS, first=START + 3 * DAY, compare=self.gauge().compare)

    def promoted(self, order: Order) -> dict[str, Any]:
        self.decide("promote", f"line-{len(self.ordered)}", order.job, trigger=order.trigger)
        return {"line": "line", "rows": 1_234, "decision": {"action": "promote", "line": "line"}}

    def retrain(self, order: Order) -> dict[str, Any]:
        self.ordered.append(order)
        return self.outcome(order)

    def agenda(self) -> DriftRetrains:
        """As after a restart."""
        retrainer = cast(Retrainer, SimpleNamespace(run=self.retrain, lines=self.lines))
        return DriftRetrains(self.run, retrainer, self.watch(), say=self.said.append)


def still(hour: int) -> float:
    return float(hour % 24)


def moved(hour: int) -> float:
    return float(hour % 24) + 40


def refused(order: Order) -> dict[str, Any]:
    raise Refused(which=f"too few rows for {order.job}")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "phishing")


@pytest.fixture
def world(tmp_path: Path, pipeline: Pipeline) -> World:
    return World(tmp_path, pipeline)


def play(world: World, agenda: DriftRetrains, hours: Sequence[int], value: Callable[[int], float]) -> None:
    """As lock-step does: after each event, whatever is due."""
    for hour in hours:
        world.hours(hour, hour + 1, value)
        while agenda.due is not None and world.journal.clock >= agenda.due:
            agenda.act()


def test_a_champion_is_compared_with_what_it_was_fitted_on(world: World) -> None:
    world.hours(0, 72, still)
    version = world.fit("batch-1")
    world.hours(72, 120, still)
    compared = world.gauge().compare(START + 120 * HOUR)
    assert (compared.champion, compared.reference, compared.drift.verdict) == ("batch-1", version, "ok")
    assert (compared.drift.reference, compared.drift.recent) == (72, 48)
    world.hours(120, 168, moved)
    compared = world.gauge().compare(START + 168 * HOUR)
    assert compared.drift.verdict == "drifted"
    assert compared.reason.startswith("hour (psi ")
    assert compared.reason.endswith(f"in the 2d before {format_time(START + 168 * HOUR)}, against {version}")


def test_an_online_champion_is_compared_with_the_newest_dataset_or_with_earlier_traffic(world: World) -> None:
    world.hours(0, 96, still)
    assert world.gauge().compare(START + 96 * HOUR).reference == EARLIER
    version = world.fit("batch-1")
    world.decide("roll_back", "online", "back")
    world.hours(96, 97, still)
    compared = world.gauge().compare(START + 97 * HOUR)
    assert (compared.champion, compared.reference) == ("online", version)


def test_any_dataset_can_be_named(world: World) -> None:
    world.hours(0, 72, moved)
    version = world.fit("batch-1")
    world.hours(72, 120, still)
    assert world.gauge().compare(START + 120 * HOUR, version).drift.verdict == "drifted"


def test_a_look_sees_nothing_of_what_came_after_it(world: World) -> None:
    """Else a restart, further on, would come to another verdict."""
    world.hours(0, 96, still)
    before = world.gauge().compare(START + 96 * HOUR)
    world.hours(96, 150, moved)
    world.fit("batch-1")
    assert world.gauge().compare(START + 96 * HOUR) == before


def test_the_window_begins_with_its_first_moment_and_ends_before_its_last(world: World) -> None:
    world.hours(0, 96, still)
    assert world.gauge().compare(START + 96 * HOUR).drift.recent == 48
    assert world.gauge().compare(START + 96 * HOUR + 1).drift.recent == 48


def test_drift_asks_for_one_retrain_and_then_rests(world: World) -> None:
    agenda = world.agenda()
    play(world, agenda, range(96), still)
    assert world.ordered == []
    play(world, agenda, range(96, 168), moved)
    assert [order.trigger - START for order in world.ordered] == [5 * DAY]
    (order,) = world.ordered
    assert order.job == drift_job("phishing", START + 5 * DAY)
    assert (order.principal, order.promote) == ("drift", True)
    assert order.reason.startswith("hour (psi ")
    assert any("hour (psi" in said for said in world.said)


def test_a_scheduled_retrain_gives_rest_too(world: World) -> None:
    world.hours(0, 96, still)
    world.decide("promote", "batch", "k", trigger=START + 96 * HOUR)
    agenda = world.agenda()
    play(world, agenda, range(96, 200), moved)
    assert all(order.trigger >= START + 96 * HOUR + SETTINGS.rest for order in world.ordered)
    assert world.ordered


@pytest.mark.parametrize("outcome", ["promoted", "refused"])
def test_a_restart_at_any_hour_changes_nothing(tmp_path: Path, pipeline: Pipeline, outcome: str) -> None:
    def triggers(folder: Path, restarts: Iterator[int]) -> list[int]:
        folder.mkdir()
        world = World(folder, pipeline)
        world.outcome = world.promoted if outcome == "promoted" else refused
        agenda, restart = world.agenda(), next(restarts, None)
        for hour in range(240):
            if hour == restart:
                agenda, restart = world.agenda(), next(restarts, None)
            play(world, agenda, [hour], still if hour < 96 else moved)
        return [order.trigger for order in world.ordered]

    undisturbed = triggers(tmp_path / "a", iter(()))
    assert undisturbed
    assert triggers(tmp_path / "b", iter(range(3, 240, 7))) == undisturbed


def test_nothing_to_compare_with_asks_for_nothing() -> None:
    def gone(until: int) -> Any:
        raise Refused(which=f"the rows until {until} were let go of")

    watch = DriftWatch(settings=SETTINGS, first=START, compare=gone)
    assert watch.reason(START, ()) == ""


def test_of_two_that_are_due_at_once_the_schedule_comes_first() -> None:
    class Due:
        def __init__(self, name: str) -> None:
            self.name, self.due = name, 5

        def act(self) -> None:
            acted.append(self.name)
            self.due = 9

    acted: list[str] = []
    agenda = Agenda(cast(Retrains, Due("schedule")), None, cast(DriftRetrains, Due("drift")))
    agenda.act()
    agenda.act()
    assert (acted, agenda.due) == (["schedule", "drift"], 9)


def test_live_the_job_says_why_and_is_submitted_once(world: World) -> None:
    world.hours(0, 96, still)
    jobs = JobTable(world.control.engine)

    def look() -> None:
        """As a registrar that has just started."""
        LiveDrift("phishing", world.watch(), world.journal, jobs).look(7)

    look()
    assert jobs.list("phishing") == []
    world.hours(96, 145, moved)
    look()
    look()
    (job,) = jobs.list("phishing")
    moment = START + 144 * HOUR
    assert (job.id, job.key, job.principal) == (drift_job("phishing", moment), drift_key(moment), "drift")
    assert job.spec["trigger"] == moment
    assert job.spec["promote"] is True
    assert job.spec["reason"].startswith("hour (psi ")
    world.hours(145, 200, moved)
    look()
    assert len(jobs.list("phishing")) == 1, "a job that is under way gives rest as well"


def test_a_pipeline_that_does_not_ask_for_it_is_not_watched(world: World, pipeline: Pipeline) -> None:
    assert watch_of(pipeline, Home(world.folder, "phishing"), world.journal, world.control) is None
