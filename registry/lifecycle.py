"""The states of a version, as a table. There is no other way from one to the next.

- A candidate becomes champion by the first decision of a pipeline (bootstrap), or through the gate (promote).
- Shadow and canary answer beside the champion on their way to it; none has to pass through them.
- Whoever is replaced is retired, and can come back: by a rollback, or through the gate once more.
- A retired line that fails the gate stays retired. One that never was champion and is rejected stays out for good.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from journal.control import NAMING, Entry
from journal.errors import Refused


class State(StrEnum):
    """Where a version stands."""

    CANDIDATE = "candidate"
    SHADOW = "shadow"
    CANARY = "canary"
    CHAMPION = "champion"
    RETIRED = "retired"
    REJECTED = "rejected"


class Event(StrEnum):
    """What happens to a version. All but ``replace`` are actions of the control log, and are spelled as there."""

    BOOTSTRAP = "bootstrap"
    SHADOW = "shadow"
    CANARY = "canary"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    REJECT = "reject"
    REPLACE = "replace"


TABLE: Mapping[State, Mapping[Event, State]] = {
    State.CANDIDATE: {
        Event.BOOTSTRAP: State.CHAMPION,
        Event.SHADOW: State.SHADOW,
        Event.CANARY: State.CANARY,
        Event.PROMOTE: State.CHAMPION,
        Event.REJECT: State.REJECTED,
    },
    State.SHADOW: {
        Event.CANARY: State.CANARY,
        Event.PROMOTE: State.CHAMPION,
        Event.REJECT: State.REJECTED,
    },
    State.CANARY: {
        Event.PROMOTE: State.CHAMPION,
        Event.REJECT: State.REJECTED,
    },
    State.CHAMPION: {
        Event.REPLACE: State.RETIRED,
    },
    State.RETIRED: {
        Event.PROMOTE: State.CHAMPION,
        Event.ROLL_BACK: State.CHAMPION,
        Event.REJECT: State.RETIRED,
    },
    State.REJECTED: {},
}

_ACTIONS = frozenset(str(event) for event in Event if event is not Event.REPLACE)


def advance(state: State, event: Event) -> State:
    """The next state; raises `Refused` when there is none."""
    following = TABLE[state].get(event)
    if following is None:
        possible = ", ".join(TABLE[state]) or "none; this state is final"
        raise Refused(which=f"a {state} line does not take {event}", fix=f"What it takes: {possible}")
    return following


def states_of(entries: Iterable[Entry], lines: Iterable[str] = ()) -> dict[str, State]:
    """Where every line stands.

    Args:
        entries: Of one pipeline's control log, from its beginning. Actions that move no line are passed over.
        lines: Lines that exist; one that no decision names is a candidate.

    Raises:
        Refused: A decision that the table does not allow, named by its sequence.
    """
    states, champion = dict.fromkeys(lines, State.CANDIDATE), ""
    for entry in entries:
        if entry.action not in _ACTIONS:
            continue
        event, line = Event(entry.action), entry.subject
        try:
            states[line] = advance(states.get(line, State.CANDIDATE), event)
        except Refused as error:
            raise Refused(which=f"control decision {entry.sequence} about {line!r}: {error.which}", fix="") from error
        if event in NAMING:
            if champion:
                states[champion] = advance(states[champion], Event.REPLACE)
            champion = line
    return states
