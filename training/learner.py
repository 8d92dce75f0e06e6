"""One online line: answers every question with its own state, and learns each example from the features as predicted.

The rules:

- At a prediction the learner answers the question itself, with its *current* state, and keeps that number. At the
  example it scores that number (the prequential figures), and only then learns.
- Every so many examples a snapshot: published when the guard holds, otherwise a record of why it does not.
- Everything the learner derives (model, pending numbers, figures, counters) is one blob, written every so many examples
  and named by a row in the fold's file. Between two blobs nothing is saved: `Learner.resume_offset` is the last blob's
  place, the tail is applied again, and what it emits again the journal drops by the sink's mark.
- The feature set never changes: the first definition in the journal fixes it. Predictions of another are counted as
  foreign, and so they and their examples teach nothing.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from journal.blobs import Blobs
from journal.body import Definition, Example, Expired, Prediction, Snapshot, body_of, decode, draft_of
from journal.checkpoint import FoldFile
from journal.log import START
from journal.record import Draft, Kind, Record
from registry.flavor import Inputs, OnlineFlavor
from registry.guard import GuardEvidence, GuardPolicy, hold
from registry.signing import Signer
from training.learner_state import LearnerState, StateStore
from training.metrics import LogLoss, Prequential, log_loss
from training.scores import Scores

_COUNTERS = ("questions", "examples", "expired", "foreign", "published", "held_back")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """What a pipeline declares about its online line.

    Attributes:
        line: The line's name.
        prior: Probability of the positive class before the line has learned; the guard compares with it.
        guard: What a snapshot must show.
        snapshot_every: Examples between two snapshots.
        checkpoint_every: Examples between two blobs of the learner's state.
    """

    line: str
    prior: float
    guard: GuardPolicy
    snapshot_every: int
    checkpoint_every: int


_pack = msgspec.msgpack.Encoder(order="deterministic").encode


class Learner:
    """The fold that learns."""

    name = "learner"
    version = 2
    kinds = frozenset({Kind.DEFINITION, Kind.PREDICTION, Kind.EXAMPLE, Kind.EXPIRED})

    def __init__(
        self,
        settings: LearnerSettings,
        *,
        make_model: Callable[[], Any],
        flavor: OnlineFlavor,
        blobs: Blobs,
        signer: Signer,
        read_prediction: Callable[[int], Record],
    ) -> None:
        """Start a line.

        Args:
            settings: What the pipeline declares.
            make_model: Returns a model that has learned nothing.
            flavor: The family's verbs.
            blobs: Where states and snapshots are stored.
            signer: Signs both.
            read_prediction: The prediction record at an offset; used after a restart, for what was pending.
        """
        self.settings = settings
        self.flavor = flavor
        self._make_model = make_model
        self._blobs = blobs
        self._signer = signer
        self._store = StateStore(blobs, signer, settings.line, flavor.FAMILY)
        self._read_prediction = read_prediction
        self._saved_at = START
        self._saved_examples = 0
        self._offset = START
        self._service = ""
        self._columns: list[str] = []
        self._model = make_model()
        # Offset -> (asked at, score, served score, input); an input of None must be read from the journal again.
        self._pending: dict[int, tuple[int, float, float, Inputs | None]] = {}
        self._recent: deque[tuple[float, bool]] = deque(maxlen=settings.guard.window)
        self._figures = Prequential()
        self.scores = Scores()
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._effects: dict[Kind, Callable[[Record], Sequence[Draft]]] = {
            Kind.DEFINITION: self._define,
            Kind.PREDICTION: self._ask,
            Kind.EXAMPLE: self._learn,
            Kind.EXPIRED: self._drop,
        }

    @property
    def resume_offset(self) -> int | None:
        """Where the last blob stands (`START` before the first): a restart applies everything behind it again."""
        return self._saved_at

    @property
    def model(self) -> Any:
        """The model as it is now."""
        return self._model

    def counts(self) -> dict[str, int]:
        """Every counter, and how many questions wait for their outcome."""
        return {**self._counts, "pending": len(self._pending)}

    def apply(self, record: Record) -> Sequence[Draft]:
        """See `journal.fold.Fold.apply`."""
        self._offset = record.offset
        return self._effects[record.kind](record)

    def _define(self, record: Record) -> Sequence[Draft]:
        if not self._service:
            definition = decode(record.body, Definition)
            self._service, self._columns = definition.service, definition.columns
        return ()

    def _ask(self, record: Record) -> Sequence[Draft]:
        question = body_of(record, Prediction)
        if question.service != self._service:
            self._counts["foreign"] += 1
            return ()
        x = self.flavor.inputs(self._columns, question.values)
        self._pending[record.offset] = (record.at, self.flavor.predict_one(self._model, x), question.score, x)
        self._counts["questions"] += 1
        return ()

    def _learn(self, record: Record) -> Sequence[Draft]:
        answer = body_of(record, Example)
        asked = self._pending.pop(answer.prediction, None)
        if asked is None:
            return ()
        at, score, served, x = asked
        outcome = answer.outcome
        self._figures.update(score, outcome)
        self.scores.append(answer.prediction, at, score, served, outcome)
        self._recent.append((score, outcome))
        self.flavor.learn_one(self._model, self._inputs_of(answer.prediction) if x is None else x, outcome)
        self._counts["examples"] += 1
        return () if self._counts["examples"] % self.settings.snapshot_every else (self._snapshot(),)

    def _drop(self, record: Record) -> Sequence[Draft]:
        if self._pending.pop(body_of(record, Expired).prediction, None) is not None:
            self._counts["expired"] += 1
        return ()

    def _inputs_of(self, prediction: int) -> Inputs:
        question = body_of(self._read_prediction(prediction), Prediction)
        return self.flavor.inputs(self._columns, question.values)

    def _snapshot(self) -> Draft:
        line, family, examples = self.settings.line, self.flavor.FAMILY, self._counts["examples"]
        verdict = hold(self._evidence(), self.settings.guard)
        self._counts["published" if verdict.holds else "held_back"] += 1
        model = self.flavor.digest(self._model)
        blob = self._blobs.put(self.flavor.dump(self._model)) if verdict.holds else ""
        body = Snapshot(
            line=line,
            family=family,
            model=model,
            blob=blob,
            signature=self._signer.sign(line, family, model, blob) if verdict.holds else "",
            examples=examples,
            published=verdict.holds,
            guard=verdict.numbers,
            reasons=verdict.reasons,
        )
        return draft_of(body, kind=Kind.SNAPSHOT, stream="snapshots", id=f"{line}-{examples}")

    def _evidence(self) -> GuardEvidence:
        own = LogLoss()
        for score, outcome in self._recent:
            own.update(score, outcome)
        prior, positives = self.settings.prior, sum(outcome for _, outcome in self._recent)
        prior_sum = positives * log_loss(prior, True) + (own.count - positives) * log_loss(prior, False)
        return GuardEvidence(
            examples=own.count,
            parameters_finite=self.flavor.finite(self._model),
            outputs_not_finite=sum(not math.isfinite(score) for score, _ in self._recent),
            log_loss=own.mean,
            prior_log_loss=prior_sum / own.count,
        )

    def progress(self) -> dict[str, Any]:
        """The running figures, at no cost: examples, log loss, calibration error, and River's binned ROC AUC."""
        figures = self._figures
        return {
            "examples": figures.log_loss.count,
            "log_loss": figures.log_loss.mean,
            "calibration_error": figures.calibration.error(),
            "auc_binned": figures.auc.area(),
        }

    def report(self, since_at: int | None = None) -> dict[str, Any]:
        """The exact figures of its own answers; see `training.scores.Scores.report`."""
        return self.scores.report(since_at)

    def report_served(self, since_at: int | None = None) -> dict[str, Any]:
        """The same of the answers that were given, by whatever line."""
        return self.scores.report(since_at, "served")

    def load(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.load`.

        Raises:
            Untrusted: The state is not one that we signed.
        """
        stored = self._store.read(file)
        if stored is None:
            self.scores.load(file, 0, b"")
            return
        self._saved_at, state = stored
        self._service, self._columns = state.service, state.columns
        self._model = self.flavor.load(state.model)
        self._pending = {offset: (at, score, served, None) for offset, at, score, served in state.pending}
        self._recent.extend(state.recent)
        self._figures = Prequential.restore(state.figures)
        self._counts = state.counts
        self._saved_examples = state.counts["examples"]
        self.scores.load(file, state.scores, state.last_scores)

    def save(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.save`. Writes a blob when enough was learned since the last, otherwise nothing."""
        examples = self._counts["examples"]
        if examples - self._saved_examples >= self.settings.checkpoint_every:
            last_scores = self.scores.save(file)
            self._store.write(file, self._offset, self._state(self.flavor.dump(self._model), last_scores))
            self._saved_at, self._saved_examples = self._offset, examples

    def _state(self, model: bytes, last_scores: bytes) -> LearnerState:
        return LearnerState(
            service=self._service,
            columns=self._columns,
            model=model,
            pending=[(offset, at, score, served) for offset, (at, score, served, _) in self._pending.items()],
            recent=list(self._recent),
            figures=self._figures.state(),
            counts=self._counts,
            scores=len(self.scores),
            last_scores=last_scores,
        )

    def digest(self) -> str:
        """See `journal.fold.Fold.digest`. The model counts by its canonical digest, and no score row by its chunk."""
        state = self._state(self.flavor.digest(self._model).encode(), b"")
        return hashlib.sha256(_pack(state)).hexdigest()
