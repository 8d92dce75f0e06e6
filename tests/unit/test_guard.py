"""The guard: what it lets through, what it holds back, and what it says then."""

import math
from dataclasses import replace

import msgspec
import pytest

from registry.guard import GuardEvidence, GuardPolicy, hold

POLICY = GuardPolicy(window=1_000, factor=1.05, minimum=100)
GOOD = GuardEvidence(
    examples=1_000, parameters_finite=True, outputs_not_finite=0, log_loss=0.47, prior_log_loss=0.55
)  # fmt: skip


def test_a_good_state_passes_with_its_numbers() -> None:
    verdict = hold(GOOD, POLICY)
    assert verdict.holds
    assert verdict.reasons == []
    assert verdict.numbers == {
        "examples": 1_000.0,
        "parameters_finite": 1.0,
        "outputs_not_finite": 0.0,
        "log_loss": 0.47,
        "prior_log_loss": 0.55,
        "limit": 0.55 * 1.05,
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"examples": 99}, "Only 99 examples, and 100 are needed."),
        ({"parameters_finite": False}, "A parameter of the model is infinite or not a number."),
        ({"outputs_not_finite": 2}, "2 of the last 1000 answers are infinite or not a number."),
        (
            {"log_loss": 0.58},
            "The log loss of the last 1000 examples is 0.580000, above 0.577500, which is 1.05 times the prior's.",
        ),
    ],
)
def test_each_fault_alone_holds_it_back_and_is_named(changes: dict[str, float], reason: str) -> None:
    verdict = hold(replace(GOOD, **changes), POLICY)  # type: ignore[arg-type]
    assert not verdict.holds
    assert verdict.reasons == [reason]


def test_the_limit_itself_passes_and_the_next_number_does_not() -> None:
    limit = GOOD.prior_log_loss * POLICY.factor
    assert hold(replace(GOOD, log_loss=limit), POLICY).holds
    assert not hold(replace(GOOD, log_loss=math.nextafter(limit, math.inf)), POLICY).holds


def test_fewer_examples_than_the_window_are_judged_from_the_minimum_on() -> None:
    assert hold(replace(GOOD, examples=100), POLICY).holds


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_numbers_that_are_none_hold_it_back_and_stay_out_of_the_record(loss: float) -> None:
    verdict = hold(replace(GOOD, log_loss=loss, outputs_not_finite=1), POLICY)
    assert len(verdict.reasons) == 2
    assert "log_loss" not in verdict.numbers
    assert msgspec.json.decode(msgspec.json.encode(verdict.numbers), type=dict[str, float]) == verdict.numbers
