"""A window of bad data excludes itself from training, and from nothing else."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from features import dataset
from features.bad_windows import BadWindows
from features.dataset import hash_rows
from features.examples import collect
from journal.body import Alert, Definition, Example, Expired, Prediction, body_of, draft_of
from journal.errors import Stopped
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json

HOURS = 10
QUESTIONS, LABELS = "schedule", "arrivals"


def alert(stream: str, begins: int, ends: int, *, name: str = "r", measured: float = 0.5) -> Draft:
    body = Alert(
        name=name,
        stage="intake",
        stream=stream,
        field="",
        metric="late",
        measured=measured,
        most=0.1,
        begins=begins,
        ends=ends,
        stop=False,
        events=99,
    )
    return draft_of(body, kind=Kind.ALERT, stream="quality", id=f"alert-{name}-{begins}")


class Story:
    """Questions at 100, 200, ... answered at once; their labels at 1100, 1200, ...; the last one expires."""

    def __init__(self) -> None:
        self.journal = MemoryJournal("t")
        definition = Definition(service="s@1", request=["n"], views=[], columns=["n"], types=["int64"])
        self.put(draft_of(definition, kind=Kind.DEFINITION, stream="f", id="s@1"))
        self.questions = [self.event(QUESTIONS, 100 * n) for n in range(1, HOURS + 1)]
        self.predictions = [self.predict(question) for question in self.questions]
        self.labels = [self.event(LABELS, 1_000 + 100 * n) for n in range(1, HOURS)]
        self.examples = [self.join(n) for n in range(HOURS - 1)]
        end = Expired(key="", prediction=self.predictions[-1].offset, reason="no_label")
        self.put(draft_of(end, kind=Kind.EXPIRED, stream="examples", id="end"))

    def put(self, draft: Draft) -> Record:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        return record

    def event(self, stream: str, time: int) -> Record:
        body = canonical_json({})
        return self.put(Draft(kind=Kind.SOURCE, stream=stream, id=f"{stream}-{time}", time=time, body=body))

    def predict(self, question: Record) -> Record:
        body = Prediction(
            key=question.id,
            question=question.offset,
            service="s@1",
            values=[question.offset],
            stamps=[],
            score=0.5,
            line="l",
            model="",
            snapshot=-1,
            control=1,
            degraded=False,
            build="b",
        )
        return self.put(draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{question.id}"))

    def join(self, n: int) -> Record:
        body = Example(key="", prediction=self.predictions[n].offset, label=self.labels[n].offset, outcome=n % 2 == 0)
        return self.put(draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"ex-{n}"))

    def kept(self, through: int | None = None) -> tuple[list[int], dict[str, int]]:
        rows = collect(self.journal, self.journal.end() if through is None else through)
        assert rows.considered == rows.table.num_rows + sum(rows.excluded.values())
        offsets = [record.offset for record in self.predictions]
        return [offsets.index(offset) + 1 for offset in rows.table.column("prediction").to_pylist()], rows.excluded


@pytest.fixture
def story() -> Story:
    return Story()


def test_without_alerts_nothing_is_excluded(story: Story) -> None:
    assert story.kept() == (list(range(1, 10)), {"no_label": 1})


@pytest.mark.parametrize(
    ("stream", "begins", "ends", "left_out"),
    [
        (QUESTIONS, 200, 400, [2, 3]),
        (QUESTIONS, 201, 401, [3, 4]),
        (QUESTIONS, 0, 101, [1]),
        (QUESTIONS, 900, 1_000, [9]),
        (LABELS, 1_100, 1_300, [1, 2]),
        (LABELS, 0, 1_100, []),
        ("elsewhere", 0, 5_000, []),
        ("predictions", 1_000, 1_004, [1, 2, 3]),
        ("examples", 1_900, 1_903, [1, 2]),
    ],
)
def test_what_lies_in_a_bad_window_of_its_stream_is_left_out(
    story: Story, stream: str, begins: int, ends: int, left_out: list[int]
) -> None:
    before = story.journal.end()
    story.event("clock", 9_000)
    story.put(alert(stream, begins, ends))
    kept, excluded = story.kept()
    assert kept == [n for n in range(1, 10) if n not in left_out]
    assert excluded == {"no_label": 1} | ({"bad_window:r": len(left_out)} if left_out else {})
    assert story.kept(before) == (list(range(1, 10)), {"no_label": 1})


def test_the_window_that_lifts_an_alert_is_good(story: Story) -> None:
    plain = hash_rows(collect(story.journal, story.journal.end()).table)
    story.event("clock", 9_000)
    story.put(alert(QUESTIONS, 200, 400, measured=0.05))
    assert hash_rows(collect(story.journal, story.journal.end()).table) == plain


def test_each_row_is_left_out_once_under_the_first_alert(story: Story) -> None:
    story.event("clock", 9_000)
    for name, stream, begins, ends in (
        ("b", QUESTIONS, 200, 500),
        ("a", QUESTIONS, 300, 700),
        ("c", LABELS, 1_100, 1_500),
    ):
        story.put(alert(stream, begins, ends, name=name))
    assert story.kept() == ([7, 8, 9], {"bad_window:a": 2, "bad_window:b": 3, "bad_window:c": 1, "no_label": 1})


def test_a_stage_that_is_held_builds_no_dataset_until_it_is_lifted(story: Story, tmp_path: Path) -> None:
    before = story.journal.end()
    story.event("clock", 9_000)
    body = body_of(story.put(alert("predictions", 0, 1)), Alert)
    held = msgspec.structs.replace(body, name="gaps", stage="features", stop=True)
    story.put(draft_of(held, kind=Kind.ALERT, stream="quality", id="alert-gaps-0"))
    with pytest.raises(Stopped, match="gaps: "):
        dataset.build(story.journal, tmp_path, "t", story.journal.end(), "b")
    assert dataset.build(story.journal, tmp_path, "t", before, "b").rows_out == 9
    lifted = msgspec.structs.replace(held, measured=0.0, begins=1, ends=2)
    story.put(draft_of(lifted, kind=Kind.ALERT, stream="quality", id="alert-gaps-1"))
    made = dataset.build(story.journal, tmp_path, "t", story.journal.end(), "b")
    assert dataset.verify(story.journal, tmp_path, made.version) == made


def test_a_manifest_shows_what_was_left_out_and_verifies(story: Story, tmp_path: Path) -> None:
    story.event("clock", 9_000)
    story.put(alert(QUESTIONS, 200, 400))
    made = dataset.build(story.journal, tmp_path, "t", story.journal.end(), "b")
    assert made.excluded == {"bad_window:r": 2, "no_label": 1}
    assert made.rows_in == made.rows_out == made.considered - 3
    assert dataset.verify(story.journal, tmp_path, made.version) == made


def test_offsets_are_found_as_a_scan_would_find_them(story: Story) -> None:
    story.event("clock", 9_000)
    records = story.journal.read(0, -1, 1_000)
    windows: list[tuple[int, int]] = [(a, a + w) for a in range(0, 2_200, 37) for w in (1, 50, 500)]
    for begins, ends in windows:
        journal = Overlay(story.journal, alert(QUESTIONS, begins, ends))
        bad = BadWindows(journal, 10_000)
        for question in story.questions:
            inside = begins <= question.at < ends
            found = bad.rule_against(question=question.offset, prediction=0, label=0, example=0)
            assert (found == "r") is inside, (begins, ends, question.at)
    assert len(records) == story.journal.end() + 1


class Overlay:
    """A journal with one alert more."""

    def __init__(self, journal: MemoryJournal, draft: Draft) -> None:
        self._journal = journal
        fields: dict[str, Any] = {name: getattr(draft, name) for name in draft.__struct_fields__}
        self._alert = Record(**fields, partition=0, offset=journal.end(), at=9_000)

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        return self._journal.read(partition, after, limit)

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        return [self._alert] if kind is Kind.ALERT and after < self._alert.offset else []
