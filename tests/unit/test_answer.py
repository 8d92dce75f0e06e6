"""Answers: what they are made from, what is served when, and the fallbacks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from features.reader import FeatureReader, define
from features.rows import Row, encode_key
from features.views import ServicePlan, ViewPlan
from journal.blobs import DirectoryBlobs
from journal.body import Decision, Prediction, Snapshot, decode, draft_of
from journal.checkpoint import FoldFile
from journal.control import signed_parts
from journal.errors import Corrupt, UnknownName, Untrusted
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record, canonical_json
from registry.flavors import river
from registry.flavors.river import load
from registry.signing import Signer
from serving.answer import AnswerFold
from serving.answering import Answering
from serving.champion import Champion

PRIOR = 0.25


class Desk:
    """An answer fold over a memory journal, one view, and River's logistic regression."""

    def __init__(self, folder: Path, stale: Literal["default", "fail", "flag"] = "default") -> None:
        self.journal = MemoryJournal("t")
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.signer = Signer.open(folder / "key")
        self.rows: dict[tuple[str, bytes], Row] = {("v", encode_key(("k",))): Row(encode_key(("k",)), 50, 60, (2.0,))}
        view = ViewPlan(
            name="v", join_keys=("key",), key_types=("string",), fields=(("x", "float64"),), ttl=100, stale=stale,
            kind="plain", streams=("s",),
        )  # fmt: skip
        service = ServicePlan(name="s", views=(view,))
        self.definition = define(service, {"q": "int64"})
        self.answered: set[int] = set()
        self.fold = AnswerFold(
            stream="questions",
            answering=Answering(
                key="key",
                definition=self.definition,
                reader=FeatureReader(service, ["q"], self),
                champion=Champion(
                    pipeline="t",
                    flavor_of=lambda _: river,
                    blobs=self.blobs,
                    verifier=self.signer,
                    prior=PRIOR,
                    read_record=lambda offset: self.journal.read(0, offset - 1, 1)[0],
                ),
                build="b",
            ),
            is_answered=lambda question: question.offset in self.answered,
        )

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        return [self.rows.get(pair) for pair in wanted]

    def take(self, draft: Draft) -> Sequence[Draft]:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        return self.fold.apply(record)

    def ask(self, time: int = 100, **data: Any) -> Prediction:
        body = canonical_json({"key": "k", "q": 7, **data})
        question = Draft(kind=Kind.SOURCE, stream="questions", source="/t", id=f"{time}", time=time, body=body)
        (draft,) = self.take(question)
        assert (draft.kind, draft.id) == (Kind.PREDICTION, f"p-/t#{time}")
        return decode(draft.body, Prediction)

    def bootstrap(self, line: str = "l") -> None:
        self.decide("bootstrap", line, 3)

    def decide(self, action: str, line: str, sequence: int, pipeline: str = "t") -> None:
        decision = Decision(sequence=sequence, action=action, subject=line, why="", details={})
        signature = self.signer.sign(*signed_parts(pipeline, decision))
        signed = msgspec.structs.replace(decision, signature=signature)
        assert not self.take(draft_of(signed, kind=Kind.DECISION, stream="c", id=f"d{sequence}"))

    def publish(self, **changes: Any) -> Snapshot:
        from river import linear_model  # noqa: PLC0415

        model = linear_model.LogisticRegression()
        model.learn_one({"q": 1, "v__x": 1.0}, True)
        blob, name = self.blobs.put(river.dump(model)), river.digest(model)
        facts: dict[str, Any] = {
            "line": "l", "family": "river", "model": name, "blob": blob, "examples": 1, "published": True,
            "signature": self.signer.sign("l", "river", name, blob), "guard": {}, "reasons": [],
        }  # fmt: skip
        snapshot = Snapshot(**(facts | changes))
        self.take(draft_of(snapshot, kind=Kind.SNAPSHOT, stream="snapshots", id=f"s{self.journal.end()}"))
        return snapshot


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.bootstrap()
    return desk


def test_before_the_first_snapshot_the_prior_answers_degraded(desk: Desk) -> None:
    answer = desk.ask()
    assert (answer.score, answer.degraded, answer.model, answer.snapshot) == (PRIOR, True, "", START)
    assert (answer.values, answer.stamps, answer.service) == ([7, 2.0], [(50, 60)], desk.definition.service)
    assert (answer.line, answer.control, answer.key, answer.build) == ("l", 3, "k", "b")


def test_a_published_snapshot_answers_and_is_named(desk: Desk) -> None:
    snapshot = desk.publish()
    answer = desk.ask()
    model = load(desk.blobs.get(snapshot.blob))
    assert answer.score == river.predict_one(model, {"q": 7, "v__x": 2.0}) != PRIOR
    assert (answer.degraded, answer.model, answer.snapshot) == (False, snapshot.model, 1)


def test_only_published_snapshots_of_the_served_line_are_followed(desk: Desk) -> None:
    desk.publish(published=False)
    desk.publish(line="another")
    assert desk.ask().model == ""


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"model": "0" * 64}, Untrusted), ({"blob": "0" * 64}, Untrusted), ({"signature": "00"}, Untrusted)],
)
def test_a_snapshot_that_is_not_ours_is_not_served(desk: Desk, changes: dict[str, str], error: type[Exception]) -> None:
    good = desk.publish()
    with pytest.raises(error):
        desk.publish(**changes)
    assert desk.ask().model == good.model


