"""One field of a stream and the rules that its values keep: the source of both the decoder and the frame schema."""

import math
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

INT64 = (-(2**63), 2**63 - 1)
"""Integers stay within 64 bits, signed: what SQLite, Arrow and JSON readers can all hold."""

PYTHON_TYPES: Mapping[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}
"""ODCS logical types that a field may have, and what their values are in Python."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a stream.

    Attributes:
        name: Its key in the event's data.
        type: ODCS logical type: ``string``, ``integer``, ``number`` or ``boolean``.
        required: Whether it must be there and not null; absent and null are the same thing.
        limits: Bounds by msgspec's names: ge, gt, le, lt, min_length, max_length, pattern.
        choices: The only values allowed; empty means any.
        personal: Whether it is sealed at intake.
        entity_key: Whether a personal field leaves a pseudonym in the body, so that views can be joined on it.
    """

    name: str
    type: str
    required: bool = False
    limits: Mapping[str, int | float | str] = field(default_factory=dict)
    choices: tuple[str | int, ...] = ()
    personal: bool = False
    entity_key: bool = False

    def annotation(self) -> Any:
        """The type that msgspec decodes this field by."""
        kind: Any = PYTHON_TYPES[self.type]
        limits: dict[str, Any] = dict(self.limits)
        if self.choices:
            kind = Literal[self.choices]
        elif self.type == "integer":
            limits |= {"ge": INT64[0]} if not limits.keys() & {"ge", "gt"} else {}
            limits |= {"le": INT64[1]} if not limits.keys() & {"le", "lt"} else {}
        if limits:
            kind = Annotated[kind, Meta(**limits)]
        return kind if self.required else kind | None

    def accepts(self) -> Callable[[object], bool]:
        """The same rules over one Python or NumPy value that is not null."""
        read = _READERS[self.type]
        rules = [_RULES[name](bound) for name, bound in self.limits.items()]
        if self.choices:
            rules.append(frozenset(self.choices).__contains__)

        def accept(value: object) -> bool:
            known = read(value)
            return known is not None and all(rule(known) for rule in rules)

        return accept


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _boolean(value: object) -> bool | None:
    # NumPy's bool is no subclass of Python's.
    return bool(value) if type(value).__name__ in {"bool", "bool_"} else None


def _integer(value: object) -> int | None:
    if type(value) is not bool and isinstance(value, numbers.Integral):
        exact = int(value)
        return exact if INT64[0] <= exact <= INT64[1] else None
    return None


def _number(value: object) -> float | None:
    if type(value) is bool or not isinstance(value, numbers.Real):
        return None
    try:
        known = float(value)
    except OverflowError:
        return None
    return known if math.isfinite(known) else None


_READERS: Mapping[str, Callable[[object], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}

_RULES: Mapping[str, Callable[[Any], Callable[[Any], bool]]] = {
    "ge": lambda bound: lambda value: value >= bound,
    "gt": lambda bound: lambda value: value > bound,
    "le": lambda bound: lambda value: value <= bound,
    "lt": lambda bound: lambda value: value < bound,
    "min_length": lambda bound: lambda value: len(value) >= bound,
    "max_length": lambda bound: lambda value: len(value) <= bound,
    "pattern": lambda bound: lambda value: re.search(bound, value) is not None,
}
