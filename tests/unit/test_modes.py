"""What each mode makes of data that says something else than its contract, and of events of another version."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from journal.clock import DAY
from journal.contract import Contract, Mode
from journal.envelope import read_envelope
from journal.errors import Discarded, Malformed, Violation
from journal.field import Field
from journal.leniency import LARGEST_NAMES
from journal.privacy import KeyTable
from journal.stream import Stream

FIELDS = (
    Field(name="flight", type="integer", required=True, limits={"ge": 1}),
    Field(name="delay", type="integer", limits={"le": 100}),
    Field(name="gate", type="string", limits={"max_length": 3}),
)
EVOLVE: Mode = "evolve"
Make = Callable[..., Stream]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    keys = KeyTable(tmp_path / "keys" / "keys.sqlite")

    def stream(mode: Mode = "freeze", fields: tuple[Field, ...] = FIELDS, **more: Any) -> Stream:
        settings: dict[str, Any] = {"version": "2.0.0", "dedup_window": DAY, "max_gap": DAY} | more
        return Stream(Contract(stream="s", fields=fields, mode=mode, **settings), keys)

    return stream


def read(stream: Stream, data: str, dataschema: str | None = None) -> dict[str, Any]:
    extra = "" if dataschema is None else f'"dataschema":{json.dumps(dataschema)},'
    raw = (
        f'{{"specversion":"1.0","id":"e","source":"/t","type":"s","time":"2020-01-01T00:00:00Z",{extra}"data":{data}}}'
    ).encode()
    return stream.read(read_envelope(raw), raw)


WHOLE = {"flight": 7, "delay": None, "gate": None}


@pytest.mark.parametrize("mode", ["freeze", "evolve", "discard_row", "discard_value"])
def test_what_holds_is_read_alike_by_all(make: Make, mode: Mode) -> None:
    stream = make(mode)
    assert read(stream, '{"flight":7,"gate":"A1"}') == WHOLE | {"gate": "A1"}
    assert stream.notes == []


CASES = [
    ("evolve", '{"flight":7,"crew":2}', WHOLE, ["unknown.s.crew"]),
    (
        "evolve",
        '{"flight":7,"crew":{"a":[1]},"x y":1,"z":null}',
        WHOLE,
        ["unknown.s.crew", "unknown.s.*", "unknown.s.z"],
    ),
    ("evolve", '{"flight":7.0,"delay":-3.0}', WHOLE | {"delay": -3}, []),
    ("discard_value", '{"flight":7,"crew":2}', WHOLE, ["unknown.s.crew"]),
    ("discard_value", '{"flight":7,"delay":101}', WHOLE, ["discarded_value.s.delay"]),
    (
        "discard_value",
        '{"flight":7,"delay":1e999,"gate":"A100"}',
        WHOLE,
        ["discarded_value.s.delay", "discarded_value.s.gate"],
    ),
    ("discard_value", '{"flight":7,"gate":{"a":{}},"delay":9}', WHOLE | {"delay": 9}, ["discarded_value.s.gate"]),
]


@pytest.mark.parametrize(("mode", "data", "fields", "notes"), CASES)
def test_what_is_left_out_is_named(make: Make, mode: Mode, data: str, fields: dict[str, Any], notes: list[str]) -> None:
    stream = make(mode)
    assert read(stream, data) == fields
    assert stream.notes == notes
    assert list(read(stream, '{"flight":7}')) == ["delay", "flight", "gate"]
    assert stream.notes == []


@pytest.mark.parametrize(
    ("mode", "data", "reason"),
    [
        ("freeze", '{"flight":7,"crew":2}', "$.data: Unknown field `crew`"),
        ("freeze", '{"flight":7.0}', "$.data.flight: Expected `int`, got `float`"),
        ("evolve", '{"flight":0,"crew":2}', "$.data.flight: Expected `int` >= 1"),
        ("evolve", '{"flight":7.5}', "$.data.flight: Expected `int`, got `float`"),
        ("evolve", '{"flight":1e300}', "$.data.flight: Expected `int`, got `float`"),
        ("evolve", '{"flight":"7"}', "$.data.flight: Expected `int`, got `str`"),
        ("evolve", '{"flight":7,"delay":101}', "$.data.delay: Expected `int` <= 100"),
        ("evolve", "[7]", "$.data: Expected `object`, got `array`"),
        ("discard_value", '{"flight":0,"delay":101}', "$.data.flight: Expected `int` >= 1"),
        ("discard_value", '{"delay":101}', "$.data: Object missing required field `flight`"),
        ("discard_value", '{"flight":null}', "$.data.flight: Expected `int`, got `null`"),
    ],
)
def test_what_no_mode_lets_in_is_a_violation(make: Make, mode: Mode, data: str, reason: str) -> None:
    stream = make(mode)
    with pytest.raises(Violation) as caught:
        read(stream, data)
    assert (type(caught.value), caught.value.which) == (Violation, reason)
    assert stream.notes == []


def test_discard_row_keeps_no_event_that_breaks_the_contract(make: Make) -> None:
    with pytest.raises(Discarded) as caught:
        read(make("discard_row"), '{"flight":0}')
    assert caught.value.which == "$.data.flight: Expected `int` >= 1"


@pytest.mark.parametrize("mode", ["freeze", "evolve", "discard_row", "discard_value"])
def test_what_says_a_name_twice_is_no_event_in_any_mode(make: Make, mode: Mode) -> None:
    for data in ('{"flight":7,"crew":1,"crew":2}', '{"flight":7,"flight":0}'):
        with pytest.raises(Malformed, match="twice"):
            read(make(mode), data)


def test_names_of_unknown_fields_are_bounded(make: Make) -> None:
    stream = make("evolve")
    seen: set[str] = set()
    for number in range(3 * LARGEST_NAMES):
        read(stream, f'{{"flight":7,"x{number}":1}}')
        seen.update(stream.notes)
    assert len(seen) == LARGEST_NAMES + 1
    read(stream, '{"flight":7,"x0":1,"y":2,"z":3}')
    assert stream.notes == ["unknown.s.x0", "unknown.s.*"]


def test_names_beside_personal_fields_are_never_repeated(make: Make) -> None:
    person = Field(name="person", type="string", required=True, personal=True)
    stream = make("discard_value", (*FIELDS, person), subject="person")
    fields = read(stream, '{"flight":7,"person":"anna","anna":"x","delay":"anna"}')
    assert fields == WHOLE | {"person": "anna"}
    assert stream.notes == ["unknown.s.*", "discarded_value.s.delay"]


OLD = Contract(
    stream="s",
    version="1.4.0",
    fields=(Field(name="number", type="string"),),
    dedup_window=DAY,
    max_gap=DAY,
    mode=EVOLVE,
)


@pytest.mark.parametrize("end", ["", "x", "https://example.com/s", "https://example.com/s#2", "#2"])
def test_without_another_version_it_is_the_current_one(make: Make, end: str) -> None:
    assert read(make(earlier=(OLD,)), '{"flight":7}', end) == WHOLE


def test_an_earlier_version_is_read_by_its_own_contract_and_stored_as_sent(make: Make) -> None:
    stream = make(earlier=(OLD,))
    raw = (
        b'{"specversion":"1.0","id":"e","source":"/t","type":"s","time":"2020-01-01T00:00:00Z",'
        b'"dataschema":"https://example.com/s#1","data":{"number":"7","crew":1}}'
    )
    envelope = read_envelope(raw)
    fields = stream.read(envelope, raw)
    assert (fields, stream.notes) == ({"number": "7"}, ["unknown.s.crew"])
    draft = stream.draft(envelope, 1, fields, "", None)
    assert (draft.schema, draft.body) == (1, b'{"number":"7"}')
    current = raw.replace(b"s#1", b"s#2").replace(b'"number":"7","crew":1', b'"flight":7')
    envelope = read_envelope(current)
    assert stream.draft(envelope, 1, stream.read(envelope, current), "", None).schema == 2


@pytest.mark.parametrize("end", ["#0", "#3", "https://example.com/s#999999999"])
def test_a_version_that_is_not_read_is_a_violation(make: Make, end: str) -> None:
    with pytest.raises(Violation, match=r"there are 1 and 2") as caught:
        read(make(earlier=(OLD,)), '{"flight":7}', end)
    assert end not in str(caught.value)


def test_of_several_earlier_versions_only_the_last_still_comes_in(make: Make) -> None:
    oldest = Contract(stream="s", version="0.9.0", fields=OLD.fields, dedup_window=DAY, max_gap=DAY)
    stream = make(earlier=(OLD, oldest))
    assert read(stream, '{"number":"7"}', "#1") == {"number": "7"}
    with pytest.raises(Violation, match="is not read"):
        read(stream, '{"number":"7"}', "#0")
