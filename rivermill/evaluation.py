"""What a line shows on the later examples, beside the champion on the very same ones.

A batch version is judged on the holdout that its job kept: each example lies behind the gap after everything that the
fit which answered it had seen. An online line is judged on its prequential answers, each given before its outcome was
known. The champion's answers to the same questions are its prequential ones, or those that its model gives to the
features as predicted.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from features.examples import Readable
from journal.blobs import Blobs
from journal.body import Definition, Prediction, Version, decode
from journal.errors import Refused, UnknownName
from journal.log import START
from journal.record import Kind, Record
from registry.evidence import Scored, offline
from registry.policy import Policy
from rivermill.pipeline import Pipeline
from serving.predictor import Predictor
from serving.staging import measure
from training.retrain import Probe

_PAGE = 5_000


class Holdout(msgspec.Struct, frozen=True, array_like=True):
    """A version's answers on its holdout, as little-endian arrays: offsets, ``at``, outcomes, scores."""

    predictions: bytes
    at: bytes
    outcomes: bytes
    scores: bytes


def pack_holdout(scored: Scored) -> bytes:
    """The canonical bytes of a holdout."""
    return msgspec.msgpack.encode(
        Holdout(
            scored.predictions.astype("<i8").tobytes(),
            scored.at.astype("<i8").tobytes(),
            scored.outcome.astype("?").tobytes(),
            scored.score.astype("<f8").tobytes(),
        )
    )


def unpack_holdout(data: bytes) -> Scored:
    """Read a holdout back."""
    holdout = msgspec.msgpack.decode(data, type=Holdout)
    return Scored(
        predictions=np.frombuffer(holdout.predictions, "<i8"),
        at=np.frombuffer(holdout.at, "<i8"),
        outcome=np.frombuffer(holdout.outcomes, "?"),
        score=np.frombuffer(holdout.scores, "<f8"),
    )


