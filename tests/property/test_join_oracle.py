"""The join against a slow and obvious one, on generated histories."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.body import Example, Expired, Prediction, decode, encode
from journal.checkpoint import FoldFile
from journal.record import Kind, Record, canonical_json
from training.join import JoinFold, Joins, LabelRule

WAIT = 10


class Step(NamedTuple):
    """A record ``gap`` after the one before: a question, a label (with its outcome), or neither (no key)."""

    gap: int
    key: str | None
    outcome: bool | None


STEPS = st.lists(
    st.builds(Step, st.integers(1, 6), st.sampled_from("abc") | st.none(), st.none() | st.booleans()), max_size=60
)
JOINS: st.SearchStrategy[Joins] = st.sampled_from(["first", "last", "all"])


class Ledger(NamedTuple):
    """What came of a history: every end in order, and the counts."""

    ends: list[tuple[int, int, str]]
    counts: dict[str, int]


def oracle(steps: list[Step], joins: Joins) -> Ledger:
    """Walk the whole history for every question: no state but a list of predictions and one of closings."""
    waiting: list[tuple[int, int, str]] = []
    closings: list[tuple[int, str, bool | None]] = []
    ends: list[tuple[int, int, str]] = []
    counts = dict.fromkeys(("predictions", "joined", "no_label", "not_chosen"), 0)
    counts |= dict.fromkeys(("late", "repeated", "contradictory", "unmatched", "undecided"), 0)

    def end(prediction: tuple[int, int, str], offset: int, how: str) -> None:
        waiting.remove(prediction)
        ends.append((prediction[1], offset, how))
        counts[how if how in counts else "joined"] += 1

    def remembered(key: str, now: int) -> tuple[bool, bool | None]:
        """Whether the key was closed less than a wait ago, and with which outcome, if any since it was last new."""
        known, outcome, until = False, None, 0
        for at, closed, said in closings:
            if closed == key:
                outcome = said if said is not None or at >= until else outcome
                known, until = True, at + WAIT
        return known and now < until, outcome

    now = 0
    for offset, (gap, key, outcome) in enumerate(steps):
        now += gap
        for prediction in [p for p in waiting if p[0] + WAIT <= now]:
            end(prediction, offset, "no_label")
            closings.append((now, prediction[2], None))
        if key is None:
            continue
        if outcome is None:
            waiting.append((now, offset, key))
            counts["predictions"] += 1
            continue
        mine = [p for p in waiting if p[2] == key]
        if mine:
            chosen = {"first": mine[:1], "last": mine[-1:], "all": mine}[joins]
            for prediction in chosen:
                end(prediction, offset, str(outcome))
            for prediction in [p for p in mine if p not in chosen]:
                end(prediction, offset, "not_chosen")
            closings.append((now, key, outcome))
            continue
        known, said = remembered(key, now)
        name = "unmatched" if not known else "late" if said is None else "repeated"
        counts[name] += 1
        counts["contradictory"] += name == "repeated" and said is not outcome
    expired = counts["no_label"] + counts["not_chosen"]
    return Ledger(ends, {**counts, "expired": expired, "pending": len(waiting)})


def record_of(step: Step, offset: int, at: int) -> Record:
    if step.key is None:
        kind, stream, body = Kind.SOURCE, "weather", b"{}"
    elif step.outcome is None:
        kind, stream, body = Kind.PREDICTION, "predictions", question(step.key)
    else:
        kind, stream = Kind.SOURCE, "answers"
        body = canonical_json({"key": step.key, "outcome": step.outcome})
    return Record(kind=kind, stream=stream, id=f"r{offset}", body=body, partition=0, offset=offset, at=at)


def question(key: str) -> bytes:
    return encode(
        Prediction(
            key=key, question=0, service="s", values=[], stamps=[], score=0.5, line="l",
            model="", snapshot=-1, control=0, degraded=False, build="b",
        )
    )  # fmt: skip


def fold_through(steps: list[Step], joins: Joins, restarts: set[int]) -> tuple[Ledger, str]:
    """What the fold makes of a history when it is restarted after these records; the law of counts at every one."""
    rule = LabelRule(stream="answers", key="key", outcome="outcome", wait=WAIT, joins=joins)
    fold, ends, now = JoinFold(rule), [], 0
    with TemporaryDirectory() as folder:
        file = FoldFile(Path(folder) / "join.sqlite")
        for offset, step in enumerate(steps):
            now += step.gap
            for draft in fold.apply(record_of(step, offset, now)):
                if draft.kind is Kind.EXAMPLE:
                    example = decode(draft.body, Example)
                    assert example.label == offset
                    ends.append((example.prediction, offset, str(example.outcome)))
                else:
                    expired = decode(draft.body, Expired)
                    ends.append((expired.prediction, offset, expired.reason))
            counts = fold.counts()
            assert counts["predictions"] == counts["joined"] + counts["expired"] + counts["pending"]
            if offset in restarts:
                with file.transaction():
                    fold.save(file)
                fold = JoinFold(rule)
                fold.load(file)
        file.close()
    return Ledger(ends, fold.counts()), fold.digest()


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, joins=JOINS)
def test_the_fold_does_what_the_oracle_does(steps: list[Step], joins: Joins) -> None:
    assert fold_through(steps, joins, set())[0] == oracle(steps, joins)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, joins=JOINS, restarts=st.sets(st.integers(0, 59), max_size=8))
def test_restarts_change_nothing(steps: list[Step], joins: Joins, restarts: set[int]) -> None:
    assert fold_through(steps, joins, restarts) == fold_through(steps, joins, set())
