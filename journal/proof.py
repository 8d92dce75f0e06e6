"""Whether a control log is what was decided: its ledgers, their heads in every decision, and the journal's echoes.

Found is whatever somebody without the signing key can do, even to all tables and to the echoes at once:

- a row changed, removed, moved or copied from another pipeline: by the chain and the signatures;
- rows missing from the end: of evidence and audit by the heads in the decisions after them; of decisions by the echoes,
  since the journal holds the last one;
- an older copy of the whole database: by the echoes, in the same way;
- an echo that nobody decided, or that says another thing: by its signature.

What was added to evidence or audit after the last decision has nothing behind it yet: its end can be cut unseen until
somebody decides again.
"""

from collections.abc import Sequence

import msgspec

from journal.body import Decision, decode
from journal.control import ControlLog, Entry, echoes_in, require_held, signed_parts
from journal.errors import Corrupt, Untrusted
from journal.ledger import Verifies
from journal.reading import OWNERS_OWN, ByKind, each_of
from journal.record import Kind


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked, and held.

    Attributes:
        decisions: How many there are.
        evidence: Rows of evidence.
        audit: Rows of the audit.
        echoes: Echoes in the journal.
        vouched: How many rows of evidence and audit the last decision vouches for.
    """

    decisions: int
    evidence: int
    audit: int
    echoes: int
    vouched: int


def prove(control: ControlLog, pipeline: str, verifier: Verifies, journal: ByKind | None = None) -> Proof:
    """Check every row of a pipeline's control log, and every echo of it.

    Args:
        control: The control log.
        pipeline: Whose.
        verifier: Checks signatures; it needs no secret.
        journal: Where the echoes are; without it a cut end of the decisions does not show.

    Raises:
        Corrupt: Something was changed, removed or moved; the message names its number.
        Untrusted: Something bears a signature that is not ours; the message names its number.
    """
    # In this order: what is written while we read only adds to what the one read before speaks of.
    echoes = [] if journal is None else echoes_in(journal)
    if journal is not None:
        _refuse_unnumbered(journal, pipeline)
    with control.database.reading() as connection:
        entries = control.decided.check(connection, pipeline, verifier)
        beside = {name: ledger.check(connection, pipeline, verifier) for name, ledger in control.beside.items()}
    for entry in entries:
        for name, head in entry.heads.items():
            control.beside[name].check_head(beside[name], pipeline, head)
    _check_echoes(entries, echoes, pipeline, verifier)
    return Proof(
        decisions=len(entries),
        evidence=len(beside["evidence"]),
        audit=len(beside["audit"]),
        echoes=len(echoes),
        vouched=sum(sequence for sequence, _ in entries[-1].heads.values()) if entries else 0,
    )


def _refuse_unnumbered(journal: ByKind, pipeline: str) -> None:
    """No fold obeys such a decision; that somebody wrote one is worth knowing."""
    for record in each_of(journal, Kind.DECISION):
        decision = decode(record.body, Decision)
        if decision.sequence <= 0 and decision.action not in OWNERS_OWN:
            raise Untrusted(
                which=f"record {record.offset} of {pipeline!r} echoes no decision: {decision.action} "
                f"{decision.subject} without a number",
                fix="Restore the journal from a backup; no fold obeys this record",
            )


def _check_echoes(entries: Sequence[Entry], echoes: Sequence[Decision], pipeline: str, verifier: Verifies) -> None:
    for echo in echoes:
        try:
            verifier.verify(echo.signature, *signed_parts(pipeline, echo))
        except Untrusted as error:
            raise Untrusted(
                which=f"the signature of the echo of decision {echo.sequence} of {pipeline!r} is not ours",
                fix="Restore the journal from a backup; the control log shows what was decided",
            ) from error
    if echoes and (last := max(echo.sequence for echo in echoes)) > len(entries):
        raise Corrupt(
            which=f"decision {len(entries) + 1} of {pipeline!r} is missing, and all after it: "
            f"the journal echoed up to {last}",
            fix="Restore the control log from a backup; the journal's echoes show what was decided",
        )
    for echo in echoes:
        require_held(pipeline, echo, entries[echo.sequence - 1])
