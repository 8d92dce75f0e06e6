"""The control log: every decision about a pipeline, signed and chained, each made by a compare-and-swap.

The rules:

- A pipeline's decisions are numbered from 1 without a gap. Whoever decides names the last one that he knows of, and
  becomes the next; of two who know the same, one wins.
- A decision carries a key. The same key with the same action and subject again is the same decision.
- Each entry holds the hash of the one before it, and a signature over all that it says. The signature is the one that
  the decision's echo carries in the journal, so that an echo proves itself.
- Beside it stand the evidence (what was measured about a line, by kind: the newest counts) and the audit (who asked for
  what, when, why, and what became of it). Both are ledgers of the same make.
- A decision names the heads of all three as they were, and so does its echo: what stood there then can neither change
  nor go. See `journal.proof`.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa

from journal.audit import AuditRow, audit_columns
from journal.body import Decision, draft_of
from journal.errors import ConflictingId, Corrupt, LostRace
from journal.ledger import RESTORE, START_HEAD, Head, Ledger, Link, Signs, Verifies, ledger_table
from journal.reading import ByKind, decisions_in
from journal.record import Draft, Kind, canonical_json
from journal.sql import Database

NAMING = ("bootstrap", "promote", "roll_back")
"""The actions that name the line that answers."""

_TRIES = 20
"""Compare-and-swaps that a decision may lose: whoever wins one has decided something, so this ends by itself."""

_metadata = sa.MetaData()
_decisions_table = ledger_table(
    "decisions",
    _metadata,
    sa.Column("action", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("heads", sa.Text, nullable=False),
    also=[sa.UniqueConstraint("pipeline", "key")],
)
_evidence_table = ledger_table(
    "evidence",
    _metadata,
    sa.Column("line", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    also=[sa.Index("evidence_of_line", "pipeline", "line")],
)
_audit_table = ledger_table("audit", _metadata, *audit_columns())


class Entry(Link, frozen=True, kw_only=True):
    """One decision.

    Attributes:
        action: ``bootstrap``, ``promote``, ``roll_back``, ``reject``, or what else the records page lists.
        subject: The line, or the other thing, that it is about.
        why: The reason given.
        details: Facts that the action needs.
        at: Journal time, in microseconds.
        principal: Who decided.
        key: What makes a repeated request the same decision.
        heads: Where the ledgers beside it stood, by table; one without a row is left out.
    """

    noun: ClassVar[str] = "decision"

    action: str
    subject: str
    why: str
    details: dict[str, Any]
    at: int
    principal: str
    key: str
    heads: dict[str, Head]

    def signed(self) -> tuple[str | bytes, ...]:
        """What the signature covers: what the echo says, this entry's hash among its heads."""
        return signed_parts(self.pipeline, decision_of(self))


class Evidence(Link, frozen=True, kw_only=True):
    """What was measured about a line.

    Attributes:
        line: The line, or the request's key, that it is about.
        kind: What was measured.
        facts: The figures.
    """

    noun: ClassVar[str] = "evidence"

    line: str
    kind: str
    facts: dict[str, Any]


