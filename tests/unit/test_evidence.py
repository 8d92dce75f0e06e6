"""Evidence: the figures are the plain ones, the interval covers, and what cannot be measured is said, not guessed."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import orjson
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from journal.clock import DAY, HOUR, MINUTE, SECOND
from journal.errors import Refused
from registry.evidence import MOST_UNANSWERED, RESAMPLES, Scored, digest_of, offline, with_live
from registry.measures import Floats, log_losses

START = 15_706 * DAY


def later(count: int = 600, days: int = 12, seed: int = 1) -> tuple[Scored, Floats]:
    """Examples spread over some days, answers that know something, and the answers of a champion that knows less."""
    rng = np.random.default_rng(seed)
    chances = rng.uniform(0.05, 0.95, count)
    outcome = rng.random(count) < chances
    score = np.clip(chances + rng.normal(0, 0.05, count), 0.01, 0.99)
    champion = np.clip(chances + rng.normal(0, 0.2, count), 0.01, 0.99)
    at = START + np.sort(rng.integers(0, days * DAY, count))
    return Scored(np.arange(count) * 3, at, outcome, score), champion


def measure(scored: Scored, champion: Floats | None, **changed: Any) -> dict[str, Any]:
    asked = {"prior": 0.4, "rows": 9_000, "size_bytes": 1_234, "confidence": 0.95, "seed_text": "a|b", **changed}
    return offline(scored, champion, **asked)


def test_the_figures_are_those_of_scikit_learn() -> None:
    scored, champion = later()
    facts = measure(scored, champion)
    assert facts["auc"] == pytest.approx(roc_auc_score(scored.outcome, scored.score), abs=1e-12)
    assert facts["log_loss"] == pytest.approx(log_loss(scored.outcome, scored.score), abs=1e-12)
    assert facts["champion_auc"] == pytest.approx(roc_auc_score(scored.outcome, champion), abs=1e-12)
    assert facts["champion_log_loss"] == pytest.approx(log_loss(scored.outcome, champion), abs=1e-12)
    behind = facts["log_loss"] - facts["champion_log_loss"]
    assert facts["log_loss_behind_champion"] == pytest.approx(behind, abs=1e-12)
    assert facts["log_loss_behind_champion_low"] < behind < facts["log_loss_behind_champion_high"] < 0
    counts = {name: facts[name] for name in ("examples", "days", "rows", "size_bytes", "block_us")}
    assert counts == {"examples": 600, "days": 12, "rows": 9_000, "size_bytes": 1_234, "block_us": DAY}
    assert (facts["not_finite"], facts["out_of_range"], facts["champion_unanswered"]) == (0, 0, 0)
    assert facts["not_measured"] == {}


def test_the_interval_is_a_slow_block_bootstrap() -> None:
    """With many blocks the expansion is small, so plain resampling of days, one by one, comes to nearly the same."""
    scored, champion = later(count=2_000, days=60)
    facts = measure(scored, champion)
    behind = log_losses(scored.score, scored.outcome) - log_losses(champion, scored.outcome)
    days = [behind[scored.at // DAY == day] for day in np.unique(scored.at // DAY)]
    rng = np.random.default_rng(99)
    means = [np.concatenate([days[n] for n in rng.integers(0, len(days), len(days))]).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert facts["log_loss_behind_champion_low"] == pytest.approx(low, abs=0.08 * width)
    assert facts["log_loss_behind_champion_high"] == pytest.approx(high, abs=0.08 * width)


def test_more_confidence_gives_a_wider_interval() -> None:
    scored, champion = later()
    ends = [measure(scored, champion, confidence=confidence) for confidence in (0.5, 0.8, 0.95, 0.99)]
    highs = [facts["log_loss_behind_champion_high"] for facts in ends]
    lows = [facts["log_loss_behind_champion_low"] for facts in ends]
    assert highs == sorted(set(highs))
    assert lows == sorted(set(lows), reverse=True)


def test_luck_that_a_whole_day_shares_widens_the_interval() -> None:
    """Ten days, on half of which the champion is far better: as single examples they would look sure."""
    count, days = 2_000, 10
    at = START + np.arange(count) * (days * DAY // count)
    outcome = np.arange(count) % 2 == 0
    score = np.where(outcome, 0.6, 0.4)
    champion = np.where((at // DAY) % 2 == 0, np.where(outcome, 0.7, 0.3), 0.5)
    facts = measure(Scored(np.arange(count), at, outcome, score), champion)
    single = log_losses(score, outcome) - log_losses(champion, outcome)
    width = facts["log_loss_behind_champion_high"] - facts["log_loss_behind_champion_low"]
    assert width > 5 * (2 * 1.96 * single.std() / math.sqrt(count))


def test_days_of_unequal_length_weigh_by_their_examples() -> None:
    """A difference that is the same for every example has no spread, however the examples lie on their days."""
    day = np.repeat(np.arange(6), [1, 200, 3, 90, 2, 40])
    scored = Scored(np.arange(336), START + day * DAY, np.ones(336, dtype=bool), np.full(336, 0.6))
    facts = measure(scored, np.full(336, 0.5))
    behind = math.log(0.5) - math.log(0.6)
    assert facts["log_loss_behind_champion_low"] == pytest.approx(behind, abs=1e-12)
    assert facts["log_loss_behind_champion_high"] == pytest.approx(behind, abs=1e-12)


def test_without_a_champion_the_prior_is_the_one_to_beat() -> None:
    scored, _ = later()
    facts = measure(scored, None, prior=0.4)
    assert facts == measure(scored, np.full(len(scored.score), 0.4))
    assert facts["champion_auc"] == 0.5
    assert facts["champion_log_loss"] == pytest.approx(log_loss(scored.outcome, np.full(600, 0.4)), abs=1e-12)
    assert measure(scored, None, prior=0.9)["log_loss_behind_champion"] < facts["log_loss_behind_champion"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_no_number_leaves_no_figure(broken: float) -> None:
    scored, champion = later()
    scored.score[[3, 5]] = broken
    facts = measure(scored, champion)
    assert facts["not_finite"] == 2
    figures = ("auc", "log_loss", "calibration_error", "log_loss_behind_champion", "log_loss_behind_champion_high")
    for name in figures:
        assert facts[name] is None
        assert facts["not_measured"][name] == "2 of 600 answers are infinite or not a number"
    assert facts["champion_auc"] is not None


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_an_answer_that_is_no_probability_leaves_no_figure(wrong: float) -> None:
    scored, champion = later()
    scored.score[7] = wrong
    facts = measure(scored, champion)
    assert (facts["not_finite"], facts["out_of_range"]) == (0, 1)
    assert facts["log_loss"] is None
    assert facts["not_measured"]["auc"] == "1 of 600 answers are no probabilities"


def test_one_class_has_no_auc_but_a_loss() -> None:
    scored, champion = later()
    facts = measure(scored._replace(outcome=np.ones(600, dtype=bool)), champion)
    assert facts["auc"] is None
    assert facts["not_measured"] == {"auc": "all 600 examples came out the same"}
    assert facts["log_loss_behind_champion_high"] is not None


def test_no_examples_at_all() -> None:
    empty = Scored(np.array([], dtype=np.int64), np.array([], dtype=np.int64), np.array([], dtype=bool), np.array([]))
    for champion in (None, np.array([])):
        facts = measure(empty, champion)
        assert (facts["examples"], facts["days"], facts["distinct_scores"], facts["auc"]) == (0, 0, 0, None)
        assert set(facts["not_measured"].values()) == {"there are no later examples"}


def test_a_constant_model_is_seen() -> None:
    scored, champion = later()
    facts = measure(scored._replace(score=np.full(600, 0.3)), champion)
    assert (facts["distinct_scores"], facts["auc"]) == (1, 0.5)


def test_examples_that_the_champion_left_out_are_not_compared() -> None:
    scored, champion = later()
    champion[:30] = np.nan
    facts = measure(scored, champion)
    kept = Scored(scored.predictions[30:], scored.at[30:], scored.outcome[30:], scored.score[30:])
    rest = measure(kept, champion[30:])
    assert facts["champion_unanswered"] == 30 == MOST_UNANSWERED * 600
    assert facts["log_loss_behind_champion"] == rest["log_loss_behind_champion"]
    assert facts["champion_log_loss"] == rest["champion_log_loss"]
    assert facts["examples"] == 600


def test_a_champion_that_left_out_too_many_is_not_compared_with() -> None:
    scored, champion = later()
    champion[:31] = np.nan
    facts = measure(scored, champion)
    assert facts["log_loss_behind_champion_high"] is None
    said = facts["not_measured"]["log_loss_behind_champion_high"]
    assert said == "the champion left 31 of 600 examples unanswered"
    silent = measure(scored, np.full(600, np.nan))
    assert (silent["champion_auc"], silent["log_loss_behind_champion"]) == (None, None)
    assert silent["auc"] is not None


@pytest.mark.parametrize(
    ("span", "block"),
    [(5 * DAY, DAY), (4 * DAY, HOUR), (5 * HOUR, HOUR), (4 * HOUR, MINUTE), (5 * MINUTE, MINUTE), (4 * MINUTE, None)],
)
def test_blocks_are_the_longest_of_which_there_are_enough(span: int, block: int | None) -> None:
    scored, champion = later()
    at = START + np.arange(600) * (span // 600)
    facts = measure(scored._replace(at=at), champion)
    assert facts["block_us"] == block
    if block is None:
        assert facts["log_loss_behind_champion"] is None
        said = facts["not_measured"]["log_loss_behind_champion_high"]
        assert said == "the examples lie within fewer than 5 minutes"
    else:
        assert facts["log_loss_behind_champion_high"] > facts["log_loss_behind_champion"]


def test_answers_to_other_examples_are_refused() -> None:
    scored, champion = later()
    with pytest.raises(Refused, match="the champion answered 599 examples and the line 600"):
        measure(scored, champion[:-1])


def test_evidence_is_json_and_reads_back_the_same() -> None:
    scored, champion = later()
    champion[0] = np.nan
    facts = measure(scored, champion)
    assert orjson.loads(orjson.dumps(facts)) == facts


def test_the_seed_is_the_text() -> None:
    scored, champion = later()
    assert measure(scored, champion) == measure(scored, champion)
    other = measure(scored, champion, seed_text="b|a")
    assert other["log_loss_behind_champion"] == measure(scored, champion)["log_loss_behind_champion"]
    assert other["log_loss_behind_champion_high"] != measure(scored, champion)["log_loss_behind_champion_high"]


_ELSEWHERE = """
import numpy as np
from registry.evidence import Scored, digest_of, offline
n = np.arange(400)
scored = Scored(n, n * 3_600_000_000, n % 3 == 0, (n * 37 % 101) / 101)
facts = offline(scored, (n * 53 % 97) / 97, prior=0.3, rows=1, size_bytes=1, confidence=0.9, seed_text="s")
print(digest_of(facts))
"""


def test_evidence_is_the_same_under_every_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _ELSEWHERE],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_what_serving_measured_joins_and_replaces_nothing() -> None:
    facts = {"auc": 0.6, "line": "a"}
    joined = with_live(facts, {"auc": 0.99, "latency_us": 80.5, "line": "b"})
    assert joined == {"auc": 0.6, "line": "a", "latency_us": 80.5}
    assert facts == {"auc": 0.6, "line": "a"}


def test_the_digest_leaves_out_what_the_wall_measured() -> None:
    facts = {"auc": 0.6, "line": "a"}
    assert digest_of(facts) == digest_of(with_live(facts, {"latency_us": 80.5, "parity": 0.0}))
    assert digest_of(facts) == digest_of({"line": "a", "auc": 0.6})
    assert digest_of(facts) != digest_of({"auc": 0.6, "line": "b"})


def test_a_second_is_no_block() -> None:
    """Ten examples within ten seconds are one minute: no interval, however many they are."""
    at = START + np.arange(10) * SECOND
    scored = Scored(np.arange(10), at, np.arange(10) % 2 == 0, np.linspace(0.1, 0.9, 10))
    assert measure(scored, None)["log_loss_behind_champion_high"] is None
