"""The join, rule by rule."""

import random
from pathlib import Path
from typing import Any

import pytest

from journal.body import Decision, Example, Expired, Prediction, decode, encode
from journal.checkpoint import FoldFile
from journal.clock import HOUR, MINUTE
from journal.record import Draft, Kind, Record, canonical_json
from training.join import JoinFold
from training.label_rule import Joins, LabelRule, Pending, join

WAIT = HOUR


class Tape:
    """Hands records to a fold at the minutes that a test names."""

    def __init__(self, joins: Joins = "first", at_least: float | None = 15.0) -> None:
        self.fold = JoinFold(
            LabelRule(stream="arrivals", key="flight", outcome="delay", wait=WAIT, at_least=at_least, joins=joins),
            "schedule",
        )
        self.offset = -1

    def record(self, kind: Kind, stream: str, minute: float, body: bytes) -> list[tuple[str, ...]]:
        self.offset += 1
        at = int(minute * MINUTE)
        record = Record(
            kind=kind, stream=stream, id=f"r{self.offset}", body=body, partition=0, offset=self.offset, at=at
        )
        return [said(draft) for draft in self.fold.apply(record)]

    def ask(self, minute: float, key: str = "UA1", question: int | None = None) -> list[tuple[str, ...]]:
        """An answer, to a question of its own or at the given offset."""
        asked = self.offset + 1 if question is None else question
        return self.record(Kind.PREDICTION, "predictions", minute, prediction(key, asked))

    def label(self, minute: float, delay: Any = 20.0, key: str | None = "UA1") -> list[tuple[str, ...]]:
        return self.record(Kind.SOURCE, "arrivals", minute, canonical_json({"flight": key, "delay": delay}))

    def question(self, minute: float) -> int:
        """A question that is not answered yet; its offset."""
        assert self.record(Kind.SOURCE, "schedule", minute, b"{}") == []
        return self.offset

    def other(self, minute: float) -> list[tuple[str, ...]]:
        return self.record(Kind.SOURCE, "weather", minute, b"{}")

    def counted(self) -> dict[str, int]:
        """Everything that is not zero."""
        return {name: count for name, count in self.fold.counts().items() if count}


def prediction(key: str, question: int = 0) -> bytes:
    return encode(
        Prediction(
            key=key,
            question=question,
            service="s@1",
            values=[1.0, None, "UA"],
            stamps=[(1, 2), None],
            score=0.5,
            line="online",
            model="",
            snapshot=-1,
            control=0,
            degraded=True,
            build="b",
        )
    )


def said(draft: Draft) -> tuple[str, ...]:
    assert draft.stream == "examples"
    assert draft.cause is None
    if draft.kind is Kind.EXAMPLE:
        example = decode(draft.body, Example)
        assert draft.id == f"ex-r{example.prediction}"
        return ("example", f"{example.key} {example.prediction} by {example.label}", str(example.outcome))
    assert draft.kind is Kind.EXPIRED
    expired = decode(draft.body, Expired)
    assert draft.id == f"end-r{expired.prediction}"
    return ("expired", f"{expired.key} {expired.prediction}", expired.reason)


def test_a_label_joins_the_prediction_of_its_key() -> None:
    tape = Tape()
    assert tape.ask(0) == []
    assert tape.ask(1, "UA2") == []
    assert tape.label(30) == [("example", "UA1 0 by 2", "True")]
    assert tape.label(31, 14.9, "UA2") == [("example", "UA2 1 by 3", "False")]
    assert tape.counted() == {"predictions": 2, "joined": 2}


@pytest.mark.parametrize(("delay", "outcome"), [(15.0, "True"), (15, "True"), (14.999, "False"), (-3, "False")])
def test_the_threshold_itself_is_true(delay: float, outcome: str) -> None:
    tape = Tape()
    tape.ask(0)
    assert tape.label(1, delay) == [("example", "UA1 0 by 1", outcome)]


def test_a_boolean_outcome_needs_no_threshold() -> None:
    for value in (True, False):
        tape = Tape(at_least=None)
        tape.ask(0)
        assert tape.label(1, value) == [("example", "UA1 0 by 1", str(value))]


