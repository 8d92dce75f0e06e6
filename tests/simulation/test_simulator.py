"""The seeded simulator in its short form; `run.py` beside it is the long one."""

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.faults import RARE
from tests.simulation.process import Keyring
from tests.simulation.run import keyring_in_memory
from tests.simulation.simulation import Figures
from tests.simulation.trial import Failure, try_seed

pytestmark = pytest.mark.slow

SEEDS = 150
WITHIN = 500


@pytest.fixture(scope="module")
def keyring() -> Iterator[Keyring]:
    with keyring_in_memory() as keyring:
        yield keyring


@pytest.fixture(scope="module")
def figures(keyring: Keyring) -> list[Figures]:
    """What the seeds went through; the first that fails is printed with its steps."""
    found = []
    for seed in range(SEEDS):
        result = try_seed(seed, keyring)
        if isinstance(result, Failure):
            pytest.fail(str(result))
        found.append(result)
    return found


def test_every_invariant_holds_on_every_seed(figures: list[Figures]) -> None:
    assert len(figures) == SEEDS


def test_the_seeds_go_where_things_break(figures: list[Figures]) -> None:
    """A simulator that crashes nothing, learns nothing or decides nothing proves nothing."""
    died = Counter(place for each in figures for place in each.died_at)
    around = ("begins", "commit", "committed")
    places = {f"{fold} {when}" for fold in ("features", "answer", "join", "learner") for when in around}
    places |= {"journal append", "journal commit", "journal committed"} | set(RARE)
    assert not places - died.keys()
    assert any(place.endswith("failed") for place in died)
    assert sum(each.lives for each in figures) > 4 * SEEDS
    assert sum(each.learned for each in figures) > 4 * SEEDS
    assert sum(each.decisions for each in figures) > SEEDS
    assert sum(each.refused for each in figures) > SEEDS / 2
    assert sum(each.fenced for each in figures) > SEEDS / 10


def test_a_seed_always_lives_the_same_life(figures: list[Figures]) -> None:
    with keyring_in_memory() as another:
        for seed in (2, 3, 5, 8, 13, 21):
            assert try_seed(seed, another) == figures[seed]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_within_few_seeds(keyring: Keyring, bug: str) -> None:
    results = (try_seed(seed, keyring, bug=bug, shrink=False) for seed in range(WITHIN))
    failure = next((result for result in results if isinstance(result, Failure)), None)
    assert failure is not None, f"{bug} was not found in {WITHIN} seeds"
    assert f"--first {failure.seed} --seeds 1 --bug {bug}" in str(failure)
