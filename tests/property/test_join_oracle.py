"""The join against a slow and obvious one, on generated histories."""

from collections.abc import Set
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.body import Example, Expired, Prediction, decode, encode
from journal.checkpoint import FoldFile
from journal.record import Kind, Record, canonical_json
from training.join import JoinFold
from training.label_rule import Joins, LabelRule

WAIT = 10


class Step(NamedTuple):
    """A record ``gap`` after the one before: a question (no outcome), a label (with one), or neither (no key)."""

    gap: int
    key: str | None
    outcome: bool | None


GAPS = st.sampled_from([1, 1, 2, 3, 5, 9])
STEPS = st.lists(
    st.builds(Step, GAPS, st.sampled_from(["a", "a", "b", None]), st.sampled_from([None, None, True, False])),
    min_size=20,
    max_size=60,
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
        remembered = [said for at, closed, said in closings if closed == key and now < at + WAIT][-1:]
        name = "unmatched" if not remembered else "late" if remembered == [None] else "repeated"
        counts[name] += 1
        counts["contradictory"] += name == "repeated" and remembered != [outcome]
    expired = counts["no_label"] + counts["not_chosen"]
    return Ledger(ends, {**counts, "expired": expired, "pending": len(waiting)})


def record_of(step: Step, offset: int, at: int) -> Record:
    if step.key is None:
        kind, stream, body = Kind.SOURCE, "weather", b"{}"
    elif step.outcome is None:
        kind, stream, body = Kind.PREDICTION, "predictions", question(step.key, offset)
    else:
        kind, stream = Kind.SOURCE, "answers"
        body = canonical_json({"key": step.key, "outcome": step.outcome})
    return Record(kind=kind, stream=stream, id=f"r{offset}", body=body, partition=0, offset=offset, at=at)


def question(key: str, asked: int) -> bytes:
    return encode(
        Prediction(
            key=key, question=asked, service="s", values=[], stamps=[], score=0.5, line="l",
            model="", snapshot=-1, control=0, degraded=False, build="b",
        )
    )  # fmt: skip


def ends_of(fold: JoinFold, record: Record) -> list[tuple[int, int, str]]:
    ends = []
    for draft in fold.apply(record):
        if draft.kind is Kind.EXAMPLE:
            example = decode(draft.body, Example)
            assert example.label == record.offset
            ends.append((example.prediction, record.offset, str(example.outcome)))
        else:
            expired = decode(draft.body, Expired)
            ends.append((expired.prediction, record.offset, expired.reason))
    return ends


def fold_through(steps: list[Step], joins: Joins, file: FoldFile | None, restarts: Set[int]) -> tuple[Ledger, str]:
    """What the fold makes of a history when it is restarted after these records; the law of counts at every one."""
    rule = LabelRule(stream="answers", key="key", outcome="outcome", wait=WAIT, joins=joins)
    fold, ends, now = JoinFold(rule, "questions"), [], 0
    for offset, step in enumerate(steps):
        now += step.gap
        ends += ends_of(fold, record_of(step, offset, now))
        counts = fold.counts()
        assert counts["predictions"] == counts["joined"] + counts["expired"] + counts["pending"]
        if file is not None and offset in restarts:
            with file.transaction():
                fold.save(file)
            fold = JoinFold(rule, "questions")
            fold.load(file)
    return Ledger(ends, fold.counts()), fold.digest()


@settings(max_examples=500, deadline=None)
@given(steps=STEPS, joins=JOINS)
def test_the_fold_does_what_the_oracle_does(steps: list[Step], joins: Joins) -> None:
    assert fold_through(steps, joins, None, frozenset())[0] == oracle(steps, joins)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, joins=JOINS, restarts=st.frozensets(st.integers(0, 59), max_size=8))
def test_restarts_change_nothing(steps: list[Step], joins: Joins, restarts: frozenset[int]) -> None:
    with TemporaryDirectory() as folder:
        file = FoldFile(Path(folder) / "join.sqlite")
        interrupted = fold_through(steps, joins, file, restarts)
        file.close()
    assert interrupted == fold_through(steps, joins, None, frozenset())


class Asked(NamedTuple):
    """A question of its own key: after how many turns it is answered, and after how many its label comes."""

    lag: int
    delay: int | None


def learned(asked: list[Asked], joins: Joins, *, lagging: bool) -> dict[str, str]:
    """By key: the outcome that the join makes of it, when answers come at once or as late as they say."""
    labels = sorted((n * 3 + one.delay, n) for n, one in enumerate(asked) if one.delay is not None)
    fold, waiting, made, now, offset = JoinFold(RULES[joins], "questions"), list[tuple[int, int, int]](), {}, 0, -1

    def take(kind: Kind, stream: str, body: bytes) -> None:
        nonlocal now, offset
        now, offset = now + 1, offset + 1
        record = Record(kind=kind, stream=stream, id=f"r{offset}", body=body, partition=0, offset=offset, at=now)
        for draft in fold.apply(record):
            if draft.kind is Kind.EXAMPLE:
                example = decode(draft.body, Example)
                made[example.key] = str(example.outcome)

    def answer(turn: int) -> None:
        while waiting and waiting[0][0] <= turn:
            _, n, question_offset = waiting.pop(0)
            take(Kind.PREDICTION, "predictions", question(f"k{n}", question_offset))

    behind = 0
    for turn in range(len(asked) * 3 + 40):
        if turn % 3 == 0 and turn // 3 < len(asked):
            n = turn // 3
            take(Kind.SOURCE, "questions", b"{}")
            behind = max(behind, turn + asked[n].lag if lagging else turn)
            waiting.append((behind, n, offset))
        answer(turn)
        while labels and labels[0][0] <= turn:
            _, n = labels.pop(0)
            take(Kind.SOURCE, "answers", canonical_json({"key": f"k{n}", "outcome": n % 2 == 0}))
    answer(10**9)
    return made


RULES: dict[Joins, LabelRule] = {
    joins: LabelRule(stream="answers", key="key", outcome="outcome", wait=WAIT, joins=joins)
    for joins in ("first", "last", "all")
}


@settings(max_examples=200, deadline=None)
@given(
    asked=st.lists(
        st.builds(Asked, st.sampled_from([0, 1, 10, 100]), st.sampled_from([None, 1, 4, 30])),
        min_size=1,
        max_size=25,
    ),
    joins=JOINS,
)
def test_what_is_learned_at_once_is_learned_however_late_the_answers_are(asked: list[Asked], joins: Joins) -> None:
    at_once, late = (learned(asked, joins, lagging=lagging) for lagging in (False, True))
    assert at_once.items() <= late.items()
