"""Ten weeks of real flights: what was served is what the join finds, and what was learned is what River would learn."""

from collections import Counter
from itertools import islice
from typing import Any

import pyarrow as pa
import pytest
from river import metrics, stream

from features import dataset
from features.examples import ARROW_TYPES
from features.reader import column_name
from journal.body import Definition, Prediction, decode
from journal.clock import HOUR
from journal.log import START
from journal.record import Kind, Record
from rivermill.build import build_fingerprint
from rivermill.wiring import Run, feast_store

pytestmark = pytest.mark.slow
FLIGHTS_FOR_RIVER = 50_000


def records(run: Run) -> Any:
    after = START
    while page := run.journal.read(0, after, 2_000):
        yield from page
        after = page[-1].offset


@pytest.fixture(scope="module")
def definition(flights: Run) -> Definition:
    return decode(flights.journal.of_kind(Kind.DEFINITION, START, 1)[0].body, Definition)


@pytest.fixture(scope="module")
def answered(flights: Run) -> list[tuple[Record, Prediction, dict[str, Any]]]:
    """Every prediction with its body and its question's data."""
    questions = {}
    found = []
    for record in records(flights):
        if record.kind is Kind.SOURCE and record.stream == "schedule":
            questions[record.offset] = record.data
        elif record.kind is Kind.PREDICTION:
            body = decode(record.body, Prediction)
            found.append((record, body, questions.pop(body.question)))
    return found


@pytest.fixture(scope="module")
def rebuilt(flights: Run, answered: list[tuple[Record, Prediction, dict[str, Any]]]) -> pa.Table:
    """All features of every prediction, by Feast's own point-in-time join at the prediction's ``at``."""
    store = feast_store(flights.home, flights.journal.incarnation, flights.journal.clock)
    keys = sorted({key for view in flights.pipeline.views for key in view.join_keys})
    entities = pa.table(
        {
            "prediction": [record.offset for record, _, _ in answered],
            "event_timestamp": pa.array([record.at for record, _, _ in answered], pa.timestamp("us", "UTC")),
            **{key: [question[key] for _, _, question in answered] for key in keys},
        }
    )
    service = store.get_feature_service(flights.pipeline.service.name)
    return store.get_historical_features(entities.to_pandas(), service, full_feature_names=True).to_arrow()


def test_every_question_was_answered_and_every_answer_ends_once(flights: Run) -> None:
    counts = flights.folds.join.counts()
    kinds = Counter(record.kind for record in records(flights))
    questions = sum(r.kind is Kind.SOURCE and r.stream == "schedule" for r in records(flights))
    assert kinds[Kind.PREDICTION] == questions > FLIGHTS_FOR_RIVER
    assert kinds[Kind.PREDICTION] == counts["joined"] + counts["expired"] + counts["pending"]
    assert (kinds[Kind.EXAMPLE], kinds[Kind.EXPIRED]) == (counts["joined"], counts["expired"])
    assert counts["late"] == counts["unmatched"] == counts["repeated"] == 0


def test_no_record_about_a_flight_precedes_its_question(flights: Run) -> None:
    asked = set()
    for record in records(flights):
        if record.kind is Kind.SOURCE and "trip" in record.data:
            if record.stream == "schedule":
                asked.add(record.data["trip"])
            else:
                assert record.data["trip"] in asked, record.id


def test_online_equals_the_join_for_every_feature_of_every_prediction(
    definition: Definition,
    answered: list[tuple[Record, Prediction, dict[str, Any]]],
    rebuilt: pa.Table,
) -> None:
    assert rebuilt.num_rows == len(answered)
    served = list(zip(*(body.values for _, body, _ in answered), strict=True))
    mismatches = Counter[str]()
    compared = 0
    for name, column in zip(definition.columns, served, strict=True):
        if name not in definition.request:
            joined = rebuilt.column(name).to_pylist()
            compared += len(joined)
            mismatches[name] += sum(a != b for a, b in zip(column, joined, strict=True))
    assert compared == len(answered) * (len(definition.columns) - len(definition.request))
    assert +mismatches == Counter()


def test_the_served_features_are_not_empty(definition: Definition, answered: list[Any]) -> None:
    """Guards the comparison above against comparing nothing with nothing."""
    last = answered[-10_000:]
    for index, name in enumerate(definition.columns):
        present = sum(body.values[index] is not None for _, body, _ in last) / len(last)
        assert present > 0.3, name


