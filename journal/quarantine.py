"""Where events that violate their contract wait: whole and sealed, until a decision ends it.

They are sealed under the key of the person whom they are about, so that erasure reaches them; under the pipeline's key
where the contract has no personal fields, or the event does not say whom. One decision ends the wait, whatever it
says: all of them share one id, and ids of decisions are never forgotten.
"""

import hashlib
from base64 import b64decode, b64encode
from typing import Any

from journal import body
from journal.envelope import Envelope
from journal.errors import ConflictingId, Refused, Violation
from journal.log import Conflict, Outcome
from journal.privacy import Erased, KeyTable, Subject
from journal.record import Cause, Draft, Kind, Record
from journal.settlement import Order, action_of
from journal.stream import Stream

QUARANTINE_LIST = "`rivermill journal quarantine list` shows the ids"


class Quarantine:
    """Drafts quarantine records and the decisions that end them."""

    def __init__(self, keys: KeyTable) -> None:
        self._keys = keys

    def hold(
        self,
        stream: Stream,
        envelope: Envelope,
        raw: bytes,
        violation: Violation,
        cause: Cause | None,
        principal: str,
    ) -> tuple[Draft, str]:
        """The record that keeps a violating event, and the reason in it.

        Args:
            stream: The event's stream.
            envelope: Its envelope.
            raw: All of it, as it came.
            violation: The rule and the fix, in which ``{id}`` stands for the quarantine id.
            cause: The event's place in its input, for the sink's mark.
            principal: Who handed it in.
        """
        quarantine_id = self._id(stream, envelope, raw)
        reason = f"{violation.which}. {violation.fix.format(id=quarantine_id)}"
        person = stream.person(envelope)
        draft = Draft(
            kind=Kind.QUARANTINE,
            stream=envelope.type,
            id=quarantine_id,
            body=body.encode(body.Quarantined(reason=reason, event=self._seal(raw, person, quarantine_id))),
            source=envelope.source,
            schema=stream.contract.major,
            subject=None if person is None else person.id,
            principal=principal,
            trace=envelope.trace,
            cause=cause,
        )
        return draft, reason

    def _seal(self, raw: bytes, person: Subject | None, quarantine_id: str) -> str:
        context = quarantine_id.encode()
        if person is None:
            sealed = self._keys.seal_pipeline(raw, context=context)
        else:
            sealed = self._keys.seal(person, {"event": raw.decode()}, context=context)
        return b64encode(sealed).decode()

    def _id(self, stream: Stream, envelope: Envelope, raw: bytes) -> str:
        """Equal for equal bytes. Keyed where the bytes may be personal, since a plain hash of them could be guessed."""
        named = f"{envelope.source}\0{envelope.id}\0".encode() + raw
        digest = self._keys.mac(None, named) if stream.contract.personal else hashlib.sha256(named).digest()
        return f"q-{digest[:16].hex()}"

    def kept(self, record: Record) -> bytes:
        """The event as it came.

        Raises:
            Refused: The person whom it is about was erased.
            Corrupt: Its bytes were changed, or sealed under another key table.
        """
        sealed = b64decode(body.decode(record.body, body.Quarantined).event)
        if record.subject is None:
            return self._keys.open_pipeline(sealed, context=record.id.encode())
        fields = self._keys.open_sealed(record.subject, sealed, context=record.id.encode())
        if isinstance(fields, Erased):
            raise Refused(which=f"the person whom {record.id} is about was erased", fix="Nothing is left of it")
        return str(fields["event"]).encode()


def decision_on(order: Order, details: dict[str, Any]) -> Draft:
    """The decision that ends a wait, made by whoever gives the order."""
    decision = body.Decision(
        sequence=0, action=action_of(order), subject=order.quarantine_id, why=order.why, details=details
    )
    return Draft(
        kind=Kind.DECISION,
        stream="decisions",
        id=f"settle-{order.quarantine_id}",
        body=body.encode(decision),
        principal=order.principal,
    )


def require_decided(decided: Outcome, quarantine_id: str) -> Record:
    """The decision's record; raises `Refused` when another one ended the wait before."""
    if not isinstance(decided, Record):
        raise Refused(
            which=f"the wait of {quarantine_id} has ended already",
            fix="`rivermill journal quarantine show` tells what became of it",
        )
    return decided


def require_entered(entered: Outcome, quarantine_id: str) -> Record:
    """The event's record; an error undoes the group that it was appended in.

    Raises:
        ConflictingId: A corrected event has taken its id.
        Refused: It has entered the journal by itself.
    """
    if isinstance(entered, Conflict):
        raise ConflictingId(
            which=f"{quarantine_id}, at offset {entered.offset}",
            fix="A corrected event came in meanwhile; discard this one",
        )
    if not isinstance(entered, Record):
        raise Refused(which=f"{quarantine_id} is in the journal already", fix="Discard what waits of it")
    return entered