@pytest.mark.parametrize(("delay", "key"), [(None, "UA1"), (20.0, None)])
def test_a_label_without_outcome_or_key_decides_nothing(delay: float | None, key: str | None) -> None:
    tape = Tape()
    tape.ask(0)
    assert tape.label(1, delay, key) == []
    assert tape.counted() == {"predictions": 1, "pending": 1, "undecided": 1}


def test_whole_number_keys_match_their_text() -> None:
    tape = Tape()
    tape.ask(0, "17")
    assert tape.record(Kind.SOURCE, "arrivals", 1, b'{"flight": 17, "delay": 0}') == [("example", "17 0 by 1", "False")]


def joined(prediction: int) -> tuple[str, ...]:
    return ("example", f"UA1 {prediction} by 3", "True")


def passed_over(prediction: int) -> tuple[str, ...]:
    return ("expired", f"UA1 {prediction}", "not_chosen")


@pytest.mark.parametrize(
    ("joins", "ends"),
    [
        ("first", [joined(0), passed_over(1), passed_over(2)]),
        ("last", [joined(2), passed_over(0), passed_over(1)]),
        ("all", [joined(0), joined(1), joined(2)]),
    ],
)
def test_which_of_several_predictions_a_label_joins(joins: Joins, ends: list[tuple[str, ...]]) -> None:
    tape = Tape(joins)
    for minute in range(3):
        tape.ask(minute)
    assert tape.label(10) == ends
    counts = tape.fold.counts()
    assert counts["predictions"] == 3 == counts["joined"] + counts["expired"]


def test_the_choice_is_pure() -> None:
    waiting = [Pending(n, n + 10, "k", f"p{n}", n - 1) for n in range(3)]
    for joins in ("first", "last", "all"):
        chosen, rest = join(waiting, joins)
        assert sorted([*chosen, *rest]) == waiting


def test_first_and_last_are_those_of_the_questions_not_of_the_answers() -> None:
    lagging = [Pending(7, 20, "k", "p7", 6), Pending(8, 20, "k", "p8", 2), Pending(9, 20, "k", "p9", 4)]
    assert [chosen.id for chosen in join(lagging, "first")[0]] == ["p8"]
    assert [chosen.id for chosen in join(lagging, "last")[0]] == ["p7"]


def test_a_prediction_expires_with_the_first_record_at_or_after_its_wait_and_not_before() -> None:
    tape = Tape()
    tape.ask(0)
    assert tape.other(60 - 1 / MINUTE) == []
    assert tape.other(60) == [("expired", "UA1 0", "no_label")]
    assert tape.counted() == {"predictions": 1, "no_label": 1, "expired": 1}


def test_expiry_comes_before_the_records_own_effect() -> None:
    tape = Tape()
    tape.ask(0)
    assert tape.label(60) == [("expired", "UA1 0", "no_label")]
    assert tape.counted() == {"predictions": 1, "no_label": 1, "expired": 1, "late": 1}


def test_expiries_and_the_join_of_one_record_come_in_that_order() -> None:
    tape = Tape()
    tape.ask(0, "UA1")
    tape.ask(1, "UA2")
    tape.ask(30, "UA3")
    assert tape.label(61, key="UA3") == [
        ("expired", "UA1 0", "no_label"),
        ("expired", "UA2 1", "no_label"),
        ("example", "UA3 2 by 3", "True"),
    ]


def test_a_second_label_is_repeated_and_contradicts_only_when_it_says_something_else() -> None:
    tape = Tape()
    tape.ask(0)
    tape.label(1, 20.0)
    assert tape.label(2, 30.0) == []
    assert tape.counted() == {"predictions": 1, "joined": 1, "repeated": 1}
    tape.label(3, 0.0)
    assert tape.counted() == {"predictions": 1, "joined": 1, "repeated": 2, "contradictory": 1}


def test_a_label_that_comes_first_or_for_nobody_is_unmatched() -> None:
    tape = Tape()
    tape.label(0)
    tape.ask(1)
    tape.label(2, key="UA9")
    assert tape.counted() == {"predictions": 1, "pending": 1, "unmatched": 2}


