"""The learner's prequential figures are River's own, to the last bit.

The same questions, features, moments and delays go through journal, join and learner, and through
``river.stream.simulate_qa`` and ``river.evaluate``.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from river import compose, evaluate, linear_model, metrics, optim, preprocessing

from journal.blobs import DirectoryBlobs
from journal.body import Definition, Prediction, encode
from journal.checkpoint import FoldFile
from journal.clock import HOUR, MINUTE
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json
from journal.runner import Runner
from registry.flavors import river
from registry.guard import GuardPolicy
from registry.signing import Signer
from training.join import JoinFold
from training.label_rule import LabelRule
from training.learner import Learner, LearnerSettings

START = 1_357_000_000_000_000


class Asked(NamedTuple):
    """One question: its features in column order (None: missing), outcome, and both times in microseconds."""

    x: dict[str, Any]
    y: bool
    asked_at: int
    answered_at: int


class Trace(NamedTuple):
    """Every scored number in the order of the examples, and (examples, log loss, binned AUC) on the way."""

    scores: list[float]
    figures: list[tuple[int, float, float]]


def river_trace(questions: Sequence[Asked], model: Any, every: int) -> Trace:
    """What River's own harness measures. Its moments and delays are the questions' own."""
    inputs = [{name: value for name, value in q.x.items() if value is not None} for q in questions]
    times = {id(x): (q.asked_at, q.answered_at - q.asked_at) for x, q in zip(inputs, questions, strict=True)}
    steps = evaluate.iter_progressive_val_score(
        dataset=zip(inputs, (q.y for q in questions), strict=True),
        model=model,
        metric=metrics.LogLoss() + metrics.ROCAUC(),
        moment=lambda x: times[id(x)][0],
        delay=lambda x, _: times[id(x)][1],
        step=1,
        yield_predictions=True,
    )
    trace = Trace([], [])
    for step in steps:
        trace.scores.append(step["Prediction"][True])
        if step["Step"] % every == 0:
            trace.figures.append((step["Step"], step["LogLoss"].get(), step["ROCAUC"].get()))
    return trace


def rivermill_trace(questions: Sequence[Asked], make_model: Callable[[], Any], every: int, folder: Path) -> Trace:
    """What the learner measures, driven by the real journal, join and runner, one record at a time."""
    columns = list(dict.fromkeys(name for question in questions for name in question.x))
    journal = MemoryJournal("harness")
    learner = Learner(
        LearnerSettings(
            line="online",
            prior=0.5,
            guard=GuardPolicy(window=100, factor=2.0),
            snapshot_every=every,
            checkpoint_every=every,
        ),
        make_model=make_model,
        flavor=river,
        blobs=DirectoryBlobs(folder / "blobs"),
        signer=Signer.open(folder / "key"),
        read_prediction=lambda offset: journal.read(0, offset - 1, 1)[0],
    )
    wait = max(question.answered_at - question.asked_at for question in questions) + HOUR
    rule = LabelRule(stream="answers", key="question", outcome="outcome", wait=wait)
    join = Runner(JoinFold(rule, "questions"), FoldFile(folder / "join.sqlite"), journal, "test")
    learn = Runner(learner, FoldFile(folder / "learner.sqlite"), journal, "test")
    trace = Trace([], [])
    for draft in drafts_of(questions, columns):
        for record in journal.append([draft]):
            assert isinstance(record, Record)
            for follower in [record, *join.step(record)]:
                learn.step(follower)
                done = learner.counts()["examples"]
                if follower.kind is Kind.EXAMPLE and done % every == 0:
                    progress = learner.progress()
                    trace.figures.append((done, progress["log_loss"], progress["auc_binned"]))
    learn.commit()
    counts = join.fold.counts() if isinstance(join.fold, JoinFold) else {}
    assert (counts["joined"], counts["pending"], counts["unmatched"]) == (len(questions), 0, 0)
    for chunk in learner.scores.rows():
        trace.scores.extend(chunk["score"].tolist())
    for runner in (join, learn):
        runner.close()
    return trace


def drafts_of(questions: Sequence[Asked], columns: Sequence[str]) -> Iterable[Draft]:
    """The journal's content: at equal time answers come before questions, as in ``simulate_qa``."""
    definition = Definition(service="harness@1", request=list(columns), views=[], columns=list(columns))
    yield Draft(kind=Kind.DEFINITION, stream="definitions", id="harness@1", body=encode(definition))
    events = [(q.asked_at, 1, n) for n, q in enumerate(questions)] + [
        (q.answered_at, 0, n) for n, q in enumerate(questions)
    ]
    for time, asks, n in sorted(events):
        if asks:
            yield source("questions", f"q{n}", time, {})
            yield prediction(n, questions[n], columns)
        else:
            yield source("answers", f"a{n}", time, {"question": str(n), "outcome": questions[n].y})


