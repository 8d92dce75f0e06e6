"""The states of a version: what the table allows happens, and nothing else."""

from typing import Any

import pytest

from journal.control import NAMING, Entry
from journal.errors import Refused
from registry.lifecycle import TABLE, Event, State, advance, states_of


def entry(sequence: int, action: str, subject: str) -> Entry:
    unread: dict[str, Any] = {
        "heads": {},
        "why": "",
        "details": {},
        "at": 0,
        "principal": "",
        "key": "",
        "previous": "",
        "hash": "",
        "signature": "",
    }
    return Entry(pipeline="flights", sequence=sequence, action=action, subject=subject, **unread)


def made(*decisions: tuple[str, str]) -> list[Entry]:
    return [entry(place, action, subject) for place, (action, subject) in enumerate(decisions, 1)]


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_every_state_takes_what_the_table_says_and_refuses_the_rest(state: State, event: Event) -> None:
    following = TABLE[state].get(event)
    if following is not None:
        assert advance(state, event) is following
    else:
        with pytest.raises(Refused, match=f"a {state} line does not take {event}"):
            advance(state, event)


def test_rejected_is_final_and_says_so() -> None:
    assert TABLE[State.REJECTED] == {}
    with pytest.raises(Refused, match="this state is final"):
        advance(State.REJECTED, Event.PROMOTE)


def test_only_naming_events_make_a_champion() -> None:
    leads = {event for row in TABLE.values() for event, state in row.items() if state is State.CHAMPION}
    assert leads == set(NAMING)


def test_every_state_can_be_reached() -> None:
    reached, frontier = {State.CANDIDATE}, {State.CANDIDATE}
    while frontier:
        frontier = {after for state in frontier for after in TABLE[state].values()} - reached
        reached |= frontier
    assert reached == set(State)


def test_nobody_leaves_the_throne_but_by_a_successor() -> None:
    assert set(TABLE[State.CHAMPION]) == {Event.REPLACE}


def test_states_follow_the_log() -> None:
    entries = made(
        ("bootstrap", "online"),
        ("promote", "boosted-1"),
        ("reject", "logistic-1"),
        ("release", "quarantine-7"),
        ("roll_back", "online"),
        ("promote", "boosted-1"),
        ("reject", "online"),
    )
    steps = [states_of(entries[:count]) for count in range(len(entries) + 1)]
    assert steps[0] == {}
    assert steps[1] == {"online": State.CHAMPION}
    assert steps[2] == {"online": State.RETIRED, "boosted-1": State.CHAMPION}
    assert steps[4] == steps[3] == {**steps[2], "logistic-1": State.REJECTED}
    assert steps[5] == {"online": State.CHAMPION, "boosted-1": State.RETIRED, "logistic-1": State.REJECTED}
    assert steps[7] == steps[6] == steps[3]


def test_lines_that_no_decision_names_are_candidates() -> None:
    states = states_of(made(("bootstrap", "online")), lines=["online", "boosted-1"])
    assert states == {"online": State.CHAMPION, "boosted-1": State.CANDIDATE}


def test_there_is_one_champion_at_most() -> None:
    entries = made(("bootstrap", "a"), ("promote", "b"), ("promote", "c"), ("roll_back", "a"), ("promote", "b"))
    for count in range(1, len(entries) + 1):
        states = states_of(entries[:count])
        assert [line for line, state in states.items() if state is State.CHAMPION] == [entries[count - 1].subject]


@pytest.mark.parametrize(
    ("decisions", "sequence"),
    [
        ([("bootstrap", "a"), ("promote", "a")], 2),
        ([("bootstrap", "a"), ("reject", "b"), ("promote", "b")], 3),
        ([("bootstrap", "a"), ("reject", "a")], 2),
        ([("bootstrap", "a"), ("roll_back", "b")], 2),
    ],
)
def test_a_log_that_breaks_the_table_is_refused_by_sequence(decisions: list[tuple[str, str]], sequence: int) -> None:
    with pytest.raises(Refused, match=f"control decision {sequence} about"):
        states_of(made(*decisions))
