"""Questions that come over HTTP: answered from memory first, recorded right after, and answered all the same if not.

- What answers follows the journal: snapshots, versions and decisions' echoes, in their order.
- ``durable`` (the default): the answer waits for its record, up to a deadline. ``enqueued``: it goes out at once.
- With the journal's owner dead, full or slow, the answer goes out with the receipt ``none``: it names no position. What
  becomes of it is counted (`serving.recording`).
- While features cannot be read the model answers with the question's own fields, degraded.
- A question that was recorded before gets the answer that was recorded then.
"""

from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from journal.body import Prediction
from journal.clock import format_time
from journal.errors import RivermillError, UpstreamError
from journal.log import START
from journal.record import Record
from serving.answering import Answering
from serving.champion import FOLLOWED
from serving.recording import DEADLINE, DRAIN, MOST_QUEUED, Counters, Recording, Unsent
from serving.upstream import Followed, Recorder

Ack = Literal["durable", "enqueued"]

FEATURES = "features"
"""What is in trouble when the features cannot be read."""

_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question whose data holds.

    Attributes:
        id: The caller's.
        source: Who gives ids: two sources may use the same.
        fields: Every field of its contract, as a record would hold them.
        event: All of it as a CloudEvent in JSON, for the journal.
        principal: Who asks.
    """

    id: str
    source: str
    fields: Mapping[str, Any]
    event: bytes
    principal: str


class LiveService:
    """Answers one pipeline's questions."""

    def __init__(
        self,
        answering: Answering,
        journal: Followed,
        recorder: Recorder,
        *,
        deadline: float = DEADLINE,
        most_queued: int = MOST_QUEUED,
    ) -> None:
        """Prepare to answer.

        Args:
            answering: What answers are made with.
            journal: Where what answers is followed.
            recorder: Where questions and answers are recorded.
            deadline: Seconds that an answer waits for its record.
            most_queued: Enqueued answers that may wait, and answers whose record is late; no more are waited for.
        """
        self._answering, self._journal = answering, journal
        self._recording = Recording(recorder, deadline=deadline, most_queued=most_queued)
        self._seen = START
        self._newest = START
        self._troubles: dict[str | None, str] = {}
        self.now = 0

    @property
    def answering(self) -> Answering:
        """What answers are made with."""
        return self._answering

    @property
    def counters(self) -> Counters:
        """What became of the answers given so far."""
        return self._recording.counters

    @property
    def now_text(self) -> str:
        """The journal's now, in RFC 3339."""
        return format_time(self.now)

    @property
    def end(self) -> int:
        """Offset of the last record that was taken up."""
        return self._seen

    @property
    def features_age(self) -> int | None:
        """Microseconds from when the newest row that any answer has read became known to now; None before the first."""
        return None if self._newest == START else self.now - self._newest

    @property
    def trouble(self) -> str:
        """What keeps it from serving what the journal says; empty when nothing does."""
        return " ".join(self._troubles.values())

    def follow(self) -> None:
        """Take up what was decided and published since the last time; cheap when nothing was.

        An error leaves what answered before. It is kept as `trouble` until the journal can be read again, or until a
        record of the same kind changed what answers.
        """
        try:
            self._take_up()
        except RivermillError as error:
            self._troubles[None] = str(error)
        else:
            self._troubles.pop(None, None)

    def _take_up(self) -> None:
        self._journal.refresh()
        self.now = max(self._journal.last_at + 1, self._journal.clock)
        end = self._journal.end()
        if end == self._seen:
            return
        for record in self._between(self._seen, end):
            self._observe(record)
        self._seen = end

    def _observe(self, record: Record) -> None:
        champion = self._answering.champion
        before = champion.state
        try:
            champion.observe(record)
        except RivermillError as error:
            self._troubles[record.kind] = str(error)
        else:
            if champion.state is not before:
                self._troubles.pop(record.kind, None)

    def _between(self, after: int, end: int) -> list[Record]:
        found = []
        for kind in FOLLOWED:
            last = after
            while page := self._journal.of_kind(kind, last, _PAGE):
                found += [record for record in page if record.offset <= end]
                last = page[-1].offset
        return sorted(found, key=lambda record: record.offset)

    async def ask(self, question: Question, ack: Ack) -> dict[str, Any]:
        """Answer a question.

        Returns:
            The answer as JSON: id, probability, line, model, snapshot, control, degraded, now, receipt.

        Raises:
            CallerError: The question breaks its contract after all, or its id is another question's.
        """
        try:
            prediction = self._answer(question)
            self._newest = max(START, self._newest, *(stamp[1] for stamp in prediction.stamps if stamp is not None))
            if ack == "enqueued":
                return self._enqueue(question, prediction)
            return await self._record(question, prediction)
        except RivermillError:
            self.counters.failed += 1
            raise

    def _answer(self, question: Question) -> Prediction:
        """Answer with what is known; with the question alone while that cannot be read."""
        try:
            prediction = self._answering.answer(question.fields, START, self.now)
        except UpstreamError as error:
            self._troubles[FEATURES] = str(error)
            return self._answering.answer_without_features(question.fields, START)
        self._troubles.pop(FEATURES, None)
        return prediction

    async def _record(self, question: Question, prediction: Prediction) -> dict[str, Any]:
        recorded = await self._recording.record(Unsent(question.event, question.principal, prediction))
        if recorded is None:
            return self._shown(question, prediction, "none")
        return self._shown(question, recorded.prediction, self._receipt(recorded.question, recorded.offset))

    def _enqueue(self, question: Question, prediction: Prediction) -> dict[str, Any]:
        waits = self._recording.enqueue(Unsent(question.event, question.principal, prediction))
        return self._shown(question, prediction, "pending" if waits else "none")

    def record_enqueued(self) -> Coroutine[Any, Any, None]:
        """See `serving.recording.Recording.record_enqueued`."""
        return self._recording.record_enqueued()

    def drain(self, deadline: float = DRAIN) -> Coroutine[Any, Any, int]:
        """See `serving.recording.Recording.drain`."""
        return self._recording.drain(deadline)

    def _receipt(self, question: int, prediction: int) -> dict[str, Any]:
        return {"incarnation": self._journal.incarnation, "question": question, "prediction": prediction}

    def _shown(self, question: Question, prediction: Prediction, receipt: dict[str, Any] | str) -> dict[str, Any]:
        return {
            "id": question.id,
            "probability": prediction.score,
            "line": prediction.line,
            "model": prediction.model,
            "snapshot": prediction.snapshot,
            "control": prediction.control,
            "degraded": prediction.degraded,
            # While its record was waited for, the journal has gone on.
            "now": format_time(self.now if prediction.now is None else prediction.now),
            "receipt": receipt,
        }


def event_of(id: str, source: str, stream: str, now: int, data: bytes) -> bytes:
    """A question as the CloudEvent that the journal's owner takes."""
    envelope = {"specversion": "1.0", "id": id, "source": source, "type": stream, "time": format_time(max(now, 1))}
    return orjson.dumps({**envelope, "data": orjson.Fragment(data)})
