"""What a model family offers to the learner and to serving. A module of ``registry/flavors`` is one."""

from collections.abc import Sequence
from typing import Any, Protocol

Inputs = dict[str, Any]
"""A model's input: column name to value, in column order; what is missing has no entry."""


class Flavor(Protocol):
    """The verbs of an online family. Its models are opaque to everybody else."""

    @property
    def FAMILY(self) -> str:  # noqa: N802
        """The name that snapshots are stored under."""
        ...

    def inputs(self, columns: Sequence[str], values: Sequence[Any]) -> Inputs:
        """A prediction's columns and values as a model's input."""
        ...

    def predict_one(self, model: Any, x: Inputs) -> float:
        """Probability of True; 0.5 before the model has learned anything."""
        ...

    def learn_one(self, model: Any, x: Inputs, y: bool) -> None:
        """Learn one example, in place."""
        ...

    def dump(self, model: Any) -> bytes:
        """The model's whole state, such that `load` gives back one that goes on exactly as this one would."""
        ...

    def load(self, data: bytes) -> Any:
        """Read a state; raises `Untrusted` on anything that is not one. Check its signature first."""
        ...

    def digest(self, model: Any) -> str:
        """SHA-256 (hex) of the canonical state: equal for models that learned the same, in whatever process."""
        ...

    def finite(self, model: Any) -> bool:
        """Whether every number of the state is finite."""
        ...
