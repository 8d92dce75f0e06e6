"""Erasing a person: the decision, the destruction of the key, and the echo, in this order.

The rules:

- The decision comes first. It is what a crash cannot take away: it says why and who, and whoever comes next destroys
  what it names. Were the key destroyed first, nothing would lead from the person to the subject any more, and the one
  who asked could neither ask again nor be told.
- A decision without its destruction is unfinished: `finish_erasures` makes up for it. It runs wherever a journal gets
  its owner, so that a key which comes back with an older copy of the key table is destroyed again.
- A key is destroyed for a decision that we signed, and for no other.
- The echo comes last, and like every echo it is made up for.
- The decision names the subject's random id and its pseudonyms, which stand beside each other in the journal anyway.
  The producer's identifier is written nowhere, not even into an error.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from journal.control import ControlLog, Entry, append_next, echo_of
from journal.errors import Refused, UnknownName
from journal.ledger import Signs, Verifies
from journal.privacy import KeyTable
from journal.record import Draft
from journal.trail import Trail

ACTION = "erase"


class SignsAndVerifies(Signs, Verifies, Protocol):
    """Both; `registry.signing.Signer` does."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What was erased.

    Attributes:
        subject: The random id.
        decision: The sequence of the decision.
        at: Its journal time, in microseconds.
        again: Whether it had been decided before, so that nothing new was written.
        details: What the decision says: counts, pseudonyms, and the models that have learned from the subject.
    """

    subject: str
    decision: int
    at: int
    again: bool
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Eraser:
    """Erases people from one pipeline.

    Attributes:
        pipeline: Its name.
        keys: Its key table.
        control: Its control log.
        signer: Signs the decision.
        clock: Journal time, in microseconds.
        land: Hands the echo to the journal's owner; where there is none, it is made up for at the next start.
    """

    pipeline: str
    keys: KeyTable
    control: ControlLog
    signer: SignsAndVerifies
    clock: Callable[[], int]
    land: Callable[[Draft], None]

    def find(self, identifier: str) -> str:
        """The random id of the subject that a producer's identifier leads to.

        Raises:
            UnknownName: It leads to nobody: it was never seen, or was erased. The message does not quote it.
        """
        subject = self.keys.find(identifier)
        if subject is None:
            raise UnknownName(
                which=f"a person by this identifier in {self.pipeline!r}: never seen, or erased already",
                fix=f"`rivermill audit show {self.pipeline}` lists what was erased",
            )
        return subject

    def erase(self, subject: str, *, why: str, principal: str, follow: Callable[[str], Trail]) -> Erasure:
        """Decide, destroy, echo. The same subject again changes nothing, and finishes what a crash left undone.

        Args:
            subject: The random id.
            why: The reason; it must not name the person.
            principal: Who decides.
            follow: Gives the subject's trail, for the decision; see `journal.trail.trail_of`.

        Raises:
            UnknownName: There is no such subject.
            Refused: No reason was given.
            DurabilityLost: The key is marked as destroyed but lies in a file still; the same call again finishes it.
        """
        if not why.strip():
            raise Refused(which="no reason to erase was given", fix="Say why, without naming the person")
        self.keys.is_erased(subject)
        before = self._decided(subject)
        entry = before or self._decide(subject, why, principal, follow(subject))
        self.keys.erase(subject)
        self.land(echo_of(entry))
        return Erasure(
            subject=subject, decision=entry.sequence, at=entry.at, again=before is not None, details=entry.details
        )

    def _decided(self, subject: str) -> Entry | None:
        return next((entry for entry in self.erasures() if entry.subject == subject), None)

    def erasures(self) -> Sequence[Entry]:
        """Every decision to erase."""
        return [entry for entry in self.control.entries(self.pipeline) if entry.action == ACTION]

    def _decide(self, subject: str, why: str, principal: str, trail: Trail) -> Entry:
        details = {name: fact for name, fact in msgspec.to_builtins(trail).items() if name != "subject"}
        return append_next(
            self.control,
            self.pipeline,
            self.clock,
            action=ACTION,
            subject=subject,
            why=why,
            details=details,
            principal=principal,
            key=f"{ACTION}-{subject}",
            signer=self.signer,
        )


def erased_within(entries: Iterable[Entry], through: int) -> list[str]:
    """Subjects that were erased and have an example up to an offset: what a dataset of that range holds is nameless.

    Args:
        entries: Of a control log.
        through: The last journal offset that the dataset considered.
    """
    erasures = (entry for entry in entries if entry.action == ACTION)
    return [entry.subject for entry in erasures if 0 <= entry.details["first_example"] <= through]


def finish_erasures(control: ControlLog, pipeline: str, keys: KeyTable, verifier: Verifies) -> list[str]:
    """Destroy every key that was decided upon and is still there; return the subjects whose keys were.

    Args:
        control: The control log.
        pipeline: Whose.
        keys: Its key table.
        verifier: Checks the decisions.

    Raises:
        Corrupt, Untrusted: A decision to erase is not one of ours; nothing was destroyed.
        DurabilityLost: See `journal.privacy.KeyTable.erase`.
    """
    erasures = [entry for entry in control.entries(pipeline) if entry.action == ACTION]
    for entry in erasures:
        control.decided.check_one(entry, verifier)
    known = [entry.subject for entry in erasures if keys.knows(entry.subject)]
    unfinished = [subject for subject in known if not keys.is_erased(subject)]
    if known:
        # All of them: a crash may have left a key that is marked as destroyed in the write-ahead log.
        keys.erase(*known)
    return unfinished
