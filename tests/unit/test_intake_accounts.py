"""Every event handed in is in exactly one account, whatever its contract's mode; a stop refuses and counts nothing."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.body import Alert, Decision, draft_of
from journal.clock import DAY, format_time, parse_time
from journal.contract import Contract, Mode
from journal.errors import CallerError, Stopped
from journal.field import Field
from journal.held import count_held
from journal.intake import Accepted, Conflicted, Intake, Quarantined, Refused, Repeated
from journal.log import START, Replayed
from journal.memory_log import MemoryJournal
from journal.privacy import KeyTable
from journal.record import Cause, Kind
from journal.settlement import Discard, Fix, Order, Release, State

NOON = parse_time("2013-01-01T12:00:00Z")
MODES: tuple[Mode, ...] = ("freeze", "evolve", "discard_row", "discard_value")


def contract(mode: Mode) -> Contract:
    return Contract(
        stream=mode,
        version="1.0.0",
        fields=(
            Field(name="origin", type="string", required=True),
            Field(name="delay", type="integer", limits={"le": 100}),
        ),
        dedup_window=2 * DAY,
        max_gap=DAY,
        mode=mode,
    )


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
    return Intake(journal, {mode: contract(mode) for mode in MODES}, keys, None)


def wire(stream: str, data: Any, *, id: str = "e1", time: int = NOON) -> bytes:
    event = {"specversion": "1.0", "id": id, "source": "/s", "type": stream, "time": format_time(time), "data": data}
    return json.dumps(event).encode()


def balance(journal: MemoryJournal) -> int:
    """How many events must have been handed in, from what the journal shows alone."""
    held, tallies = count_held(journal), journal.tallies()
    sources = len(journal.of_kind(Kind.SOURCE, START, 100_000)) - held[State.RELEASED] - held[State.FIXED]
    gone = ("repeated", "refused", "conflicts", "quarantined_again", "discarded")
    return sources + held["quarantined"] + sum(tallies.get(name, 0) for name in gone)


def test_a_row_is_discarded_by_name_and_leaves_no_record(intake: Intake, journal: MemoryJournal) -> None:
    taken = intake.take(wire("discard_row", {"origin": 7}))
    assert isinstance(taken, Refused)
    assert (taken.bucket, taken.reason) == ("discarded", "$.data.origin: Expected `str`, got `int`")
    assert journal.end() == START
    assert journal.tallies() == {"discarded": 1, "discarded.discard_row": 1}


def test_a_row_of_a_file_is_discarded_once(intake: Intake, journal: MemoryJournal) -> None:
    raw = wire("discard_row", {"origin": 7})
    intake.take(raw, sink="file", cause=Cause(0, 4, 0))
    assert intake.take(raw, sink="file", cause=Cause(0, 4, 0)) == Replayed()
    assert journal.tallies()["discarded"] == 1


def test_a_wrong_time_is_quarantined_whatever_the_mode(intake: Intake) -> None:
    intake.take(wire("freeze", {"origin": "EWR"}))
    for mode in MODES:
        assert isinstance(intake.take(wire(mode, {"origin": "EWR"}, id="gap", time=NOON + 9 * DAY)), Quarantined)


@pytest.mark.parametrize(
    ("mode", "data", "tally"),
    [
        ("discard_value", {"origin": "EWR", "delay": 101}, "discarded_value.discard_value.delay"),
        ("evolve", {"origin": "EWR", "gate": 4}, "unknown.evolve.gate"),
    ],
)
def test_what_a_mode_leaves_out_is_counted_once(
    intake: Intake, journal: MemoryJournal, mode: Mode, data: dict[str, Any], tally: str
) -> None:
    taken = intake.take(wire(mode, data))
    assert isinstance(taken, Accepted)
    assert taken.record.data == {"delay": None, "origin": "EWR"}
    assert journal.tallies() == {tally: 1}
    assert isinstance(intake.take(wire(mode, data)), Repeated)
    assert isinstance(intake.take(wire(mode, {"origin": "EWR"}, id="e2")), Accepted)
    assert journal.tallies() == {tally: 1, "repeated": 1}


def test_a_fix_leaves_nothing_out_silently(intake: Intake, journal: MemoryJournal) -> None:
    held = intake.take(wire("discard_value", {"origin": 7}))
    assert isinstance(held, Quarantined)
    intake.settle(Fix(held.id, "why", "carla", data=b'{"origin": "EWR", "delay": 101}'))
    assert journal.tallies() == {"discarded_value.discard_value.delay": 1}


def test_the_same_bytes_in_quarantine_are_counted(intake: Intake, journal: MemoryJournal) -> None:
    for _ in range(3):
        assert isinstance(intake.take(wire("freeze", {})), Quarantined)
    assert journal.tallies() == {"quarantined_again": 2}
    assert count_held(journal)["quarantined"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_what_came_in_is_what_the_accounts_say(intake: Intake, journal: MemoryJournal, seed: int) -> None:
    chance = random.Random(seed)
    held: list[str] = []
    seen: set[object] = set()
    for handed_in in range(1, 401):
        data: dict[str, Any] = {"origin": chance.choice(["EWR", 7, None]), "delay": chance.choice([1, 2, 101, "x"])}
        if chance.random() < 0.2:
            data["gate"] = 1
        raw = wire(chance.choice([*MODES, "nobody's"]), data, id=f"e{chance.randrange(60)}")
        taken = intake.take(raw if chance.random() < 0.95 else b"{")
        seen.add(type(taken) if not isinstance(taken, Refused) else taken.bucket)
        if isinstance(taken, Quarantined) and chance.random() < 0.3:
            held.append(taken.id)
        if held and chance.random() < 0.1:
            settle_somehow(intake, chance, held.pop())
        assert balance(journal) == handed_in
    assert seen == {Accepted, Repeated, Conflicted, Quarantined, "malformed", "unknown_stream", "discarded"}
    counts = count_held(journal)
    assert min(counts[State.FIXED], counts[State.DISCARDED], counts[State.WAITING]) > 0


def settle_somehow(intake: Intake, chance: random.Random, quarantine_id: str) -> None:
    """An order that may be refused: the accounts hold all the same."""
    orders: list[Order] = [
        Release(quarantine_id, "why", "carla"),
        Fix(quarantine_id, "why", "carla", data=b'{"origin": "JFK"}'),
        Discard(quarantine_id, "why", "carla"),
    ]
    try:
        intake.settle(chance.choice(orders))
    except CallerError:
        return


def alert(stream: str, *, measured: float = 0.9, begins: int = 0) -> Alert:
    return Alert(
        name="rule",
        stage="intake",
        stream=stream,
        field="",
        metric="late",
        measured=measured,
        most=0.1,
        begins=begins,
        ends=begins + 1,
        stop=True,
        events=50,
    )


def raise_alert(journal: MemoryJournal, body: Alert) -> None:
    journal.append([draft_of(body, kind=Kind.ALERT, stream="quality", id=f"alert-{body.begins}")])


def test_a_stopped_stream_takes_nothing_and_counts_nothing(intake: Intake, journal: MemoryJournal) -> None:
    raise_alert(journal, alert("freeze"))
    assert list(intake.heed_alerts()) == ["freeze"]
    end = journal.end()
    with pytest.raises(Stopped, match=r"rule: 90\.0% of 50 freeze late") as refused:
        intake.take(wire("freeze", {"origin": "EWR"}))
    assert refused.value.status == 503
    assert (journal.end(), journal.tallies()) == (end, {})
    assert isinstance(intake.take(wire("evolve", {"origin": "EWR"})), Accepted)


@pytest.mark.parametrize("lifted_by", ["a good window", "a decision"])
def test_a_stop_that_was_lifted_lets_events_in(intake: Intake, journal: MemoryJournal, lifted_by: str) -> None:
    raise_alert(journal, alert("freeze"))
    intake.heed_alerts()
    if lifted_by == "a decision":
        decision = Decision(sequence=1, action="resume", subject="rule", why="mended", details={})
        journal.append([draft_of(decision, kind=Kind.DECISION, stream="control", id="decision-1")])
    else:
        raise_alert(journal, alert("freeze", measured=0.0, begins=9))
    assert intake.heed_alerts() == {}
    assert isinstance(intake.take(wire("freeze", {"origin": "EWR"})), Accepted)
