"""Answers over HTTP: what answers, what becomes of the answers, and that none is lost from the counts."""

import asyncio
import random
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import pytest

from features.reader import FeatureReader, define
from features.rows import Row, encode_key
from features.views import ServicePlan, ViewPlan
from journal.asking import Asking
from journal.blobs import DirectoryBlobs
from journal.body import Decision, Prediction, Snapshot, Version, decode, draft_of
from journal.clock import DAY, HOUR, format_time, parse_time
from journal.contract import Contract
from journal.control import signed_parts
from journal.envelope import read_envelope
from journal.errors import (
    Busy,
    ConflictingId,
    Corrupt,
    DurabilityLost,
    OwnerDown,
    RivermillError,
    UpstreamError,
    Violation,
)
from journal.field import Field
from journal.log import START
from journal.privacy import KeyTable
from journal.record import Draft, Kind, Record, canonical_json
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.wire import Asked, AskedBefore
from registry.flavors import river
from registry.signing import Signer
from serving.answering import Answering
from serving.champion import Champion
from serving.live import Ack, LiveService, Question, event_of

NOON = parse_time("2013-01-01T12:00:00Z")
PRIOR = 0.25
QUESTIONS = Contract(
    stream="questions",
    version="1.0.0",
    fields=(
        Field(name="key", type="string", required=True),
        Field(name="q", type="integer", required=True, limits={"ge": 1}),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
)
T = TypeVar("T")


class Recorder:
    """The owner's side in this process: the real door, which can be shut."""

    def __init__(self, journal: SqliteJournal, keys: KeyTable) -> None:
        self._journal, self._asking = journal, Asking(journal, QUESTIONS, keys, "key")
        self.error: RivermillError | None = None
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def ask(self, question: bytes, prediction: Prediction, principal: str, timeout: float) -> Asked | AskedBefore:
        try:
            async with asyncio.timeout(timeout):
                await self.is_open.wait()
        except TimeoutError as error:
            raise OwnerDown(which="no answer in time") from error
        if self.error is not None:
            raise self.error
        with self._journal.group():
            return self._asking.ask(question, prediction, principal)


class Follower(SqliteReader):
    """A journal's files, which can be damaged and mended."""

    damaged = False

    def refresh(self) -> None:
        if self.damaged:
            raise Corrupt(which="segment 0", fix="Restore it")
        super().refresh()


class Bench:
    """A live service over a journal on disk, one view, and River's logistic regression."""

    def __init__(
        self, folder: Path, *, stale: Literal["default", "fail", "flag"] = "default", most_queued: int = 100
    ) -> None:
        self.journal = SqliteJournal(folder / "journal", "t", dedup_window=2 * DAY, records_per_segment=16)
        self.keys = KeyTable(folder / "keys.sqlite")
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.signer = Signer.open(folder / "key")
        self.rows: dict[tuple[str, bytes], Row] = {}
        self.damage: Corrupt | None = None
        view = ViewPlan(
            name="v", join_keys=("key",), key_types=("string",), fields=(("x", "float64"),), ttl=HOUR, stale=stale,
            kind="plain", streams=("s",),
        )  # fmt: skip
        self.service = ServicePlan(name="s", views=(view,))
        self.recorder = Recorder(self.journal, self.keys)
        self.event("first", NOON)
        self.follower = Follower(folder / "journal")
        self.live = LiveService(
            Answering(
                key="key",
                definition=define(self.service, {"q": "int64"}),
                reader=FeatureReader(self.service, ["q"], self),
                champion=self.champion(),
                build="b",
            ),
            self.follower,
            self.recorder,
            most_queued=most_queued,
            deadline=0.01,
        )

    def champion(self) -> Champion:
        return Champion(
            pipeline="t",
            flavor_of=lambda _: river,
            blobs=self.blobs,
            verifier=self.signer,
            prior=PRIOR,
            read_record=lambda offset: self.journal.read(0, offset - 1, 1)[0],
        )

    def close(self) -> None:
        self.follower.close()
        self.keys.close()
        self.journal.close()

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        if self.damage is not None:
            raise self.damage
        return [self.rows.get(pair) for pair in wanted]

    def know(self, event: int, x: float) -> None:
        key = encode_key(("k",))
        self.rows["v", key] = Row(key, event, event, (x,))

    def append(self, draft: Draft) -> int:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        return record.offset

    def event(self, id_: str, time: int) -> int:
        return self.append(Draft(kind=Kind.SOURCE, stream="s", source="/t", id=id_, time=time, body=b"{}"))

    def decide(self, action: str, line: str, sequence: int, pipeline: str = "t") -> int:
        decision = Decision(sequence=sequence, action=action, subject=line, why="", details={})
        signature = self.signer.sign(*signed_parts(pipeline, decision))
        signed = msgspec.structs.replace(decision, signature=signature)
        return self.append(draft_of(signed, kind=Kind.DECISION, stream="control", id=f"{pipeline}-{sequence}"))

    def _model(self, seed: int) -> tuple[str, str]:
        from river import linear_model  # noqa: PLC0415

        model = linear_model.LogisticRegression()
        model.learn_one({"q": seed, "v__x": 1.0}, True)
        return self.blobs.put(river.dump(model)), river.digest(model)

    def publish(self, line: str, seed: int = 1, **changes: Any) -> int:
        blob, name = self._model(seed)
        facts: dict[str, Any] = {
            "line": line, "family": "river", "model": name, "blob": blob, "examples": 1, "published": True,
            "signature": self.signer.sign(line, "river", name, blob), "guard": {}, "reasons": [],
        }  # fmt: skip
        snapshot = Snapshot(**(facts | changes))
        return self.append(draft_of(snapshot, kind=Kind.SNAPSHOT, stream="snapshots", id=f"s{self.journal.end()}"))

    def stage(self, line: str, seed: int = 1) -> int:
        blob, name = self._model(seed)
        version = Version(
            line=line, family="river", model=name, blob=blob, dataset="d", job="j", recipe="r", evidence={},
            service=self.service.label, trigger=NOON, signature=self.signer.sign(line, "river", name, blob),
        )  # fmt: skip
        return self.append(draft_of(version, kind=Kind.VERSION, stream="versions", id=line))

    def ask(self, id_: str, ack: Ack = "durable", *, q: int = 7, source: str = "http") -> Coroutine[Any, Any, Any]:
        fields = {"key": "k", "q": q}
        event = event_of(id_, source, "questions", self.live.now, canonical_json(fields))
        return self.live.ask(Question(id=id_, source=source, fields=fields, event=event, principal="me"), ack)

    def asked(self, id_: str, ack: Ack = "durable", **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = run(self.ask(id_, ack, **asked))
        self.require_balance()
        return answer

    def require_balance(self) -> None:
        counted = self.live.counters
        assert counted.answered == counted.recorded + counted.repeated + counted.unrecorded + counted.pending

    def questions(self) -> list[Record]:
        return self.journal.of_kind(Kind.QUESTION, START, 1_000)

    def prediction(self, offset: int) -> Prediction:
        (record,) = self.journal.read(0, offset - 1, 1)
        assert record.kind is Kind.PREDICTION
        return decode(record.body, Prediction)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.decide("bootstrap", "online", 1)
    bench.publish("online")
    bench.live.follow()
    yield bench
    bench.close()


def fates(bench: Bench) -> dict[str, int]:
    return {name: count for name in bench.live.counters.__slots__ if (count := getattr(bench.live.counters, name))}


def test_an_answer_is_recorded_right_behind_its_question(bench: Bench) -> None:
    bench.know(NOON, 2.0)
    answer = bench.asked("a")
    (question,) = bench.questions()
    recorded = bench.prediction(question.offset + 1)
    assert answer["receipt"] == {
        "incarnation": bench.journal.incarnation,
        "question": question.offset,
        "prediction": question.offset + 1,
    }
    assert (question.id, question.source, question.principal) == ("a", "http", "me")
    assert (recorded.question, recorded.key, recorded.values) == (question.offset, "k", [7, 2.0])
    assert recorded.stamps == [(NOON, NOON)]
    assert {name: answer[name] for name in ("id", "line", "snapshot", "control", "degraded")} == {
        "id": "a",
        "line": "online",
        "snapshot": 2,
        "control": 1,
        "degraded": False,
    }
    (snapshot,) = bench.journal.of_kind(Kind.SNAPSHOT, START, 10)
    model = river.load(bench.blobs.get(decode(snapshot.body, Snapshot).blob))
    assert answer["probability"] == recorded.score == river.predict_one(model, {"q": 7, "v__x": 2.0})
    assert fates(bench) == {"answered": 1, "recorded": 1}


def test_before_anybody_is_named_the_prior_answers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.live.follow()
    answer = bench.asked("a")
    assert (answer["probability"], answer["line"], answer["control"], answer["degraded"]) == (PRIOR, "", 0, True)
    assert fates(bench) == {"answered": 1, "recorded": 1, "degraded": 1}
    bench.close()


def test_the_answers_now_is_behind_the_last_record_and_never_behind_the_clock(bench: Bench) -> None:
    bench.event("later", NOON + HOUR)
    bench.live.follow()
    now = max(bench.journal.clock, bench.follower.last_at + 1)
    assert bench.live.now == now > NOON + HOUR
    assert bench.asked("a")["now"] == bench.live.now_text == format_time(now)


def test_staleness_is_judged_by_the_journals_now(bench: Bench) -> None:
    bench.know(NOON, 2.0)
    first = bench.asked("a")["receipt"]["prediction"]
    bench.event("later", NOON + 2 * HOUR)
    bench.live.follow()
    second = bench.asked("b")["receipt"]["prediction"]
    assert (bench.prediction(first).values, bench.prediction(second).values) == ([7, 2.0], [7, None])


def test_the_record_says_when_staleness_was_judged(bench: Bench) -> None:
    """The answer shows the same moment, and the question's own record lies behind what it had not looked at yet."""
    bench.event("unseen", NOON + 2 * HOUR)
    answer = bench.asked("a")
    prediction, question = (bench.prediction(answer["receipt"]["prediction"]), bench.questions()[0])
    assert answer["now"] == format_time(prediction.judged_at(question))
    assert prediction.now is not None
    assert prediction.now < NOON + 2 * HOUR < question.at


def test_without_features_no_staleness_was_judged(bench: Bench) -> None:
    bench.damage = Corrupt(which="features.sqlite")
    assert bench.prediction(bench.asked("a")["receipt"]["prediction"]).now is None


def test_what_must_not_be_stale_leaves_the_answer_to_the_prior(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stale="fail")
    bench.decide("bootstrap", "online", 1)
    bench.publish("online")
    bench.live.follow()
    answer = bench.asked("a")
    assert (answer["probability"], answer["degraded"], answer["line"]) == (PRIOR, True, "online")
    bench.know(NOON, 2.0)
    assert bench.asked("b")["probability"] != PRIOR
    assert fates(bench) == {"answered": 2, "recorded": 2, "degraded": 1}
    bench.close()


def test_asked_again_the_recorded_answer_comes_back(bench: Bench) -> None:
    first = bench.asked("a")
    bench.stage("batch", seed=5)
    bench.decide("promote", "batch", 2)
    bench.event("later", NOON + HOUR)
    bench.live.follow()
    again = bench.asked("a")
    assert again == first, "the moment that it was judged at, too"
    assert bench.asked("b")["line"] == "batch"
    assert bench.asked("a", source="other")["line"] == "batch"
    assert fates(bench) == {"answered": 4, "recorded": 3, "repeated": 1}


def test_another_question_under_its_id_is_refused_and_only_counted(bench: Bench) -> None:
    bench.asked("a")
    with pytest.raises(ConflictingId, match="'a'"):
        bench.asked("a", q=8)
    with pytest.raises(Violation):
        bench.asked("b", q=0)
    bench.require_balance()
    assert fates(bench) == {"answered": 1, "recorded": 1, "failed": 2}
    assert len(bench.questions()) == 1


@pytest.mark.parametrize("error", [OwnerDown, Busy, DurabilityLost, UpstreamError])
def test_without_an_owner_it_answers_and_says_so(bench: Bench, error: type[RivermillError]) -> None:
    bench.recorder.error = error(which="x")
    answer = bench.asked("a")
    assert (answer["receipt"], answer["line"]) == ("none", "online")
    assert bench.questions() == []
    bench.recorder.error = None
    again = bench.asked("a")
    assert again["probability"] == answer["probability"]
    assert again["receipt"]["question"] == bench.questions()[0].offset
    assert fates(bench) == {"answered": 2, "recorded": 1, "unrecorded": 1}


async def settled(bench: Bench) -> None:
    while bench.live.counters.pending:
        bench.require_balance()
        await asyncio.sleep(0)


def test_an_owner_that_is_too_slow_is_not_waited_for_and_believed_when_it_speaks(bench: Bench) -> None:
    async def ask() -> None:
        await bench.ask("before")
        bench.recorder.is_open.clear()
        asked = (("slow", 7), ("before", 7), ("before", 8))
        receipts = [(await bench.ask(id_, q=q))["receipt"] for id_, q in asked]
        assert receipts == ["none", "none", "none"]
        assert fates(bench) == {"answered": 4, "recorded": 1, "pending": 3}
        bench.recorder.is_open.set()
        await settled(bench)

    run(ask())
    assert fates(bench) == {"answered": 4, "recorded": 2, "repeated": 1, "unrecorded": 1}
    assert [record.id for record in bench.questions()] == ["before", "slow"]


def test_an_owner_that_dies_while_it_is_slow_has_recorded_nothing(bench: Bench) -> None:
    async def ask() -> None:
        bench.recorder.is_open.clear()
        assert (await bench.ask("a"))["receipt"] == "none"
        bench.recorder.error = OwnerDown(which="x")
        bench.recorder.is_open.set()
        await settled(bench)

    run(ask())
    assert fates(bench) == {"answered": 1, "unrecorded": 1}
    assert bench.questions() == []


def test_only_so_many_late_records_are_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, most_queued=2)

    async def ask() -> None:
        bench.recorder.is_open.clear()
        for n in range(5):
            await bench.ask(f"q{n}")
        bench.recorder.is_open.set()
        await settled(bench)

    run(ask())
    assert fates(bench) == {"answered": 5, "recorded": 2, "unrecorded": 3, "degraded": 5}
    assert [record.id for record in bench.questions()] == ["q0", "q1"]
    bench.close()


def test_features_that_cannot_be_read_leave_the_question_alone_to_the_model(bench: Bench) -> None:
    bench.damage = Corrupt(which="features.sqlite")
    answer = bench.asked("a")
    assert answer["degraded"] is True
    assert "features.sqlite" in bench.live.trouble
    assert fates(bench) == {"answered": 1, "recorded": 1, "degraded": 1}
    bench.damage = None
    bench.asked("b")
    assert bench.live.trouble == ""


async def drained(bench: Bench) -> None:
    task = asyncio.create_task(bench.live.record_enqueued())
    while bench.live.counters.pending:
        bench.require_balance()
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_enqueued_answers_go_out_at_once_and_are_recorded_behind(bench: Bench) -> None:
    async def ask() -> None:
        answers = [await bench.ask(f"q{n}", "enqueued") for n in range(40)]
        assert {answer["receipt"] for answer in answers} == {"pending"}
        assert bench.questions() == []
        assert fates(bench) == {"answered": 40, "pending": 40}
        await drained(bench)

    run(ask())
    assert sorted(record.id for record in bench.questions()) == sorted(f"q{n}" for n in range(40))
    assert fates(bench) == {"answered": 40, "recorded": 40}
    assert all(bench.prediction(record.offset + 1).question == record.offset for record in bench.questions())


def test_enqueued_beyond_the_queue_is_not_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path, most_queued=2)

    async def ask() -> list[str]:
        receipts = [(await bench.ask(f"q{n}", "enqueued"))["receipt"] for n in range(4)]
        await drained(bench)
        return receipts

    assert run(ask()) == ["pending", "pending", "none", "none"]
    assert fates(bench) == {"answered": 4, "recorded": 2, "unrecorded": 2, "degraded": 4}
    bench.close()