def test_an_answer_that_comes_behind_its_label_joins_it() -> None:
    tape = Tape()
    tape.other(0)
    assert tape.label(1) == []
    assert tape.counted() == {"unmatched": 1}
    assert tape.ask(2, question=0) == [("example", "UA1 2 by 1", "True")]
    assert tape.counted() == {"predictions": 1, "joined": 1}


def test_a_label_that_came_before_the_question_joins_nothing() -> None:
    tape = Tape()
    tape.label(0)
    tape.other(1)
    assert tape.ask(2, question=1) == []
    assert tape.counted() == {"predictions": 1, "pending": 1, "unmatched": 1}


@pytest.mark.parametrize(("joins", "second"), [("first", "not_chosen"), ("all", "True")])
def test_further_answers_behind_one_label_end_by_the_rule(joins: Joins, second: str) -> None:
    tape = Tape(joins)
    tape.other(0)
    tape.label(1)
    assert tape.ask(2, question=0)[0][-1] == "True"
    assert tape.ask(3, question=0)[0][-1] == second
    assert tape.counted()["predictions"] == 2
    assert "pending" not in tape.counted()


def test_an_answer_behind_a_label_that_chose_another_ends_by_the_rule() -> None:
    tape = Tape()
    tape.ask(0)
    tape.label(1)
    assert tape.ask(2, question=0) == [("expired", "UA1 2", "not_chosen")]


def test_an_early_label_is_kept_for_one_wait() -> None:
    tape = Tape()
    tape.other(0)
    tape.label(1)
    tape.other(1 + WAIT / MINUTE)
    assert tape.ask(2 + WAIT / MINUTE, question=0) == []
    assert tape.counted() == {"predictions": 1, "pending": 1, "unmatched": 1}


def test_an_early_label_is_kept_while_a_question_before_it_has_no_answer(tmp_path: Path) -> None:
    tape = Tape()
    first, second = tape.question(0), tape.question(0)
    tape.label(1)
    tape.other(1 + 3 * WAIT / MINUTE)
    with_file(tape, tmp_path)
    assert tape.ask(2 + 3 * WAIT / MINUTE, "UA2", question=first) == []
    assert tape.ask(3 + 3 * WAIT / MINUTE, question=second) == [("example", "UA1 5 by 2", "True")]
    assert tape.counted() == {"predictions": 2, "joined": 1, "pending": 1}


def test_an_early_label_goes_when_all_before_it_are_answered_or_given_up() -> None:
    tape = Tape()
    question, skipped = tape.question(0), tape.question(0)
    tape.label(1)
    tape.ask(2, "UA2", question=question)
    skip(tape, 3, skipped)
    tape.other(1 + WAIT / MINUTE)
    assert tape.ask(1.5 + WAIT / MINUTE, question=skipped) == []


def test_of_several_early_labels_the_first_behind_the_question_joins() -> None:
    tape = Tape()
    tape.label(0, 0.0)
    question = tape.question(1)
    tape.label(2, 30.0)
    tape.label(3, 0.0)
    assert tape.ask(4, question=question) == [("example", "UA1 4 by 2", "True")]


def skip(tape: Tape, minute: float, question: int) -> list[tuple[str, ...]]:
    """It is decided that a question is passed over by whoever answers."""
    details = {"fold": "answer", "offset": question}
    decision = Decision(sequence=2, action="skip", subject="answer", why="w", details=details)
    return tape.record(Kind.DECISION, "control", minute, encode(decision))


def test_last_means_the_last_question_before_the_label_however_late_its_answer_is(tmp_path: Path) -> None:
    tape = Tape("last")
    first, second = tape.question(0), tape.question(1)
    assert tape.label(2) == []
    with_file(tape, tmp_path)
    assert tape.ask(3, question=first) == []
    with_file(tape, tmp_path)
    assert tape.counted() == {"predictions": 1, "pending": 1}
    assert tape.ask(4, question=second) == [("example", "UA1 4 by 2", "True"), ("expired", "UA1 3", "not_chosen")]
    assert tape.counted() == {"predictions": 2, "joined": 1, "not_chosen": 1, "expired": 1}


