"""Questions that come with their answers: both are recorded, one behind the other, or neither."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal import errors
from journal.asking import Asking
from journal.body import Prediction, decode
from journal.clock import DAY, HOUR, format_time, parse_time
from journal.contract import Contract
from journal.field import Field
from journal.intake import Accepted, Intake
from journal.log import START, Journal
from journal.memory_log import MemoryJournal
from journal.privacy import KeyTable
from journal.record import Draft, Kind
from journal.sqlite_log import SqliteJournal
from journal.wire import Asked, AskedBefore

NOON = parse_time("2013-01-01T12:00:00Z")
FLIGHTS = Contract(
    stream="departures",
    version="2.0.1",
    fields=(
        Field(name="flight", type="integer", required=True, limits={"ge": 1}),
        Field(name="origin", type="string"),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    max_bytes=2_000,
)
VISITS = Contract(
    stream="visits",
    version="1.0.0",
    fields=(
        Field(name="person", type="string", required=True, personal=True),
        Field(name="phone", type="string", personal=True, entity_key=True),
        Field(name="age", type="integer", personal=True),
        Field(name="page", type="string", required=True),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    subject="person",
)
ANSWER = Prediction(
    key="",
    question=START,
    service="s@1",
    values=[1, None, 2.5],
    stamps=[(1, 2), None],
    score=0.25,
    line="online",
    model="m",
    snapshot=3,
    control=1,
    degraded=False,
    build="b",
)


@pytest.fixture
def keys(tmp_path: Path) -> KeyTable:
    return KeyTable(tmp_path / "keys" / "test.sqlite")


@pytest.fixture(params=["memory", "sqlite"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        yield MemoryJournal("test", dedup_window=2 * DAY)
        return
    journal = SqliteJournal(tmp_path / "journal", "test", dedup_window=2 * DAY, records_per_segment=4)
    yield journal
    journal.close()


@pytest.fixture
def asking(journal: Journal, keys: KeyTable) -> Asking:
    return Asking(journal, FLIGHTS, keys, "flight")


def question(data: Any = None, **attributes: Any) -> bytes:
    event = {"specversion": "1.0", "id": "q1", "source": "/me", "type": "departures", "time": format_time(NOON)}
    return json.dumps(event | {"data": {"flight": 1545} if data is None else data} | attributes).encode()


def ask(asking: Asking, journal: Journal, raw: bytes, answer: Prediction = ANSWER) -> Asked | AskedBefore:
    with journal.group():
        return asking.ask(raw, answer, "me")


def event(id_: str, time: int) -> Draft:
    return Draft(kind=Kind.SOURCE, stream="s", source="/t", id=id_, time=time, body=b"{}")


def test_question_and_prediction_stand_one_behind_the_other(asking: Asking, journal: Journal) -> None:
    journal.append([event("before", NOON)])
    assert ask(asking, journal, question()) == Asked(1, 2)
    _, asked, answered = journal.read(0, START, 9)
    assert (asked.kind, asked.id, asked.source, asked.time, asked.principal) == (
        Kind.QUESTION, "q1", "/me", None, "me",
    )  # fmt: skip
    assert asked.data == {"flight": 1545, "origin": None}
    assert (answered.kind, answered.id, answered.principal) == (Kind.PREDICTION, "p-/me#q1", "me")
    assert decode(answered.body, Prediction) == msgspec.structs.replace(ANSWER, question=1, key="1545")


def test_a_question_moves_no_clock(asking: Asking, journal: Journal) -> None:
    journal.append([event("before", NOON)])
    ask(asking, journal, question(time=format_time(NOON + 300 * DAY)))
    assert journal.clock == NOON
    assert [record.at - NOON for record in journal.read(0, START, 9)] == [0, 1, 2]


@pytest.mark.parametrize("later", [ANSWER, msgspec.structs.replace(ANSWER, score=0.9, line="other")])
def test_asked_twice_the_recorded_answer_comes_back(asking: Asking, journal: Journal, later: Prediction) -> None:
    ask(asking, journal, question())
    again = ask(asking, journal, question(time=format_time(NOON + HOUR)), later)
    assert again == AskedBefore(journal.read(0, 0, 1)[0].body, 1)
    assert isinstance(again, AskedBefore)
    assert decode(again.prediction, Prediction).score == 0.25
    assert journal.end() == 1
    assert journal.tallies() == {"repeated": 1}


def test_asked_twice_in_one_group(asking: Asking, journal: Journal) -> None:
    with journal.group():
        first = asking.ask(question(), ANSWER, "me")
        again = asking.ask(question(), ANSWER, "me")
    assert first == Asked(0, 1)
    assert isinstance(again, AskedBefore)
    assert (again.offset, journal.end()) == (1, 1)


def test_a_question_without_a_time_is_the_same_question(asking: Asking, journal: Journal) -> None:
    ask(asking, journal, question())
    timeless = json.loads(question())
    del timeless["time"]
    assert isinstance(ask(asking, journal, json.dumps(timeless).encode()), AskedBefore)


def test_the_same_id_with_another_body_conflicts(asking: Asking, journal: Journal) -> None:
    ask(asking, journal, question())
    with journal.group(), pytest.raises(errors.ConflictingId, match="'q1', at offset 0"):
        asking.ask(question({"flight": 7}), ANSWER, "me")
    assert journal.end() == 1
    assert journal.tallies() == {"conflicts": 1}


def test_another_source_may_use_the_same_id(asking: Asking, journal: Journal) -> None:
    ask(asking, journal, question())
    assert ask(asking, journal, question({"flight": 7}, source="/you")) == Asked(2, 3)


def test_an_events_id_is_free_for_a_question(asking: Asking, journal: Journal, keys: KeyTable) -> None:
    door = Intake(journal, {"departures": FLIGHTS}, keys, None)
    assert isinstance(door.take(question()), Accepted)
    assert ask(asking, journal, question()) == Asked(1, 2)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (question({"flight": 0}), errors.Violation),
        (question({}), errors.Violation),
        (question({"flight": "x"}), errors.Violation),
        (question(type="arrivals"), errors.Malformed),
        (question(id=""), errors.Malformed),
        (question({"flight": 1, "origin": "x" * 2_000}), errors.Malformed),
        (b"{", errors.Malformed),
        (b"\xff", errors.Malformed),
        (question().replace(b'"flight"', b'"flight": 2, "flight"'), errors.Malformed),
    ],
    ids=["limit", "missing", "type", "stream", "id", "large", "json", "utf8", "twice"],
)
def test_a_bad_question_leaves_nothing(asking: Asking, journal: Journal, raw: bytes, error: type[Exception]) -> None:
    with journal.group(), pytest.raises(error):
        asking.ask(raw, ANSWER, "me")
    assert journal.end() == START
    assert ask(asking, journal, question()) == Asked(0, 1)


def test_a_question_is_forgotten_like_an_event(asking: Asking, journal: Journal) -> None:
    journal.append([event("a", NOON)])
    ask(asking, journal, question())
    journal.append([event("b", NOON + DAY)])
    assert isinstance(ask(asking, journal, question()), AskedBefore)
    journal.append([event("c", NOON + 9 * DAY)])
    assert ask(asking, journal, question()) == Asked(5, 6)


def test_an_answer_that_is_not_behind_its_question_is_corrupt(asking: Asking, journal: Journal) -> None:
    journal.append([event("before", NOON)])
    ask(asking, journal, question())
    (asked,) = journal.read(0, 0, 1)
    stray = Draft(
        kind=Kind.QUESTION, stream="departures", source="/me", id="q2", body=asked.body, conflict=asked.conflict
    )
    journal.append([stray, event("between", NOON)])
    with journal.group(), pytest.raises(errors.Corrupt, match="question at 3"):
        asking.ask(question(id="q2"), ANSWER, "me")


def test_personal_fields_of_a_question_are_sealed(journal: Journal, keys: KeyTable) -> None:
    asking = Asking(journal, VISITS, keys, "phone")
    data = {"person": "anna.marker", "phone": "+49 marker", "age": 44, "page": "/"}
    ask(asking, journal, question(data, type="visits"))
    asked, answered = journal.read(0, START, 9)
    assert asked.subject == answered.subject == keys.subject_of("anna.marker").id
    assert asked.sealed is not None
    assert b"marker" not in asked.body + answered.body + asked.sealed
    assert decode(answered.body, Prediction).key == asked.data["phone"] != "+49 marker"


@pytest.mark.parametrize("key", ["age", "nothing"])
def test_a_key_that_no_record_will_hold_is_refused(journal: Journal, keys: KeyTable, key: str) -> None:
    with pytest.raises(errors.Misconfigured, match=key):
        Asking(journal, VISITS, keys, key)
