"""The River family: online models, one example at a time.

Besides ``river_parts`` this is the only module that knows River. A state is a pickle with two differences. The unseeded
generators that River's distributions carry (2.5 KB each, used only to sample) stay out; all distributions of a process
share one. And strings are stored by value, not by identity, so that a linear model's bytes are the same whether or not
it was read back on the way. (A tree holds sets of names, whose order in the bytes follows the hash seed. Bytes are for
integrity; what names a model is its `digest`.)
"""

import pickle
import random
import sys
from collections.abc import Sequence
from copyreg import dispatch_table
from io import BytesIO
from typing import Any

from river import base, proba

from journal.errors import Untrusted
from registry.flavor import Inputs
from registry.flavors.canonical import Reduced, all_finite, reduce_plainly, state_digest
from registry.flavors.unpickling import NAMES, load_allowed

FAMILY = "river"

_PROTOCOL = 5
_PACKAGES = (
    "registry.flavors.river_parts",
    "river._river_rust.drift",
    "river._river_rust.stats",
    "river._river_rust.vectordict",
    "river.compose",
    "river.drift.adwin",
    "river.drift.binary",
    "river.drift.no_drift",
    "river.drift.page_hinkley",
    "river.ensemble",
    "river.forest",
    "river.imblearn",
    "river.linear_model",
    "river.metrics",
    "river.naive_bayes",
    "river.optim",
    "river.preprocessing",
    "river.proba",
    "river.stats",
    "river.tree",
    "river.utils.rolling",
)
_SHARED_GENERATOR = random.Random(0)
_DISTRIBUTIONS = (proba.Beta, proba.Gaussian, proba.Multinomial)


def inputs(columns: Sequence[str], values: Sequence[Any]) -> Inputs:
    """A prediction's columns and values as a model's input; what is missing has no entry."""
    return {name: value for name, value in zip(columns, values, strict=True) if value is not None}


def predict_one(model: Any, x: Inputs) -> float:
    """Probability of True.

    A model that has learned nothing says nothing (River: an empty dict), which reads 0.5; one that has only ever seen
    False gives True no probability.
    """
    proba_of = model.predict_proba_one(x)
    score: float | None = proba_of.get(True)
    if score is None:
        return 0.0 if proba_of else 0.5
    return score


def learn_one(model: Any, x: Inputs, y: bool) -> None:
    """Learn one example, in place."""
    model.learn_one(x, y)


def dump(model: Any) -> bytes:
    """The model's state; `load` gives back one that goes on exactly as this one would.

    Raises:
        Untrusted: The model holds something that `load` would refuse: said now and not at the next start.
    """
    buffer = BytesIO()
    _StatePickler(buffer, _PROTOCOL).dump(model)
    data = buffer.getvalue()
    load(data)
    return data


def load(data: bytes) -> Any:
    """Read a state by the allow-list; check its signature first.

    Raises:
        Untrusted: It is no River model's state, or asks for what is not allowed.
    """
    model = load_allowed(data, _PACKAGES, _ALLOWED)
    if not isinstance(model, base.Estimator):
        raise Untrusted(which=f"the state is a {type(model).__name__}, not a River model", fix="Nothing was run")
    return model


def digest(model: Any) -> str:
    """SHA-256 (hex) of the canonical state: equal across processes, hash seeds and round trips through `dump`."""
    return state_digest(model, _reduce)


def finite(model: Any) -> bool:
    """Whether every float of the state is finite."""
    return all_finite(model, _reduce)


def revive(kind: Any, state: dict[str, Any]) -> Any:
    """A distribution from its state without a generator. Called when a state is read."""
    if kind not in _DISTRIBUTIONS:
        raise Untrusted(which=f"{kind!r} is no distribution", fix="Nothing was run")
    distribution = kind.__new__(kind)
    distribution.__dict__.update(state, _rng=_SHARED_GENERATOR)
    return distribution


def _without_generator(distribution: Any) -> Reduced:
    if distribution.seed is not None:
        return reduce_plainly(distribution)
    return revive, (type(distribution), {k: v for k, v in vars(distribution).items() if k != "_rng"})


def _reduce(value: Any) -> Reduced:
    return _without_generator(value) if type(value) in _DISTRIBUTIONS else reduce_plainly(value)


class _StatePickler(pickle.Pickler):
    """Leaves generators out and stores every string by value."""

    dispatch_table = {**dispatch_table, **dict.fromkeys(_DISTRIBUTIONS, _without_generator)}  # noqa: RUF012

    def persistent_id(self, value: Any) -> str | None:
        """An interned string for a string: one identity per content, whoever made it."""
        return sys.intern(value) if type(value) is str else None


_ALLOWED = NAMES | {(revive.__module__, revive.__qualname__)}
