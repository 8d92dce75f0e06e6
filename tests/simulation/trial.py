"""Trying a seed: it holds, or it fails with its steps, as few as are easily found, and how to run it alone."""

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.simulation.oracle import Broken
from tests.simulation.process import Keyring
from tests.simulation.simulation import Figures, Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A seed that broke an invariant, with the way there."""

    seed: int
    bug: str
    broken: str
    steps: int
    trace: Sequence[str]

    def __str__(self) -> str:
        switch = f" --bug {self.bug}" if self.bug else ""
        again = f"python tests/simulation/run.py --first {self.seed} --seeds 1{switch}"
        return "\n".join([f"seed {self.seed}, {self.steps} steps: {self.broken}", *self.trace, f"again: {again}"])


def try_seed(seed: int, keyring: Keyring, *, bug: str = "", shrink: bool = True) -> Figures | Failure:
    """Run one seed. A failure comes with few of its first steps that still show one; an unexpected exception is one."""
    simulation = Simulation(seed, keyring, bug=bug)
    try:
        return simulation.run()
    except Exception as broken:  # whatever comes out is a finding about this seed
        failure = _failure(seed, bug, simulation, broken)
    for steps in _shorter(failure.steps) if shrink else ():
        shorter = Simulation(seed, keyring, bug=bug, steps=steps)
        try:
            shorter.run()
        except Exception as broken:  # as above
            return _failure(seed, bug, shorter, broken)
    return failure


def _shorter(steps: int) -> Iterator[int]:
    """Lengths to try, from the shortest, by half as much more each time."""
    length = 1
    while length < steps:
        yield length
        length += length // 2 + 1


def _failure(seed: int, bug: str, simulation: Simulation, broken: Exception) -> Failure:
    return Failure(
        seed=seed,
        bug=bug,
        broken=str(broken) if isinstance(broken, Broken) else _said(broken),
        steps=len(simulation.scenario.steps),
        trace=tuple(simulation.trace),
    )


def _said(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename.rpartition('/')[2]}:{place.lineno})"