def test_a_signed_snapshot_of_another_model_is_not_served(desk: Desk) -> None:
    good = desk.publish()
    other = "f" * 64
    with pytest.raises(Corrupt, match="of line l"):
        desk.publish(model=other, signature=desk.signer.sign("l", "river", other, good.blob))
    gone = "e" * 64
    with pytest.raises(UnknownName, match="blob"):
        desk.publish(blob=gone, signature=desk.signer.sign("l", "river", good.model, gone))
    assert desk.ask().model == good.model


def test_a_stale_view_is_missing_or_flagged(tmp_path: Path) -> None:
    for stale, values, stamp, degraded in (
        ("default", [7, None], None, False),
        ("flag", [7, 2.0], (50, 60), True),
    ):
        desk = Desk(tmp_path / stale, stale)  # type: ignore[arg-type]
        desk.bootstrap()
        desk.publish()
        answer = desk.ask(time=50 + 101)
        assert (answer.values, answer.stamps, answer.degraded) == (values, [stamp], degraded)


def test_staleness_is_judged_right_behind_the_question_however_far_the_journal_has_grown(tmp_path: Path) -> None:
    """Row of 50, TTL 100: so the answer is the same whether a worker keeps up or is an hour behind."""
    for time, value in ((149, 2.0), (150, None)):
        desk = Desk(tmp_path / str(time))
        desk.bootstrap()
        body = canonical_json({"key": "k", "q": 7})
        question = Draft(kind=Kind.SOURCE, stream="questions", source="/t", id="q", time=time, body=body)
        (asked, _) = desk.journal.append(
            [question, Draft(kind=Kind.SOURCE, stream="s", id="later", time=9_000, body=b"{}")]
        )
        assert isinstance(asked, Record)
        (draft,) = desk.fold.apply(asked)
        answer = decode(draft.body, Prediction)
        assert (answer.values, answer.judged_at(asked)) == ([7, value], time + 1)
        assert b'"now"' not in draft.body


def test_a_view_that_must_not_be_stale_leaves_the_answer_to_the_prior(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "fail")
    desk.bootstrap()
    desk.publish()
    assert not desk.ask(time=100).degraded
    answer = desk.ask(time=50 + 101)
    assert (answer.score, answer.values, answer.stamps, answer.degraded) == (PRIOR, [7, None], [None], True)


def test_an_answered_question_is_not_asked_again(desk: Desk) -> None:
    desk.answered.add(desk.journal.end() + 1)
    question = Draft(kind=Kind.SOURCE, stream="questions", source="/t", id="q", time=9, body=b'{"key":"k","q":1}')
    assert not desk.take(question)


def test_a_restart_serves_what_was_served(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.bootstrap()
    desk.publish()
    prediction = desk.ask()
    desk.take(draft_of(prediction, kind=Kind.PREDICTION, stream="predictions", id="p"))
    file = FoldFile(tmp_path / "answer.sqlite")
    with file.transaction():
        desk.fold.save(file)
    again = Desk(tmp_path)
    again.journal = desk.journal
    again.fold.load(file)
    file.close()
    assert (again.fold.champion.served, again.fold.answers) == (desk.fold.champion.served, 1)
    assert again.fold.digest() == desk.fold.digest()
    assert again.ask(time=101).score == prediction.score


def test_a_decision_names_another_line_and_back(desk: Desk) -> None:
    online = desk.publish()
    other = desk.publish(line="m", signature=desk.signer.sign("m", "river", online.model, online.blob))
    assert desk.ask().line == "l"
    desk.decide("promote", "m", 4)
    answer = desk.ask(time=101)
    assert (answer.line, answer.control, answer.snapshot, answer.model) == ("m", 4, 2, other.model)
    newer = desk.publish()
    assert desk.ask(time=102).line == "m"
    desk.decide("roll_back", "l", 5)
    answer = desk.ask(time=103)
    assert (answer.line, answer.control, answer.model) == ("l", 5, newer.model)
    assert answer.snapshot > 2


def test_the_line_before_stays_warm_and_follows_its_snapshots(desk: Desk, tmp_path: Path) -> None:
    online = desk.publish()
    desk.publish(line="m", signature=desk.signer.sign("m", "river", online.model, online.blob))
    desk.decide("promote", "m", 4)
    desk.publish()
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    desk.decide("roll_back", "l", 5)
    assert desk.ask(time=103).line == "l"


@pytest.mark.parametrize("action", ["promote", "roll_back"])
def test_a_decision_that_we_did_not_sign_names_nothing(desk: Desk, action: str) -> None:
    online = desk.publish()
    desk.publish(line="m", signature=desk.signer.sign("m", "river", online.model, online.blob))
    with pytest.raises(Untrusted):
        desk.decide(action, "m", 4, pipeline="another")
    assert desk.ask().line == "l"


def test_a_decision_about_an_unknown_line_names_nothing(desk: Desk) -> None:
    with pytest.raises(UnknownName, match="nowhere"):
        desk.decide("promote", "nowhere", 4)
    assert desk.ask().line == "l"
