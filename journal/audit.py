"""Who did what, when, why, and what became of it: the rows of the audit, and what asks them.

A row is written for every request that decides, reveals or is denied. Decisions stand in the control log as well, which
is what holds; the audit adds the wall's time to them, and those who tried and did not succeed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import sqlalchemy as sa

from journal.clock import SECOND
from journal.errors import RivermillError
from journal.ledger import Link, Signs

if TYPE_CHECKING:
    from journal.control import ControlLog, Entry

DONE = "done"
"""The outcome of what succeeded; otherwise it is the name of the error."""

_OTHERS = "others"
DEFECT = "Defect"
"""The outcome of what ended in no error of ours."""


class AuditRow(Link, frozen=True, kw_only=True):
    """One request.

    Attributes:
        when: Wall time, in microseconds.
        person: The principal.
        action: The verb.
        object: What it was done to.
        outcome: ``done``, or the name of the error.
        why: The reason given.
        decision: The sequence of the decision that it led to; 0 for none.
        details: Facts.
    """

    noun: ClassVar[str] = "audit row"

    when: int
    person: str
    action: str
    object: str
    outcome: str
    why: str
    decision: int
    details: dict[str, Any]


def audit_columns() -> list[sa.Column[Any]]:
    """What an audit row holds between its place and its chain."""
    return [
        sa.Column("when", sa.BigInteger, nullable=False),
        sa.Column("person", sa.String, nullable=False, index=True),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("object", sa.String, nullable=False, index=True),
        sa.Column("outcome", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("decision", sa.Integer, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    ]


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of `audit`: an audit row with its decision, or a decision that no row tells of.

    Attributes:
        sequence: The audit row's number; 0 for a decision without one.
        when: Wall time, in microseconds; None for a decision without a row.
        at: The decision's journal time, in microseconds; None where nothing was decided.
        person: The principal.
        action: The verb.
        object: What it was done to.
        outcome: ``done``, or the name of the error.
        why: The reason given.
        decision: The decision's sequence; 0 for none.
        details: Facts: the row's, and the decision's beside them.
    """

    sequence: int
    when: int | None
    at: int | None
    person: str
    action: str
    object: str
    outcome: str
    why: str
    decision: int
    details: dict[str, Any]

    @property
    def moment(self) -> int:
        """When, as far as it is known: wall time, or else journal time."""
        return self.at or 0 if self.when is None else self.when


def audit(
    control: "ControlLog",
    pipeline: str,
    *,
    person: str = "",
    object: str = "",
    since: int | None = None,
    until: int | None = None,
    limit: int = 1_000,
) -> list[Audited]:
    """What was done, oldest first: the last ``limit`` that match.

    Args:
        control: Where it stands.
        pipeline: Whose.
        person: Only what this principal did.
        object: Only what was done to this.
        since: Only from this moment on, in microseconds.
        until: Only before this moment, in microseconds.
        limit: How many at most.
    """
    columns = control.audited.table.c
    asked = [
        *([columns.person == person] if person else []),
        *([columns.object == object] if object else []),
        *([columns.when >= since] if since is not None else []),
        *([columns.when < until] if until is not None else []),
    ]
    entries = {entry.sequence: entry for entry in control.entries(pipeline)}
    with control.database.reading() as connection:
        rows = control.audited.rows(connection, pipeline, *asked, limit=limit)
        linked = connection.execute(
            sa.select(columns.decision).where(columns.pipeline == pipeline, columns.decision > 0)
        )
        told = {number for (number,) in linked}
    found = [_joined(row, entries.get(row.decision)) for row in rows]
    found += [
        _untold(entry)
        for entry in entries.values()
        if entry.sequence not in told and _matches(entry, person, object, since, until)
    ]
    return sorted(found, key=lambda each: (each.moment, each.sequence, each.decision))[-limit:] if limit > 0 else []


def _joined(row: AuditRow, entry: "Entry | None") -> Audited:
    return Audited(
        sequence=row.sequence,
        when=row.when,
        at=None if entry is None else entry.at,
        person=row.person,
        action=row.action,
        object=row.object,
        outcome=row.outcome,
        why=row.why,
        decision=row.decision,
        details=row.details if entry is None else {**entry.details, **row.details},
    )


def _untold(entry: "Entry") -> Audited:
    return Audited(
        sequence=0,
        when=None,
        at=entry.at,
        person=entry.principal,
        action=entry.action,
        object=entry.subject,
        outcome=DONE,
        why=entry.why,
        decision=entry.sequence,
        details=entry.details,
    )


def _matches(entry: "Entry", person: str, object: str, since: int | None, until: int | None) -> bool:
    return (
        person in ("", entry.principal)
        and object in ("", entry.subject)
        and (since is None or since <= entry.at)
        and (until is None or entry.at < until)
    )


@dataclass(slots=True)
class Attempt:
    """A request while it runs: what its row will say beside its outcome."""

    object: str
    decision: int = 0
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def audited(
    control: "ControlLog",
    pipeline: str,
    *,
    person: str,
    action: str,
    object: str,
    why: str = "",
    now: Callable[[], int],
    signer: Signs,
) -> Iterator[Attempt]:
    """Write one row about what happens inside: ``done``, or the name of the error that it ended in.

    Args:
        control: Where the row goes.
        pipeline: Whose.
        person: The principal.
        action: The verb.
        object: What it is done to; the attempt may name it better.
        why: The reason given.
        now: The wall clock, in microseconds.
        signer: Signs the row.
    """
    attempt, outcome = Attempt(object), DEFECT
    try:
        yield attempt
        outcome = DONE
    except RivermillError as error:
        outcome = type(error).__name__
        raise
    finally:
        control.put_audit(
            pipeline,
            when=now(),
            person=person,
            action=action,
            object=attempt.object,
            outcome=outcome,
            why=why,
            decision=attempt.decision,
            details=attempt.details,
            signer=signer,
        )


class Denials:
    """Which denied requests are worth a row: the first few of each asker in a span, and then how many there were."""

    def __init__(self, most: int = 5, span: int = 60 * SECOND, askers: int = 1_000) -> None:
        """Set the bounds.

        Args:
            most: Rows of one asker within a span.
            span: Its length, in microseconds.
            askers: How many are told apart at a time; those beyond share one name.
        """
        self._most, self._span, self._askers = most, span, askers
        self._begun = 0
        self._counts: dict[str, int] = {}
        self._passed_over: dict[str, int] = {}

    def admit(self, asker: str, now: int) -> tuple[str, int] | None:
        """Whom to write a row about, and how many requests before it went without one; None for no row.

        Args:
            asker: The key's id, or where the request came from. Never the key.
            now: Wall time, in microseconds.
        """
        if not self._begun <= now < self._begun + self._span:
            self._forget_strangers()
            self._begun, self._counts = now, {}
        if asker not in self._counts and len(self._counts) >= self._askers:
            asker = _OTHERS
        self._counts[asker] = self._counts.get(asker, 0) + 1
        if self._counts[asker] > self._most:
            self._passed_over[asker] = self._passed_over.get(asker, 0) + 1
            return None
        return asker, self._passed_over.pop(asker, 0)

    def _forget_strangers(self) -> None:
        """Who did not ask in the span that ends is told apart no longer: addresses come by the million."""
        strangers = self._passed_over.keys() - self._counts.keys() - {_OTHERS}
        if strangers:
            count = sum(self._passed_over.pop(name) for name in strangers)
            self._passed_over[_OTHERS] = self._passed_over.get(_OTHERS, 0) + count
