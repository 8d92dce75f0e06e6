"""Intake: each event ends in exactly one place, and what is kept of it shows nothing personal."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from journal import body, errors
from journal.clock import DAY, HOUR, format_time, parse_time
from journal.contract import Contract
from journal.field import Field
from journal.intake import Accepted, Conflicted, Intake, Quarantined, Refused, Repeated
from journal.log import START, Replayed
from journal.memory_log import MemoryJournal
from journal.privacy import Erased, KeyTable, context_of
from journal.record import Cause, Kind, Record
from journal.settlement import Release
from journal.sqlite_log import SqliteJournal

NOON = parse_time("2013-01-01T12:00:00Z")
MARK = "anna.marker@example.org"

DEPARTURES = Contract(
    stream="departures",
    version="2.0.1",
    fields=(
        Field(name="origin", type="string", required=True),
        Field(name="flight", type="integer", required=True, limits={"ge": 1}),
        Field(name="delay", type="number"),
        Field(name="tailnum", type="string"),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    max_bytes=4_000,
)
DIVERSIONS = replace(DEPARTURES, stream="diversions")
VISITS = Contract(
    stream="visits",
    version="1.0.0",
    fields=(
        Field(name="person", type="string", required=True, personal=True),
        Field(name="phone", type="string", personal=True, entity_key=True),
        Field(name="age", type="integer", personal=True, limits={"le": 120}),
        Field(name="plan", type="string", personal=True, choices=("free", "paid")),
        Field(name="page", type="string", required=True),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    subject="person",
)
FLIGHT = {"origin": "EWR", "flight": 1545, "delay": 2.5, "tailnum": "N14228"}
VISIT = {"person": MARK, "phone": "+49 marker", "age": 44, "plan": "free", "page": "/"}


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal("test", dedup_window=2 * DAY)


@pytest.fixture
def keys(tmp_path: Path) -> KeyTable:
    return KeyTable(tmp_path / "keys" / "test.sqlite")


@pytest.fixture
def intake(journal: MemoryJournal, keys: KeyTable) -> Intake:
    contracts = {"departures": DEPARTURES, "diversions": DIVERSIONS, "visits": VISITS}
    return Intake(journal, contracts, keys, (NOON - HOUR, NOON + HOUR), principal="gate-7")


def event(data: Any = FLIGHT, *, time: int = NOON, **attributes: Any) -> dict[str, Any]:
    envelope = {"specversion": "1.0", "id": "e1", "source": "/flights", "type": "departures"}
    return envelope | {"time": format_time(time), "data": data} | attributes


def wire(data: Any = FLIGHT, *, time: int = NOON, **attributes: Any) -> bytes:
    return json.dumps(event(data, time=time, **attributes)).encode()


def visit(**attributes: Any) -> bytes:
    data = VISIT | attributes.pop("data", {})
    return wire(data, **({"type": "visits", "source": "/web", "id": "v1"} | attributes))


def accepted(taken: object) -> Record:
    assert isinstance(taken, Accepted)
    return taken.record


def quarantined(taken: object) -> Quarantined:
    assert isinstance(taken, Quarantined)
    return taken


def test_an_event_becomes_a_source_record(intake: Intake, journal: MemoryJournal) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    record = accepted(intake.take(wire(traceparent=f"00-{trace}-00f067aa0ba902b7-01", time=NOON + 1)))
    assert record.kind is Kind.SOURCE
    assert (record.stream, record.id, record.source, record.schema) == ("departures", "e1", "/flights", 2)
    assert (record.time, record.at, record.principal, record.trace) == (NOON + 1, NOON + 1, "gate-7", trace)
    assert record.body == b'{"delay":2.5,"flight":1545,"origin":"EWR","tailnum":"N14228"}'
    assert (record.subject, record.sealed, len(record.conflict)) == (None, None, 16)
    assert journal.read(0, START, 9) == [record]
    assert journal.tallies() == {}


def test_absent_and_null_and_order_and_spaces_are_one_event(intake: Intake) -> None:
    first = accepted(intake.take(wire({"origin": "EWR", "flight": 7, "delay": 1})))
    assert first.data == {"origin": "EWR", "flight": 7, "delay": 1.0, "tailnum": None}
    again = json.dumps(event({"delay": 1.0, "tailnum": None, "flight": 7, "origin": "EWR"}), indent=2)
    assert intake.take(again.encode()) == Repeated(0)
    assert intake.take(again.replace("EWR", "\\u0045WR").encode()) == Repeated(0)


def test_the_same_moment_in_another_offset_is_the_same_event(intake: Intake) -> None:
    accepted(intake.take(wire()))
    assert intake.take(wire().replace(b"12:00:00Z", b"07:00:00-05:00")) == Repeated(0)


@pytest.mark.parametrize("changed", [wire(FLIGHT | {"delay": 3.0}), wire(time=NOON + 1), wire(type="diversions")])
def test_a_taken_id_with_another_body_is_a_conflict(intake: Intake, journal: MemoryJournal, changed: bytes) -> None:
    accepted(intake.take(wire()))
    assert intake.take(changed) == Conflicted("e1", 0)
    assert journal.end() == 0
    assert journal.tallies() == {"conflicts": 1}


def test_the_same_id_from_another_source_is_another_event(intake: Intake) -> None:
    accepted(intake.take(wire()))
    accepted(intake.take(wire(source="/elsewhere")))


DEEP = b'{"specversion":"1.0","data":' + b"[" * 1_900 + b"]" * 1_900 + b"}"
TWICE = wire().replace(b'"flight": 1545', b'"flight": 1545, "flight": 1546')

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "malformed"),
    "not json": (b"{", "malformed"),
    "two events": (wire() + wire(), "malformed"),
    "an array": (b"[" + wire() + b"]", "malformed"),
    "bom": (b"\xef\xbb\xbf" + wire(), "malformed"),
    "utf-16": (json.dumps(event()).encode("utf-16"), "malformed"),
    "too deep": (DEEP, "malformed"),
    "ten megabytes": (b'"' + b"x" * 10_000_000 + b'"', "too_large"),
    "larger than its contract allows": (wire(FLIGHT | {"origin": "x" * 4_000}), "too_large"),
    "nan": (wire(FLIGHT | {"delay": float("nan")}), "malformed"),
    "infinity": (wire(FLIGHT | {"delay": float("-inf")}), "malformed"),
    "utf-8 in data": (wire().replace(b"EWR", b"E\xffR"), "malformed"),
    "utf-8 in violating data": (wire().replace(b"EWR", b"E\xffR").replace(b"1545", b"0"), "malformed"),
    "utf-8 in the envelope": (wire().replace(b"/flights", b"/fl\xffights"), "malformed"),
    "lone surrogate": (wire().replace(b"EWR", b"\\ud800"), "malformed"),
    "data says it twice": (TWICE, "malformed"),
    "data says the same twice": (wire().replace(b'"flight": 1545', b'"flight": 1545, "flight": 1545'), "malformed"),
    "null twice": (wire(FLIGHT | {"tailnum": None}).replace(b"null", b'null, "tailnum": null'), "malformed"),
    "twice for absent": (wire({"origin": "A", "flight": 1}).replace(b'"A"', b'"B", "origin": "A"'), "malformed"),
    "twice by an escape": (wire().replace(b'"flight"', b'"flight": 1, "fl\\u0069ght"'), "malformed"),
    "violating and twice": (TWICE.replace(b"1546", b"0"), "malformed"),
    "envelope says it twice": (wire().replace(b'"id": "e1"', b'"id": "e1", "id": "e2"'), "malformed"),
    "extension says it twice": (wire(ext={"a": 1}).replace(b'"a": 1', b'"a": 1, "a": 2'), "malformed"),
    "attribute in capitals": (wire(dataContentType="application/json"), "malformed"),
    "other content": (wire(datacontenttype="text/xml"), "malformed"),
    "version 0.3": (wire(specversion="0.3"), "malformed"),
    "empty id": (wire(id=""), "malformed"),
    "numeric id": (wire(id=7), "malformed"),
    "long id": (wire(id="x" * 257), "malformed"),
    "nul in id": (wire(id="a\0b"), "malformed"),
    "line feed in source": (wire(source="a\nb"), "malformed"),
    "no data": (json.dumps({k: v for k, v in event().items() if k != "data"}).encode(), "malformed"),
    "no offset": (wire().replace(b"00Z", b"00"), "malformed"),
    "no time at all": (json.dumps({k: v for k, v in event().items() if k != "time"}).encode(), "malformed"),
    "29 february": (wire().replace(b"2013-01-01", b"2013-02-29"), "malformed"),
    "before 1970": (wire(time=-1), "malformed"),
    "unknown stream": (wire(type="arrivals"), "unknown_stream"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_is_counted_and_not_kept(intake: Intake, journal: MemoryJournal, name: str) -> None:
    raw, bucket = REFUSED[name]
    taken = intake.take(raw)
    assert isinstance(taken, Refused)
    assert taken.bucket == bucket
    assert journal.end() == START
    assert journal.tallies() == {"refused": 1, f"refused.{bucket}": 1}


QUARANTINED: dict[str, tuple[bytes, str]] = {
    "wrong type": (wire(FLIGHT | {"flight": "1545"}), "$.data.flight: Expected `int`, got `str`"),
    "out of range": (wire(FLIGHT | {"flight": 0}), "$.data.flight: Expected `int` >= 1"),
    "missing field": (wire({"origin": "EWR"}), "$.data: Object missing required field `flight`"),
    "unknown field": (wire(FLIGHT | {"gate": 7}), "$.data: Unknown field `gate`"),
    "huge integer": (wire().replace(b"1545", b"9" * 1_000), "$.data.flight: Expected `int` <= 9223372036854775807"),
    "huge float": (wire().replace(b"2.5", b"1e999"), "$.data.delay: Number out of range"),
    "nested": (wire(FLIGHT | {"origin": [[[[]]]]}), "$.data.origin: Expected `str`, got `array`"),
    "null data": (wire(None), "$.data: Expected `object`, got `null`"),
    "ten thousand fields": (
        visit(data={f"f{number}": number for number in range(10_000)}),
        "$.data: A field that the contract does not know",
    ),
    "2033": (
        wire(time=parse_time("2033-01-01T00:00:00Z")),
        "$.time: 2033-01-01T00:00:00Z is the journal's first, "
        "but the pipeline starts in 2013-01-01T11:00:00Z .. 2013-01-01T13:00:00Z",
    ),
}


@pytest.mark.parametrize("name", QUARANTINED)
def test_quarantined_is_kept_whole_with_its_reason(intake: Intake, journal: MemoryJournal, name: str) -> None:
    raw, reason = QUARANTINED[name]
    taken = quarantined(intake.take(raw))
    assert taken.reason.startswith(f"{reason}. ")
    (record,) = journal.read(0, START, 9)
    assert record == taken.record
    assert (record.kind, record.id, record.time) == (Kind.QUARANTINE, taken.id, None)
    kept = body.decode(record.body, body.Quarantined)
    assert kept.reason == taken.reason
    assert intake._quarantined.kept(record) == raw
    assert quarantined(intake.take(raw)) == Quarantined(taken.id, taken.reason, None)
    assert journal.end() == 0


def test_ten_thousand_fields_take_a_contract_that_allows_the_bytes(intake: Intake) -> None:
    fields = {f"f{number}": number for number in range(10_000)}
    assert intake.take(wire(FLIGHT | fields)) == Refused(
        "too_large", f"{len(wire(FLIGHT | fields))} bytes, more than 4000"
    )


def test_nesting_below_the_parsers_limit_breaks_only_the_contract(intake: Intake) -> None:
    nested: Any = []
    for _ in range(50):
        nested = [nested]
    assert "got `array`" in quarantined(intake.take(wire(FLIGHT | {"delay": nested}))).reason


def test_a_stack_that_is_nearly_full_refuses_and_goes_on(intake: Intake, journal: MemoryJournal) -> None:
    nested = wire(FLIGHT | {"origin": "x"}).replace(b'"x"', b"[" * 800 + b"]" * 800)

    def descend(depth: int) -> object:
        return intake.take(nested) if depth == 0 else descend(depth - 1)

    assert isinstance(descend(500), Refused)
    accepted(intake.take(wire()))
    assert journal.end() == 0


def test_extension_attributes_are_allowed_and_not_kept(intake: Intake) -> None:
    record = accepted(intake.take(wire(subject="x", dataschema="y", ext1='a "quoted" z', traceparent="garbage")))
    assert record.trace == ""
    assert b"quoted" not in record.body
    accepted(intake.take(wire(id="e2", datacontenttype="application/json")))


def test_text_with_escapes_is_kept_exactly(intake: Intake) -> None:
    text = 'a"b\\c\u2028\n😀'
    assert accepted(intake.take(wire(FLIGHT | {"origin": text}))).data["origin"] == text


@pytest.mark.parametrize("number", [0.1, 1e17, 1.7976931348623157e308, 5e-324, -0.0, 2**53])
def test_numbers_are_kept_exactly(intake: Intake, number: float) -> None:
    assert accepted(intake.take(wire(FLIGHT | {"delay": number}))).data["delay"].hex() == float(number).hex()


def test_a_corrected_event_may_use_the_id_of_a_quarantined_one(intake: Intake) -> None:
    quarantined(intake.take(wire(FLIGHT | {"flight": 0})))
    accepted(intake.take(wire()))


def test_a_leap_of_the_clock_is_quarantined_and_names_the_release(intake: Intake, journal: MemoryJournal) -> None:
    accepted(intake.take(wire()))
    taken = quarantined(intake.take(wire(id="e2", time=NOON + DAY + 1)))
    assert "It would advance the clock by 86400000001us, maxGap is 1d" in taken.reason
    assert f"rivermill journal quarantine release {taken.id} --advance" in taken.reason
    assert journal.clock == NOON
    accepted(intake.take(wire(id="e3", time=NOON + DAY)))


def test_too_old_to_deduplicate(intake: Intake) -> None:
    for days in range(4):
        accepted(intake.take(wire(id=f"day {days}", time=NOON + days * DAY)))
    taken = quarantined(intake.take(wire(id="late", time=NOON + DAY - 1)))
    assert "Too old to deduplicate" in taken.reason
    accepted(intake.take(wire(id="just in time", time=NOON + DAY)))


def test_without_a_declared_start_any_first_event_will_do(journal: MemoryJournal, keys: KeyTable) -> None:
    accepted(Intake(journal, {"departures": DEPARTURES}, keys, None).take(wire(time=NOON + 1_000 * DAY)))


def test_a_second_offer_under_the_sinks_mark_changes_nothing(intake: Intake, journal: MemoryJournal) -> None:
    lines = [wire(), b"{", wire(FLIGHT | {"flight": 0}), wire(FLIGHT | {"delay": 9.0}), wire(), b"["]
    kinds = [Accepted, Refused, Quarantined, Conflicted, Repeated, Refused]

    def play() -> list[object]:
        return [intake.take(raw, sink="file", cause=Cause(0, line, 0)) for line, raw in enumerate(lines)]

    assert [type(taken) for taken in play()] == kinds
    before = journal.read(0, START, 99), journal.tallies(), journal.mark("file")
    assert play() == [Replayed()] * 6
    assert (journal.read(0, START, 99), journal.tallies(), journal.mark("file")) == before
    assert journal.mark("file") == Cause(0, 5, 0)


def test_personal_fields_leave_the_body(intake: Intake, keys: KeyTable) -> None:
    record = accepted(intake.take(visit()))
    subject = keys.subject_of(MARK)
    assert record.subject == subject.id
    assert record.data == {
        "page": "/",
        "person": keys.pseudonym(subject, MARK),
        "phone": keys.pseudonym(subject, "+49 marker"),
    }
    assert record.sealed is not None
    context = context_of("visits", "/web", "v1")
    personal = {name: value for name, value in VISIT.items() if name != "page"}
    assert keys.open_sealed(subject.id, record.sealed, context=context) == personal
    keys.erase(subject.id)
    assert keys.open_sealed(subject.id, record.sealed, context=context) == Erased(subject.id)


def test_an_absent_entity_key_has_no_pseudonym(intake: Intake) -> None:
    assert accepted(intake.take(visit(data={"phone": None}))).data["phone"] is None


def test_what_is_sealed_still_decides_between_repeat_and_conflict(intake: Intake) -> None:
    accepted(intake.take(visit()))
    assert intake.take(visit()) == Repeated(0)
    assert intake.take(visit(data={"age": 45})) == Conflicted("v1", 0)
    assert intake.take(visit(data={"person": "somebody else"})) == Conflicted("v1", 0)


def test_conflict_hashes_of_the_erased_tell_nothing(intake: Intake, keys: KeyTable) -> None:
    record = accepted(intake.take(visit()))
    assert record.subject is not None
    keys.erase(record.subject)
    assert intake.take(visit()) == Conflicted("v1", 0)


def test_erasure_reaches_quarantine(intake: Intake, keys: KeyTable) -> None:
    held = quarantined(intake.take(visit(data={"age": 999})))
    assert held.record is not None
    assert held.record.subject == keys.subject_of(MARK).id
    keys.erase(held.record.subject)
    with pytest.raises(errors.Refused, match="was erased"):
        intake.settle(Release(held.id, "try", "gate-7"))


@pytest.mark.parametrize("data", [None, 7, "text", [1], {}, {"person": None}, {"person": 7}])
def test_a_violating_event_that_names_nobody_is_kept_too(intake: Intake, data: Any) -> None:
    raw = wire(data, type="visits")
    held = quarantined(intake.take(raw))
    assert held.record is not None
    assert held.record.subject is None
    assert intake._quarantined.kept(held.record) == raw


def test_nothing_personal_shows_anywhere(intake: Intake, journal: MemoryJournal, tmp_path: Path) -> None:
    shown = [
        repr(intake.take(raw))
        for raw in (
            visit(),
            visit(data={"age": 45}),
            visit(id="v2", data={"age": MARK}),
            visit(id="v2", data={"plan": MARK}),
            visit(id="v2", data={MARK: 1}),
            visit(id="v2", data={"marker": 1}),
            visit(id="v2", data={"page": None}),
            visit(id="v2", time=NOON + 9 * DAY),
            visit(id="v2").replace(b'"age": 44', b'"age": 44, "age": 45'),
            visit(id="v2").replace(b"anna", b"\xff"),
            visit(id="v2", specversion=MARK),
            visit(id="v2", time=NOON, subject=MARK, traceparent=MARK, marker=1),
        )
    ]
    shown += [repr(record) for record in journal.read(0, START, 99)]
    shown += [repr(journal.tallies())]
    shown += [file.read_bytes().decode("latin-1") for file in (tmp_path / "keys").iterdir()]
    assert not [text for text in shown if "marker" in text]


def test_errors_chain_to_nothing_personal(intake: Intake) -> None:
    held = quarantined(intake.take(visit(data={"plan": MARK})))
    assert held.record is not None
    with pytest.raises(errors.Violation) as caught:
        intake.settle(Release(held.id, "try", "gate-7"))
    assert "marker" not in repr(caught.value) + repr(caught.value.__cause__)
    assert caught.value.__suppress_context__


@pytest.fixture
def relaxed(journal: MemoryJournal, keys: KeyTable) -> Intake:
    """The same door under a contract that has been mended: flight 0 is allowed."""
    fields = tuple(Field(name=f.name, type=f.type, required=f.required) for f in DEPARTURES.fields)
    mended = Contract(stream="departures", version="2.1.0", fields=fields, dedup_window=2 * DAY, max_gap=DAY)
    return Intake(journal, {"departures": mended}, keys, None, principal="operator")


def test_a_release_is_a_decision_and_then_the_event(intake: Intake, relaxed: Intake, journal: MemoryJournal) -> None:
    accepted(intake.take(wire(id="first")))
    held = quarantined(intake.take(wire(FLIGHT | {"flight": 0})))
    assert held.record is not None
    with pytest.raises(errors.Violation):
        intake.settle(Release(held.id, "still broken", "gate-7", advance=True))
    record = relaxed.settle(Release(held.id, "flight 0 exists", "gate-7")).record
    *_, decision, event = journal.read(0, START, 9)
    assert event == record
    assert (record.kind, record.id, record.data["flight"]) == (Kind.SOURCE, "e1", 0)
    decided = body.decode(decision.body, body.Decision)
    assert (decision.kind, decision.principal) == (Kind.DECISION, "gate-7")
    assert (decided.sequence, decided.action, decided.subject, decided.why) == (
        0,
        "release",
        held.id,
        "flight 0 exists",
    )
    assert decided.details == {"advance": False, "event": "e1", "source": "/flights", "stream": "departures"}
    assert relaxed.take(wire(FLIGHT | {"flight": 0})) == Repeated(record.offset)


def test_a_second_release_changes_nothing(intake: Intake, relaxed: Intake, journal: MemoryJournal) -> None:
    held = quarantined(intake.take(wire(FLIGHT | {"flight": 0})))
    assert held.record is not None
    relaxed.settle(Release(held.id, "once", "gate-7"))
    end = journal.end()
    with pytest.raises(errors.Refused, match="already"):
        relaxed.settle(Release(held.id, "twice", "gate-7"))
    assert journal.end() == end


def test_releases_have_no_place_in_the_control_log(intake: Intake, relaxed: Intake, journal: MemoryJournal) -> None:
    for name in ("a", "b"):
        held = quarantined(intake.take(wire(FLIGHT | {"flight": 0}, id=name)))
        assert held.record is not None
        relaxed.settle(Release(held.id, "both", "gate-7"))
    decisions = journal.of_kind(Kind.DECISION, START, 9)
    assert [body.decode(record.body, body.Decision).sequence for record in decisions] == [0, 0]


def test_whoever_hands_an_event_in_is_named(intake: Intake, relaxed: Intake, journal: MemoryJournal) -> None:
    accepted(intake.take(wire(id="a")))
    accepted(intake.take(wire(id="b"), principal="anna"))
    accepted(intake.take(wire(id="c"), principal=""))
    intake.take(wire(FLIGHT | {"flight": 0}, id="d"))
    held = quarantined(intake.take(wire(FLIGHT | {"flight": 0}, id="e"), principal="ben"))
    assert held.record is not None
    relaxed.settle(Release(held.id, "flight 0 exists", "carla"))
    principals = [(record.kind, record.principal) for record in journal.read(0, START, 9)]
    assert principals == [
        (Kind.SOURCE, "gate-7"),
        (Kind.SOURCE, "anna"),
        (Kind.SOURCE, ""),
        (Kind.QUARANTINE, "gate-7"),
        (Kind.QUARANTINE, "ben"),
        (Kind.DECISION, "carla"),
        (Kind.SOURCE, "carla"),
    ]


def test_the_principal_is_no_part_of_an_event(intake: Intake) -> None:
    record = accepted(intake.take(wire(), principal="anna"))
    assert intake.take(wire(), principal="ben") == Repeated(record.offset)


def test_an_id_that_a_corrected_event_took_is_not_released(
    intake: Intake, relaxed: Intake, journal: MemoryJournal
) -> None:
    held = quarantined(intake.take(wire(FLIGHT | {"flight": 0})))
    assert held.record is not None
    accepted(intake.take(wire()))
    with pytest.raises(errors.ConflictingId, match="corrected event"):
        relaxed.settle(Release(held.id, "too late", "gate-7"))
    assert journal.of_kind(Kind.DECISION, START, 9) == []


def test_only_advance_crosses_a_gap(intake: Intake, journal: MemoryJournal) -> None:
    accepted(intake.take(wire()))
    held = quarantined(intake.take(wire(id="e2", time=NOON + 30 * DAY)))
    assert held.record is not None
    with pytest.raises(errors.Violation, match=f"release {held.id} --advance"):
        intake.settle(Release(held.id, "a real gap", "gate-7"))
    assert journal.clock == NOON
    intake.settle(Release(held.id, "a real gap", "gate-7", advance=True))
    assert journal.clock == NOON + 30 * DAY


def test_only_advance_starts_a_journal_elsewhere(intake: Intake, journal: MemoryJournal) -> None:
    held = quarantined(intake.take(wire(time=NOON + 30 * DAY)))
    assert held.record is not None
    with pytest.raises(errors.Violation, match="--advance"):
        intake.settle(Release(held.id, "moved", "gate-7"))
    intake.settle(Release(held.id, "moved", "gate-7", advance=True))
    assert journal.clock == NOON + 30 * DAY


def test_a_release_is_exempt_from_the_dedup_window(intake: Intake, journal: MemoryJournal) -> None:
    for days in range(4):
        accepted(intake.take(wire(id=f"day {days}", time=NOON + days * DAY)))
    held = quarantined(intake.take(wire(id="late", time=NOON)))
    assert held.record is not None
    record = intake.settle(Release(held.id, "the file came late", "gate-7")).record
    assert (record.time, record.at > NOON + 3 * DAY) == (NOON, True)
    assert journal.clock == NOON + 3 * DAY


def test_a_released_visit_is_sealed(intake: Intake, keys: KeyTable) -> None:
    held = quarantined(intake.take(visit(time=NOON + 5 * DAY)))
    assert held.record is not None
    record = intake.settle(Release(held.id, "start here", "gate-7", advance=True)).record
    assert record.subject == keys.subject_of(MARK).id
    assert MARK.encode() not in record.body


def test_a_release_names_what_it_does_not_know(intake: Intake, keys: KeyTable) -> None:
    record = accepted(intake.take(wire()))
    held = quarantined(intake.take(wire(FLIGHT | {"flight": 0}, id="e2")))
    assert held.record is not None
    stranger = Intake(MemoryJournal("test"), {"visits": VISITS}, keys, None)
    for door, name in ((intake, record.id), (intake, "q-0"), (stranger, held.id)):
        with pytest.raises(errors.UnknownName):
            door.settle(Release(name, "?", "gate-7"))


def test_quarantine_ids_are_keyed_only_where_bytes_may_be_personal(tmp_path: Path) -> None:
    def hold(raw: bytes, home: str) -> str:
        table = KeyTable(tmp_path / home / "keys.sqlite")
        door = Intake(MemoryJournal("test"), {"departures": DEPARTURES, "visits": VISITS}, table, None)
        return quarantined(door.take(raw)).id

    flight, broken = wire(FLIGHT | {"flight": 0}), visit(data={"age": 999})
    assert hold(flight, "one") == hold(flight, "two")
    assert hold(broken, "one") == hold(broken, "one")
    assert hold(broken, "one") != hold(broken, "two")


def test_on_disk_it_is_the_same(tmp_path: Path, keys: KeyTable) -> None:
    disk = SqliteJournal(tmp_path / "journal", "test", dedup_window=2 * DAY)
    door = Intake(disk, {"departures": DEPARTURES}, keys, None)
    with disk.group():
        accepted(door.take(wire()))
        assert door.take(wire()) == Repeated(0)
        assert isinstance(door.take(b"{"), Refused)
        held = quarantined(door.take(wire(id="e2", time=NOON + 9 * DAY)))
    assert held.record is not None
    door.settle(Release(held.id, "a real gap", "gate-7", advance=True))
    with pytest.raises(errors.Refused):
        door.settle(Release(held.id, "again", "gate-7", advance=True))
    kinds = [record.kind for record in disk.read(0, START, 99)]
    assert kinds == [Kind.SOURCE, Kind.QUARANTINE, Kind.DECISION, Kind.SOURCE]
    assert disk.tallies() == {"refused": 1, "refused.malformed": 1, "repeated": 1}
    disk.close()


def test_what_is_no_text_is_refused_whatever_version_it_follows(intake: Intake) -> None:
    """Its quarantine would have to read it: so the bytes are looked at before the version is."""
    broken = wire(dataschema="https://example.com/departures#9").replace(b'"data"', b'"ext":"\xff","data"')
    refused = intake.take(broken)
    assert isinstance(refused, Refused)
    assert refused.bucket == "malformed"
