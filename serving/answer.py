"""Questions that come as events: each gets its prediction, with all that it was made from.

- What is served changes only at echoes: a bootstrap decision names the line, a published snapshot moves it.
- A question that the journal holds the answer to is not asked again: the features that it saw are gone by then.
- Where a view must not be stale and is, the prior answers, degraded, with no features.
"""

import hashlib
from collections.abc import Callable, Sequence

import msgspec

from features.reader import FeatureReader, Features, StaleFeatures
from journal.body import Decision, Definition, Prediction, Snapshot, body_of, decode, draft_of
from journal.checkpoint import FoldFile
from journal.log import START
from journal.record import Draft, Kind, Record
from serving.predictor import Predictor

_SPACE = "serving"


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What answers now: the line, where its snapshot stands, and the control sequence that says so."""

    line: str = ""
    snapshot: int = START
    control: int = 0


class AnswerFold:
    """Answers each event of the question stream."""

    name, version = "answer", 1
    kinds = frozenset({Kind.SOURCE, Kind.PREDICTION, Kind.SNAPSHOT, Kind.DECISION})
    resume_offset: int | None = None

    def __init__(
        self,
        *,
        stream: str,
        key: str,
        definition: Definition,
        reader: FeatureReader,
        predictor: Predictor,
        next_at: Callable[[], int],
        is_answered: Callable[[Record], bool],
        read_record: Callable[[int], Record],
        build: str,
    ) -> None:
        """Wire the fold.

        Args:
            stream: Whose events are questions.
            key: The question's field that its label will carry too.
            definition: The columns that the reader gives.
            reader: Where features come from.
            predictor: What computes the score.
            next_at: The journal's ``at`` for the record that would come next: the prediction's own.
            is_answered: Whether the journal holds this question's prediction already.
            read_record: A record by its offset.
            build: Fingerprint of the code and libraries.
        """
        self._stream, self._key, self._definition = stream, key, definition
        self._reader, self._predictor = reader, predictor
        self._next_at, self._is_answered, self._read_record = next_at, is_answered, read_record
        self._build = build
        self.served = Served()
        self.answers = 0
        self.degraded = 0

    def load(self, file: FoldFile) -> None:
        """Serve again what was served at the checkpoint."""
        stored = file.get(_SPACE, b"served")
        if stored is not None:
            self.served, self.answers, self.degraded = msgspec.msgpack.decode(stored, type=tuple[Served, int, int])
            if self.served.snapshot != START:
                self._predictor.follow(decode(self._read_record(self.served.snapshot).body, Snapshot))

    def save(self, file: FoldFile) -> None:
        """Remember what is served."""
        file.put(_SPACE, [(b"served", msgspec.msgpack.encode((self.served, self.answers, self.degraded)))])

    def digest(self) -> str:
        """SHA-256 (hex) over what is served, the model's own digest and the counts."""
        return hashlib.sha256(
            f"{self.served} {self.answers} {self.degraded} {self._predictor.digest}".encode()
        ).hexdigest()

    def apply(self, record: Record) -> Sequence[Draft]:
        """Answer a question; follow a snapshot or a decision."""
        if record.kind is Kind.SOURCE and record.stream == self._stream:
            return () if self._is_answered(record) else (self._answer(record),)
        if record.kind is Kind.PREDICTION:
            self._count(body_of(record, Prediction))
        elif record.kind is Kind.SNAPSHOT:
            self._follow(record)
        elif record.kind is Kind.DECISION:
            self._obey(decode(record.body, Decision))
        return ()

    def _answer(self, question: Record) -> Draft:
        features, score, fell_back = self._score(question)
        served = self.served
        body = Prediction(
            key=str(question.data[self._key]),
            question=question.offset,
            service=self._definition.service,
            values=features.values,
            stamps=features.stamps,
            score=score,
            line=served.line,
            model=self._predictor.digest,
            snapshot=served.snapshot,
            control=served.control,
            degraded=fell_back or features.degraded,
            build=self._build,
        )
        return draft_of(
            body,
            kind=Kind.PREDICTION,
            stream="predictions",
            # The source is in it, since two of them may use the same id.
            id=f"p-{question.source}#{question.id}",
            subject=question.subject,
            principal=question.principal,
            trace=question.trace,
        )

    def _score(self, question: Record) -> tuple[Features, float, bool]:
        """What is known, the score, and whether a fallback gave it."""
        try:
            features = self._reader.read(question.data, self._next_at())
        except StaleFeatures:
            return self._reader.nothing(question.data), self._predictor.prior, True
        score = self._predictor.predict_one(self._definition.columns, features.values)
        return features, score, not self._predictor.is_ready

    def _count(self, prediction: Prediction) -> None:
        self.answers += 1
        self.degraded += prediction.degraded

    def _follow(self, record: Record) -> None:
        snapshot = decode(record.body, Snapshot)
        if snapshot.published and snapshot.line == self.served.line:
            self._predictor.follow(snapshot)
            self.served = msgspec.structs.replace(self.served, snapshot=record.offset)

    def _obey(self, decision: Decision) -> None:
        if decision.action == "bootstrap":
            self.served = msgspec.structs.replace(self.served, line=decision.subject, control=decision.sequence)