def test_what_was_enqueued_and_could_not_be_recorded_is_counted_so(bench: Bench) -> None:
    """Down, taken, asked before: nothing stops the ones behind."""

    async def ask() -> None:
        await bench.ask("a")
        for id_, q in (("a", 7), ("a", 8), ("b", 7)):
            await bench.ask(id_, "enqueued", q=q)
        await drained(bench)
        bench.recorder.error = OwnerDown(which="x")
        await bench.ask("c", "enqueued")
        assert await drained_at_the_end(bench, 0.01) == 1

    run(ask())
    assert fates(bench) == {"answered": 5, "recorded": 2, "repeated": 1, "unrecorded": 2}


async def drained_at_the_end(bench: Bench, deadline: float) -> int:
    """As a process does that is told to stop."""
    task = asyncio.create_task(bench.live.record_enqueued())
    left = await bench.live.drain(deadline)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.require_balance()
    return left


def test_at_the_end_what_is_enqueued_is_recorded(bench: Bench) -> None:
    async def ask() -> int:
        for n in range(40):
            await bench.ask(f"q{n}", "enqueued")
        bench.recorder.is_open.clear()
        assert (await bench.ask("late"))["receipt"] == "none"
        bench.recorder.is_open.set()
        return await drained_at_the_end(bench, 60)

    assert run(ask()) == 0
    assert fates(bench) == {"answered": 41, "recorded": 41}
    assert len(bench.questions()) == 41


