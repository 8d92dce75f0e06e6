"""A question's envelope: the time may be missing, and nothing else may."""

import json
from pathlib import Path
from typing import Any

import pytest

from journal.clock import DAY, parse_time
from journal.contract import Contract
from journal.envelope import read_envelope, read_question_envelope
from journal.errors import Malformed
from journal.field import Field
from journal.privacy import KeyTable
from journal.stream import Stream

FLIGHTS = Contract(
    stream="departures",
    version="1.0.0",
    fields=(Field(name="flight", type="integer", required=True), Field(name="origin", type="string")),
    dedup_window=DAY,
    max_gap=DAY,
)
TIME = "2013-01-01T12:00:00Z"


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    return Stream(FLIGHTS, KeyTable(tmp_path / "keys" / "keys.sqlite"))


def question(**attributes: Any) -> bytes:
    envelope = {"specversion": "1.0", "id": "q", "source": "/t", "type": "departures", "data": {"flight": 7}}
    return json.dumps(envelope | attributes).encode()


@pytest.mark.parametrize("optional", [{}, {"time": TIME}, {"subject": "s"}, {"time": TIME, "dataschema": "d"}])
def test_with_and_without_a_time_it_is_read(stream: Stream, optional: dict[str, str]) -> None:
    raw = question(**optional)
    envelope = read_question_envelope(raw)
    assert stream.read(envelope, raw) == {"flight": 7, "origin": None}
    # All of its quotation marks but those of the data: nothing in it needs a second look.
    assert envelope.quotes() == raw.count(b'"') - 2


def test_a_time_that_is_said_is_read() -> None:
    assert read_question_envelope(question(time=TIME)).time == parse_time(TIME)


@pytest.mark.parametrize(
    "time", ["1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "2013-01-01T12:00:00", "now", 7]
)
def test_a_time_that_is_said_must_be_one(time: object) -> None:
    with pytest.raises(Malformed):
        read_question_envelope(question(time=time))


def test_an_event_must_say_its_time() -> None:
    with pytest.raises(Malformed, match="time"):
        read_envelope(question())


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "data"])
def test_nothing_else_may_be_missing(missing: str) -> None:
    kept = {name: value for name, value in json.loads(question()).items() if name != missing}
    with pytest.raises(Malformed, match=missing):
        read_question_envelope(json.dumps(kept).encode())


def test_a_name_that_stands_twice_cannot_hide_behind_the_missing_time(stream: Stream) -> None:
    """It has as many quotation marks as the same question with a time."""
    raw = question().replace(b'"id": "q"', b'"id": "p", "id": "q"')
    assert raw.count(b'"') == question(time=TIME).count(b'"')
    envelope = read_question_envelope(raw)
    with pytest.raises(Malformed, match="twice"):
        stream.read(envelope, raw)


def test_its_text_shows_no_data() -> None:
    assert repr(read_question_envelope(question())) == "QuestionEnvelope(type='departures')"