def source(stream: str, id_: str, time: int, data: dict[str, Any]) -> Draft:
    return Draft(kind=Kind.SOURCE, stream=stream, source="/harness", id=id_, time=time, body=canonical_json(data))


def prediction(n: int, question: Asked, columns: Sequence[str]) -> Draft:
    body = Prediction(
        key=str(n),
        question=0,
        service="harness@1",
        values=[question.x.get(name) for name in columns],
        stamps=[],
        score=0.5,
        line="online",
        model="",
        snapshot=-1,
        control=0,
        degraded=True,
        build="test",
    )
    return Draft(kind=Kind.PREDICTION, stream="predictions", id=f"p{n}", body=encode(body))


def assert_equals_river(
    questions: Iterable[Asked], make_model: Callable[[], Any], folder: Path, *, every: int = 500
) -> Trace:
    """Hold both traces against each other with ``==``; ``questions`` in the order of their ``asked_at``."""
    asked = list(questions)
    theirs = river_trace(asked, make_model(), every)
    ours = rivermill_trace(asked, make_model, every, folder)
    assert ours.scores == theirs.scores
    assert ours.figures == theirs.figures
    return ours


def synthetic(count: int, seed: int) -> list[Asked]:
    """Questions a minute or less apart, many at equal times; answers from one minute to six hours later, in minutes."""
    rng = random.Random(seed)
    questions, now = [], START
    for _ in range(count):
        now += rng.choice((0, 0, MINUTE, 2 * MINUTE))
        x: dict[str, Any] = {f"f{i}": rng.gauss(i, 1 + i * i) for i in range(6)}
        x["hour"] = now // HOUR % 24
        x["maybe"] = rng.random() if rng.random() < 0.7 else None
        x["carrier"] = rng.choice("ABC")
        y = x["f0"] + rng.gauss(0, 1) + (x["carrier"] == "A") > 0.8
        questions.append(Asked(x, y, now, now + rng.randrange(1, 360) * MINUTE))
    return questions


def logistic() -> Any:
    numbers = compose.SelectType((int, float)) | preprocessing.StandardScaler()
    return (
        (numbers + (compose.SelectType(str) | preprocessing.OneHotEncoder()))
        | linear_model.LogisticRegression(optim.AdaGrad(0.05))
    )  # fmt: skip


def test_five_thousand_synthetic_questions(tmp_path: Path) -> None:
    trace = assert_equals_river(synthetic(5_000, seed=7), logistic, tmp_path)
    assert len(trace.scores) == 5_000
    assert [examples for examples, _, _ in trace.figures] == list(range(500, 5_001, 500))
    assert trace.figures[-1][1] < trace.figures[0][1] < 1.0


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """One answer a minute earlier changes what is learned before whom, and the traces differ."""
    questions = synthetic(600, seed=8)
    theirs = river_trace(questions, logistic(), every=200)
    questions[100] = questions[100]._replace(answered_at=questions[100].asked_at + MINUTE)
    ours = rivermill_trace(questions, logistic, 200, tmp_path)
    assert ours.scores != theirs.scores


@pytest.mark.parametrize("seed", range(3))
def test_other_streams(seed: int, tmp_path: Path) -> None:
    assert_equals_river(synthetic(400, seed), logistic, tmp_path, every=100)
