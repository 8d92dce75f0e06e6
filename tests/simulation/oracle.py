"""What must hold of what a run left, whatever died on the way. Slow and obvious: one uninterrupted reading.

Each function raises `Broken` with a sentence that says which law, and where.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from journal.body import Decision, Example, Expired, Prediction, body_of
from journal.checkpoint import FoldFile
from journal.control import NAMING
from journal.record import Cause, Draft, Kind, Record
from tests.simulation.process import FOLDS, FoldSet, World
from training.label_rule import LabelRule

Restored = tuple[str, int, str]
"""A fold's name, the offset that it was restored at, and the digest of its state there."""

Derived = tuple[str, str, bytes]
_SINKS = {
    Kind.PREDICTION: "answer",
    Kind.EXAMPLE: "join",
    Kind.EXPIRED: "join",
    Kind.SNAPSHOT: "learner",
}


class Broken(AssertionError):
    """An invariant does not hold."""


def require(holds: bool, sentence: str) -> None:
    """Raise `Broken` unless it holds."""
    if not holds:
        raise Broken(sentence)


class Reading:
    """Fresh folds over a whole journal, record by record: the states, and what follows from each record.

    Attributes:
        digests: (fold, offset) to the digest of its state there, at the offsets asked for.
        derived: (sink, cause) to what an uninterrupted fold derives.
        last: The folds at the end.
    """

    def __init__(self, world: World, records: Sequence[Record], asked: Iterable[Restored]) -> None:
        wanted = {(fold, offset) for fold, offset, _ in asked}
        files = {fold: FoldFile(Path(f"/{world.name}/reading/{fold}.sqlite")) for fold in FOLDS}
        self.last = FoldSet(world, world.journal, files, asks_again=True)
        self.digests = {(runner.fold.name, -1): runner.fold.digest() for runner in self.last.runners}
        self.derived: dict[tuple[str, Cause], Derived] = {}
        for record in records:
            for runner in self.last.runners:
                self._keep(runner.fold.name, runner.apply(record))
                if (runner.fold.name, record.offset) in wanted:
                    self.digests[runner.fold.name, record.offset] = runner.fold.digest()
        for runner in self.last.runners:
            runner.commit()
        self.accepted = self.last.rows.saved()
        for file in files.values():
            file.close()

    def _keep(self, sink: str, drafts: Iterable[Draft]) -> None:
        for draft in drafts:
            assert draft.cause is not None
            self.derived[sink, draft.cause] = (draft.kind, draft.id, draft.body)


def check_states(reading: Reading, restored: Iterable[Restored]) -> None:
    """Laws 3 and 4: every state that ever was restored is the uninterrupted fold of the journal up to its position."""
    for fold, offset, digest in restored:
        expected = reading.digests.get((fold, offset))
        require(
            expected == digest,
            f"law 4: {fold} restored at {offset} is not the fold of the journal up to there",
        )


def check_derived(reading: Reading, records: Sequence[Record]) -> None:
    """Law 4: what folds derived is in the journal exactly once, and says what an uninterrupted fold says."""
    found: dict[tuple[str, Cause], Derived] = {}
    for record in records:
        sink = _SINKS.get(record.kind)
        if sink is None:
            continue
        require(record.cause is not None, f"record {record.offset} has no cause")
        assert record.cause is not None
        require((sink, record.cause) not in found, f"sink mark: {record.id} is there twice, again at {record.offset}")
        found[sink, record.cause] = (record.kind, record.id, record.body)
    for key, derived in reading.derived.items():
        require(key in found, f"law 4: {derived[1]}, which {key[0]} derives from record {key[1].offset}, is missing")
        require(found[key] == derived, f"law 3: {derived[1]} is not what an uninterrupted {key[0]} derives")
    extra = found.keys() - reading.derived.keys()
    require(not extra, f"law 3: {[found[key][1] for key in extra]} follow from nothing")


def check_journal(records: Sequence[Record]) -> None:
    """Law 1: offsets without a gap, ``at`` strictly rising, each identified event once."""
    for offset, record in enumerate(records):
        require(record.offset == offset, f"law 1: record {record.offset} stands where {offset} should")
        require(not offset or record.at > records[offset - 1].at, f"at does not rise at {offset}")
    ids = Counter((record.source, record.id) for record in records if record.kind is Kind.SOURCE)
    twice = [id_ for id_, count in ids.items() if count > 1]
    require(not twice, f"law 1: {twice} are there more than once")


