"""How a pipeline's outcomes are read, and which of several answers to one key an outcome belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Joins = Literal["first", "last", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """How a pipeline's outcomes are read.

    Attributes:
        stream: The source stream that carries them.
        key: The field that says which predictions the outcome belongs to.
        outcome: The field that decides.
        at_least: The outcome is true from this number on; None when the field is a boolean itself.
        wait: How long a prediction waits, in microseconds of journal time.
        joins: Which of several pending predictions of a key the label joins.
    """

    stream: str
    key: str
    outcome: str
    wait: int
    at_least: float | None = None
    joins: Joins = "first"

    def decide(self, value: Any) -> bool:
        """The outcome that a field's value means."""
        return bool(value) if self.at_least is None else value >= self.at_least


class Pending(NamedTuple):
    """A prediction that waits: its record's offset and id, its key, its question's offset, and when it expires."""

    offset: int
    expires: int
    key: str
    id: str
    question: int


def join(waiting: Sequence[Pending], joins: Joins) -> tuple[Sequence[Pending], Sequence[Pending]]:
    """Split the pending predictions of one key into (those a label joins, those it does not choose).

    First and last are those whose questions are: answers to one key may be recorded in another order.
    """
    if joins == "all" or len(waiting) == 1:
        return waiting, ()
    choose = min if joins == "first" else max
    chosen = choose(waiting, key=_asked)
    return (chosen,), [one for one in waiting if one is not chosen]


def _asked(prediction: Pending) -> tuple[int, int]:
    return prediction.question, prediction.offset
