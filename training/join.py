"""Predictions meet their labels. Each recorded prediction ends exactly once: joined, or expired with a reason.

The rules:

- Time is the records' ``at``. A prediction expires with the first record, of whatever kind, that is known at or after
  its own ``at`` plus the wait; what that record itself does comes after.
- A label joins pending predictions of its key: the first, the last or all of them, in the order of their questions.
  Those it does not choose end as ``not_chosen``; those that no label reached in time end as ``no_label``.
- A closed key is remembered for another wait. A label that finds it joined is repeated (and contradictory, if it says
  something else), one that finds it expired is late, one that finds nothing is unmatched. A label without a key or an
  outcome is undecided. None of them changes anything.
- An answer may be recorded behind the label of its question: whoever answers was behind. It belongs to the first label
  behind its question.
- Under ``first`` and ``all`` such a label is kept for the wait, and for as long as a question before it has no answer.
  It joins the first answer that comes; further ones join as well under ``all``, and are not chosen under ``first``.
- Under ``last`` a label before which a question has no answer is held: it acts when there is none left, with the
  answers that it found and those that came. What a label means is read where it acts.
- Predictions = joined + expired + pending, after every record.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from journal.body import Decision, Example, Expired, Prediction, body_of, draft_of
from journal.checkpoint import FoldFile
from journal.poison import SKIP
from journal.record import Draft, Kind, Record
from training.early_labels import Early, EarlyLabels
from training.held_labels import Held, HeldLabels
from training.label_rule import LabelRule, Pending, join
from training.unanswered import Unanswered

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


class Closed(NamedTuple):
    """A key that no longer waits: until when that is remembered, its outcome and label (None: it expired)."""

    until: int
    outcome: bool | None
    label: int | None


_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack_pending = msgspec.msgpack.Decoder(Pending).decode
_unpack_closed = msgspec.msgpack.Decoder(Closed).decode
_unpack_counts = msgspec.msgpack.Decoder(dict[str, int]).decode


class JoinFold:
    """The fold that joins. Its state is what still waits, the closed keys, the labels that wait and the counters."""

    name = "join"
    version = 3
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
        self._early = EarlyLabels()
        self._dropping = self._early.dropping
        self._held = HeldLabels()
        # Both queues may name what has ended since; it is passed over when its turn comes.
        self._expiring: deque[Pending] = deque()
        self._forgetting: deque[tuple[int, str]] = deque()
        self._touched_offsets: set[int] = set()
        self._touched_keys: set[str] = set()
        self._effects: dict[Kind, Callable[[Record], Sequence[Draft]]] = {
            Kind.PREDICTION: self._wait,
            Kind.SOURCE: self._hear,
            Kind.DECISION: self._obey,
        }

    def counts(self) -> dict[str, int]:
        """Every counter; ``expired`` sums the two reasons, and ``pending`` is how many wait now."""
        counts, pending = self._counts, len(self._pending) + self._held.waiting()
        return {**counts, "expired": counts["no_label"] + counts["not_chosen"], "pending": pending}

    def apply(self, record: Record) -> Sequence[Draft]:
        """See `journal.fold.Fold.apply`."""
        at = record.at
        if self._forgetting and self._forgetting[0][0] <= at:
            self._forget(at)
        if self._dropping and self._dropping[0][0] <= at:
            self._early.drop(at, self._unanswered)
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

    def _wait(self, record: Record) -> Sequence[Draft]:
        body = body_of(record, Prediction)
        key, question = body.key, body.question
        prediction = Pending(record.offset, record.at + self.rule.wait, key, record.id, question)
        self._unanswered.answer(question)
        self._counts["predictions"] += 1
        if self._held.by_label:
            if not self._held.take(prediction):
                self._await(prediction)
            return self._act(record.at)
        if key in self._early.of or key in self._closed:
            end = self._end_behind(prediction, record.at)
            if end is not None:
                return (end,)
        self._await(prediction)
        return ()

    def _await(self, prediction: Pending) -> None:
        self._pending[prediction.offset] = prediction
        self._touched_offsets.add(prediction.offset)
        self._expiring.append(prediction)
        self._by_key.setdefault(prediction.key, []).append(prediction)

    def _end_behind(self, prediction: Pending, at: int) -> Draft | None:
        """The end of an answer whose label was there first; None when there is no such label."""
        key, question = prediction.key, prediction.question
        closed, early = self._closed.get(key), self._early.first_behind(key, question)
        taken = closed.label if closed is not None and closed.outcome is not None else None
        if taken is not None and question < taken and (early is None or taken < early.label):
            assert closed is not None and closed.outcome is not None, "a label was taken"
            if self.rule.joins == "all":
                return self._example(prediction, taken, closed.outcome)
            return self._end(prediction, "not_chosen")
        if early is None:
            return None
        self._early.take(key, early)
        for counter in early.counted:
            self._counts[counter] -= 1
        self._close(key, at, early.outcome, early.label)
        return self._example(prediction, early.label, early.outcome)

    def _hear(self, record: Record) -> Sequence[Draft]:
        if record.stream == self._questions:
            self._unanswered.ask(record.offset)
        return self._label(record) if record.stream == self.rule.stream else ()

    def _obey(self, record: Record) -> Sequence[Draft]:
        """A question that is skipped by whoever answers will have no answer."""
        decision = body_of(record, Decision)
        if decision.action == SKIP and decision.details["fold"] == ANSWERS:
            self._unanswered.give_up(int(decision.details["offset"]))
        return self._act(record.at)

    def _act(self, at: int) -> list[Draft]:
        """Let the held labels act before which no question has to be answered any more."""
        drafts: list[Draft] = []
        for held in self._held.ready(self._unanswered):
            drafts += self._join(held.key, held.answers, held.label, held.outcome, at)
        return drafts

    def _label(self, record: Record) -> Sequence[Draft]:
        rule = self.rule
        data = record.data
        value, named = data.get(rule.outcome), data.get(rule.key)
        if value is None or named is None:
            self._counts["undecided"] += 1
            return ()
        key, outcome = str(named), rule.decide(value)
        waiting = self._by_key.pop(key, ())
        if rule.joins == "last" and self._unanswered.precede(record.offset):
            self._hold(Held(record.offset, key, outcome, tuple(waiting)))
            return ()
        return self._join(key, waiting, record.offset, outcome, record.at)

    def _hold(self, held: Held) -> None:
        """Its answers do not expire from now on: they wait with it."""
        for prediction in held.answers:
            self._leave(prediction)
        self._held.hold(held)

    def _join(self, key: str, answers: Sequence[Pending], label: int, outcome: bool, at: int) -> Sequence[Draft]:
        """What a label does to the answers that it has."""
        if not answers:
            self._count_stray(key, label, outcome, at)
            return ()
        self._close(key, at, outcome, label)
        chosen, passed_over = join(answers, self.rule.joins)
        drafts = [self._example(prediction, label, outcome) for prediction in chosen]
        drafts.extend(self._end(prediction, "not_chosen") for prediction in passed_over)
        return drafts

    def _count_stray(self, key: str, label: int, outcome: bool, at: int) -> None:
        """Count a label that found nothing, and keep it where its answer may come behind it."""
        counted = self._stray(key, outcome)
        for counter in counted:
            self._counts[counter] += 1
        if self.rule.joins != "last":
            self._early.keep(key, Early(at + self.rule.wait, outcome, label, counted))

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
        self._leave(prediction)
        self._counts["joined"] += 1
        body = Example(key=prediction.key, prediction=prediction.offset, label=label, outcome=outcome)
        return draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"ex-{prediction.id}")

    def _end(self, prediction: Pending, reason: str) -> Draft:
        self._leave(prediction)
        self._counts[reason] += 1
        body = Expired(key=prediction.key, prediction=prediction.offset, reason=reason)
        return draft_of(body, kind=Kind.EXPIRED, stream="examples", id=f"end-{prediction.id}")

    def _leave(self, prediction: Pending) -> None:
        if self._pending.pop(prediction.offset, None) is not None:
            self._touched_offsets.add(prediction.offset)

    def load(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.load`."""
        for _, value in file.scan("pending"):
            prediction = _unpack_pending(value)
            self._pending[prediction.offset] = prediction
            self._expiring.append(prediction)
            self._by_key.setdefault(prediction.key, []).append(prediction)
        self._closed = {key.decode(): _unpack_closed(value) for key, value in file.scan("closed")}
        self._forgetting.extend(sorted((closed.until, key) for key, closed in self._closed.items()))
        self._early.load(file)
        self._held.load(file)
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
        self._early.save(file)
        self._held.save(file)
        self._unanswered.save(file)
        file.put("fold", [(b"counts", _pack(self._counts))])
        self._touched_offsets.clear()
        self._touched_keys.clear()

    def digest(self) -> str:
        """See `journal.fold.Fold.digest`."""
        labels = [self._early.items(), self._held.items()]
        waiting = [sorted(self._pending.values()), sorted(self._closed.items()), *labels]
        state = [*waiting, self._unanswered.offsets(), self._counts]
        return hashlib.sha256(_pack(state)).hexdigest()
