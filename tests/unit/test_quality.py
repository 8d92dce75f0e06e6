"""Quality by stage: what each metric counts, when a window speaks, what an alert stops and what lifts it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from journal.body import Alert, Decision, Definition, Example, Expired, Prediction, Quarantined, body_of, draft_of
from journal.checkpoint import FoldFile
from journal.clock import HOUR, MINUTE
from journal.contract import Contract
from journal.errors import Misconfigured, Stopped
from journal.field import Field
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.quality import QualityFold, require_running, standing, stopped_stages, stopped_streams
from journal.quality_rule import QualityRule
from journal.record import Cause, Draft, Kind, Record, canonical_json
from journal.runner import Runner
from journal.stage_rule import StageRule, late_labels, missing_features, no_labels, rules_of, version_of

START_AT = 1_000 * HOUR
PLANES = Contract(
    stream="planes",
    version="1.0.0",
    fields=(Field(name="tail", type="string", required=True),),
    dedup_window=HOUR,
    max_gap=HOUR,
)
FLIGHTS = Contract(
    stream="flights",
    version="1.0.0",
    fields=(
        Field(name="tail", type="string"),
        Field(name="who", type="string", required=True, personal=True),
        Field(name="phone", type="string", personal=True),
    ),
    dedup_window=HOUR,
    max_gap=HOUR,
    subject="who",
    timeliness=MINUTE,
)
BASE = QualityRule(name="r", field="tail", metric="missing", most=0.1, window=HOUR)


def intake_rules(**changes: Any) -> tuple[StageRule, ...]:
    flights = replace(FLIGHTS, quality=(replace(BASE, **changes),))
    return rules_of({"flights": flights, "planes": PLANES})


class Loop:
    """A journal and the quality fold behind it; offers are numbered."""

    def __init__(self, folder: Path, rules: Sequence[StageRule]) -> None:
        self.rules, self._path = rules, folder / "quality.sqlite"
        self.journal = MemoryJournal("t")
        self.start()

    def start(self) -> None:
        """Begin again from the checkpoint."""
        self.fold = QualityFold(self.rules)
        self.runner = Runner(self.fold, FoldFile(self._path), self.journal, "f")

    def stop(self, *, commit: bool) -> None:
        if commit:
            self.runner.commit()
        self.runner.close()

    def put(self, draft: Draft) -> Record:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        for behind in self.journal.read(0, self.runner.offset, 100):
            self.runner.step(behind)
        return record

    def event(self, data: dict[str, Any], at: int, *, stream: str = "flights", time: int | None = None) -> Record:
        """A source event; its moment is moved to ``at`` by a tick of another stream where it must trail it."""
        if time is not None and self.journal.clock < START_AT + at:
            self.event({}, at, stream="ticks")
        moment = START_AT + (at if time is None else time)
        id_ = f"e{self.journal.end()}"
        return self.put(Draft(kind=Kind.SOURCE, stream=stream, id=id_, time=moment, body=canonical_json(data)))

    def alerts(self) -> list[Alert]:
        return [body_of(record, Alert) for record in self.journal.of_kind(Kind.ALERT, START, 1_000)]


MakeLoop = Callable[[Sequence[StageRule]], Loop]


@pytest.fixture
def make(tmp_path: Path) -> MakeLoop:
    return lambda rules: Loop(tmp_path, rules)


def window(loop: Loop, hour: int, bad: int, good: int) -> None:
    """Events of one hour, a second apart."""
    for n in range(bad + good):
        loop.event({"tail": None if n < bad else "N1"}, hour * HOUR + n * 1_000_000)


def test_a_window_above_its_limit_alerts_when_it_closes(make: MakeLoop) -> None:
    loop = make(intake_rules())
    window(loop, 0, bad=3, good=17)
    assert loop.alerts() == []
    closing = loop.event({"tail": "N1"}, HOUR)
    (alert,) = loop.alerts()
    assert alert == Alert(
        name="r",
        stage="intake",
        stream="flights",
        field="tail",
        metric="missing",
        measured=0.15,
        most=0.1,
        begins=START_AT,
        ends=START_AT + HOUR,
        stop=False,
        events=20,
    )
    record = loop.journal.read(0, closing.offset, 1)[0]
    assert (record.id, record.stream, record.cause) == (f"alert-r-{START_AT}", "quality", (0, closing.offset, 0))
    assert loop.fold.counts() == {"windows": 1, "breaches": 1, "in_breach": 1}


@pytest.mark.parametrize(("bad", "good"), [(19, 0), (2, 18), (0, 500), (10, 90)])
def test_few_records_and_good_ones_say_nothing(make: MakeLoop, bad: int, good: int) -> None:
    loop = make(intake_rules())
    window(loop, 0, bad, good)
    loop.event({"tail": "N1"}, HOUR)
    assert loop.alerts() == []


def test_a_record_at_the_bound_belongs_to_the_next_window(make: MakeLoop) -> None:
    loop = make(intake_rules())
    window(loop, 0, bad=0, good=20)
    window(loop, 1, bad=20, good=0)
    assert loop.alerts() == []
    loop.event({"tail": "N1"}, 5 * HOUR)
    assert [(alert.begins, alert.measured) for alert in loop.alerts()] == [(START_AT + HOUR, 1.0)]


def test_a_good_window_says_so_once_after_a_bad_one(make: MakeLoop) -> None:
    loop = make(intake_rules())
    for hour, bad in enumerate((20, 20, 0, 0)):
        window(loop, hour, bad, 20 - bad)
    window(loop, 4, bad=5, good=0)
    loop.event({"tail": "N1"}, 5 * HOUR)
    assert [alert.is_breach for alert in loop.alerts()] == [True, True, False]
    assert loop.fold.counts() == {"windows": 4, "breaches": 2, "in_breach": 0}


def test_events_in_quarantine_are_invalid(make: MakeLoop) -> None:
    loop = make(rules_of({"flights": replace(FLIGHTS, quality=(replace(BASE, metric="invalid"),))}))
    reasons = ["$.data.tail: no", "$.data.tails: no", "$.data: Object missing required field `tail`. x", "$.time: old"]
    window(loop, 0, bad=0, good=16)
    for n, reason in enumerate(reasons):
        body = Quarantined(reason=reason, event="")
        loop.put(draft_of(body, kind=Kind.QUARANTINE, stream="flights", id=f"q{n}"))
    loop.event({}, HOUR, stream="planes")
    assert [alert.measured for alert in loop.alerts()] == []
    window(loop, 1, bad=0, good=1)
    for n in range(19):
        body = Quarantined(reason=reasons[n % 2 * 2], event="")
        loop.put(draft_of(body, kind=Kind.QUARANTINE, stream="flights", id=f"p{n}"))
    loop.event({}, 2 * HOUR)
    assert [(alert.metric, alert.measured) for alert in loop.alerts()] == [("invalid", 0.95)]


def test_without_a_field_every_quarantined_event_is_invalid(make: MakeLoop) -> None:
    loop = make(intake_rules(metric="invalid", field=""))
    window(loop, 0, bad=0, good=16)
    for n in range(4):
        body = Quarantined(reason="$.time: old", event="")
        loop.put(draft_of(body, kind=Kind.QUARANTINE, stream="flights", id=f"q{n}"))
    loop.event({}, HOUR)
    assert [alert.measured for alert in loop.alerts()] == [0.2]


def test_late_is_behind_the_clock_by_more_than_was_promised(make: MakeLoop) -> None:
    loop = make(intake_rules(metric="late", field=""))
    loop.event({}, 2 * MINUTE)
    for n in range(20):
        loop.event({}, 2 * MINUTE, time=0 if n < 5 else 90_000_000)
    loop.event({}, HOUR)
    assert [(alert.measured, alert.events) for alert in loop.alerts()] == [(5 / 21, 21)]


def test_a_reference_is_to_what_the_other_stream_said_before(make: MakeLoop) -> None:
    loop = make(intake_rules(metric="reference", reference="planes.tail"))
    loop.event({"tail": "N1"}, 0, stream="planes")
    for n in range(20):
        loop.event({"tail": "N2" if n < 4 else "N1"}, n + 1)
    loop.event({"tail": None}, 30)
    loop.event({"tail": "N2"}, 40, stream="planes")
    for n in range(20):
        loop.event({"tail": "N2" if n < 4 else "N1"}, HOUR + n)
    loop.event({}, 2 * HOUR)
    assert [(alert.measured, alert.events) for alert in loop.alerts()] == [(0.2, 20), (0.0, 20)]


def test_a_question_over_http_says_what_may_be_referred_to(make: MakeLoop) -> None:
    loop = make(intake_rules(metric="reference", reference="planes.tail"))
    body = canonical_json({"tail": "N1"})
    loop.put(Draft(kind=Kind.QUESTION, stream="planes", source="http", id="q", time=None, body=body))
    for n in range(20):
        loop.event({"tail": "N2" if n < 4 else "N1"}, n + 1)
    loop.event({}, HOUR)
    assert [(alert.measured, alert.events) for alert in loop.alerts()] == [(0.2, 20)]


def test_doubles_are_counted_within_a_window(make: MakeLoop) -> None:
    loop = make(intake_rules(metric="unique"))
    for hour in range(2):
        for n in range(20):
            loop.event({"tail": f"N{n % 15}"}, hour * HOUR + n)
    loop.event({"tail": "N0"}, 2 * HOUR)
    assert [alert.measured for alert in loop.alerts()] == [0.25, 0.25]


def prediction(loop: Loop, key: str, values: list[Any], service: str = "s@1") -> Record:
    body = Prediction(
        key=key,
        question=0,
        service=service,
        values=values,
        stamps=[None, None],
        score=0.5,
        line="l",
        model="",
        snapshot=-1,
        control=1,
        degraded=False,
        build="b",
    )
    return loop.put(draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{key}"))


def test_missing_feature_values_are_counted_by_view(make: MakeLoop) -> None:
    rules = [
        missing_features("v", name="v", most=0.2, window=HOUR),
        missing_features("w", name="w", most=0, window=HOUR),
    ]
    loop = make(rules_of({}, rules))
    definition = Definition(service="s@1", request=["n"], views=["v@1", "w@1"], columns=["n", "v__a", "v__b", "w__a"])
    loop.put(draft_of(definition, kind=Kind.DEFINITION, stream="features", id="s@1"))
    loop.event({}, 0)
    for n in range(20):
        prediction(loop, str(n), [None, None, 1.0 if n < 10 else None, 1.0])
    loop.stop(commit=True)
    loop.start()
    loop.event({}, HOUR)
    assert len(loop.alerts()) == 1
    for n in range(20):
        prediction(loop, str(n), [1, None if n else 1.0, 2.0, 1.0])
    loop.put(draft_of(Expired(key="", prediction=1, reason="no_label"), kind=Kind.EXPIRED, stream="examples", id="x"))
    loop.event({}, 2 * HOUR)
    prediction(loop, "z", [1, 2.0, 2.0, 1.0])
    assert [(alert.name, alert.stage, alert.field, alert.measured) for alert in loop.alerts()] == [
        ("v", "features", "v", 0.75),
        ("v", "features", "v", 19 / 40),
    ]


def expire(loop: Loop, key: str, cause: Record, reason: str = "no_label") -> None:
    body = Expired(key=key, prediction=0, reason=reason)
    draft = draft_of(body, kind=Kind.EXPIRED, stream="examples", id=f"end-{key}", cause=Cause(0, cause.offset, 0))
    loop.put(draft)


def test_predictions_that_no_label_reached(make: MakeLoop) -> None:
    loop = make(rules_of({}, [no_labels(name="n", most=0.3, window=HOUR)]))
    tick = loop.event({}, 0)
    for n in range(10):
        body = Example(key=str(n), prediction=0, label=0, outcome=True)
        loop.put(draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"ex{n}"))
        expire(loop, str(n), tick, "no_label" if n < 7 else "not_chosen")
    loop.event({}, HOUR)
    assert [(alert.stage, alert.stream, alert.measured) for alert in loop.alerts()] == [("join", "examples", 0.35)]


def test_labels_of_what_expired_are_late_whichever_record_stands_first(make: MakeLoop) -> None:
    rule = late_labels("flights", "tail", 3 * HOUR, name="l", most=0, window=HOUR)
    loop = make(rules_of({}, [rule]))
    tick = loop.event({}, 0, stream="ticks")
    for key in "abcd":
        expire(loop, key, tick, "not_chosen" if key == "d" else "no_label")
    prediction(loop, "c", [])
    labels = [loop.event({"tail": key}, n + 10) for n, key in enumerate("abcdef" + "o" * 13)]
    loop.event({"tail": None}, 50)
    expire(loop, "e", labels[4])
    expire(loop, "f", labels[6])
    loop.event({"tail": "z"}, 60)
    loop.event({}, HOUR)
    assert [(alert.stage, alert.measured, alert.events) for alert in loop.alerts()] == [("join", 3 / 20, 20)]
    for n in range(20):
        loop.event({"tail": "a"}, 4 * HOUR + n)
    loop.event({}, 5 * HOUR)
    assert loop.alerts()[-1].measured == 0.0


def test_restarts_change_neither_alerts_nor_digest(tmp_path: Path) -> None:
    rules = rules_of(
        {
            "planes": PLANES,
            "flights": replace(
                FLIGHTS,
                quality=(
                    BASE,
                    replace(BASE, name="u", metric="unique"),
                    replace(BASE, name="ref", metric="reference", reference="planes.tail", window=2 * HOUR),
                ),
            ),
        },
        [late_labels("flights", "tail", HOUR, name="l", most=0, window=HOUR)],
    )

    def run(folder: Path, every: int, *, commit: bool) -> tuple[list[Alert], str]:
        folder.mkdir()
        loop = Loop(folder, rules)
        for n in range(120):
            tick = loop.event({"tail": None if n % 7 == 0 else f"N{n % 11}"}, n * 2 * MINUTE)
            loop.event({"tail": f"N{n // 20}"}, n * 2 * MINUTE, stream="planes")
            if n % 5 == 0:
                expire(loop, f"N{n % 11}", tick)
            if n % every == every - 1:
                if n % 2:
                    loop.runner.commit()
                loop.stop(commit=commit)
                loop.start()
        loop.event({}, 100 * HOUR)
        return loop.alerts(), loop.fold.digest()

    whole = run(tmp_path / "whole", 1_000, commit=True)
    assert {alert.name for alert in whole[0]} == {"r", "u", "ref", "l"}
    assert run(tmp_path / "orderly", 13, commit=True) == whole
    assert run(tmp_path / "killed", 10, commit=False) == whole


def test_other_rules_are_another_version_and_no_rules_look_at_nothing() -> None:
    assert version_of(intake_rules()) == version_of(intake_rules())
    assert version_of(intake_rules()) != version_of(intake_rules(most=0.2))
    assert QualityFold(()).kinds == frozenset()


def stopping(make: MakeLoop) -> Loop:
    loop = make(intake_rules(stop=True))
    window(loop, 0, bad=20, good=0)
    loop.event({"tail": "N1"}, HOUR)
    return loop


def test_an_alert_that_stops_is_lifted_by_a_good_window(make: MakeLoop) -> None:
    loop = stopping(make)
    through = loop.journal.end()
    assert {stage: alert.name for stage, alert in stopped_stages(loop.journal).items()} == {"intake": "r"}
    assert list(stopped_streams(loop.journal)) == ["flights"]
    with pytest.raises(Stopped, match=r"r: 100\.0% of 20 flights\.tail missing from 1970.*at most 10\.0%"):
        require_running(loop.journal, "features", "intake")
    require_running(loop.journal, "features", "join", "dataset")
    window(loop, 1, bad=0, good=30)
    loop.event({"tail": "N1"}, 2 * HOUR)
    assert stopped_stages(loop.journal) == {} == standing(loop.journal)
    assert list(stopped_stages(loop.journal, through)) == ["intake"]


def resume(loop: Loop, name: str) -> None:
    body = Decision(sequence=1, action="resume", subject=name, why="mended", details={})
    loop.put(draft_of(body, kind=Kind.DECISION, stream="control", id=f"decision-{loop.journal.end()}"))


def test_a_decision_lifts_the_alert_before_it_and_no_later_one(make: MakeLoop) -> None:
    loop = stopping(make)
    resume(loop, "another")
    assert stopped_stages(loop.journal)
    resume(loop, "r")
    assert stopped_stages(loop.journal) == {}
    window(loop, 1, bad=20, good=0)
    loop.event({"tail": "N1"}, 2 * HOUR)
    assert stopped_stages(loop.journal)["intake"].begins == START_AT + HOUR


def test_an_alert_that_stops_nothing_stands_and_holds_nothing(make: MakeLoop) -> None:
    loop = make(intake_rules())
    window(loop, 0, bad=20, good=0)
    loop.event({"tail": "N1"}, HOUR)
    assert list(standing(loop.journal)) == ["r"]
    assert stopped_stages(loop.journal) == {} == stopped_streams(loop.journal)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"field": "nowhere"}, "no record shows the field 'nowhere'"),
        ({"field": "phone"}, "no record shows the field 'phone'"),
        ({"field": "", "metric": "unique"}, "names none"),
        ({"metric": "reference", "reference": "planes.tails"}, "no 'planes.tails'"),
        ({"metric": "reference", "reference": "tail"}, "no 'tail'"),
        ({"metric": "reference", "reference": "flights.who"}, "cannot be compared"),
        ({"window": 0}, "its window is empty"),
        ({"most": 1.5}, "not within 0 and 1"),
    ],
)
def test_rules_that_cannot_be_measured(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(Misconfigured, match=fault):
        intake_rules(**changes)


def test_all_mistakes_are_told_at_once() -> None:
    late = replace(FLIGHTS, timeliness=None, quality=(replace(BASE, metric="late", field=""), BASE))
    with pytest.raises(Misconfigured, match="promises no timeliness; quality rule 'r' stands twice"):
        rules_of({"flights": late})
