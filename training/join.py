"""Predictions meet their labels. Each recorded prediction ends exactly once: joined, or expired with a reason.

The rules:

- Time is the records' ``at``. A prediction expires with the first record, of whatever kind, that is known at or after
  its own ``at`` plus the wait; what that record itself does comes after.
- A label joins pending predictions of its key: the first, the last or all of them. Those it does not choose end as
  ``not_chosen``; those that no label reached in time end as ``no_label``.
- A closed key is remembered for another wait. A label that finds it joined is repeated (and contradictory, if it says
  something else), one that finds it expired is late, one that finds nothing is unmatched. A label without a key or an
  outcome is undecided. None of them changes anything.
- An answer may be recorded behind the label of its question: whoever answers was behind. Such a label is kept for the
  wait, and for as long as a question before it has no answer. It joins the first answer to which it is the first label
  behind the question; further ones join as well where the rule says ``all``, and are not chosen otherwise.
- Predictions = joined + expired + pending, after every record.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from journal.body import Decision, Example, Expired, Prediction, body_of, draft_of
from journal.checkpoint import FoldFile
from journal.poison import SKIP
from journal.record import Draft, Kind, Record
from training.unanswered import Unanswered

Joins = Literal["first", "last", "all"]

_COUNTERS = (
    "predictions",
    "joined",
    "no_label",
    "not_chosen",
    "late",
    "repeated",
    "contradictory",
    "unmatched",
    "undecided",
)
_OFFSET_BYTES = 8
ANSWERS = "answer"
"""The fold that answers questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """How a pipeline's outcomes are read.

    Attributes:
        stream: The source stream that carries them.
        key: The field that says which predictions the outcome belongs to.
        outcome: The field that decides.
        at_least: The outcome is true from this number on; None when the field is a boolean itself.
        wait: How long a prediction waits, in microseconds of journal time.
        joins: Which of several pending predictions of a key the label joins.
    """

    stream: str
    key: str
    outcome: str
    wait: int
    at_least: float | None = None
    joins: Joins = "first"

    def decide(self, value: Any) -> bool:
        """The outcome that a field's value means."""
        return bool(value) if self.at_least is None else value >= self.at_least


class Pending(NamedTuple):
    """A prediction that waits: the offset and id of its record, its key, and when it expires."""

    offset: int
    expires: int
    key: str
    id: str


class Closed(NamedTuple):
    """A key that no longer waits: until when that is remembered, its outcome and label (None: it expired)."""

    until: int
    outcome: bool | None
    label: int | None


class Early(NamedTuple):
    """A label that found nothing: until when it is kept, its outcome and offset, and the counters that it raised."""

    until: int
    outcome: bool
    label: int
    counted: tuple[str, ...]


def join(waiting: Sequence[Pending], joins: Joins) -> tuple[Sequence[Pending], Sequence[Pending]]:
    """Split the pending predictions of one key, oldest first, into (those a label joins, those it does not choose)."""
    match joins:
        case "all":
            return waiting, ()
        case "first":
            return waiting[:1], waiting[1:]
        case "last":
            return waiting[-1:], waiting[:-1]


_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack_pending = msgspec.msgpack.Decoder(Pending).decode
_unpack_closed = msgspec.msgpack.Decoder(Closed).decode
_unpack_early = msgspec.msgpack.Decoder(tuple[Early, ...]).decode
_unpack_counts = msgspec.msgpack.Decoder(dict[str, int]).decode


