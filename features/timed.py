"""What the states that change as the clock moves have in common."""

from typing import Any


class Timed:
    """A window's state of one entity, which `features.entities.Timers` wakes at boundaries.

    Its ``leave(boundary)`` lets go of what ends there and says whether the entity is due a row: False when only what
    nobody sees has changed, None when nothing has. Its ``boundaries()`` are those that it waits for.

    Attributes:
        owner: Its `features.entities.Entity`.
        again: After `leave`: when to wake it next; None where each tile has a boundary of its own.
    """

    __slots__ = ("owner",)
    owner: Any
    again: int | None = None
