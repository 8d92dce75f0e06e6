"""The control log: every decision about a pipeline, signed and chained, each made by a compare-and-swap.

The rules:

- A pipeline's decisions are numbered from 1 without a gap. Whoever decides names the last one that he knows of, and
  becomes the next; of two who know the same, one wins.
- A decision carries a key. The same key with the same action and subject again is the same decision.
- Each entry holds the hash of the one before it, and a signature over what it decides. The signature is the one that
  the decision's echo carries in the journal, so that an echo proves itself.
- Evidence is appended beside it: what was measured about a line, by kind, signed. The newest of a kind counts.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa

from journal.body import Decision, decode, draft_of
from journal.errors import ConflictingId, Corrupt, LostRace
from journal.log import START
from journal.record import Draft, Kind, Record, canonical_json
from journal.sql import Database

NAMING = ("bootstrap", "promote", "roll_back")
"""The actions that name the line that answers."""

_RESTORE = "Restore the control log from a backup; the journal's echoes show what was decided"

_metadata = sa.MetaData()
_entries = sa.Table(
    "decisions",
    _metadata,
    sa.Column("pipeline", sa.String, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("details", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("previous", sa.String, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
    sa.Column("signature", sa.String, nullable=False),
    sa.UniqueConstraint("pipeline", "key"),
)
_evidence = sa.Table(
    "evidence",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("facts", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.String, nullable=False),
    sa.Index("evidence_of_line", "pipeline", "line"),
)


class Signs(Protocol):
    """Signs a list of parts; `registry.signing.Signer` does."""

    def sign(self, *parts: bytes | str) -> str:
        """The signature, in hex."""
        ...


class Verifies(Protocol):
    """Checks signatures; `registry.signing.Verifier` does."""

    def verify(self, signature: str, *parts: bytes | str) -> None:
        """Raise `Untrusted` when it does not hold."""
        ...


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One decision.

    Attributes:
        pipeline: Whose.
        sequence: Its place, from 1.
        action: ``bootstrap``, ``promote``, ``roll_back`` or ``reject``.
        subject: The line it is about.
        why: The reason given.
        details: Facts that the action needs.
        at: Journal time, in microseconds.
        principal: Who decided.
        key: What makes a repeated request the same decision.
        previous: The hash of the entry before; empty for the first.
        hash: SHA-256 (hex) over everything else but the signature.
        signature: Over pipeline, sequence, action, subject, why and details.
    """

    pipeline: str
    sequence: int
    action: str
    subject: str
    why: str
    details: dict[str, Any]
    at: int
    principal: str
    key: str
    previous: str
    hash: str
    signature: str


class Echoed(Protocol):
    """A journal in which echoes can be looked up."""

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        ...


class ControlLog:
    """Decisions and evidence in a SQL database, shared by several processes."""

    def __init__(self, url: str) -> None:
        """Open the database, and make its tables where they are missing.

        Args:
            url: As SQLAlchemy writes it: ``sqlite:///<file>``, or PostgreSQL's.
        """
        self._database = Database(url, _metadata)
        self.engine = self._database.engine

    def entries(self, pipeline: str, after: int = 0) -> Sequence[Entry]:
        """The pipeline's decisions behind a sequence, in order."""
        wanted = sa.and_(_entries.c.pipeline == pipeline, _entries.c.sequence > after)
        with self._database.reading() as connection:
            rows = connection.execute(_entries.select().where(wanted).order_by(_entries.c.sequence)).mappings().all()
        return [_entry(row) for row in rows]

    def head(self, pipeline: str) -> Entry | None:
        """The last decision; None before the first."""
        with self._database.reading() as connection:
            return _head(connection, pipeline)

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
            subject: About which line.
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
        with self._database.writing() as connection:
            known = _by_key(connection, pipeline, key)
            if known is not None:
                return _same(known, action, subject)
            head = _head(connection, pipeline)
            if (head.sequence if head else 0) != expected:
                raise _lost(pipeline, expected, head)
            decision = Decision(sequence=expected + 1, action=action, subject=subject, why=why, details=details)
            facts = {
                "pipeline": pipeline,
                **msgspec.to_builtins(decision),
                "at": at,
                "principal": principal,
                "key": key,
                "previous": head.hash if head else "",
                "signature": signer.sign(*signed_parts(pipeline, decision)),
            }
            entry = Entry(**facts, hash=_hash(facts))
            connection.execute(_entries.insert().values(**_row(entry)))
        return entry

    def verify(self, pipeline: str, verifier: Verifies) -> int:
        """Check the whole chain; return how many decisions it holds.

        Raises:
            Corrupt: An entry was changed, removed or moved; the message names its sequence.
            Untrusted: A signature does not hold.
        """
        previous, count = "", 0
        for count, entry in enumerate(self.entries(pipeline), 1):
            facts = msgspec.to_builtins(entry)
            if (entry.sequence, entry.previous, entry.hash) != (count, previous, _hash(facts)):
                raise _corrupt(pipeline, count)
            verifier.verify(entry.signature, *signed_parts(pipeline, decision_of(entry)))
            previous = entry.hash
        return count

    def put_evidence(self, pipeline: str, line: str, kind: str, facts: dict[str, Any], signer: Signs) -> None:
        """Append what was measured about a line."""
        written = canonical_json(facts)
        signature = signer.sign("evidence", pipeline, line, kind, written)
        with self._database.writing() as connection:
            connection.execute(
                _evidence.insert().values(pipeline=pipeline, line=line, kind=kind, facts=written, signature=signature)
            )

    def evidence_of(self, pipeline: str, line: str, verifier: Verifies) -> dict[str, dict[str, Any]]:
        """What was measured about a line last, by kind; raises `Untrusted` when we did not write it."""
        wanted = sa.and_(_evidence.c.pipeline == pipeline, _evidence.c.line == line)
        with self._database.reading() as connection:
            rows = connection.execute(_evidence.select().where(wanted).order_by(_evidence.c.id)).mappings().all()
        newest = {row["kind"]: row for row in rows}
        for kind, row in newest.items():
            verifier.verify(row["signature"], "evidence", pipeline, line, kind, row["facts"])
        return {kind: msgspec.json.decode(row["facts"]) for kind, row in newest.items()}