def check_ends(records: Sequence[Record], counts: dict[str, int]) -> None:
    """Predictions = joined + expired + pending, in the journal as in the join's own counters."""
    predictions = {record.offset for record in records if record.kind is Kind.PREDICTION}
    joined = [body_of(record, Example).prediction for record in records if record.kind is Kind.EXAMPLE]
    expired = [body_of(record, Expired).prediction for record in records if record.kind is Kind.EXPIRED]
    ends = Counter(joined + expired)
    require(ends.keys() <= predictions, "an end belongs to no prediction")
    require(all(count == 1 for count in ends.values()), f"predictions ended twice: {ends.most_common(3)}")
    found = (len(predictions), len(joined), len(expired), len(predictions) - len(ends))
    counted = (counts["predictions"], counts["joined"], counts["expired"], counts["pending"])
    require(found == counted, f"predictions, joined, expired, pending: {found} in the journal, {counted} counted")


def check_last(records: Sequence[Record], rule: LabelRule) -> None:
    """Under ``joins: last`` each label has the answer to the last question before it, however late that came."""
    asked = [r.offset for r in records if r.kind is Kind.SOURCE and r.stream == "orders"]
    answers = {r.offset: body_of(r, Prediction) for r in records if r.kind is Kind.PREDICTION}
    answered = {answer.question for answer in answers.values()}
    expected: dict[int, int] = {}
    claimed: set[int] = set()
    for label in (r for r in records if r.kind is Kind.SOURCE and r.stream == rule.stream):
        key, value = label.data.get(rule.key), label.data.get(rule.outcome)
        if key is None or value is None:
            continue
        mine = [
            offset
            for offset, answer in answers.items()
            if answer.key == key and answer.question < label.offset and offset not in claimed
            if offset > label.offset or records[offset].at + rule.wait > label.at
        ]
        claimed.update(mine)
        if mine and answered.issuperset(offset for offset in asked if offset < label.offset):
            expected[label.offset] = max(mine, key=lambda offset: answers[offset].question)
    joined = [body_of(record, Example) for record in records if record.kind is Kind.EXAMPLE]
    found = {example.label: example.prediction for example in joined}
    require(len(found) == len(joined), "last: a label is in two examples")
    require(found == expected, f"last: label to answer is {found}, and should be {expected}")


def check_learned(records: Sequence[Record], learned: Sequence[int]) -> None:
    """Law 4: the model has learned every example, in the journal's order, once."""
    asked = {r.offset: body_of(r, Prediction).values[0] for r in records if r.kind is Kind.PREDICTION}
    taught = [asked[body_of(record, Example).prediction] for record in records if record.kind is Kind.EXAMPLE]
    require(list(learned) == taught, f"exactly once: taught {taught}, learned {list(learned)}")


def check_decisions(records: Sequence[Record], champion: str | None, good: set[str], first: str) -> None:
    """Laws 9 and 10: a decision acts where it is echoed, and names only what the gate let in."""
    line, sequence, named = "", 0, {first}
    echoes = [body_of(r, Decision).sequence for r in records if r.kind is Kind.DECISION and r.stream == "control"]
    require(echoes == list(range(1, len(echoes) + 1)), f"law 10: the echoes are {echoes}")
    asked_under: dict[int, tuple[str, int]] = {}
    for record in records:
        if record.kind is Kind.SOURCE and record.stream == "orders":
            asked_under[record.offset] = (line, sequence)
        elif record.kind is Kind.PREDICTION:
            answer = body_of(record, Prediction)
            served, expected = (answer.line, answer.control), asked_under[answer.question]
            require(served == expected, f"law 10: prediction {record.offset} by {served}, decided was {expected}")
        elif record.kind is Kind.DECISION:
            decision = body_of(record, Decision)
            if decision.action in NAMING:
                line, sequence = decision.subject, decision.sequence
                gated = line in (good if decision.action == "promote" else named)
                require(gated, f"law 9: decision {sequence}, {decision.action} {line}, went around the gate")
                named.add(line)
    require(champion == (line or None), f"law 9: the champion is {champion}, the last echo names {line!r}")
