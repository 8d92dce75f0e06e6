"""The quarantine as a place to work: every event in one state, settled once, by somebody, with a reason."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from journal import body, errors
from journal.clock import DAY, HOUR, format_time, parse_time
from journal.contract import Contract
from journal.field import Field
from journal.held import MASKED, count_held, find_held, list_held, shown
from journal.intake import Accepted, Conflicted, Intake, Quarantined
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.privacy import KeyTable
from journal.record import Draft, Kind
from journal.settlement import Discard, Fix, Order, Release, State, changed, corrected

NOON = parse_time("2013-01-01T12:00:00Z")
DEPARTURES = Contract(
    stream="departures",
    version="2.0.1",
    fields=(
        Field(name="origin", type="string", required=True),
        Field(name="flight", type="integer", required=True, limits={"ge": 1}),
        Field(name="delay", type="number"),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    max_bytes=1_000,
)
VISITS = Contract(
    stream="visits",
    version="1.0.0",
    fields=(
        Field(name="person", type="string", required=True, personal=True),
        Field(name="age", type="integer", personal=True, limits={"le": 120}),
        Field(name="page", type="string", required=True),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    subject="person",
)
BAD = {"origin": "EWR", "flight": 0, "delay": 2.5}
GOOD = json.dumps(BAD | {"flight": 7}).encode()


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal("test", dedup_window=2 * DAY)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyTable]:
    table = KeyTable(tmp_path / "keys" / "test.sqlite")
    yield table
    table.close()


@pytest.fixture
def intake(journal: MemoryJournal, keys: KeyTable) -> Intake:
    contracts = {"departures": DEPARTURES, "visits": VISITS}
    return Intake(journal, contracts, keys, (NOON - HOUR, NOON + HOUR), principal="gate-7")


def wire(data: Any = None, *, id: str = "e1", time: int = NOON, stream: str = "departures") -> bytes:
    event = {"specversion": "1.0", "id": id, "source": "/flights", "type": stream, "time": format_time(time)}
    return json.dumps(event | {"data": BAD if data is None else data}).encode()


def held(intake: Intake, raw: bytes) -> str:
    taken = intake.take(raw)
    assert isinstance(taken, Quarantined)
    return taken.id


def states(journal: MemoryJournal) -> dict[str, int]:
    counts = count_held(journal)
    assert counts["quarantined"] == sum(counts[state] for state in State)
    return {name: count for name, count in counts.items() if count}


def test_what_waits_says_who_when_and_why(intake: Intake, journal: MemoryJournal) -> None:
    intake.take(wire(json.loads(GOOD), id="e0"))
    quarantine_id = held(intake, wire())
    (waiting,) = list_held(journal)
    assert (waiting.id, waiting.stream, waiting.source) == (quarantine_id, "departures", "/flights")
    assert (waiting.principal, waiting.at, waiting.offset) == ("gate-7", NOON + 1, 1)
    assert (waiting.state, waiting.settled_by, waiting.settled_at, waiting.why) == (State.WAITING, "", None, "")
    assert waiting.reason.startswith("$.data.flight: ")


def test_a_fix_enters_under_the_same_id_and_source(intake: Intake, journal: MemoryJournal) -> None:
    quarantine_id = held(intake, wire())
    settled = intake.settle(Fix(quarantine_id, "the gate knows", "carla", data=GOOD))
    assert settled.state is State.FIXED
    record = settled.record
    assert (record.kind, record.id, record.source, record.stream) == (Kind.SOURCE, "e1", "/flights", "departures")
    assert (record.data["flight"], record.time, record.principal) == (7, NOON, "carla")
    decided = journal.read(0, START, 9)[1]
    decision = body.decode(decided.body, body.Decision)
    assert (decision.sequence, decision.action, decision.subject) == (0, "fix", quarantine_id)
    assert decision.why == "the gate knows"
    assert decision.details == {
        "advance": False,
        "changed": ["flight"],
        "event": "e1",
        "source": "/flights",
        "stream": "departures",
    }
    (entry,) = list_held(journal)
    assert (entry.state, entry.settled_by, entry.settled_at, entry.why) == (
        State.FIXED,
        "carla",
        decided.at,
        "the gate knows",
    )


def test_what_was_accepted_before_its_id_was_forgotten_is_not_released_into_counting_twice(
    intake: Intake, journal: MemoryJournal
) -> None:
    good = json.loads(GOOD)
    for day in range(4):
        intake.take(wire(good, id=f"day {day}", time=NOON + day * DAY))
    again, reused = held(intake, wire(good, id="day 0")), held(intake, wire(good | {"flight": 8}, id="day 0"))
    with pytest.raises(errors.ConflictingId, match="says what record 0 says"):
        intake.settle(Release(again, "it must count", "carla"))
    assert intake.settle(Discard(again, "it counts already", "carla")).state is State.DISCARDED
    assert intake.settle(Release(reused, "another flight", "carla")).record.data["flight"] == 8
    assert [record.data["flight"] for record in journal.of_kind(Kind.SOURCE, START, 9)] == [7, 7, 7, 7, 8]


def test_a_producer_who_sends_the_fixed_event_repeats_it(intake: Intake) -> None:
    intake.settle(Fix(held(intake, wire()), "why", "carla", data=GOOD))
    assert not isinstance(intake.take(wire(json.loads(GOOD))), Accepted | Conflicted)
    assert isinstance(intake.take(wire(json.loads(GOOD) | {"delay": 9})), Conflicted)


def test_a_fix_that_breaks_the_contract_changes_nothing(intake: Intake, journal: MemoryJournal) -> None:
    quarantine_id = held(intake, wire())
    end = journal.end()
    with pytest.raises(errors.Violation, match=r"\$.data.flight: "):
        intake.settle(Fix(quarantine_id, "why", "carla", data=json.dumps(BAD | {"flight": -1}).encode()))
    assert journal.end() == end
    assert states(journal) == {"quarantined": 1, "waiting": 1}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"flight": NaN}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"flight": 7, "flight": 8, "origin": "EWR"}', "twice"),
        (json.dumps(BAD | {"flight": 7, "origin": "E" * 1_000}).encode(), "more than 1000"),
    ],
)
def test_a_fix_that_is_no_data_is_refused(intake: Intake, journal: MemoryJournal, data: bytes, error: str) -> None:
    quarantine_id = held(intake, wire())
    with pytest.raises(errors.Malformed, match=error):
        intake.settle(Fix(quarantine_id, "why", "carla", data=data))
    assert states(journal) == {"quarantined": 1, "waiting": 1}


@pytest.mark.parametrize("data", [b"null", b"[]", b"7", b"{}"])
def test_a_fix_that_is_json_and_no_data_of_the_contract_is_a_violation(intake: Intake, data: bytes) -> None:
    with pytest.raises(errors.Violation):
        intake.settle(Fix(held(intake, wire()), "why", "carla", data=data))


def test_a_fix_may_correct_the_time_alone(intake: Intake, journal: MemoryJournal) -> None:
    intake.take(wire(json.loads(GOOD), id="e0"))
    quarantine_id = held(intake, wire(json.loads(GOOD), time=NOON + 300 * DAY))
    settled = intake.settle(Fix(quarantine_id, "a wrong year", "carla", time=format_time(NOON + 5)))
    assert (settled.record.time, journal.clock) == (NOON + 5, NOON + 5)
    assert body.decode(journal.read(0, 1, 1)[0].body, body.Decision).details["changed"] == ["time"]


@pytest.mark.parametrize("time", ["2013-01-01T12:00:00", "yesterday", "1969-01-01T00:00:00Z"])
def test_a_fix_to_a_time_that_is_none_is_refused(intake: Intake, journal: MemoryJournal, time: str) -> None:
    with pytest.raises(errors.Malformed):
        intake.settle(Fix(held(intake, wire()), "why", "carla", data=GOOD, time=time))
    assert states(journal) == {"quarantined": 1, "waiting": 1}


def test_a_fix_crosses_a_gap_only_when_it_says_so(intake: Intake, journal: MemoryJournal) -> None:
    intake.take(wire(json.loads(GOOD), id="e0"))
    quarantine_id = held(intake, wire(time=NOON + 5 * DAY))
    with pytest.raises(errors.Violation, match="--advance"):
        intake.settle(Fix(quarantine_id, "why", "carla", data=GOOD))
    intake.settle(Fix(quarantine_id, "why", "carla", data=GOOD, advance=True))
    assert journal.clock == NOON + 5 * DAY


def test_a_discard_is_a_decision_and_nothing_enters(intake: Intake, journal: MemoryJournal) -> None:
    quarantine_id = held(intake, wire())
    settled = intake.settle(Discard(quarantine_id, "a test event", "carla"))
    assert (settled.state, settled.record.kind) == (State.DISCARDED, Kind.DECISION)
    decision = body.decode(settled.record.body, body.Decision)
    assert (decision.sequence, decision.action, decision.why) == (0, "discard", "a test event")
    assert [record.kind for record in journal.read(0, START, 9)] == [Kind.QUARANTINE, Kind.DECISION]
    assert states(journal) == {"quarantined": 1, "discarded": 1}


@pytest.mark.parametrize("first", ["release", "fix", "discard"])
@pytest.mark.parametrize("second", ["release", "fix", "discard"])
def test_a_wait_ends_once(keys: KeyTable, first: str, second: str) -> None:
    journal = MemoryJournal("test", dedup_window=2 * DAY)
    strict = Intake(journal, {"departures": DEPARTURES}, keys, None)
    lenient = replace(
        DEPARTURES, fields=(DEPARTURES.fields[0], Field(name="flight", type="integer"), DEPARTURES.fields[2])
    )
    relaxed = Intake(journal, {"departures": lenient}, keys, None)
    quarantine_id = held(strict, wire())
    orders: dict[str, Order] = {
        "release": Release(quarantine_id, "why", "carla"),
        "fix": Fix(quarantine_id, "why", "carla", data=GOOD),
        "discard": Discard(quarantine_id, "why", "carla"),
    }
    state = relaxed.settle(orders[first]).state
    end = journal.end()
    with pytest.raises((errors.Refused, errors.ConflictingId)):
        relaxed.settle(orders[second])
    assert journal.end() == end
    assert states(journal) == {"quarantined": 1, state: 1}


def test_an_event_given_up_stays_given_up_when_it_comes_again_long_after(
    intake: Intake, journal: MemoryJournal
) -> None:
    intake.settle(Discard(held(intake, wire()), "no", "carla"))
    for day in range(6):
        intake.take(wire(json.loads(GOOD), id=f"day-{day}", time=NOON + day * DAY))
    assert held(intake, wire()) == list_held(journal)[0].id
    assert states(journal) == {"quarantined": 2, "discarded": 2}


def test_a_corrected_event_that_came_by_itself_leaves_the_old_one_to_be_discarded(
    intake: Intake, journal: MemoryJournal
) -> None:
    quarantine_id = held(intake, wire())
    assert isinstance(intake.take(wire(json.loads(GOOD))), Accepted)
    with pytest.raises(errors.ConflictingId, match="discard this one"):
        intake.settle(Fix(quarantine_id, "why", "carla", data=json.dumps(BAD | {"flight": 8}).encode()))
    with pytest.raises(errors.Refused, match="Discard what waits"):
        intake.settle(Fix(quarantine_id, "why", "carla", data=GOOD))
    assert states(journal) == {"quarantined": 1, "waiting": 1}
    intake.settle(Discard(quarantine_id, "it came corrected", "carla"))
    assert states(journal) == {"quarantined": 1, "discarded": 1}


def test_an_id_that_nobody_knows(intake: Intake) -> None:
    for order in (Release("q-0", "w", "p"), Fix("q-0", "w", "p", data=GOOD), Discard("q-0", "w", "p")):
        with pytest.raises(errors.UnknownName, match="'q-0'"):
            intake.settle(order)


def test_a_stream_without_a_contract_can_only_be_given_up(
    intake: Intake, journal: MemoryJournal, keys: KeyTable
) -> None:
    quarantine_id = held(intake, wire())
    other = Intake(journal, {"visits": VISITS}, keys, None)
    with pytest.raises(errors.UnknownName, match="Add its contract"):
        other.settle(Release(quarantine_id, "why", "carla"))
    assert other.settle(Discard(quarantine_id, "gone", "carla")).state is State.DISCARDED


def erase(journal: MemoryJournal, keys: KeyTable, person: str) -> None:
    subject = keys.subject_of(person).id
    erased = body.Decision(sequence=1, action="erase", subject=subject, why="asked", details={})
    journal.append([Draft(kind=Kind.DECISION, stream="control", id="decision-1", body=body.encode(erased))])
    keys.erase(subject)


def test_the_erased_wait_no_more(intake: Intake, journal: MemoryJournal, keys: KeyTable) -> None:
    gone = held(intake, wire({"person": "anna", "age": 999, "page": "/"}, id="v1", stream="visits"))
    there = held(intake, wire({"person": "bert", "age": 999, "page": "/"}, id="v2", stream="visits"))
    erase(journal, keys, "anna")
    assert states(journal) == {"quarantined": 2, "waiting": 1, "erased": 1}
    for order in (Release(gone, "w", "p"), Fix(gone, "w", "p", time=format_time(NOON))):
        with pytest.raises(errors.Refused, match="erased"):
            intake.settle(order)
    for quarantine_id in (gone, there):
        assert intake.settle(Discard(quarantine_id, "why", "carla")).state is State.DISCARDED
    assert states(journal) == {"quarantined": 2, "discarded": 1, "erased": 1}
    assert {one.settled_by for one in list_held(journal)} == {"carla"}


def test_erased_outlasts_every_end(intake: Intake, journal: MemoryJournal, keys: KeyTable) -> None:
    mended = json.dumps({"person": "anna", "age": 99, "page": "/"}).encode()
    ids = [
        held(intake, wire({"person": "anna", "age": 999, "page": f"/{n}"}, id=f"v{n}", stream="visits"))
        for n in range(2)
    ]
    intake.settle(Fix(ids[0], "a typing error", "carla", data=mended))
    intake.settle(Discard(ids[1], "a test", "carla"))
    assert states(journal) == {"quarantined": 2, "fixed": 1, "discarded": 1}
    erase(journal, keys, "anna")
    assert states(journal) == {"quarantined": 2, "erased": 2}
    assert [(one.settled_by, one.why) for one in list_held(journal)] == [
        ("carla", "a typing error"),
        ("carla", "a test"),
    ]


def test_what_may_be_personal_is_masked() -> None:
    data = {"person": "anna", "age": 999, "page": "/", "mail of anna": 1}
    event = json.loads(wire(data, stream="visits")) | {"subject": "anna", "ext": "anna"}
    seen = shown(VISITS, json.dumps(event).encode(), reveal=False)
    assert seen["data"] == {"person": MASKED, "age": MASKED, "page": "/", "(unknown fields)": 1}
    assert "anna" not in json.dumps(seen)
    assert (seen["id"], seen["source"], seen["time"], seen["subject"]) == ("e1", "/flights", format_time(NOON), MASKED)
    nested = shown(VISITS, wire({"page": {"of": "anna"}}, stream="visits"), reveal=False)
    assert nested["data"] == {"page": MASKED}
    assert shown(VISITS, wire("anna", stream="visits"), reveal=False)["data"] == MASKED


def test_a_reveal_and_a_contract_without_persons_show_everything() -> None:
    raw = wire({"person": "anna", "age": 999}, stream="visits")
    assert shown(VISITS, raw, reveal=True)["data"] == {"person": "anna", "age": 999}
    assert shown(DEPARTURES, wire(), reveal=False)["data"]["origin"] == "EWR"


def test_numbers_that_fit_no_type_are_shown_as_they_were_written() -> None:
    raw = wire().replace(b'"delay": 2.5', b'"delay": 1e999').replace(b'"flight": 0', b'"flight": ' + b"9" * 5_000)
    data = shown(DEPARTURES, raw, reveal=False)["data"]
    assert (data["delay"], data["flight"]) == ("1e999", "9" * 5_000)


def test_a_correction_replaces_the_data_whole_and_keeps_the_rest() -> None:
    raw = json.dumps(json.loads(wire()) | {"traceparent": "t"}).encode()
    mended = json.loads(corrected(raw, Fix("q", "", "", data=b'{"flight": 7}')))
    assert mended == json.loads(raw) | {"data": {"flight": 7}}
    assert corrected(raw, Fix("q", "", "")).count(b'"flight"') == 1


def test_a_change_names_fields_of_the_contract_alone_and_tells_types_apart() -> None:
    before = wire({"flight": "7", "origin": "EWR", "anna": 1})
    after = wire({"flight": 7, "origin": "EWR", "bert": 2})
    assert changed(["flight", "origin", "delay"], before, after) == ["flight"]
    assert changed(["flight"], wire([]), wire({"flight": 1})) == ["flight"]


def test_the_kept_bytes_are_found_by_id(intake: Intake, journal: MemoryJournal) -> None:
    quarantine_id = held(intake, wire())
    assert find_held(journal, quarantine_id).id == quarantine_id
    with pytest.raises(errors.UnknownName):
        find_held(journal, quarantine_id[:-1])