class JoinFold:
    """The fold that joins. Its state is what still waits, the closed keys, the early labels and the counters."""

    name = "join"
    version = 2
    # Every kind, since any record may be the first one that is known after an expiry.
    kinds = frozenset(Kind)
    resume_offset: int | None = None

    def __init__(self, rule: LabelRule, questions: str) -> None:
        """Start without any state.

        Args:
            rule: How outcomes are read.
            questions: The source stream whose every event is a question.
        """
        self.rule = rule
        self._questions = questions
        self._unanswered = Unanswered()
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._pending: dict[int, Pending] = {}
        self._by_key: dict[str, list[Pending]] = {}
        self._closed: dict[str, Closed] = {}
        self._early: dict[str, tuple[Early, ...]] = {}
        # All queues may name what has ended since; it is passed over when its turn comes.
        self._expiring: deque[Pending] = deque()
        self._forgetting: deque[tuple[int, str]] = deque()
        self._dropping: deque[tuple[int, str]] = deque()
        self._touched_offsets: set[int] = set()
        self._touched_keys: set[str] = set()
        self._touched_early: set[str] = set()
        self._effects: dict[Kind, Callable[[Record], Sequence[Draft]]] = {
            Kind.PREDICTION: self._wait,
            Kind.SOURCE: self._hear,
            Kind.DECISION: self._obey,
        }

    def counts(self) -> dict[str, int]:
        """Every counter; ``expired`` sums the two reasons, and ``pending`` is how many wait now."""
        counts = self._counts
        return {**counts, "expired": counts["no_label"] + counts["not_chosen"], "pending": len(self._pending)}

    def apply(self, record: Record) -> Sequence[Draft]:
        """See `journal.fold.Fold.apply`."""
        at = record.at
        if self._forgetting and self._forgetting[0][0] <= at:
            self._forget(at)
        if self._dropping and self._dropping[0][0] <= at:
            self._drop(at)
        ended = self._expire(at) if self._expiring and self._expiring[0].expires <= at else None
        effect = self._effects.get(record.kind)
        if effect is None:
            return ended or ()
        drafts = effect(record)
        return [*ended, *drafts] if ended else drafts

    def _expire(self, at: int) -> list[Draft]:
        ended = []
        while self._expiring and self._expiring[0].expires <= at:
            prediction = self._expiring.popleft()
            if prediction.offset not in self._pending:
                continue
            waiting = self._by_key[prediction.key]
            waiting.remove(prediction)
            if not waiting:
                del self._by_key[prediction.key]
            ended.append(self._end(prediction, "no_label"))
            self._close(prediction.key, at, None, None)
        return ended

    def _forget(self, at: int) -> None:
        while self._forgetting and self._forgetting[0][0] <= at:
            until, key = self._forgetting[0]
            closed = self._closed.get(key)
            if closed is not None and closed.until == until:
                if closed.label is not None and self._unanswered.precede(closed.label):
                    break
                del self._closed[key]
                self._touched_keys.add(key)
            self._forgetting.popleft()

    def _drop(self, at: int) -> None:
        while self._dropping and self._dropping[0][0] <= at:
            until, key = self._dropping[0]
            for early in self._early.get(key, ()):
                if early.until == until:
                    if self._unanswered.precede(early.label):
                        return
                    self._take_early(key, early)
            self._dropping.popleft()

    def _wait(self, record: Record) -> Sequence[Draft]:
        offset = record.offset
        body = body_of(record, Prediction)
        self._unanswered.answer(body.question)
        key = body.key
        prediction = Pending(offset, record.at + self.rule.wait, key, record.id)
        self._pending[offset] = prediction
        self._touched_offsets.add(offset)
        self._counts["predictions"] += 1
        if key in self._early or key in self._closed:
            end = self._end_behind(prediction, body.question, record.at)
            if end is not None:
                return (end,)
        self._expiring.append(prediction)
        self._by_key.setdefault(key, []).append(prediction)
        return ()

    def _end_behind(self, prediction: Pending, question: int, at: int) -> Draft | None:
        """The end of an answer whose label was there first; None when there is no such label."""
        key = prediction.key
        closed = self._closed.get(key)
        early = next((early for early in self._early.get(key, ()) if question < early.label), None)
        taken = closed.label if closed is not None and closed.outcome is not None else None
        if taken is not None and question < taken and (early is None or taken < early.label):
            assert closed is not None and closed.outcome is not None, "a label was taken"
            if self.rule.joins == "all":
                return self._example(prediction, taken, closed.outcome)
            return self._end(prediction, "not_chosen")
        if early is None:
            return None
        self._take_early(key, early)
        for counter in early.counted:
            self._counts[counter] -= 1
        self._close(key, at, early.outcome, early.label)
        return self._example(prediction, early.label, early.outcome)

    def _take_early(self, key: str, early: Early) -> None:
        left = tuple(other for other in self._early[key] if other is not early)
        if left:
            self._early[key] = left
        else:
            del self._early[key]
        self._touched_early.add(key)

    def _hear(self, record: Record) -> Sequence[Draft]:
        if record.stream == self._questions:
            self._unanswered.ask(record.offset)
        return self._label(record) if record.stream == self.rule.stream else ()

    def _obey(self, record: Record) -> Sequence[Draft]:
        """A question that is skipped by whoever answers will have no answer."""
        decision = body_of(record, Decision)
        if decision.action == SKIP and decision.details["fold"] == ANSWERS:
            self._unanswered.answer(int(decision.details["offset"]))
        return ()

    def _label(self, record: Record) -> Sequence[Draft]:
        rule = self.rule
        data = record.data
        value, named = data.get(rule.outcome), data.get(rule.key)
        if value is None or named is None:
            self._counts["undecided"] += 1
            return ()
        key, outcome = str(named), rule.decide(value)
        waiting = self._by_key.pop(key, None)
        if waiting is None:
            self._keep_early(key, record, outcome)
            return ()
        self._close(key, record.at, outcome, record.offset)
        chosen, passed_over = join(waiting, rule.joins)
        drafts = [self._example(prediction, record.offset, outcome) for prediction in chosen]
        drafts.extend(self._end(prediction, "not_chosen") for prediction in passed_over)
        return drafts

    def _keep_early(self, key: str, record: Record, outcome: bool) -> None:
        """Count a label that found nothing, and keep it: its answer may come behind it."""
        counted = self._stray(key, outcome)
        for counter in counted:
            self._counts[counter] += 1
        until = record.at + self.rule.wait
        self._early[key] = (*self._early.get(key, ()), Early(until, outcome, record.offset, counted))
        self._dropping.append((until, key))
        self._touched_early.add(key)

    def _stray(self, key: str, outcome: bool) -> tuple[str, ...]:
        """The counters that a label raises which finds nothing that waits."""
        closed = self._closed.get(key)
        if closed is None:
            return ("unmatched",)
        if closed.outcome is None:
            return ("late",)
        return ("repeated",) if closed.outcome is outcome else ("repeated", "contradictory")

    def _close(self, key: str, at: int, outcome: bool | None, label: int | None) -> None:
        until = at + self.rule.wait
        self._closed[key] = Closed(until, outcome, label)
        self._forgetting.append((until, key))
        self._touched_keys.add(key)

    def _example(self, prediction: Pending, label: int, outcome: bool) -> Draft:
        self._leave(prediction, "joined")
        body = Example(key=prediction.key, prediction=prediction.offset, label=label, outcome=outcome)
        return draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"ex-{prediction.id}")

    def _end(self, prediction: Pending, reason: str) -> Draft:
        self._leave(prediction, reason)
        body = Expired(key=prediction.key, prediction=prediction.offset, reason=reason)
        return draft_of(body, kind=Kind.EXPIRED, stream="examples", id=f"end-{prediction.id}")

    def _leave(self, prediction: Pending, counter: str) -> None:
        del self._pending[prediction.offset]
        self._touched_offsets.add(prediction.offset)
        self._counts[counter] += 1

    def load(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.load`."""
        for _, value in file.scan("pending"):
            prediction = _unpack_pending(value)
            self._pending[prediction.offset] = prediction
            self._expiring.append(prediction)
            self._by_key.setdefault(prediction.key, []).append(prediction)
        self._closed = {key.decode(): _unpack_closed(value) for key, value in file.scan("closed")}
        self._forgetting.extend(sorted((closed.until, key) for key, closed in self._closed.items()))
        self._early = {key.decode(): _unpack_early(value) for key, value in file.scan("early")}
        self._dropping.extend(sorted((early.until, key) for key, kept in self._early.items() for early in kept))
        self._unanswered.load(file)
        counts = file.get("fold", b"counts")
        if counts is not None:
            self._counts = _unpack_counts(counts)

    def save(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.save`. Writes what was touched since the last save and nothing else."""
        offsets, keys = sorted(self._touched_offsets), sorted(self._touched_keys)
        pending, closed = self._pending, self._closed
        file.put("pending", ((o.to_bytes(_OFFSET_BYTES), _pack(pending[o])) for o in offsets if o in pending))
        file.delete("pending", (o.to_bytes(_OFFSET_BYTES) for o in offsets if o not in pending))
        file.put("closed", ((key.encode(), _pack(closed[key])) for key in keys if key in closed))
        file.delete("closed", (key.encode() for key in keys if key not in closed))
        early, touched = self._early, sorted(self._touched_early)
        file.put("early", ((key.encode(), _pack(early[key])) for key in touched if key in early))
        file.delete("early", (key.encode() for key in touched if key not in early))
        self._unanswered.save(file)
        file.put("fold", [(b"counts", _pack(self._counts))])
        self._touched_early.clear()
        self._touched_offsets.clear()
        self._touched_keys.clear()

    def digest(self) -> str:
        """See `journal.fold.Fold.digest`."""
        keyed = [sorted(self._closed.items()), sorted(self._early.items())]
        state = [sorted(self._pending.values()), *keyed, self._unanswered.offsets(), self._counts]
        return hashlib.sha256(_pack(state)).hexdigest()
