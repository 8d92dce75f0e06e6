"""Served features against a rebuild: what is honest compares equal, and every way of being wrong is found and named."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from features.aggregates import Aggregate
from features.reader import FeatureReader, define
from features.replay import Replay, RowMemory, Rules
from features.rows import Row, encode_key
from features.skew import Known, Range, compare
from features.skew_report import WHOLE_ROW, Skew
from features.views import ServicePlan, ViewPlan
from journal.body import Decision, Prediction, decode, draft_of
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json

SALES = ViewPlan(
    name="sales",
    join_keys=("shop",),
    key_types=("string",),
    fields=(("n", "int64"), ("mean", "float64")),
    ttl=1_000,
    kind="windows",
    streams=("sold",),
    aggregates=(
        Aggregate(kind="count", stream="sold", over=200, tile=10),
        Aggregate(kind="mean", stream="sold", column="amount", over=200, tile=10),
    ),
)
WEATHER = ViewPlan(
    name="weather",
    join_keys=("town",),
    key_types=("string",),
    fields=(("temp", "float64"),),
    ttl=50,
    kind="plain",
    streams=("sky",),
)
SERVICE = ServicePlan(name="s", views=(SALES, WEATHER), request=("hour",))
RULES = Rules(views=SERVICE.views, lateness=100)
EVER = Range()
KNOWN = Known(services=frozenset({SERVICE.label}))


class Served(RowMemory):
    """A fold's rows, as a reader sees them."""

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        return [self.newest(view, key) for view, key in wanted]