class ControlLog:
    """Decisions, evidence and audit in a SQL database, shared by several processes."""

    def __init__(self, url: str) -> None:
        """Open the database, and make its tables where they are missing.

        Args:
            url: As SQLAlchemy writes it: ``sqlite:///<file>``, or PostgreSQL's.
        """
        self.database = Database(url, _metadata)
        self.engine = self.database.engine
        self.decided = Ledger(_decisions_table, Entry)
        self.measured = Ledger(_evidence_table, Evidence)
        self.audited = Ledger(_audit_table, AuditRow)

    @property
    def beside(self) -> dict[str, Ledger[Any]]:
        """The ledgers whose heads a decision names, by table."""
        return {"evidence": self.measured, "audit": self.audited}

    def entries(self, pipeline: str, after: int = 0) -> Sequence[Entry]:
        """The pipeline's decisions behind a sequence, in order."""
        with self.database.reading() as connection:
            return self.decided.rows(connection, pipeline, _decisions_table.c.sequence > after)

    def head(self, pipeline: str) -> Entry | None:
        """The last decision; None before the first."""
        with self.database.reading() as connection:
            return self.decided.last(connection, pipeline)

    def champion(self, pipeline: str) -> str | None:
        """The line that the last naming decision names; None before the first."""
        named = [entry.subject for entry in self.entries(pipeline) if entry.action in NAMING]
        return named[-1] if named else None

    def append(
        self,
        pipeline: str,
        *,
        expected: int,
        action: str,
        subject: str,
        why: str,
        details: dict[str, Any],
        at: int,
        principal: str,
        key: str,
        signer: Signs,
    ) -> Entry:
        """Decide, if the last decision is still the expected one.

        Args:
            pipeline: Whose.
            expected: The sequence of the last decision that the caller knows of; 0 for none.
            action: What is decided.
            subject: About which line, or what else.
            why: The reason.
            details: Facts; they must be JSON.
            at: Journal time, in microseconds.
            principal: Who decides.
            key: The same key again is the same decision.
            signer: Signs it.

        Raises:
            LostRace: Somebody else has decided since.
            ConflictingId: The key stands for another decision.
        """
        with self.database.writing() as connection:
            known = self.decided.rows(connection, pipeline, _decisions_table.c.key == key)
            if known:
                return _same(known[0], action, subject)
            head = self.decided.last(connection, pipeline)
            if (head.sequence if head else 0) != expected:
                raise _lost(pipeline, expected, head)
            return self.decided.append(
                connection,
                pipeline,
                signer,
                action=action,
                subject=subject,
                why=why,
                details=details,
                at=at,
                principal=principal,
                key=key,
                heads=self._heads(connection, pipeline),
            )

    def _heads(self, connection: sa.Connection, pipeline: str) -> dict[str, Head]:
        heads = {name: ledger.head(connection, pipeline) for name, ledger in self.beside.items()}
        return {name: head for name, head in heads.items() if head != START_HEAD}

    def verify(self, pipeline: str, verifier: Verifies) -> int:
        """Check the decisions by themselves; return how many there are. `journal.proof.prove` checks everything.

        Raises:
            Corrupt: An entry was changed, removed or moved; the message names its sequence.
            Untrusted: A signature does not hold.
        """
        with self.database.reading() as connection:
            return len(self.decided.check(connection, pipeline, verifier))

    def put_evidence(self, pipeline: str, line: str, kind: str, facts: dict[str, Any], signer: Signs) -> None:
        """Append what was measured about a line."""
        with self.database.writing() as connection:
            self.measured.append(connection, pipeline, signer, line=line, kind=kind, facts=facts)

    def evidence_of(self, pipeline: str, line: str, verifier: Verifies) -> dict[str, dict[str, Any]]:
        """What was measured about a line last, by kind.

        Raises:
            Corrupt, Untrusted: We did not write it, or not in this place.
        """
        with self.database.reading() as connection:
            rows = self.measured.rows(connection, pipeline, _evidence_table.c.line == line)
        newest = {row.kind: row for row in rows}
        for row in newest.values():
            self.measured.check_one(row, verifier)
        return {kind: row.facts for kind, row in newest.items()}

    def put_audit(
        self,
        pipeline: str,
        *,
        when: int,
        person: str,
        action: str,
        object: str,
        outcome: str,
        why: str = "",
        decision: int = 0,
        details: dict[str, Any] | None = None,
        signer: Signs,
    ) -> AuditRow:
        """Append what somebody did, or tried to do.

        Args:
            pipeline: Whose; empty for what concerns the whole home.
            when: Wall time, in microseconds.
            person: The principal. Never a person whom records are about.
            action: The verb, such as ``promote`` or ``reveal``.
            object: What it was done to.
            outcome: ``done``, or the name of the error that it ended in.
            why: The reason given.
            decision: The sequence of the decision that it led to; 0 for none.
            details: Facts; they must be JSON.
            signer: Signs it.
        """
        said = {"person": person, "action": action, "object": object, "outcome": outcome, "why": why}
        # What was asked for may be no text in UTF-8; that somebody asked for it is written down all the same.
        texts = {name: text.encode(errors="replace").decode() for name, text in said.items()}
        with self.database.writing() as connection:
            return self.audited.append(
                connection, pipeline, signer, when=when, **texts, decision=decision, details=details or {}
            )