def decision_of(entry: Entry) -> Decision:
    """What the entry's echo says."""
    return Decision(
        sequence=entry.sequence,
        action=entry.action,
        subject=entry.subject,
        why=entry.why,
        details=entry.details,
        signature=entry.signature,
    )


def signed_parts(pipeline: str, decision: Decision) -> tuple[str | bytes, ...]:
    """What a decision's signature covers."""
    said = canonical_json({"why": decision.why, "details": decision.details})
    return ("decision", pipeline, str(decision.sequence), decision.action, decision.subject, said)


def echo_of(entry: Entry) -> Draft:
    """The record in which a decision acts."""
    return draft_of(decision_of(entry), kind=Kind.DECISION, stream="control", id=f"decision-{entry.sequence}")


def missing_echoes(control: ControlLog, pipeline: str, journal: Echoed) -> list[Entry]:
    """The decisions that the journal has not echoed yet, in order.

    Raises:
        Corrupt: The journal has echoed a decision that the control log does not hold: it was cut, or changed.
    """
    entries = {entry.sequence: entry for entry in control.entries(pipeline)}
    echoed = _echoed(journal)
    for sequence, signature in echoed.items():
        if sequence not in entries or entries[sequence].signature != signature:
            raise Corrupt(
                which=f"the journal echoed a decision {sequence} of {pipeline!r} that the control log does not hold",
                fix=_RESTORE,
            )
    return [entry for sequence, entry in entries.items() if sequence not in echoed]


def _echoed(journal: Echoed) -> dict[int, str]:
    """The signatures of the decisions in the journal, by sequence; releases have none."""
    echoed: dict[int, str] = {}
    after = START
    while page := journal.of_kind(Kind.DECISION, after, 1_000):
        decisions = [decode(record.body, Decision) for record in page]
        echoed.update({decision.sequence: decision.signature for decision in decisions if decision.sequence > 0})
        after = page[-1].offset
    return echoed


def _head(connection: sa.Connection, pipeline: str) -> Entry | None:
    last = _entries.select().where(_entries.c.pipeline == pipeline).order_by(_entries.c.sequence.desc()).limit(1)
    row = connection.execute(last).mappings().first()
    return None if row is None else _entry(row)


def _by_key(connection: sa.Connection, pipeline: str, key: str) -> Entry | None:
    named = _entries.select().where(sa.and_(_entries.c.pipeline == pipeline, _entries.c.key == key))
    row = connection.execute(named).mappings().first()
    return None if row is None else _entry(row)


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


def _entry(row: Any) -> Entry:
    try:
        return Entry(**{**row, "details": msgspec.json.decode(row["details"])})
    except msgspec.DecodeError as error:
        raise _corrupt(row["pipeline"], row["sequence"]) from error


def _corrupt(pipeline: str, sequence: int) -> Corrupt:
    return Corrupt(which=f"decision {sequence} of {pipeline!r} is not the one that was made", fix=_RESTORE)


def _row(entry: Entry) -> dict[str, Any]:
    return {**msgspec.to_builtins(entry), "details": canonical_json(entry.details)}


def _hash(facts: dict[str, Any]) -> str:
    kept = {name: fact for name, fact in facts.items() if name not in ("hash", "signature")}
    return hashlib.sha256(canonical_json(kept)).hexdigest()
