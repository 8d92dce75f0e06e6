"""What a model family offers to serving, and to a learner. A module of ``registry/flavors`` is one."""

from collections.abc import Sequence
from typing import Any, Protocol

Inputs = Any
"""A model's input, made from one prediction's values. Opaque to everybody but its flavor."""


class Flavor(Protocol):
    """What serving needs of a family. Its models are opaque to everybody else."""

    @property
    def FAMILY(self) -> str:  # noqa: N802
        """The name that snapshots and versions are stored under."""
        ...

    def inputs(self, columns: Sequence[str], values: Sequence[Any]) -> Inputs:
        """A prediction's columns and values as a model's input."""
        ...

    def predict_one(self, model: Any, x: Inputs) -> float:
        """Probability of True; 0.5 before the model has learned anything."""
        ...

    def load(self, data: bytes) -> Any:
        """Read a model; raises `Untrusted` on anything that is not one. Check its signature first."""
        ...

    def digest(self, model: Any) -> str:
        """SHA-256 (hex), canonical: equal for models that learned the same, in whatever process."""
        ...


class OnlineFlavor(Flavor, Protocol):
    """What a learner needs beside that."""

    def learn_one(self, model: Any, x: Inputs, y: bool) -> None:
        """Learn one example, in place."""
        ...

    def dump(self, model: Any) -> bytes:
        """The model's whole state, such that `load` gives back one that goes on exactly as this one would."""
        ...

    def finite(self, model: Any) -> bool:
        """Whether every number of the state is finite."""
        ...