def test_a_held_label_acts_with_the_answer_of_another_key(tmp_path: Path) -> None:
    tape = Tape("last")
    tape.ask(0)
    question = tape.question(1)
    assert tape.label(2) == []
    with_file(tape, tmp_path)
    assert tape.ask(3, "UA2", question=question) == [("example", "UA1 0 by 2", "True")]
    assert tape.counted() == {"predictions": 2, "joined": 1, "pending": 1}


def test_what_a_held_label_found_does_not_expire_and_what_came_behind_it_does(tmp_path: Path) -> None:
    tape = Tape("last")
    tape.ask(0)
    question = tape.question(1)
    tape.label(2)
    tape.ask(3)
    with_file(tape, tmp_path)
    assert tape.other(3 + WAIT / MINUTE) == [("expired", "UA1 3", "no_label")]
    assert tape.ask(200, question=question) == [("example", "UA1 5 by 2", "True"), ("expired", "UA1 0", "not_chosen")]


def test_a_held_label_acts_when_the_last_question_before_it_is_given_up() -> None:
    tape = Tape("last")
    tape.ask(0)
    question = tape.question(1)
    assert tape.label(2) == []
    assert skip(tape, 3, question) == [("example", "UA1 0 by 2", "True")]


def test_each_answer_goes_to_the_first_held_label_behind_its_question(tmp_path: Path) -> None:
    tape = Tape("last")
    one = tape.question(0)
    tape.label(1, 0.0)
    two = tape.question(2)
    tape.label(3, 30.0)
    tape.label(4, 0.0)
    with_file(tape, tmp_path)
    assert tape.ask(5, question=one) == [("example", "UA1 5 by 1", "False")]
    assert tape.ask(6, question=two) == [("example", "UA1 6 by 3", "True")]
    assert tape.counted() == {"predictions": 2, "joined": 2, "repeated": 1, "contradictory": 1}


def test_a_held_label_that_no_answer_comes_to_is_counted_when_it_acts() -> None:
    tape = Tape("last")
    question = tape.question(0)
    tape.label(1)
    assert tape.counted() == {}
    assert tape.ask(2, "UA2", question=question) == []
    assert tape.counted() == {"predictions": 1, "pending": 1, "unmatched": 1}


def test_a_later_answer_says_that_none_before_it_will_come() -> None:
    """An answer that the join passes over as poison would otherwise hold every label behind its question for good."""
    tape = Tape("last")
    tape.ask(0)
    tape.question(1)
    tape.label(2)
    later = tape.question(3)
    assert tape.ask(4, "UA2", question=later) == [("example", "UA1 0 by 2", "True")]


def with_file(tape: Tape, folder: Path) -> None:
    """Save the fold and go on with what is read back."""
    file = FoldFile(folder / "join.sqlite")
    with file.transaction():
        tape.fold.save(file)
    digest, tape.fold = tape.fold.digest(), JoinFold(tape.fold.rule, "schedule")
    tape.fold.load(file)
    file.close()
    assert tape.fold.digest() == digest


def test_an_early_label_survives_a_restart(tmp_path: Path) -> None:
    tape = Tape()
    tape.other(0)
    tape.label(1)
    file = FoldFile(tmp_path / "join.sqlite")
    with file.transaction():
        tape.fold.save(file)
    digest = tape.fold.digest()
    tape.fold = JoinFold(tape.fold.rule, "schedule")
    tape.fold.load(file)
    assert tape.fold.digest() == digest
    assert tape.ask(2, question=0) == [("example", "UA1 2 by 1", "True")]
    with file.transaction():
        tape.fold.save(file)
    assert list(file.scan("early")) == []
    file.close()


