"""What a seed draws: the events that producers send, in order, and what is decided between them."""

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from journal.clock import SECOND, format_time
from journal.record import canonical_json
from tests.simulation.pipeline import BEGINS, LATENESS, MAX_GAP, SOURCE, WAIT

Holds = Literal["yes", "breaks its contract", "is no event"]
DecisionKind = Literal["version", "bad version", "promote", "promote badly", "roll back", "release"]

DECISIONS: tuple[DecisionKind, ...] = ("version", "bad version", "promote", "promote badly", "roll back", "release")
_SHOPS = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Event:
    """What a producer sends.

    Attributes:
        raw: A CloudEvent, or something that was meant to be one.
        id: Its id.
        time: When it happened, in microseconds.
        meaning: What tells a repeat from a conflict.
        holds: Whether it is an event, and one that its contract allows.
    """

    raw: bytes
    id: str
    time: int
    meaning: bytes
    holds: Holds


@dataclass(frozen=True, slots=True)
class Decide:
    """What a person, or the gate, does between two events."""

    kind: DecisionKind
    number: int


Step = Event | Decide


@dataclass(frozen=True, slots=True)
class Scenario:
    """The steps of a seed, in order."""

    steps: tuple[Step, ...]

    def cut(self, length: int) -> "Scenario":
        """Its first steps."""
        return Scenario(self.steps[:length])


class _Drawing:
    """Draws steps one after the other, with a clock that events alone move."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._clock = BEGINS
        self._count = 0
        self._asked: list[str] = []
        self._sent: list[tuple[str, int, str, dict[str, Any]]] = []

    def step(self) -> Step:
        """The next one."""
        self._count += 1
        draw = self._chance.random()
        if draw < 0.08:
            return Decide(self._chance.choice(DECISIONS), self._count)
        if draw < 0.16 and self._sent:
            return self._again(changed=draw < 0.11)
        if draw < 0.24:
            return self._broken()
        return self._proper()

    def _proper(self) -> Event:
        draw = self._chance.random()
        if draw < 0.5:
            return self._order()
        if draw < 0.7:
            return self._send("updates", {"shop": self._shop(), "level": self._chance.randrange(9)})
        return self._outcome()

    def _shop(self) -> str:
        return self._chance.choice(_SHOPS)

    def _order(self) -> Event:
        name = f"o{self._count}"
        if self._asked and self._chance.random() < 0.15:
            name = self._chance.choice(self._asked)
        self._asked.append(name)
        return self._send("orders", {"n": self._count, "order": name, "shop": self._shop()})

    def _outcome(self) -> Event:
        """Mostly about an order of late; some come before it, twice, or say nothing."""
        draw = self._chance.random()
        name = f"o{self._count + 2}" if draw < 0.1 or not self._asked else self._chance.choice(self._asked[-6:])
        paid = None if draw > 0.95 else self._chance.random() < 0.5
        return self._send("outcomes", {"order": name, "paid": paid})

    def _send(self, stream: str, data: dict[str, Any]) -> Event:
        sent = (stream, self._time(), f"e{self._count}", data)
        self._sent.append(sent)
        return _event(*sent)

    def _time(self) -> int:
        draw = self._chance.random()
        if draw < 0.1:
            return max(self._clock - self._chance.randrange(2 * LATENESS), BEGINS)
        longest = 2 * WAIT if draw > 0.97 else 8 * SECOND
        self._clock += self._chance.randrange(longest)
        return self._clock

    def _again(self, *, changed: bool) -> Event:
        stream, time, name, data = self._chance.choice(self._sent)
        if changed:
            data = {field: "changed" if isinstance(value, str) else value for field, value in data.items()}
        return _event(stream, time, name, data)

    def _broken(self) -> Event:
        draw = self._chance.random()
        name = f"e{self._count}"
        if draw < 0.25:
            return Event(b'{"not an event"', name, 0, b"", "is no event")
        if draw < 0.5:
            return _event("strangers", self._clock, name, {}, holds="is no event")
        if draw < 0.75:
            return _event("orders", self._clock, name, {"n": -1, "order": 3}, holds="breaks its contract")
        leap = self._clock + 3 * MAX_GAP + self._count
        return _event("updates", leap, name, {"shop": self._shop(), "level": 1})


def draw_scenario(chance: Random) -> Scenario:
    """20 to 80 steps."""
    drawing = _Drawing(chance)
    return Scenario(tuple(drawing.step() for _ in range(chance.randrange(20, 81))))


def _event(stream: str, time: int, name: str, data: dict[str, Any], *, holds: Holds = "yes") -> Event:
    envelope = {
        "specversion": "1.0",
        "id": name,
        "source": SOURCE,
        "type": stream,
        "time": format_time(time),
        "data": data,
    }
    return Event(canonical_json(envelope), name, time, canonical_json([stream, time, data]), holds)
