"""``joins: last`` when answers come behind labels: against an oracle that knows the whole history, and lock-step."""

import itertools
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.body import Decision, Example, Expired, Prediction, decode, encode
from journal.checkpoint import FoldFile
from journal.record import Draft, Kind, Record, canonical_json
from training.join import JoinFold
from training.label_rule import LabelRule

WAIT = 25
RULE = LabelRule(stream="answers", key="key", outcome="outcome", wait=WAIT, joins="last")

Does = Literal["ask", "answer", "skip", "ask over HTTP", "label", "other"]


class Step(NamedTuple):
    """What happens, and about whom; ``answer`` and ``skip`` are about the oldest open question."""

    does: Does
    key: str
    gap: int
    outcome: bool


class Entry(NamedTuple):
    """A record as the oracle sees it; ``question`` is that of an answer or of a skip."""

    does: Does
    key: str
    at: int
    outcome: bool
    question: int


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["ask", "ask", "ask", "answer", "answer", "skip", "ask over HTTP", "label", "label", "other"]),
        st.sampled_from(["a", "a", "b"]),
        st.sampled_from([1, 1, 2, 9, 20]),
        st.booleans(),
    ),
    min_size=10,
    max_size=50,
)


def history_of(steps: list[Step]) -> list[Entry]:
    entries: list[Entry] = []
    open_questions: list[int] = []
    at = 0
    for step in steps:
        at += step.gap
        key, question = step.key, -1
        if step.does in ("answer", "skip"):
            if not open_questions:
                continue
            question = open_questions.pop(0)
            key = entries[question].key
        if step.does == "ask":
            open_questions.append(len(entries))
        entries.append(Entry(step.does, key, at, step.outcome, question))
        if step.does == "ask over HTTP":
            at += 1
            entries.append(Entry("answer", key, at, step.outcome, len(entries) - 1))
    return entries


def records_of(entries: list[Entry]) -> list[Record]:
    return [_record(entry, offset) for offset, entry in enumerate(entries)]


def _record(entry: Entry, offset: int) -> Record:
    kind, stream, body = Kind.SOURCE, "weather", b"{}"
    match entry.does:
        case "ask":
            stream = "questions"
        case "ask over HTTP":
            kind, stream = Kind.QUESTION, "questions"
        case "answer":
            kind, stream, body = Kind.PREDICTION, "predictions", _answer(entry)
        case "skip":
            details = {"fold": "answer", "offset": entry.question}
            decision = Decision(sequence=1, action="skip", subject="answer", why="w", details=details)
            kind, stream, body = Kind.DECISION, "control", encode(decision)
        case "label":
            stream, body = "answers", canonical_json({"key": entry.key, "outcome": entry.outcome})
    return Record(kind=kind, stream=stream, id=f"r{offset}", body=body, partition=0, offset=offset, at=entry.at)


def _answer(entry: Entry) -> bytes:
    return encode(
        Prediction(
            key=entry.key, question=entry.question, service="s", values=[], stamps=[], score=0.5, line="l",
            model="", snapshot=-1, control=0, degraded=False, build="b",
        )
    )  # fmt: skip


class End(NamedTuple):
    """How a prediction ended, at which record, and by which label (-1: none)."""

    how: str
    offset: int
    label: int


def oracle(entries: list[Entry]) -> dict[int, End]:
    """By prediction: its end. Looks at the whole history again for every label."""
    ends: dict[int, End] = {}
    claimed: set[int] = set()
    ended = {entry.question: offset for offset, entry in enumerate(entries) if entry.does in ("answer", "skip")}
    for label, (does, key, at, outcome, _) in enumerate(entries):
        if does != "label":
            continue
        before = [ended.get(o, len(entries)) for o, entry in enumerate(entries[:label]) if entry.does == "ask"]
        acts = max([label, *before])
        mine = [
            offset
            for offset, entry in enumerate(entries)
            if entry.does == "answer" and entry.key == key and entry.question < label and offset not in claimed
            if offset > label or entry.at + WAIT > at
        ]
        claimed.update(mine)
        if acts < len(entries) and mine:
            last = max(mine, key=lambda offset: entries[offset].question)
            for offset in mine:
                ends[offset] = End(str(outcome), acts, label) if offset == last else End("not_chosen", acts, -1)
    for offset, entry in enumerate(entries):
        if entry.does == "answer" and offset not in claimed:
            over = [o for o, later in enumerate(entries) if o > offset and later.at >= entry.at + WAIT]
            if over:
                ends[offset] = End("no_label", over[0], -1)
    return ends