def test_at_the_end_what_cannot_be_recorded_is_counted(bench: Bench) -> None:
    """More than are recorded at once: some are under way when time is up, the others never began."""

    async def ask() -> int:
        bench.recorder.is_open.clear()
        assert (await bench.ask("late"))["receipt"] == "none"
        for n in range(40):
            await bench.ask(f"q{n}", "enqueued")
        return await drained_at_the_end(bench, 0.01)

    assert run(ask()) == 41
    assert fates(bench) == {"answered": 41, "unrecorded": 41}
    assert bench.questions() == []


def test_many_at_once_leave_nothing_out_of_the_counts(bench: Bench) -> None:
    async def ask() -> None:
        mixed: list[tuple[str, Ack]] = [(f"q{n % 30}", "durable" if n % 3 else "enqueued") for n in range(60)]
        task = asyncio.create_task(drained(bench))
        await asyncio.gather(*(bench.ask(id_, ack) for id_, ack in mixed))
        await task
        await drained(bench)

    run(ask())
    bench.require_balance()
    assert fates(bench) == {"answered": 60, "recorded": 30, "repeated": 30}
    assert len(bench.questions()) == 30


def test_promotion_and_rollback_are_followed(bench: Bench) -> None:
    bench.stage("batch", seed=5)
    bench.live.follow()
    assert bench.asked("a")["line"] == "online"
    bench.decide("promote", "batch", 2)
    assert bench.asked("b")["line"] == "online"
    bench.live.follow()
    promoted = bench.asked("c")
    bench.decide("roll_back", "online", 3)
    bench.live.follow()
    back = bench.asked("d")
    assert [(each["line"], each["control"]) for each in (promoted, back)] == [("batch", 2), ("online", 3)]
    assert promoted["probability"] != back["probability"]