def test_a_closed_key_is_remembered_for_another_wait() -> None:
    tape = Tape()
    tape.ask(0)
    tape.label(10)
    tape.label(70 - 1 / MINUTE)
    tape.label(70)
    tape.ask(100, "UA2")
    tape.other(160)
    tape.label(220 - 1 / MINUTE, key="UA2")
    tape.label(220, key="UA2")
    assert tape.counted() == {
        "predictions": 2, "joined": 1, "no_label": 1, "expired": 1, "repeated": 1, "late": 1, "unmatched": 2
    }  # fmt: skip


def test_a_key_that_closes_again_is_remembered_from_then_on() -> None:
    tape = Tape()
    tape.ask(0)
    tape.ask(30)
    tape.other(60)
    tape.other(90)
    tape.label(149)
    assert tape.counted()["late"] == 1
    again = Tape()
    again.ask(0)
    again.label(1)
    again.ask(2)
    again.other(62)
    again.label(121, 0.0)
    assert again.counted() == {
        "predictions": 2, "joined": 1, "no_label": 1, "expired": 1, "late": 1
    }  # fmt: skip


def test_a_key_may_be_asked_and_answered_again() -> None:
    tape = Tape()
    tape.ask(0)
    tape.label(1)
    tape.ask(2)
    assert tape.label(3, 0.0) == [("example", "UA1 2 by 3", "False")]
    assert tape.counted() == {"predictions": 2, "joined": 2}


def test_records_of_other_kinds_only_move_time() -> None:
    tape = Tape()
    tape.ask(0)
    for kind in (Kind.EXAMPLE, Kind.SNAPSHOT, Kind.VERSION, Kind.QUARANTINE):
        assert tape.record(kind, "arrivals", 1, b"{}") == []
    assert tape.record(Kind.EXAMPLE, "examples", 60, b"{}") == [("expired", "UA1 0", "no_label")]


def rows(file: FoldFile) -> dict[str, int]:
    return {space: len(list(file.scan(space))) for space in ("pending", "closed")}


def test_a_save_writes_what_changed_and_a_load_restores_it(tmp_path: Path) -> None:
    file = FoldFile(tmp_path / "join.sqlite")
    tape = Tape()
    for n in range(4):
        tape.ask(n, f"UA{n}")
    with file.transaction():
        tape.fold.save(file)
    assert rows(file) == {"pending": 4, "closed": 0}
    tape.label(4, key="UA1")
    file.put("pending", [((0).to_bytes(8), b"not touched by the next save")])
    with file.transaction():
        tape.fold.save(file)
    assert rows(file) == {"pending": 3, "closed": 1}
    assert file.get("pending", (0).to_bytes(8)) == b"not touched by the next save"
    file.close()


def test_a_restart_between_any_two_records_changes_nothing(tmp_path: Path) -> None:
    file = FoldFile(tmp_path / "join.sqlite")
    straight, restarted = Tape("last"), Tape("last")

    def both(step: Any) -> None:
        assert step(straight) == step(restarted)
        with file.transaction():
            restarted.fold.save(file)
        restarted.fold = JoinFold(restarted.fold.rule, "schedule")
        restarted.fold.load(file)
        assert restarted.fold.digest() == straight.fold.digest()
        assert restarted.fold.counts() == straight.fold.counts()

    rng, minute = random.Random(5), 0
    for _ in range(120):
        minute += rng.randrange(1, 20)
        moment, key, delay = minute, f"UA{rng.randrange(8)}", rng.choice((0.0, 20.0))
        both(lambda tape, m=moment, k=key: tape.ask(m, k))
        key = f"UA{rng.randrange(8)}"
        both(lambda tape, m=moment, k=key, d=delay: tape.label(m + 0.5, d, k))
    counts = straight.fold.counts()
    assert min(counts[name] for name in ("joined", "late", "repeated", "unmatched", "no_label", "not_chosen")) > 0
    file.close()


def test_a_digest_tells_states_apart() -> None:
    one, two, three = Tape(), Tape(), Tape()
    one.ask(0)
    two.ask(0, "UA2")
    three.ask(0)
    assert one.fold.digest() == three.fold.digest() != two.fold.digest()
    one.label(1)
    three.label(1, 0.0)
    assert one.fold.digest() != three.fold.digest()