class Shop:
    """A journal, a fold that serves from behind it, and answers by the real reader."""

    def __init__(self, rules: Rules = RULES) -> None:
        self.journal, self.table = MemoryJournal("t"), Served()
        self.fold, self.unseen = Replay(rules, self.table), list[Record]()
        self.reader = FeatureReader(SERVICE, SERVICE.request, self.table)
        definition = define(SERVICE, {"hour": "int64"})
        self.append(draft_of(definition, kind=Kind.DEFINITION, stream="f", id=definition.service))

    def append(self, draft: Draft) -> Record:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        self.unseen.append(record)
        return record

    def happens(self, stream: str, time: int, **data: Any) -> Record:
        id_ = f"{stream}{self.journal.end()}"
        return self.append(Draft(kind=Kind.SOURCE, stream=stream, id=id_, time=time, body=canonical_json(data)))

    def catch_up(self) -> None:
        for record in self.unseen:
            self.fold.apply(record)
        self.unseen.clear()

    def ask(self, time: int, **changes: Any) -> Prediction:
        """A question that comes as an event."""
        return self.answer(self.happens("asks", time, hour=3, shop="a", town="x"), **changes)

    def ask_over_http(self, now: int | None = None, **changes: Any) -> Prediction:
        """One that is answered from what has been taken up, whatever the journal holds by now."""
        now = now or self.journal.next_at()
        body = canonical_json({"hour": 3, "shop": "a", "town": "x"})
        draft = Draft(kind=Kind.QUESTION, stream="asks", id=f"q{self.journal.end()}", body=body)
        (question,) = self.journal.append([draft])
        assert isinstance(question, Record)
        return self.answer(question, now=now, **changes)

    def answer(self, question: Record, *, now: int | None = None, **changes: Any) -> Prediction:
        if now is None:
            self.catch_up()
        features = self.reader.read(question.data, now or question.at + 1)
        honest = Prediction(
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
        changed = {name: change(getattr(honest, name)) for name, change in changes.items()}
        prediction = msgspec.structs.replace(honest, **changed)
        (record,) = self.journal.append([draft_of(prediction, kind=Kind.PREDICTION, stream="p", id="p")])
        assert isinstance(record, Record)
        return decode(record.body, Prediction)

    def compare(self, known: Known = KNOWN, range_: Range = EVER, **options: Any) -> Skew:
        return compare(self.journal, RULES, known, range_, **options)


@pytest.fixture
def shop() -> Shop:
    """Two sales, an observation, and an idle reader that has seen them."""
    shop = Shop()
    shop.happens("sold", 1_000, shop="a", amount=3)
    shop.happens("sky", 1_001, town="x", temp=20.5)
    shop.happens("sold", 1_010, shop="a", amount=4)
    shop.catch_up()
    return shop


def with_value(place: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values[:place], value, *values[place + 1 :]]


def test_what_was_served_honestly_is_equal(shop: Shop) -> None:
    prediction = shop.ask(1_020)
    assert prediction.values == [3, 2, 3.5, 20.5]
    found = shop.compare()
    assert (found.predictions, found.rows, found.values, found.mismatches) == (1, 2, 3, 0)
    assert [(view.view, view.rows, view.behind) for view in found.views] == [("sales@1", 1, 0), ("weather@1", 1, 0)]
    assert found.views[0].freshness == {"p50": 0, "p90": 0, "p99": 0, "max": 0}


def test_an_answer_from_behind_is_stale_and_no_mismatch(shop: Shop) -> None:
    shop.happens("sold", 1_030, shop="a", amount=100)
    shop.ask_over_http()
    found = shop.compare()
    assert found.mismatches == 0
    sales, weather = found.views
    assert (sales.behind, weather.behind) == (1, 0)
    assert sales.freshness["max"] == 1_030 - 1_010


def test_freshness_is_told_in_quantiles(shop: Shop) -> None:
    for time in range(1_011, 1_031):
        shop.happens("sold", time, shop="a", amount=1)
        shop.ask_over_http()
    (sales, _) = shop.compare().views
    sold = [record for record in shop.journal.of_kind(Kind.SOURCE, 0, 100) if record.stream == "sold"]
    served = sold[1].at
    lags = [record.at - served for record in sold[2:]]
    assert sales.behind == 20
    assert sales.freshness == {"p50": lags[9], "p90": lags[17], "p99": lags[19], "max": lags[19]}


@pytest.mark.parametrize("kept", [0, 1, 100_000])
def test_rows_that_the_replay_let_go_of_are_looked_up_again(shop: Shop, kept: int) -> None:
    for time in range(1_030, 1_040):
        shop.happens("sold", time, shop="a", amount=100)
    shop.ask_over_http()
    shop.ask_over_http(values=with_value(2, 3.25))
    found = shop.compare(kept=kept)
    assert (found.rows, found.mismatches) == (4, 1)
    assert found.examples[0].feature == "mean"
    assert found.examples[0].rebuilt == 3.5


@pytest.mark.parametrize(
    ("place", "value", "feature"),
    [(1, 3, "n"), (2, 3.5000000000000004, "mean"), (2, None, "mean"), (3, 20, "temp"), (1, 2.0, "n")],
)
def test_one_value_that_differs_is_named(shop: Shop, place: int, value: Any, feature: str) -> None:
    """To the last bit, and an integer is no float."""
    prediction = shop.ask(1_020, values=with_value(place, value))
    found = shop.compare()
    assert found.mismatches == 1
    (example,) = found.examples
    assert (example.feature, example.cause, example.served) == (feature, "unknown", value)
    assert example.stamp == example.rebuilt_stamp
    assert example.prediction == prediction.question + 1


@pytest.mark.parametrize("stamp", [(1_010, 1_011), (1_009, 1_010), (990, 999)])
def test_a_row_that_the_rebuild_does_not_have_is_a_mismatch(shop: Shop, stamp: tuple[int, int]) -> None:
    shop.ask(1_020, stamps=with_value(0, stamp))
    found = shop.compare()
    assert (found.mismatches, found.views[0].features) == (1, {WHOLE_ROW: 1})
    assert found.examples[0].stamp == stamp


def test_a_row_past_its_ttl_must_not_be_served(shop: Shop) -> None:
    assert shop.ask(1_060).stamps[1] is None
    assert shop.compare().mismatches == 0
    assert shop.compare().views[1].missing == 1
    shop.ask(1_060, stamps=with_value(1, (1_001, 1_001)), values=with_value(3, 20.5))
    assert shop.compare().causes == {"ttl": 1}


def test_over_http_the_moment_that_counts_is_the_services_own_now(shop: Shop) -> None:
    """It lies behind the newest row that it reads by as long as it has not looked."""
    shop.happens("sold", 1_060, shop="a", amount=3)
    shop.catch_up()
    assert [shop.ask_over_http(now=now).stamps[1] for now in (1_051, 1_052)] == [(1_001, 1_001), None]
    found = shop.compare()
    assert (found.mismatches, found.views[1].rows, found.views[1].missing) == (0, 1, 1)


@pytest.mark.parametrize(("now", "served"), [(1_051, False), (1_052, True)])
def test_over_http_staleness_is_held_against_the_moment_that_was_recorded(shop: Shop, now: int, served: bool) -> None:
    stamp, value = ((1_001, 1_001), 20.5) if served else (None, None)
    shop.ask_over_http(now=now, stamps=with_value(1, stamp), values=with_value(3, value))
    assert shop.compare().causes == {"ttl": 1}


def test_over_http_a_delete_that_only_this_view_shows_explains_a_missing_row(shop: Shop) -> None:
    """Nothing that was served tells that the answer had seen it."""
    erased = Decision(sequence=2, action="erase", subject="s", why="w", details={"pseudonyms": {"shop": ["a"]}})
    shop.append(draft_of(erased, kind=Kind.DECISION, stream="control", id="2"))
    shop.happens("sky", 1_012, town="y", temp=1.0)
    shop.catch_up()
    assert shop.ask_over_http().stamps == [None, (1_001, 1_001)]
    assert shop.compare().mismatches == 0
    before = Shop()
    before.happens("sold", 1_000, shop="a", amount=3)
    before.happens("sky", 1_001, town="x", temp=20.5)
    before.catch_up()
    before.ask_over_http(stamps=with_value(0, None), values=lambda values: [values[0], None, None, values[3]])
    assert before.compare().causes == {"ttl": 1}


def test_a_fresh_row_must_not_be_left_out(shop: Shop) -> None:
    shop.ask(1_020, stamps=with_value(1, None), values=with_value(3, None))
    found = shop.compare()
    assert found.causes == {"ttl": 1}
    assert found.examples[0].rebuilt_stamp == (1_001, 1_001)


def test_values_without_a_row_are_a_mismatch(shop: Shop) -> None:
    shop.ask(1_060, values=with_value(3, 1.0))
    assert shop.compare().examples[0].served == [1.0]


def test_what_a_reader_behind_the_journal_could_not_know_is_not_held_against_it() -> None:
    shop = Shop()
    shop.happens("sold", 1_000, shop="a", amount=3)
    shop.catch_up()
    shop.happens("sky", 1_001, town="x", temp=20.5)
    assert shop.ask_over_http().stamps == [(1_000, 1_000), None]
    assert shop.compare().mismatches == 0


def test_an_answer_without_features_has_nothing_to_compare(shop: Shop) -> None:
    shop.ask(1_020, stamps=lambda _: [None, None], values=lambda _: [3, None, None, None], degraded=lambda _: True)
    found = shop.compare()
    assert (found.predictions, found.without_features, found.rows, found.mismatches) == (1, 1, 0, 0)


def test_a_fold_that_ignored_a_late_event_is_told_apart(shop: Shop) -> None:
    """Lateness 0 there, 100 here: the rebuild counts a sale that what was served does not."""
    strict = Shop(Rules(views=SERVICE.views, lateness=0))
    for each in (strict, shop):
        each.happens("sky", 1_015, town="x", temp=1.0)
        each.happens("sold", 1_012, shop="a", amount=20)
        each.happens("sold", 1_016, shop="a", amount=10)
        each.ask(1_020)
    assert shop.compare().mismatches == 0
    found = strict.compare()
    assert found.causes == {"late event": 2}
    assert found.views[0].features == {"n": 1, "mean": 1}


def test_of_another_definition(shop: Shop) -> None:
    shop.ask(1_020, values=with_value(1, 7))
    assert shop.compare(Known(services=frozenset({"s@of-today"}))).causes == {"definition": 1}


def test_of_a_row_from_before_the_view_was_published(shop: Shop) -> None:
    shop.ask(1_020, values=with_value(1, 7))
    published = {"sales@1": 1_011}
    assert shop.compare(KNOWN._replace(published=published)).causes == {"backfill": 1}
    assert shop.compare(KNOWN._replace(published={"sales@1": 1_010})).causes == {"unknown": 1}


def test_a_view_that_is_not_declared_any_more_is_counted_and_left_out(shop: Shop) -> None:
    shop.ask(1_020, values=with_value(1, 7))
    rules = Rules(views=(WEATHER,), lateness=100)
    found = compare(shop.journal, rules, KNOWN, Range())
    assert (found.undeclared, found.rows, found.mismatches) == ({"sales@1": 1}, 1, 0)


def test_only_predictions_of_the_range_are_compared(shop: Shop) -> None:
    for time in (1_020, 1_030, 1_040):
        shop.ask(time)
    first, second, third = (record.at for record in shop.journal.of_kind(Kind.PREDICTION, 0, 3))
    counts = [
        shop.compare(range_=range_).predictions
        for range_ in (Range(), Range(since=second), Range(until=second), Range(first, third), Range(third + 1))
    ]
    assert counts == [3, 2, 1, 2, 0]


def test_a_record_that_the_fold_skipped_by_decision_is_skipped_here(shop: Shop) -> None:
    skipped = shop.happens("sold", 1_012, shop="a", amount=1_000)
    shop.unseen.clear()
    shop.happens("sold", 1_015, shop="a", amount=5)
    shop.ask(1_020)
    assert shop.compare().causes == {"unknown": 2}
    rules = Rules(views=RULES.views, lateness=RULES.lateness, skips=frozenset({skipped.offset}))
    assert compare(shop.journal, rules, KNOWN, Range()).mismatches == 0


def test_an_erased_person_has_no_row_here_either(shop: Shop) -> None:
    erased = Decision(sequence=2, action="erase", subject="s", why="w", details={"pseudonyms": {"shop": ["a"]}})
    shop.append(draft_of(erased, kind=Kind.DECISION, stream="d", id="d"))
    assert shop.ask(1_020).stamps[0] is None
    assert shop.compare().mismatches == 0
    assert shop.compare().views[0].missing == 1


def test_a_null_key_finds_nothing(shop: Shop) -> None:
    shop.answer(shop.happens("asks", 1_020, hour=1, shop=None, town="x"))
    found = shop.compare()
    assert (found.views[0].missing, found.mismatches) == (1, 0)


def test_only_the_first_examples_are_kept_and_all_are_counted(shop: Shop) -> None:
    for time in range(1_020, 1_045):
        shop.ask(time, values=with_value(1, -1))
    found = shop.compare()
    assert (found.mismatches, len(found.examples)) == (25, 10)
    assert [each.prediction for each in found.examples] == sorted(each.prediction for each in found.examples)


def test_progress_is_told_of_every_record(shop: Shop) -> None:
    seen: list[int] = []
    shop.compare(progress=lambda record: seen.append(record.offset))
    assert seen == list(range(shop.journal.end() + 1))


def test_row_memory_knows_every_row_that_it_keeps() -> None:
    table, key = RowMemory(kept=2), encode_key(["a"])
    for known in (1, 2, 3, 4):
        assert table.put("v", Row(key, known, known, (known,)))
        assert not table.put("v", Row(key, known, known, (9,)))
    found = [table.as_of("v", key, known) for known in range(6)]
    assert [row and row.known for row in found] == [None, None, 2, 3, 4, 4]
    assert (table.at("v", key, 3), table.at("v", key, 1)) == (Row(key, 3, 3, (3,)), None)
    assert table.has_forgotten
    assert [row.known for row in table.rows("v")] == [4]