@pytest.mark.parametrize("seed", range(5))
def test_however_often_it_looks_it_serves_what_record_by_record_following_serves(tmp_path: Path, seed: int) -> None:
    """Kinds are read apart and merged: a decision must still find the version before it, across segments."""
    dice, bench, sequence = random.Random(seed), Bench(tmp_path), 1
    bench.decide("bootstrap", "online", 1)
    for step in range(40):
        match dice.randrange(4):
            case 0:
                bench.publish("online", seed=step)
            case 1:
                sequence += 1
                bench.stage(f"b{step}", seed=step)
                bench.decide("promote", f"b{step}", sequence)
            case 2:
                bench.event(f"e{step}", NOON + step)
            case 3:
                bench.live.follow()
    bench.live.follow()
    slow = bench.champion()
    for record in bench.journal.read(0, START, 1_000):
        slow.observe(record)
    champion = bench.live.answering.champion
    assert (champion.state, champion.digest) == (slow.state, slow.digest)
    assert len(bench.follower.segments()) > 1
    assert bench.live.trouble == ""
    bench.close()


def test_a_decision_that_we_did_not_sign_changes_nothing_and_stays_known(bench: Bench) -> None:
    bench.stage("batch", seed=5)
    bench.decide("promote", "batch", 2, pipeline="another")
    bench.live.follow()
    assert bench.asked("a")["line"] == "online"
    assert "signed" in bench.live.trouble
    bench.publish("online", seed=3)
    bench.decide("retrain", "batch", 3)
    bench.live.follow()
    assert bench.live.trouble, "neither a snapshot nor a decision that names nobody mends it"
    bench.decide("promote", "batch", 4)
    bench.live.follow()
    assert (bench.live.trouble, bench.asked("b")["line"]) == ("", "batch")


