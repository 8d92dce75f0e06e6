"""Questions that come as events: each gets its prediction, with all that it was made from.

- What answers changes only at records: decisions' echoes, snapshots, versions (`serving.champion`).
- A question that the journal holds the answer to is not asked again: the features that it saw are gone by then.
- Staleness is judged right behind the question, however far the journal has grown meanwhile: the answer follows from
  the records up to the question alone.
- Where a view must not be stale and is, the prior answers, degraded, with no features.
"""

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from journal.body import Prediction, body_of, draft_of
from journal.checkpoint import FoldFile
from journal.record import Draft, Kind, Record
from serving.answering import Answering
from serving.champion import FOLLOWED, ChampionState

_SPACE = "serving"


class AnswerFold:
    """Answers each event of the question stream."""

    name, version = "answer", 2
    kinds = FOLLOWED | {Kind.SOURCE, Kind.PREDICTION}
    resume_offset: int | None = None

    def __init__(
        self,
        *,
        stream: str,
        answering: Answering,
        is_answered: Callable[[Record], bool],
    ) -> None:
        """Wire the fold.

        Args:
            stream: Whose events are questions.
            answering: What answers are made with.
            is_answered: Whether the journal holds this question's prediction already.
        """
        self._stream, self.champion = stream, answering.champion
        self._answering = answering
        self._is_answered = is_answered
        self.answers = 0
        self.degraded = 0

    def load(self, file: FoldFile) -> None:
        """Serve again what was served at the checkpoint."""
        stored = file.get(_SPACE, b"served")
        if stored is not None:
            state, self.answers, self.degraded = msgspec.msgpack.decode(stored, type=tuple[ChampionState, int, int])
            self.champion.restore(state)

    def save(self, file: FoldFile) -> None:
        """Remember what is served."""
        file.put(_SPACE, [(b"served", msgspec.msgpack.encode((self.champion.state, self.answers, self.degraded)))])

    def digest(self) -> str:
        """SHA-256 (hex) over what is served, the model's own digest and the counts."""
        return hashlib.sha256(
            f"{self.champion.state} {self.answers} {self.degraded} {self.champion.digest}".encode()
        ).hexdigest()

    def apply(self, record: Record) -> Sequence[Draft]:
        """Answer a question; follow what may change the champion."""
        if record.kind is Kind.SOURCE and record.stream == self._stream:
            return () if self._is_answered(record) else (self._answer(record),)
        if record.kind is Kind.PREDICTION:
            self._count(body_of(record, Prediction))
        else:
            self.champion.observe(record)
        return ()

    def _answer(self, question: Record) -> Draft:
        return draft_of(
            self._answering.answer(question.data, question.offset, question.at + 1),
            kind=Kind.PREDICTION,
            stream="predictions",
            # The source is in it, since two of them may use the same id.
            id=f"p-{question.source}#{question.id}",
            subject=question.subject,
            principal=question.principal,
            trace=question.trace,
        )

    def _count(self, prediction: Prediction) -> None:
        self.answers += 1
        self.degraded += prediction.degraded
