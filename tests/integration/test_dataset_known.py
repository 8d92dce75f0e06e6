"""What predictions do not hold is joined as it was known: cell by cell what they would have held.

Every question is answered by a reader of both views; what is recorded holds one of them, by turns. What the other view
gave is kept here as the truth.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
import pytest

from features import dataset
from features.aggregates import Aggregate
from features.dataset_known import Known, fill
from features.dataset_service import Service, service_of
from features.examples import collect
from features.history import History, mark_of
from features.online_table import OnlineTable
from features.outbox import Outbox
from features.processor import FeatureFold
from features.reader import FeatureReader, define
from features.views import ServicePlan, ViewPlan
from journal.body import Definition, Example, Prediction, draft_of
from journal.checkpoint import FoldFile
from journal.clock import SECOND
from journal.errors import Refused
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json
from journal.runner import Runner

BEGIN = 1_365_000_000 * SECOND
SPEEDS = ViewPlan(
    name="speeds",
    join_keys=("road",),
    key_types=("string",),
    fields=(("n_1m", "int64"), ("mean_1m", "float64")),
    ttl=50 * SECOND,
    kind="windows",
    streams=("cars",),
    aggregates=(
        Aggregate(kind="count", stream="cars", over=60 * SECOND, tile=10 * SECOND),
        Aggregate(kind="mean", stream="cars", column="speed", over=60 * SECOND, tile=10 * SECOND),
    ),
)
SIGNS = ViewPlan(
    name="signs",
    join_keys=("lane", "road"),
    key_types=("int64", "string"),
    fields=(("limit", "float64"), ("text", "string"), ("lit", "bool")),
    ttl=None,
    kind="plain",
    streams=("signs",),
)
TYPES = {"n": "int64"}
BOTH = ServicePlan(name="both", views=(SPEEDS, SIGNS), request=("n",))
HELD = (ServicePlan(name="fast", views=(SPEEDS,), request=("n",)), ServicePlan(name="signed", views=(SIGNS,)))
"""What predictions hold by turns: the second holds the question's own column neither."""


class Story:
    """A journal, the feature fold over it, and what each prediction would have held of both views."""

    def __init__(self, root: Path) -> None:
        self.root, self.random = root, random.Random(5)
        self.journal = MemoryJournal("t")
        self.file = FoldFile(root / "features.sqlite")
        schemas = [view.schema for view in BOTH.views]
        self.table, self.outbox = OnlineTable(self.file.db), Outbox(self.file.db, schemas)
        fold = FeatureFold(BOTH.views, 90 * SECOND, self.table, self.outbox)
        self.runner = Runner(fold, self.file, self.journal, "libraries")
        self.history = History(root / "history", schemas)
        self.reader = FeatureReader(BOTH, ["n"], self.table)
        self.truth: dict[int, list[Any]] = {}
        for plan in HELD:
            self.put(draft_of(_definition(plan), kind=Kind.DEFINITION, stream="f", id=plan.label))

    @property
    def known(self) -> Known:
        return Known(history=self.root / "history", folds=[self.root / "features.sqlite"])

    def put(self, draft: Draft) -> Record:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        self.runner.step(record)
        return record

    def event(self, stream: str, second: float, **data: Any) -> Record:
        id = f"{stream}-{self.journal.end()}"
        time = BEGIN + int(second * SECOND)
        return self.put(Draft(kind=Kind.SOURCE, stream=stream, id=id, time=time, body=canonical_json(data)))

    def play(self, seconds: range) -> None:
        """Each second a car, now and then one that is late, a sign, and a question with its answer and outcome."""
        for second in seconds:
            road = self.random.choice("abc")
            late = self.random.choice((0, 0, 0, 30))
            self.event("cars", second - late, road=road, speed=self.random.choice((None, self.random.gauss(90, 9))))
            if self.random.random() < 0.3:
                text = self.random.choice((None, "", "50, please", 'a "b"\\c'))
                lane, limit = self.random.randrange(2), self.random.random() * 99
                self.event("signs", second, road=road, lane=lane, limit=limit, text=text, lit=lane == 1)
            self.ask(second)

    def ask(self, second: int) -> None:
        asked = {"road": self.random.choice(("a", "b", "c", None)), "lane": self.random.randrange(2), "n": second}
        question = self.event("questions", second, **asked)
        plan = HELD[second % 2]
        values = FeatureReader(plan, plan.request, self.table).read(asked, question.at).values
        made = self.put(_prediction(question, plan, values))
        self.truth[made.offset] = self.reader.read(asked, question.at).values
        outcome = Example(key="", prediction=made.offset, label=question.offset, outcome=second % 3 == 0)
        self.put(draft_of(outcome, kind=Kind.EXAMPLE, stream="examples", id=f"e-{made.offset}"))

    def commit(self) -> None:
        """What a worker does every so often: state, online rows and outbox with the position."""
        self.runner.commit()

    def close(self) -> None:
        self.runner.close()


