"""What changed between two versions of a contract, field by field, and whether it breaks anybody.

A change is compatible when whatever held by the old contract holds by the new one, in the same shape: a producer that
was not told goes on, and a record that was stored still reads. Everything else breaks, and needs a new major version.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from journal.clock import format_span
from journal.contract import Contract
from journal.errors import Misconfigured
from journal.field import Field

_WIDER = {("integer", "number")}
_ACCEPTS = {"freeze": 0, "discard_row": 0, "evolve": 1, "discard_value": 2}
"""How much each mode lets in; the modes of one number let in the same."""

_WINDOWS = ("dedup_window", "lateness", "max_gap", "max_bytes", "retention")
_PROMISES = ("timeliness", "rpo", "rto", "owner", "description", "quality")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference.

    Attributes:
        field: The field, or the contract's own attribute in brackets, such as ``(mode)``.
        what: What is different, in words.
        breaking: Whether something that held before holds no longer.
    """

    field: str
    what: str
    breaking: bool


def diff(old: Contract, new: Contract) -> tuple[Change, ...]:
    """Every difference between two contracts of one stream: fields by name first, then the contract itself."""
    before, after = ({field.name: field for field in contract.fields} for contract in (old, new))
    changes: list[Change] = []
    for name in sorted(before.keys() | after.keys()):
        changes += _between(name, before.get(name), after.get(name), new)
    return (*changes, *_windows(old, new), *_promises(old, new))


def is_versioned(old: Contract, new: Contract) -> bool:
    """Whether the version says what the difference is: what breaks raises the major version, which never falls."""
    breaks = any(change.breaking for change in diff(old, new))
    return new.major > old.major or (new.major == old.major and not breaks)


def require_versioned(old: Contract, new: Contract) -> None:
    """Raise `Misconfigured`, with every change that breaks, where the major version does not say so."""
    if is_versioned(old, new):
        return
    broken = [f"{change.field}: {change.what}" for change in diff(old, new) if change.breaking]
    raise Misconfigured(
        which="\n  ".join([f"stream {new.stream!r} goes from {old.version} to {new.version}", *broken]),
        fix=f"Raise the version to {old.major + 1}.0.0, and keep the old file as {old.stream}.v{old.major}.odcs.yaml",
    )


def _between(name: str, old: Field | None, new: Field | None, contract: Contract) -> Iterator[Change]:
    if old is None and new is not None:
        yield Change(field=name, what="new, required" if new.required else "new, optional", breaking=new.required)
    elif new is None and old is not None:
        refused = old.required or _ACCEPTS[contract.mode] == 0
        yield Change(field=name, what="removed", breaking=refused)
    elif old is not None and new is not None:
        for what, breaking in _of_field(old, new):
            yield Change(field=name, what=what, breaking=breaking)


def _of_field(old: Field, new: Field) -> Iterator[tuple[str, bool]]:
    if old.type != new.type:
        yield f"type {old.type} became {new.type}", (old.type, new.type) not in _WIDER
    if old.required != new.required:
        yield ("required" if new.required else "optional") + " now", new.required
    if (old.personal, old.entity_key) != (new.personal, new.entity_key):
        yield f"classification: {_privacy(old)} became {_privacy(new)}", True
    yield from _of_choices(old, new)
    if old.type == new.type or (old.type, new.type) in _WIDER:
        yield from _of_limits(old, new)


def _privacy(field: Field) -> str:
    return "entity key" if field.entity_key else "personal" if field.personal else "open"


def _of_choices(old: Field, new: Field) -> Iterator[tuple[str, bool]]:
    if old.choices == new.choices or not new.choices:
        if old.choices != new.choices:
            within = new.accepts()
            yield "enum removed", not all(within(choice) for choice in old.choices)
        return
    if not old.choices:
        yield "enum is new", True
        return
    if added := [str(choice) for choice in new.choices if choice not in old.choices]:
        yield f"enum gained {', '.join(added)}", False
    if lost := [str(choice) for choice in old.choices if choice not in new.choices]:
        yield f"enum lost {', '.join(lost)}", True


def _of_limits(old: Field, new: Field) -> Iterator[tuple[str, bool]]:
    if old.choices or new.choices:
        return
    for what, low, high in (("bound", ("ge", "gt"), ("le", "lt")), ("length", ("min_length",), ("max_length",))):
        before, after = _bound(old, low, -1), _bound(new, low, -1)
        if before != after:
            yield f"lower {what} {_shown(before)} became {_shown(after)}", after > before
        before, after = _bound(old, high, 1), _bound(new, high, 1)
        if before != after:
            yield f"upper {what} {_shown(before)} became {_shown(after)}", after < before
    if old.limits.get("pattern") != new.limits.get("pattern"):
        yield "pattern removed" if "pattern" not in new.limits else "pattern changed", "pattern" in new.limits


def _bound(field: Field, names: Sequence[str], side: int) -> tuple[Any, int]:
    """A bound that compares with others: by its value, then by whether the value itself lies inside."""
    for name in names:
        if name in field.limits:
            value: Any = field.limits[name]
            outside = name in {"gt", "lt"}
            if field.type == "integer" and outside:
                return value - side, 0
            return value, -side if outside else 0
    return side * math.inf, 0


def _shown(bound: tuple[Any, int]) -> str:
    value, outside = bound
    if isinstance(value, float) and math.isinf(value):
        return "none"
    return f"{value} (exclusive)" if outside else str(value)


def _windows(old: Contract, new: Contract) -> Iterator[Change]:
    for name in _WINDOWS:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            shorter = (math.inf if after is None else after) < (math.inf if before is None else before)
            yield Change(field=f"({name})", what=f"{_span(name, before)} became {_span(name, after)}", breaking=shorter)


def _span(name: str, value: int | None) -> str:
    if value is None:
        return "none"
    return str(value) if name == "max_bytes" else format_span(value)


def _promises(old: Contract, new: Contract) -> Iterator[Change]:
    if old.mode != new.mode:
        narrower = _ACCEPTS[new.mode] < _ACCEPTS[old.mode]
        yield Change(field="(mode)", what=f"{old.mode} became {new.mode}", breaking=narrower)
    if old.subject != new.subject:
        yield Change(
            field="(subject)", what=f"{old.subject or 'nobody'} became {new.subject or 'nobody'}", breaking=True
        )
    for name in _PROMISES:
        if getattr(old, name) != getattr(new, name):
            yield Change(field=f"({name})", what="changed", breaking=False)
