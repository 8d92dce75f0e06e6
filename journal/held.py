"""Looking into the quarantine: what waits, what became of the rest, and counts that add up."""

import json
import math
from collections import Counter
from typing import Any

import msgspec

from journal.body import Decision, Quarantined, decode
from journal.contract import Contract
from journal.errors import UnknownName
from journal.quarantine import QUARANTINE_LIST
from journal.reading import ByKind, decisions_in, each_of
from journal.record import Kind, Record
from journal.settlement import ENDS, State

MASKED = "(personal)"

_DIGITS = 18
_PLAIN = frozenset({"specversion", "id", "source", "type", "time", "datacontenttype", "dataschema"})


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A quarantined event, as far as it shows without its keys.

    Attributes:
        id: Its quarantine id.
        stream: Its stream.
        source: The CloudEvents source that it names.
        principal: Who handed it in.
        at: When it was quarantined, in microseconds.
        offset: Where its record stands.
        reason: Which rule it breaks.
        state: Where it stands.
        settled_by: Who ended its wait; empty where nobody has.
        settled_at: When, in microseconds; None where nobody has.
        why: The reason given.
    """

    id: str
    stream: str
    source: str
    principal: str
    at: int
    offset: int
    reason: str
    state: State
    settled_by: str = ""
    settled_at: int | None = None
    why: str = ""


def list_held(journal: ByKind) -> list[Held]:
    """Every quarantined event, oldest first."""
    ends, erased = _ends(journal)
    return [_held(record, ends.get(record.id), erased) for record in each_of(journal, Kind.QUARANTINE)]


def count_held(journal: ByKind) -> dict[str, int]:
    """How many there are, ``quarantined``, and how many in each state; the states add up to all."""
    held = list_held(journal)
    counts = Counter(one.state for one in held)
    return {"quarantined": len(held), **{state.value: counts[state] for state in State}}


def find_held(journal: ByKind, quarantine_id: str) -> Record:
    """The record of a quarantined event; raises `UnknownName`."""
    for record in each_of(journal, Kind.QUARANTINE):
        if record.id == quarantine_id:
            return record
    raise UnknownName(which=f"quarantined event {quarantine_id!r}", fix=QUARANTINE_LIST)


def shown(contract: Contract, raw: bytes, *, reveal: bool) -> dict[str, Any]:
    """A quarantined event for people: envelope and data, with what may be personal masked.

    Where a contract has personal fields, whatever it does not promise to be anything else counts as personal: fields
    that it does not know, with their names, values that are objects or lists, the envelope's own extensions.
    """
    event: dict[str, Any] = json.loads(raw, parse_int=_integer, parse_float=_real)
    if reveal or not contract.personal:
        return event
    masked = {name: value if name in _PLAIN else MASKED for name, value in event.items()}
    return masked | {"data": _masked(event["data"], contract)}


def _integer(text: str) -> int | str:
    """The number, or what was written where no JSON writer of ours takes it."""
    return int(text) if len(text) <= _DIGITS else text


def _real(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _masked(data: Any, contract: Contract) -> Any:
    if not isinstance(data, dict):
        return MASKED
    known = {name: data[name] for name in data if name in contract.field_names}
    plain = contract.field_names - contract.personal
    shown = {
        name: value if name in plain and not isinstance(value, dict | list) else MASKED for name, value in known.items()
    }
    unknown = len(data) - len(known)
    return shown | ({"(unknown fields)": unknown} if unknown else {})


def _held(record: Record, end: tuple[Record, Decision] | None, erased: set[str]) -> Held:
    is_erased = record.subject in erased
    held = Held(
        id=record.id,
        stream=record.stream,
        source=record.source,
        principal=record.principal,
        at=record.at,
        offset=record.offset,
        reason=decode(record.body, Quarantined).reason,
        state=State.ERASED if is_erased else State.WAITING,
    )
    if end is None:
        return held
    decided, decision = end
    return msgspec.structs.replace(
        held,
        state=State.ERASED if is_erased else ENDS[decision.action],
        settled_by=decided.principal,
        settled_at=decided.at,
        why=decision.why,
    )


def _ends(journal: ByKind) -> tuple[dict[str, tuple[Record, Decision]], set[str]]:
    """The decisions that ended a wait, by quarantine id; the subjects that were erased."""
    ends: dict[str, tuple[Record, Decision]] = {}
    erased: set[str] = set()
    for record, decision in decisions_in(journal):
        if decision.action in ENDS:
            ends[decision.subject] = (record, decision)
        elif decision.action == "erase":
            erased.add(decision.subject)
    return ends, erased