def _definition(plan: ServicePlan) -> Definition:
    return define(plan, {name: TYPES[name] for name in plan.request})


def _prediction(question: Record, plan: ServicePlan, values: list[Any]) -> Draft:
    body = Prediction(
        key=str(question.offset), question=question.offset, service=plan.label, values=values, stamps=[], score=0.5,
        line="l", model="", snapshot=-1, control=1, degraded=False, build="b",
    )  # fmt: skip
    return draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{question.offset}")


WANTED = service_of(BOTH, TYPES)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """Four minutes of a road; the first half is in history, the second waits in the outbox."""
    story = Story(tmp_path)
    story.play(range(120))
    story.commit()
    story.history.flush(story.outbox)
    story.play(range(120, 240))
    story.commit()
    yield story
    story.close()


def cells(story: Story, service: Service = WANTED) -> dict[int, list[Any]]:
    """The features of every row, by prediction."""
    rows = collect(story.journal, story.journal.end(), service=service)
    table = fill(rows, story.journal, story.known, story.journal.end())
    columns = [table[name].to_pylist() for name in service.definition.columns]
    return dict(zip(table["prediction"].to_pylist(), map(list, zip(*columns, strict=True)), strict=True))


def test_two_services_in_one_range_give_what_both_views_would_have_given(story: Story) -> None:
    assert story.outbox.pending_rows() > 100
    assert mark_of(story.root / "history" / "speeds") > BEGIN
    assert cells(story) == story.truth
    missing = [sum(values[column] is None for values in story.truth.values()) for column in range(1, 6)]
    assert all(0 < count < len(story.truth) for count in missing), "the story must have found and missing rows"


def test_it_does_not_matter_where_the_rows_lie(story: Story) -> None:
    """In the outbox, in both for the moment of a flush, in history alone."""
    rows, through, _ = story.outbox.read("speeds")
    assert story.history.append("speeds", rows, through, story.outbox.flushed("speeds")) == len(rows) > 0
    assert cells(story) == story.truth
    story.history.flush(story.outbox)
    assert story.outbox.pending_rows() == 0
    assert cells(story) == story.truth