def append_next(control: ControlLog, pipeline: str, clock: Callable[[], int], **decision: Any) -> Entry:
    """Decide behind whatever was decided last: for what no other decision stands in the way of.

    Args:
        control: The control log.
        pipeline: Whose.
        clock: The journal's now, in microseconds: asked at each try.
        decision: As for `ControlLog.append`, without ``expected`` and ``at``.
    """
    for _ in range(_TRIES):
        head = control.head(pipeline)
        try:
            return control.append(pipeline, expected=head.sequence if head else 0, at=clock(), **decision)
        except LostRace as error:
            lost = error
    raise lost


def decision_of(entry: Entry) -> Decision:
    """What the entry's echo says."""
    return Decision(
        sequence=entry.sequence,
        action=entry.action,
        subject=entry.subject,
        why=entry.why,
        details=entry.details,
        heads={**entry.heads, "decisions": entry.head},
        signature=entry.signature,
    )


def signed_parts(pipeline: str, decision: Decision) -> tuple[str | bytes, ...]:
    """What a decision's signature covers."""
    said = canonical_json({"why": decision.why, "details": decision.details, "heads": decision.heads})
    return ("decision", pipeline, str(decision.sequence), decision.action, decision.subject, said)


def echo_of(entry: Entry) -> Draft:
    """The record in which a decision acts."""
    return draft_of(decision_of(entry), kind=Kind.DECISION, stream="control", id=f"decision-{entry.sequence}")


def missing_echoes(control: ControlLog, pipeline: str, journal: ByKind) -> list[Entry]:
    """The decisions that the journal has not echoed yet, in order.

    Raises:
        Corrupt: The journal has echoed a decision that the control log does not hold: it was cut, or changed.
    """
    entries = {entry.sequence: entry for entry in control.entries(pipeline)}
    echoed = echoes_in(journal)
    for decision in echoed:
        require_held(pipeline, decision, entries.get(decision.sequence))
    known = {decision.sequence for decision in echoed}
    return [entry for sequence, entry in entries.items() if sequence not in known]


def require_held(pipeline: str, decision: Decision, entry: Entry | None) -> None:
    """Whether the control log holds what the journal has echoed; raises `Corrupt` with the sequence."""
    if entry is None or decision_of(entry) != decision:
        raise Corrupt(
            which=f"the journal echoed a decision {decision.sequence} of {pipeline!r} that the control log "
            f"{'has lost' if entry is None else 'tells in another way'}",
            fix=RESTORE,
        )


def echoes_in(journal: ByKind) -> list[Decision]:
    """The decisions in the journal that a control log made, in order; what the owner decides has the number 0."""
    return [decision for _, decision in decisions_in(journal) if decision.sequence > 0]


def _same(known: Entry, action: str, subject: str) -> Entry:
    if (known.action, known.subject) != (action, subject):
        raise ConflictingId(
            which=f"key {known.key!r} stands for decision {known.sequence}: {known.action} {known.subject}",
            fix="Use another key for another decision",
        )
    return known


def _lost(pipeline: str, expected: int, head: Entry | None) -> LostRace:
    now = f"decision {head.sequence} ({head.action} {head.subject}, by {head.principal})" if head else "none"
    return LostRace(
        which=f"decision {expected} was to be the last about {pipeline!r}, and it is {now}",
        fix="Look at what was decided, then plan anew",
    )