def test_a_snapshot_that_is_not_ours_leaves_the_one_before(bench: Bench) -> None:
    before = bench.asked("a")["snapshot"]
    bench.publish("online", seed=3, signature="00")
    bench.live.follow()
    assert bench.asked("b")["snapshot"] == before
    assert bench.live.trouble
    good = bench.publish("online", seed=4)
    bench.live.follow()
    assert (bench.live.trouble, bench.asked("c")["snapshot"]) == ("", good)


def test_a_journal_that_cannot_be_read_is_told_until_it_can(bench: Bench) -> None:
    bench.follower.damaged = True
    newer = bench.publish("online", seed=3)
    bench.live.follow()
    assert "segment 0" in bench.live.trouble
    assert bench.asked("a")["snapshot"] == 2
    bench.follower.damaged = False
    bench.live.follow()
    assert (bench.live.trouble, bench.asked("b")["snapshot"]) == ("", newer)


@pytest.mark.parametrize("now", [0, 1, NOON])
def test_a_question_becomes_an_event_that_the_journal_takes(now: int) -> None:
    envelope = read_envelope(event_of('a "b"', "http", "questions", now, b'{"q":1}'))
    assert (envelope.id, envelope.source, envelope.type, bytes(envelope.data)) == (
        'a "b"',
        "http",
        "questions",
        b'{"q":1}',
    )
    assert envelope.time == max(now, 1)
