"""From a question to its prediction: what stream questions and HTTP questions have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.reader import FeatureReader, Features, StaleFeatures
from journal.body import Definition, Prediction
from journal.log import START
from serving.champion import Champion


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """What an answer is made with.

    Attributes:
        key: The question's field that its label will carry too.
        definition: The columns that the reader gives.
        reader: Where features come from.
        champion: What computes the score.
        build: Fingerprint of the code and libraries.
    """

    key: str
    definition: Definition
    reader: FeatureReader
    champion: Champion
    build: str

    def answer(self, question: Mapping[str, Any], offset: int, now: int) -> Prediction:
        """The prediction for a question's data.

        Args:
            question: Every field of its contract.
            offset: Of its record; `START` where it has none yet, and the answer tells by itself what ``now`` was.
            now: The moment that staleness is judged at, in microseconds of journal time.
        """
        features, score, fell_back = self._score(question, now)
        degraded = fell_back or features.degraded
        return self._prediction(question, offset, features, score, degraded=degraded, now=now)

    def answer_without_features(self, question: Mapping[str, Any], offset: int) -> Prediction:
        """The same while features cannot be read: the model answers with the question's own fields, degraded."""
        features = self.reader.nothing(question)
        score = self.champion.predict_one(self.definition.columns, features.values)
        return self._prediction(question, offset, features, score, degraded=True, now=None)

    def _prediction(
        self,
        question: Mapping[str, Any],
        offset: int,
        features: Features,
        score: float,
        *,
        degraded: bool,
        now: int | None,
    ) -> Prediction:
        served = self.champion.served
        return Prediction(
            key=str(question[self.key]),
            question=offset,
            service=self.definition.service,
            values=features.values,
            stamps=features.stamps,
            score=score,
            line=served.line,
            model=self.champion.digest,
            snapshot=served.snapshot,
            control=served.control,
            degraded=degraded,
            build=self.build,
            now=now if offset == START else None,
        )

    def _score(self, question: Mapping[str, Any], now: int) -> tuple[Features, float, bool]:
        """What is known, the score, and whether a fallback gave it."""
        try:
            features = self.reader.read(question, now)
        except StaleFeatures:
            return self.reader.nothing(question), self.champion.prior, True
        score = self.champion.predict_one(self.definition.columns, features.values)
        return features, score, not self.champion.is_ready