def test_nothing_flushed_at_all_is_no_matter(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.play(range(40))
    story.commit()
    assert mark_of(story.root / "history" / "speeds") == 0
    assert cells(story) == story.truth
    story.close()


def test_a_build_counts_and_flags_what_was_looked_up(story: Story, tmp_path: Path) -> None:
    root = tmp_path / "datasets"
    asked = dataset.Asked(service=WANTED)
    made = dataset.build(story.journal, root, "t", story.journal.end(), "b", asked, known=story.known)
    assert made.reconstructed == {"signs@1": 120, "speeds@1": 120}
    assert made.digests == {"signs@1": SIGNS.digest, "speeds@1": SPEEDS.digest}
    assert (made.rows_out, made.service) == (240, BOTH.label)
    assert pc.all(dataset.read(root, made.version)["reconstructed"]).as_py()
    assert dataset.verify(story.journal, root, made.version, known=story.known) == made


def test_a_view_that_predictions_hold_is_taken_from_them(story: Story, tmp_path: Path) -> None:
    """Of a service over one of the views only the other's rows are reconstructed."""
    asked = dataset.Asked(service=service_of(HELD[0], TYPES))
    made = dataset.build(story.journal, tmp_path, "t", story.journal.end(), "b", asked, known=story.known)
    assert made.reconstructed == {"speeds@1": 120}
    table = dataset.read(tmp_path, made.version)
    flags = dict(zip(table["prediction"].to_pylist(), table["reconstructed"].to_pylist(), strict=True))
    assert flags == {offset: number % 2 == 1 for number, offset in enumerate(story.truth)}


def test_a_late_correction_changes_features_and_no_dataset(story: Story, tmp_path: Path) -> None:
    """A car that comes late changes what the window says now, and a plain view's sign is corrected."""
    root, end = tmp_path / "datasets", story.journal.end()
    asked = dataset.Asked(service=WANTED)
    made = dataset.build(story.journal, root, "t", end, "b", asked, known=story.known)
    question = {"road": "a", "lane": 1, "n": 0}
    before = story.reader.read(question, BEGIN + 240 * SECOND).values
    for _ in range(3):
        story.event("cars", 205, road="a", speed=1.0)
    story.event("signs", 239.5, road="a", lane=1, limit=7.0, text="corrected", lit=False)
    after = story.reader.read(question, BEGIN + 240 * SECOND).values
    assert (after[1], after[3:]) == (before[1] + 3, [7.0, "corrected", False])
    story.commit()
    assert dataset.verify(story.journal, root, made.version, known=story.known) == made
    assert dataset.build(story.journal, root, "t", end, "b", asked, known=story.known) == made
    story.history.flush(story.outbox)
    assert dataset.verify(story.journal, root, made.version, known=story.known) == made


def test_an_adapter_reads_the_questions_of_earlier_versions(story: Story) -> None:
    def lift(record: Record) -> Record:
        data = record.data
        return msgspec.structs.replace(record, body=canonical_json({**data, "n": data["n"] + 1_000}))

    rows = collect(story.journal, story.journal.end(), service=WANTED)
    table = fill(rows, story.journal, story.known, story.journal.end(), lift)
    truth = [values[0] for values in story.truth.values()]
    lifted = [n + 1_000 * (number % 2) for number, n in enumerate(truth)]
    assert table["n"].to_pylist() == lifted


def test_a_view_set_in_a_file_of_its_own_is_found_by_its_digest(story: Story) -> None:
    """A view that was declared later, computed from the journal's beginning beside the first set."""
    later = msgspec.structs.replace(SPEEDS, name="speeds_later")
    schemas, path = [later.schema], story.root / "features-0123456789ab.sqlite"
    file = FoldFile(path)
    outbox = Outbox(file.db, schemas)
    fold = FeatureFold([later], 90 * SECOND, OnlineTable(file.db), outbox, name=path.stem)
    runner = Runner(fold, file, story.journal, "libraries")
    history = History(story.root / "history", schemas)
    for record in story.journal.read(0, -1, 10_000):
        runner.step(record)
    runner.commit()
    wanted = service_of(ServicePlan(name="later", views=(later,), request=("n",)), TYPES)
    rows, end = collect(story.journal, story.journal.end(), service=wanted), story.journal.end()
    known = Known(history=story.root / "history", folds=[story.root / "features.sqlite", path])
    for _ in range(2):
        table = fill(rows, story.journal, known, end)
        found = zip(*(table[name].to_pylist() for name in wanted.definition.columns), strict=True)
        assert [list(values) for values in found] == [values[:3] for values in story.truth.values()]
        history.flush(outbox)
    runner.close()


def test_a_fold_that_lies_behind_is_waited_for_and_not_guessed(story: Story) -> None:
    story.play(range(240, 244))
    with pytest.raises(Refused, match=r"(speeds|signs)@1 is computed up to record \d+, and the range ends at"):
        cells(story)
    story.commit()
    assert cells(story) == story.truth


def test_a_view_that_nothing_computes_is_refused(story: Story) -> None:
    other = msgspec.structs.replace(SIGNS, version=2)
    wanted = service_of(ServicePlan(name="newer", views=(other,), request=("n",)), TYPES)
    with pytest.raises(Refused, match="nothing computes signs@2 here"):
        cells(story, wanted)
    rows = collect(story.journal, story.journal.end(), service=wanted)
    with pytest.raises(Refused, match=r"hold no signs@2, and it cannot be looked up here"):
        fill(rows, story.journal, None, story.journal.end())