def test_a_dataset_rebuilt_by_the_join_has_the_same_hash(
    flights: Run, definition: Definition, rebuilt: pa.Table
) -> None:
    end = flights.journal.end()
    made = dataset.build(flights.journal, flights.home.datasets, "flights", end, build_fingerprint())
    assert made.considered == made.rows_in + sum(made.excluded.values())
    assert made.rows_in == made.rows_out == flights.folds.join.counts()["joined"]
    table = dataset.read(flights.home.datasets, made.version)
    rows = {offset: index for index, offset in enumerate(rebuilt.column("prediction").to_pylist())}
    order = pa.array([rows[offset] for offset in table.column("prediction").to_pylist()])
    joined = rebuilt.take(order)
    for view in flights.pipeline.service.views:
        for field, kind in view.fields:
            name = column_name(view, field)
            column = joined.column(name).cast(ARROW_TYPES[kind])
            table = table.set_column(table.schema.get_field_index(name), name, column)
    assert dataset.hash_rows(table) == made.hash
    assert dataset.verify(flights.journal, flights.home.datasets, made.version) == made
    assert definition.service == made.service


def test_feast_reads_online_what_was_served_last(flights: Run) -> None:
    """Feast's SDK over our online store gives the newest row that the fold wrote."""
    store = feast_store(flights.home, flights.journal.incarnation, flights.journal.next_at())
    features = [f"weather:{name}" for name, _ in next(v for v in flights.pipeline.views if v.name == "weather").fields]
    got = store.get_online_features(features, [{"origin": "JFK"}, {"origin": "nowhere"}]).to_dict()
    newest = [
        r for r in records(flights) if r.kind is Kind.SOURCE and r.stream == "weather" and r.data["origin"] == "JFK"
    ]
    assert got["temp"] == [newest[-1].data["temp"], None]


def test_the_prequential_figure_is_rivers_own(flights: Run, definition: Definition) -> None:
    """River's harness, given the same features, moments and delays, measures the same log loss to the last bit."""
    questions: dict[int, tuple[dict[str, Any], int]] = {}
    examples = {}
    for record in records(flights):
        if record.kind is Kind.PREDICTION:
            values = decode(record.body, Prediction).values
            x = {n: v for n, v in zip(definition.columns, values, strict=True) if v is not None}
            questions[record.offset] = (x, record.at)
        elif record.kind is Kind.EXAMPLE:
            examples[record.data["prediction"]] = (record.data["outcome"], record.at)
        if len(examples) == FLIGHTS_FOR_RIVER:
            break
    rows = [(*questions[offset], *examples[offset]) for offset in sorted(examples)]
    moments = {index: asked for index, (_, asked, _, _) in enumerate(rows)}
    delays = [answered - asked for _, asked, _, answered in rows]
    model, log_loss, area, scores = flights.pipeline.line.make_model(), metrics.LogLoss(), metrics.ROCAUC(), {}
    qa = stream.simulate_qa(
        (({"i": i, **x}, y) for i, (x, _, y, _) in enumerate(rows)),
        moment=lambda x: moments[x["i"]],
        delay=lambda x, _: delays[x["i"]],
    )
    for i, x, y, *_ in qa:
        features = {name: value for name, value in x.items() if name != "i"}
        if y is None:
            scores[i] = model.predict_proba_one(features).get(True, 0.5)
        else:
            log_loss.update(y, scores[i])
            area.update(y, scores.pop(i))
            model.learn_one(features, y)
    replayed = replay_learner(flights, FLIGHTS_FOR_RIVER)
    assert replayed["examples"] == FLIGHTS_FOR_RIVER == len(rows)
    assert replayed["log_loss"] == log_loss.get()
    assert replayed["auc_binned"] == area.get()


def replay_learner(run: Run, examples: int) -> dict[str, Any]:
    """The learner over this very journal, up to a number of examples."""
    from rivermill.wiring import _learner  # noqa: PLC0415

    learner = _learner(run.pipeline, run.home, run.journal)
    for record in (record for record in records(run) if record.kind in learner.kinds):
        learner.apply(record)
        if learner.progress()["examples"] == examples:
            break
    return learner.progress()


def test_a_fold_rebuilt_from_the_journal_is_the_same_fold(flights: Run) -> None:
    """Time travel: the join over the journal alone ends where the live one ended."""
    from training.join import JoinFold  # noqa: PLC0415

    join = JoinFold(flights.pipeline.label, flights.pipeline.question.stream)
    for record in islice(records(flights), flights.journal.end() + 1):
        join.apply(record)
    assert join.digest() == flights.folds.join.digest()
    assert join._expiring[0].expires - flights.journal.clock < 36 * HOUR
