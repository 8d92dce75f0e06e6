"""How the wait of a quarantined event ends: the orders for it, and where one came to."""

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple, assert_never

import msgspec

from journal.errors import Malformed
from journal.record import Record


class State(StrEnum):
    """Where a quarantined event stands: in exactly one state. It leaves ``waiting`` once, and ``erased`` never."""

    WAITING = "waiting"
    RELEASED = "released"
    FIXED = "fixed"
    DISCARDED = "discarded"
    ERASED = "erased"


class Release(msgspec.Struct, tag="release", array_like=True, frozen=True):
    """Let the event in as it came.

    Attributes:
        quarantine_id: Which one.
        why: The reason, for the decision.
        principal: Who decides.
        advance: Whether it may move the clock by more than its contract's largest gap.
    """

    quarantine_id: str
    why: str
    principal: str
    advance: bool = False


class Fix(msgspec.Struct, tag="fix", array_like=True, frozen=True):
    """Let a corrected event in, under the id and the source of the one that waits.

    Attributes:
        quarantine_id: Which one.
        why: The reason, for the decision.
        principal: Who decides.
        data: The corrected data as JSON, all of it; empty to keep it.
        time: The corrected time in RFC 3339; empty to keep it.
        advance: As for `Release`.
    """

    quarantine_id: str
    why: str
    principal: str
    data: bytes = b""
    time: str = ""
    advance: bool = False


class Discard(msgspec.Struct, tag="discard", array_like=True, frozen=True):
    """Give the event up. It stays in quarantine and never enters; it can be read until its person is erased.

    Attributes:
        quarantine_id: Which one.
        why: The reason, for the decision.
        principal: Who decides.
    """

    quarantine_id: str
    why: str
    principal: str


Order = Release | Fix | Discard

ENDS = {"release": State.RELEASED, "fix": State.FIXED, "discard": State.DISCARDED}
"""What each action of a decision makes of the event."""


class Settled(NamedTuple):
    """What an order came to.

    Attributes:
        state: Where the event stands now.
        record: The event's own record; of a discarded one, the decision's.
    """

    state: State
    record: Record


def action_of(order: Order) -> str:
    """The action of the decision that an order makes."""
    match order:
        case Release():
            return "release"
        case Fix():
            return "fix"
        case Discard():
            return "discard"
        case _:
            assert_never(order)


_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_json = msgspec.json.Decoder().decode


def corrected(raw: bytes, order: Fix) -> bytes:
    """The event with the order's data and time in the place of its own; raises `Malformed` when the data is no JSON."""
    members = _members(raw)
    if order.data:
        try:
            _json(order.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Malformed(
                which="The corrected data is not JSON in UTF-8", fix="Give all of the data, as one object"
            ) from None
        members["data"] = msgspec.Raw(order.data)
    if order.time:
        members["time"] = msgspec.Raw(msgspec.json.encode(order.time))
    return msgspec.json.encode(members)


def changed(fields: Iterable[str], raw: bytes, mended: bytes) -> list[str]:
    """Which of the named fields of the data a correction changed, and ``time``."""
    before, after = parse_literally(raw), parse_literally(mended)
    old, new = _object(before["data"]), _object(after["data"])
    names = sorted(name for name in fields if _differ(old.get(name), new.get(name)))
    return names + ["time"] * (before["time"] != after["time"])


def _differ(old: Any, new: Any) -> bool:
    return type(old) is not type(new) or old != new


class Literal(str):
    """A number as it was written: a violating event may hold one that fits no type of ours."""


def parse_literally(raw: bytes) -> dict[str, Any]:
    """An event that intake has parsed before, its numbers as they were written."""
    event: dict[str, Any] = json.loads(raw, parse_int=Literal, parse_float=Literal)
    return event


def _object(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}
