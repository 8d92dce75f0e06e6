"""The journal's door for questions that come with their answers: both are recorded, one behind the other, or neither.

A question asked over HTTP is answered before it is recorded. It moves no clock and feeds no feature. Asked again with
the same id it gets the answer that was recorded first.
"""

import msgspec

from journal.body import Prediction, decode, draft_of
from journal.contract import Contract
from journal.envelope import Envelope, read_question_envelope
from journal.errors import ConflictingId, Corrupt, Malformed, Misconfigured
from journal.log import Conflict, Journal, Repeat
from journal.privacy import KeyTable
from journal.record import Draft, Kind, Record
from journal.stream import Stream
from journal.wire import Asked, AskedBefore


class Asking:
    """Records questions of one stream with their answers."""

    def __init__(self, journal: Journal, contract: Contract, keys: KeyTable, key: str) -> None:
        """Compile the contract.

        Args:
            journal: Where they go.
            contract: Of the question stream.
            keys: What personal fields are sealed under.
            key: The question's field that its label will carry too.

        Raises:
            Misconfigured: The question's record will not hold this field.
        """
        if key not in contract.field_names - contract.personal | contract.pseudonymous:
            raise Misconfigured(
                which=f"the key field {key!r} does not stand in a record of {contract.stream!r}",
                fix="Name a field of the contract that is not personal, or a personal entity key",
            )
        self._journal, self._key = journal, key
        self._stream = Stream(contract, keys)

    def ask(self, raw: bytes, prediction: Prediction, principal: str) -> Asked | AskedBefore:
        """Record a question and its prediction, inside the journal's open group.

        Args:
            raw: The question as a CloudEvent in JSON; its time says nothing.
            prediction: The answer; ``question`` and ``key`` are filled in here.
            principal: Who asks.

        Raises:
            Malformed, Violation: The question is none, or breaks its contract.
            ConflictingId: Its id is taken by a question that says something else.
        """
        envelope = self._envelope(raw)
        fields = self._stream.read(envelope, raw)
        # Without a time in it, so that a retry at another moment is the same question.
        draft = self._stream.draft(envelope, 0, fields, principal, None)
        draft = _as_question(draft)
        (outcome,) = self._journal.append((draft,))
        if isinstance(outcome, Repeat):
            return self._recorded(outcome.offset)
        if isinstance(outcome, Conflict):
            self._journal.tally("conflicts")
            raise ConflictingId(
                which=f"{envelope.id!r}, at offset {outcome.offset}", fix="Give another question another id"
            )
        assert isinstance(outcome, Record), "without a sink nothing is replayed"
        for note in self._stream.notes:
            self._journal.tally(note)
        answer = msgspec.structs.replace(prediction, question=outcome.offset, key=str(outcome.data[self._key]))
        (answered,) = self._journal.append((_draft(answer, envelope, outcome),))
        assert isinstance(answered, Record), "what no index knows is not refused"
        return Asked(outcome.offset, answered.offset)

    def _envelope(self, raw: bytes) -> Envelope:
        contract = self._stream.contract
        if len(raw) > contract.max_bytes:
            raise Malformed(which=f"{len(raw)} bytes, more than {contract.max_bytes}", fix="Send less")
        envelope = read_question_envelope(raw)
        if envelope.type != contract.stream:
            raise Malformed(which=f"a question of type {envelope.type[:64]!r}", fix=f"Send type {contract.stream!r}")
        return envelope

    def _recorded(self, question: int) -> AskedBefore:
        (record,) = self._journal.read(0, question, 1)
        if record.kind is not Kind.PREDICTION or decode(record.body, Prediction).question != question:
            raise Corrupt(which=f"the answer to the question at {question}", fix="Run `rivermill journal verify`")
        self._journal.tally("repeated")
        return AskedBefore(record.body, record.offset)


def _as_question(draft: Draft) -> Draft:
    question = msgspec.structs.replace(draft, kind=Kind.QUESTION, time=None)
    question.__dict__.update(draft.__dict__)
    return question


def _draft(answer: Prediction, envelope: Envelope, question: Record) -> Draft:
    return draft_of(
        answer,
        kind=Kind.PREDICTION,
        stream="predictions",
        id=f"p-{envelope.source}#{envelope.id}",
        subject=question.subject,
        principal=question.principal,
        trace=envelope.trace,
    )
