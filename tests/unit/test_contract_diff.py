"""Field by field: what goes on to hold is compatible, and everything else breaks."""

import dataclasses
from typing import Any

import pytest

from journal.clock import DAY
from journal.contract import Contract, QualityRule
from journal.contract_diff import diff, is_versioned, require_versioned
from journal.errors import Misconfigured
from journal.field import Field

BASE = Contract(
    stream="s",
    version="1.2.0",
    fields=(
        Field(name="number", type="integer", required=True, limits={"ge": 0, "lt": 10}),
        Field(name="word", type="string", limits={"min_length": 2, "pattern": "a"}),
        Field(name="kind", type="string", choices=("x", "y")),
        Field(name="who", type="string", required=True, personal=True),
    ),
    dedup_window=DAY,
    max_gap=DAY,
    subject="who",
)


def with_field(name: str, **changes: Any) -> Contract:
    fields = tuple(dataclasses.replace(field, **changes) if field.name == name else field for field in BASE.fields)
    return dataclasses.replace(BASE, fields=fields)


def without(name: str, **changes: Any) -> Contract:
    fields = tuple(field for field in BASE.fields if field.name != name)
    return dataclasses.replace(BASE, fields=fields, **changes)


def with_more(**field: Any) -> Contract:
    return dataclasses.replace(BASE, fields=(*BASE.fields, Field(name="more", type="string", **field)))


def number(**limits: int) -> Contract:
    return with_field("number", limits=limits)


RULE = QualityRule(name="q", field="word", metric="missing", most=0.1, window=DAY)

CASES = [
    (with_more(), "more: new, optional", False),
    (with_more(required=True), "more: new, required", True),
    (without("number"), "number: removed", True),
    (without("word"), "word: removed", True),
    (without("word", mode="evolve"), "word: removed", False),
    (without("number", mode="evolve"), "number: removed", True),
    (with_field("number", type="number"), "number: type integer became number", False),
    (with_field("number", type="string", limits={}), "number: type integer became string", True),
    (with_field("number", required=False), "number: optional now", False),
    (with_field("word", required=True), "word: required now", True),
    (with_field("word", personal=True), "word: classification: open became personal", True),
    (with_field("who", entity_key=True), "who: classification: personal became entity key", True),
    (with_field("who", personal=False), "who: classification: personal became open", True),
    (with_field("kind", choices=("y", "x", "z")), "kind: enum gained z", False),
    (with_field("kind", choices=("x",)), "kind: enum lost y", True),
    (with_field("kind", choices=()), "kind: enum removed", False),
    (with_field("kind", choices=(), limits={"pattern": "x"}), "kind: enum removed", True),
    (with_field("word", choices=("ab",), limits={}), "word: enum is new", True),
    (number(ge=-1, lt=10), "number: lower bound 0 became -1", False),
    (number(ge=1, lt=10), "number: lower bound 0 became 1", True),
    (number(ge=0, lt=11), "number: upper bound 9 became 10", False),
    (number(ge=0, lt=9), "number: upper bound 9 became 8", True),
    (number(ge=0), "number: upper bound 9 became none", False),
    (number(lt=10), "number: lower bound 0 became none", False),
    (
        with_field("word", limits={"min_length": 2, "max_length": 9, "pattern": "a"}),
        "word: upper length none became 9",
        True,
    ),
    (with_field("word", limits={"pattern": "a"}), "word: lower length 2 became none", False),
    (with_field("word", limits={"min_length": 2}), "word: pattern removed", False),
    (with_field("word", limits={"min_length": 2, "pattern": "b"}), "word: pattern changed", True),
    (dataclasses.replace(BASE, dedup_window=2 * DAY), "(dedup_window): 1d became 2d", False),
    (dataclasses.replace(BASE, max_gap=1), "(max_gap): 1d became 1us", True),
    (dataclasses.replace(BASE, max_bytes=100), "(max_bytes): 1048576 became 100", True),
    (dataclasses.replace(BASE, retention=DAY), "(retention): none became 1d", True),
    (dataclasses.replace(BASE, mode="evolve"), "(mode): freeze became evolve", False),
    (dataclasses.replace(BASE, mode="discard_row"), "(mode): freeze became discard_row", False),
    (dataclasses.replace(BASE, subject="word"), "(subject): who became word", True),
    (dataclasses.replace(BASE, owner="shop"), "(owner): changed", False),
    (
        dataclasses.replace(BASE, quality=(RULE,)),
        "(quality): changed",
        False,
    ),
]


@pytest.mark.parametrize(("new", "change", "breaking"), CASES, ids=[case[1] for case in CASES])
def test_one_change(new: Contract, change: str, breaking: bool) -> None:
    found = {f"{each.field}: {each.what}": each.breaking for each in diff(BASE, new) if each.field != "(mode)"}
    found |= {f"{each.field}: {each.what}": each.breaking for each in diff(BASE, new) if change.startswith("(mode)")}
    assert found[change] is breaking
    assert is_versioned(BASE, new) is not breaking
    assert is_versioned(BASE, dataclasses.replace(new, version="2.0.0"))


def test_nothing_changed() -> None:
    assert diff(BASE, BASE) == ()
    same = number(gt=-1, le=9)
    assert diff(BASE, same) == (), "bounds of integers are the same however they are written"


def test_exclusive_bounds_of_numbers_lie_inside_inclusive_ones() -> None:
    def bounded(**limits: float) -> Contract:
        return dataclasses.replace(BASE, fields=(Field(name="n", type="number", limits=limits),))

    (change,) = diff(bounded(ge=0), bounded(gt=0))
    assert (change.what, change.breaking) == ("lower bound 0 became 0 (exclusive)", True)
    assert [change.breaking for change in diff(bounded(lt=1.5), bounded(le=1.5))] == [False]


def test_leniency_that_goes_breaks() -> None:
    lenient = dataclasses.replace(BASE, mode="discard_value")
    assert [change.breaking for change in diff(lenient, BASE)] == [True]
    assert [change.breaking for change in diff(dataclasses.replace(BASE, mode="discard_row"), BASE)] == [False]


def test_what_breaks_without_a_new_major_version_is_refused_with_all_that_breaks() -> None:
    new = dataclasses.replace(without("number"), version="1.3.0", max_gap=1, owner="shop")
    with pytest.raises(Misconfigured) as caught:
        require_versioned(BASE, new)
    assert caught.value.which.splitlines() == [
        "stream 's' goes from 1.2.0 to 1.3.0",
        "  number: removed",
        "  (max_gap): 1d became 1us",
    ]
    assert "s.v1.odcs.yaml" in caught.value.fix
    require_versioned(BASE, dataclasses.replace(new, version="2.0.0"))


def test_a_version_never_falls() -> None:
    assert not is_versioned(dataclasses.replace(BASE, version="2.0.0"), BASE)
