"""The checker finds what it is there for: each fault is planted once."""

import pytest

from journal.record import Kind, Record
from tests.crash.history import History, Step, check, reconcile


def record(offset: int, id_: str, kind: Kind = Kind.SOURCE) -> Record:
    return Record(kind=kind, stream="s", id=id_, source="/t", body=b"{}", partition=0, offset=offset, at=offset)


def sent(*ids: str, client: str = "client") -> History:
    """One client that sent these one by one; they were acknowledged at 0, 1, ..."""
    history = History(client)
    for offset, id_ in enumerate(ids):
        history.note([("/t", id_)], Step.INVOKE)
        history.acked(("/t", id_), offset)
    return history


def test_what_is_as_it_was_acknowledged_is_clean() -> None:
    counts = check([sent("a", "b")], [record(0, "a"), record(1, "b"), record(2, "p", Kind.PREDICTION)])
    assert counts.is_clean
    assert (counts.invoked, counts.acked, counts.present, counts.unknown) == (2, 2, 2, 0)


@pytest.mark.parametrize(
    ("fault", "ids"),
    [
        ("lost", ["a"]),
        ("doubled", ["a", "b", "a"]),
        ("moved", ["x", "a", "b"]),
        ("uninvited", ["a", "b", "nobody's"]),
        ("disordered", ["b", "a"]),
    ],
)
def test_each_fault_is_found(fault: str, ids: list[str]) -> None:
    counts = check([sent("a", "b")], [record(offset, id_) for offset, id_ in enumerate(ids)])
    assert not counts.is_clean
    assert getattr(counts, fault) > 0


def test_what_one_client_was_told_of_another_does_not_overtake() -> None:
    first, second = sent("a", client="one"), sent("b", client="two")
    in_order = check([first, second], [record(0, "a"), record(1, "b")])
    assert in_order.overtaken == 0
    turned = check([first, second], [record(0, "b"), record(1, "a")])
    assert (turned.overtaken, turned.disordered, turned.is_clean) == (1, 0, False)


def test_of_two_that_were_under_way_at_once_either_may_be_first() -> None:
    first, second = History("one"), History("two")
    first.note([("/t", "a")], Step.INVOKE)
    second.note([("/t", "b")], Step.INVOKE)
    second.acked(("/t", "b"), 0)
    first.acked(("/t", "a"), 1)
    assert check([first, second], [record(0, "b"), record(1, "a")]).is_clean


@pytest.mark.parametrize(("ids", "is_clean"), [([], True), (["a"], True), (["a", "a"], False)])
def test_what_nobody_answered_is_there_at_most_once(ids: list[str], is_clean: bool) -> None:
    history = History("client")
    history.note([("/t", "a")], Step.INVOKE)
    history.note([("/t", "a")], Step.UNKNOWN)
    counts = check([history], [record(offset, id_) for offset, id_ in enumerate(ids)])
    assert (counts.is_clean, counts.unknown) == (is_clean, 1)


@pytest.mark.parametrize(("offered", "missing"), [(6, 0), (7, 1), (5, -1)])
def test_lines_that_ended_nowhere_or_twice_are_missed(offered: int, missing: int) -> None:
    records = [record(0, "a"), record(1, "b"), record(2, "q", Kind.QUARANTINE)]
    ends = reconcile(offered, records, {"repeated": 1, "refused": 2, "refused.malformed": 2})
    assert ends["missing"] == missing