class Evaluation:
    """Measures lines against the champion. Everything it says follows from the journal and the blobs."""

    def __init__(
        self,
        pipeline: Pipeline,
        journal: Readable,
        blobs: Blobs,
        new_predictor: Callable[[], Predictor],
        online_rows: Callable[[], NDArray[np.void]],
    ) -> None:
        """Prepare to measure.

        Args:
            pipeline: Whose lines.
            journal: Where versions and predictions are.
            blobs: Where holdouts and models are.
            new_predictor: Makes an empty predictor that checks signatures.
            online_rows: The online line's (prediction, at, score, served, outcome), in the order of its examples.
        """
        self._pipeline, self.journal, self._blobs = pipeline, journal, blobs
        self._new_predictor, self._online_rows = new_predictor, online_rows

    def evidence(self, line: str, champion: str, policy: Policy) -> dict[str, Any]:
        """What is known about a line, with the champion's figures on the same examples.

        Raises:
            UnknownName: There is no such line.
            Refused: There is nothing yet to judge it by.
        """
        scored, rows, size = self._own(line)
        scored = self._comparable(champion, scored)
        facts = offline(
            scored,
            self._answers_of(champion, scored),
            prior=self._pipeline.line.settings.prior,
            rows=rows,
            size_bytes=size,
            confidence=policy.confidence,
            seed_text=f"{line}|{champion}",
        )
        return {**facts, "line": line, "champion": champion}

    def version(self, line: str) -> tuple[int, Version]:
        """A batch version's record: its offset and body; raises UnknownName."""
        found = self.versions().get(line)
        if found is None:
            known = ", ".join((*self._online_lines(), *self.versions())) or "none"
            raise UnknownName(which=f"line {line!r}; there are: {known}", fix="`rivermill registry list` shows them")
        return found

    def versions(self) -> dict[str, tuple[int, Version]]:
        """Every batch version by name, oldest first, with its record's offset."""
        records = self.journal.of_kind(Kind.VERSION, START, 1_000_000)
        bodies = [(record.offset, decode(record.body, Version)) for record in records]
        return {version.line: (offset, version) for offset, version in bodies}

    def staged(self, line: str) -> dict[str, Any]:
        """Parity and latency of a version in this process, on the predictions that its job kept as a probe."""
        version = self.version(line)[1]
        probe = msgspec.msgpack.decode(self._blobs.get(version.evidence["probe"]), type=Probe)
        predictor = self._new_predictor()
        predictor.follow(version)
        predictions = predictions_at(self.journal, np.array(probe.predictions, dtype=np.int64))
        return measure(predictor, columns_of(self.journal), predictions, probe.scores)

    def snapshots(self) -> Sequence[Record]:
        """Every snapshot's record, in order."""
        return self.journal.of_kind(Kind.SNAPSHOT, START, 1_000_000)

    def _online_lines(self) -> Sequence[str]:
        return [line.settings.line for line in self._pipeline.lines]

    def _own(self, line: str) -> tuple[Scored, int, int]:
        """A line's own answers, the rows it has learned from, and its model's bytes."""
        if line in self._online_lines():
            return self._own_online(line)
        version = self.version(line)[1]
        facts = version.evidence
        return unpack_holdout(self._blobs.get(facts["holdout"])), int(facts["rows"]), int(facts["size_bytes"])

    def _own_online(self, line: str) -> tuple[Scored, int, int]:
        rows, settings = self._online_rows(), self._pipeline.retrain
        published = [record for record in self.snapshots() if record.data["published"]]
        if not len(rows) or not published or settings is None:
            raise Refused(which=f"line {line!r} has published nothing yet", fix="Wait for its first snapshot")
        chosen = np.sort(rows[rows["at"] > rows["at"].max() - settings.test], order="prediction")
        scored = Scored(
            predictions=chosen["prediction"], at=chosen["at"], outcome=chosen["outcome"], score=chosen["score"]
        )
        return scored, len(rows), len(self._blobs.get(published[-1].data["blob"]))

    def _comparable(self, champion: str, scored: Scored) -> Scored:
        """The examples on which the champion can be compared.

        Of a batch champion those that it was not fitted on; where there are none all of them, which favours it alone.
        Of an online one those that its stored answers reach to: a live learner's are as old as its last checkpoint.
        """
        if champion in self._online_lines():
            rows = self._online_rows()
            chosen = scored.at <= rows["at"].max(initial=0) if len(rows) else np.ones(len(scored.at), dtype=bool)
        else:
            chosen = scored.at > self.version(champion)[1].trigger
        later = Scored(scored.predictions[chosen], scored.at[chosen], scored.outcome[chosen], scored.score[chosen])
        return later if len(later.at) else scored

    def _answers_of(self, line: str, scored: Scored) -> NDArray[np.float64] | None:
        """A line's answers to the same questions; NaN where it gave none; None when it is the prior alone."""
        if line not in self._online_lines():
            return self._model_answers(line, scored.predictions)
        rows = np.sort(self._online_rows(), order="prediction")
        if not len(rows):
            return None
        places = np.searchsorted(rows["prediction"], scored.predictions).clip(max=len(rows) - 1)
        known = rows["prediction"][places] == scored.predictions
        return np.where(known, rows["score"][places], np.nan)

    def _model_answers(self, line: str, predictions: NDArray[np.int64]) -> NDArray[np.float64]:
        predictor = self._new_predictor()
        predictor.follow(self.version(line)[1])
        bodies = predictions_at(self.journal, predictions)
        columns = columns_of(self.journal)
        return np.array([predictor.predict_one(columns, body.values) for body in bodies], dtype=np.float64)


def columns_of(journal: Readable) -> list[str]:
    """The feature columns that the journal's predictions carry."""
    return decode(journal.of_kind(Kind.DEFINITION, START, 1)[0].body, Definition).columns


def predictions_at(journal: Readable, offsets: NDArray[np.int64]) -> list[Prediction]:
    """The predictions at these rising offsets, read in pages."""
    wanted, found = set(offsets.tolist()), dict[int, Prediction]()
    after, last = int(offsets.min(initial=0)) - 1, int(offsets.max(initial=START))
    while after < last and (page := journal.read(0, after, _PAGE)):
        found |= {r.offset: decode(r.body, Prediction) for r in page if r.offset in wanted}
        after = page[-1].offset
    return [found[offset] for offset in offsets.tolist()]


def figures_of(evidence: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an evidence, for MLflow's metrics."""
    return {
        name: float(value)
        for name, value in evidence.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
