"""The audit log: who asked for what, and what came of it. Refused requests are in it too.

Each entry holds the hash of the one before it, so that a change, a gap or another order shows. Its times are the
wall's: it is about people, and nothing is computed from it. Nothing personal belongs in it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from journal.errors import Corrupt
from journal.record import canonical_json
from journal.sql import Database

_PAGE = 1_000

_metadata = sa.MetaData()
_audits = sa.Table(
    "audits",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("details", sa.LargeBinary, nullable=False),
    sa.Column("previous", sa.String, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
)


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """One request that changed something, or was to.

    Attributes:
        sequence: Its place, from 1.
        at: When, by the wall, in microseconds.
        principal: Who.
        action: What was asked for.
        subject: About what.
        outcome: What came of it: ``done``, or the name of the error.
        details: Facts worth keeping.
        previous: The hash of the entry before; empty for the first.
        hash: SHA-256 (hex) over everything else.
    """

    sequence: int
    at: int
    principal: str
    action: str
    subject: str
    outcome: str
    details: dict[str, Any]
    previous: str
    hash: str


class AuditLog:
    """The entries in a SQL database, shared by several processes."""

    def __init__(self, url: str) -> None:
        """Open the database; see `journal.sql.Database`. It may be the control log's."""
        self._database = Database(url, _metadata)

    def audit(
        self, *, at: int, principal: str, action: str, subject: str, outcome: str, details: dict[str, Any] | None = None
    ) -> Audit:
        """Append an entry.

        Args:
            at: When, by the wall, in microseconds.
            principal: Who.
            action: What was asked for.
            subject: About what.
            outcome: What came of it.
            details: Facts; they must be JSON.
        """
        with self._database.writing() as connection:
            head = connection.execute(_audits.select().order_by(_audits.c.sequence.desc()).limit(1)).mappings().first()
            facts: dict[str, Any] = {
                "sequence": head["sequence"] + 1 if head else 1,
                "at": at,
                "principal": principal,
                "action": action,
                "subject": subject,
                "outcome": outcome,
                "details": details or {},
                "previous": head["hash"] if head else "",
            }
            entry = Audit(**facts, hash=_hash(facts))
            row = msgspec.to_builtins(entry) | {"details": canonical_json(entry.details)}
            connection.execute(_audits.insert().values(**row))
        return entry

    def audits(self, after: int = 0, limit: int = 100) -> Sequence[Audit]:
        """Up to ``limit`` entries behind a sequence, in order; raises `Corrupt` at one that cannot be read."""
        wanted = _audits.select().where(_audits.c.sequence > after).order_by(_audits.c.sequence).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(wanted).mappings().all()
        return [_read(row) for row in rows]

    def verify(self) -> int:
        """Check the whole chain; return how many entries it holds.

        Raises:
            Corrupt: An entry was changed, removed or moved; the message names its sequence. A tail that was cut off
                does not show.
        """
        previous, count = "", 0
        while page := self.audits(count, _PAGE):
            for entry in page:
                count += 1
                if (entry.sequence, entry.previous, entry.hash) != (count, previous, _hash(msgspec.to_builtins(entry))):
                    raise _corrupt(count)
                previous = entry.hash
        return count


def _read(row: Any) -> Audit:
    try:
        return Audit(**{**row, "details": msgspec.json.decode(row["details"])})
    except msgspec.DecodeError as error:
        raise _corrupt(row["sequence"]) from error


def _hash(facts: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json({name: fact for name, fact in facts.items() if name != "hash"})).hexdigest()


def _corrupt(sequence: int) -> Corrupt:
    return Corrupt(which=f"audit entry {sequence} is not the one that was made", fix="Restore it from a backup")
