"""In whatever order events come, however far a reader lags: honest answers have no skew; one changed value is found."""

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from features.aggregates import Aggregate
from features.reader import FeatureReader, define
from features.replay import Replay, RowMemory, Rules
from features.rows import Row
from features.skew import Known, Range, compare
from features.skew_report import Skew
from features.views import ServicePlan, ViewPlan
from journal.body import Prediction, draft_of
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json

SALES = ViewPlan(
    name="sales",
    join_keys=("shop",),
    key_types=("string",),
    fields=(("n", "int64"), ("mean", "float64")),
    ttl=60,
    kind="windows",
    streams=("sold",),
    aggregates=(
        Aggregate(kind="count", stream="sold", over=40, tile=10),
        Aggregate(kind="mean", stream="sold", column="amount", over=40, tile=10),
    ),
)
SKY = ViewPlan(
    name="sky",
    join_keys=("shop",),
    key_types=("string",),
    fields=(("temp", "float64"),),
    ttl=25,
    kind="plain",
    streams=("sky",),
)
SERVICE = ServicePlan(name="s", views=(SALES, SKY), request=())
RULES = Rules(views=SERVICE.views, lateness=15)
KNOWN = Known(services=frozenset({SERVICE.label}))

shops = st.sampled_from(["a", "b"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("sold"), st.integers(-30, 30), shops, st.integers(0, 9)),
        st.tuples(st.just("sky"), st.integers(-30, 30), shops, st.integers(0, 9)),
        st.tuples(st.just("asks"), st.integers(0, 10), shops, st.just(0)),
        st.tuples(st.just("http"), st.just(0), shops, st.just(0)),
        st.tuples(st.just("look"), st.just(0), shops, st.just(0)),
    ),
    max_size=60,
)


class Table(RowMemory):
    """The rows of a fold that serves from behind the journal."""

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        return [self.newest(view, key) for view, key in wanted]


class Live:
    """A journal, a fold that sometimes looks at it, and what was answered."""

    def __init__(self) -> None:
        self.journal, self.table = MemoryJournal("t"), Table()
        self.fold, self.seen = Replay(RULES, self.table), -1
        self.reader = FeatureReader(SERVICE, (), self.table)
        self.answers: list[int] = []
        self.append(draft_of(define(SERVICE, {}), kind=Kind.DEFINITION, stream="f", id="s"))

    def append(self, draft: Draft) -> Record:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        return record

    def look(self) -> None:
        for record in self.journal.read(0, self.seen, 10_000):
            self.fold.apply(record)
            self.seen = record.offset

    def happens(self, kind: Kind, stream: str, time: int | None, **data: Any) -> Record:
        body, id_ = canonical_json(data), str(self.journal.end())
        return self.append(Draft(kind=kind, stream=stream, id=id_, time=time, body=body))

    def step(self, what: str, by: int, shop: str, amount: int) -> None:
        time = max(1, self.journal.clock + by) if self.journal.clock else 1_000
        match what:
            case "sold":
                self.happens(Kind.SOURCE, "sold", time, shop=shop, amount=amount)
            case "sky":
                self.happens(Kind.SOURCE, "sky", time, shop=shop, temp=amount / 4)
            case "asks":
                question = self.happens(Kind.SOURCE, "asks", time, shop=shop)
                self.look()
                self.answer(question)
            case "http":
                self.answer(self.happens(Kind.QUESTION, "asks", None, shop=shop))
            case _:
                self.look()

    def answer(self, question: Record) -> None:
        now = self.journal.next_at() if question.kind is Kind.QUESTION else None
        features = self.reader.read(question.data, now or question.at + 1)
        prediction = Prediction(
            key="k",
            question=question.offset,
            service=SERVICE.label,
            values=features.values,
            stamps=features.stamps,
            score=0.5,
            line="l",
            model="m",
            snapshot=1,
            control=1,
            degraded=False,
            build="b",
            now=now,
        )
        self.answers.append(self.append(draft_of(prediction, kind=Kind.PREDICTION, stream="p", id="p")).offset)


class Changed:
    """A journal one of whose predictions says something else."""

    def __init__(self, journal: MemoryJournal, offset: int, column: int) -> None:
        self._journal, self._offset, self._column = journal, offset, column

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        return [self._change(record) for record in self._journal.read(partition, after, limit)]

    def _change(self, record: Record) -> Record:
        if record.offset != self._offset:
            return record
        body = msgspec.json.decode(record.body)
        value = body["values"][self._column]
        body["values"][self._column] = 1.5 if value is None else value + 1
        return msgspec.structs.replace(record, body=canonical_json(body))


def lived(history: Sequence[tuple[str, int, str, int]]) -> Live:
    live = Live()
    for step in history:
        live.step(*step)
    return live


def compared(journal: Any, kept: int = 100_000) -> Skew:
    return compare(journal, RULES, KNOWN, Range(), kept=kept)


@given(steps)
def test_honest_answers_have_no_skew_however_few_rows_are_kept(history: list[tuple[str, int, str, int]]) -> None:
    live = lived(history)
    found = compared(live.journal)
    assert (found.mismatches, found.examples) == (0, [])
    assert found.predictions == len(live.answers)
    assert found.rows + sum(view.missing for view in found.views) == 2 * len(live.answers)
    assert compared(live.journal, kept=0) == found
    assert compared(live.journal, kept=2) == found


@given(steps.filter(lambda history: any(step[0] in {"asks", "http"} for step in history)), st.data())
def test_one_changed_value_is_found(history: list[tuple[str, int, str, int]], data: st.DataObject) -> None:
    live = lived(history)
    offset, column = data.draw(st.sampled_from(live.answers)), data.draw(st.integers(0, 2))
    found = compared(Changed(live.journal, offset, column))
    assert found.mismatches == 1
    assert found.examples[0].prediction == offset