def fold_through(
    entries: list[Entry], file: FoldFile | None = None, restarts: Set[int] = frozenset(), rule: LabelRule = RULE
) -> tuple[dict[int, End], dict[str, int], str]:
    """By prediction what the fold makes of it, the counts and the digest, restarted after these records."""
    fold, ends = JoinFold(rule, "questions"), dict[int, End]()
    for record in records_of(entries):
        for draft in fold.apply(record):
            prediction, end = _end_of(draft, record.offset)
            assert prediction not in ends, "a prediction ends once"
            ends[prediction] = end
        counts = fold.counts()
        assert counts["predictions"] == counts["joined"] + counts["expired"] + counts["pending"]
        if file is not None and record.offset in restarts:
            with file.transaction():
                fold.save(file)
            fold = JoinFold(rule, "questions")
            fold.load(file)
    return ends, fold.counts(), fold.digest()


def _end_of(draft: Draft, offset: int) -> tuple[int, End]:
    if draft.kind is Kind.EXAMPLE:
        example = decode(draft.body, Example)
        return example.prediction, End(str(example.outcome), offset, example.label)
    expired = decode(draft.body, Expired)
    return expired.prediction, End(expired.reason, offset, -1)


@settings(max_examples=500, deadline=None)
@given(steps=STEPS)
def test_the_fold_does_what_the_oracle_does(steps: list[Step]) -> None:
    entries = history_of(steps)
    ends, counts, _ = fold_through(entries)
    assert ends == oracle(entries)
    named = {name: sum(end.how == name for end in ends.values()) for name in ("no_label", "not_chosen")}
    assert {name: counts[name] for name in named} == named
    assert counts["joined"] == len(ends) - sum(named.values())


@settings(max_examples=80, deadline=None)
@given(steps=STEPS, restarts=st.frozensets(st.integers(0, 49), max_size=8))
def test_restarts_change_nothing(steps: list[Step], restarts: frozenset[int]) -> None:
    entries = history_of(steps)
    with TemporaryDirectory() as folder:
        file = FoldFile(Path(folder) / "join.sqlite")
        interrupted = fold_through(entries, file, restarts)
        file.close()
    assert interrupted == fold_through(entries)


LAGS = st.lists(st.sampled_from([0, 0, 1, 3, 12]), min_size=30, max_size=30)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "label", "other"]), st.sampled_from(["a", "b"])), min_size=5, max_size=30
)


def joined(events: list[tuple[Does, str]], lags: list[int]) -> set[tuple[int, int]]:
    """(question, label) of every example, by their places among the events, when answers lag by so many events.

    Events are a hundred apart, and answers stand one behind the other after an event: time does not depend on the lag.
    """
    places = list(itertools.accumulate((n + lag for n, lag in enumerate(lags)), max))
    entries, offsets, waiting = list[Entry](), list[int](), list[int]()
    quiet: list[tuple[Does, str]] = [("other", "")] * 20
    for n, (does, key) in enumerate([*events, *quiet]):
        offsets.append(len(entries))
        entries.append(Entry(does, key, 100 * n, True, -1))
        if does == "ask":
            waiting.append(n)
        while waiting and places[waiting[0]] <= n:
            asked = waiting.pop(0)
            entries.append(Entry("answer", events[asked][1], entries[-1].at + 1, True, offsets[asked]))
    ends = fold_through(entries, rule=replace(RULE, wait=750))[0]
    event_at = {offset: n for n, offset in enumerate(offsets)}
    return {
        (event_at[entries[prediction].question], event_at[end.label])
        for prediction, end in ends.items()
        if end.how == "True"
    }


@settings(max_examples=300, deadline=None)
@given(events=EVENTS, lags=LAGS)
def test_what_lock_step_joins_is_joined_however_late_the_answers_are(
    events: list[tuple[Does, str]], lags: list[int]
) -> None:
    assert joined(events, [0] * len(lags)) <= joined(events, lags)
