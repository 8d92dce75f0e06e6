"""One line's model in memory: its last published snapshot, or its version; the prior until there is one."""

from collections.abc import Callable
from typing import Any

from journal.blobs import Blobs
from journal.body import Snapshot, Version
from journal.errors import Corrupt
from registry.flavor import Flavor
from registry.signing import Verifier


class Predictor:
    """Holds one model in memory and swaps it whole."""

    def __init__(self, flavor_of: Callable[[str], Flavor], blobs: Blobs, verifier: Verifier, prior: float) -> None:
        self._flavor_of, self._blobs, self._verifier = flavor_of, blobs, verifier
        self.prior = prior
        self._flavor: Flavor | None = None
        self._model: Any = None
        self.digest = ""

    def follow(self, published: Snapshot | Version) -> None:
        """Serve this from now on; on any error the model before it goes on answering.

        Raises:
            Untrusted: It is not signed by us, or asks for code that is not allowed.
            Corrupt: The bytes or the model are not the ones that were signed.
        """
        self._verifier.verify(published.signature, published.line, published.family, published.model, published.blob)
        flavor = self._flavor_of(published.family)
        model = flavor.load(self._blobs.get(published.blob))
        if flavor.digest(model) != published.model:
            raise Corrupt(which=f"the model {published.model[:12]} of line {published.line}", fix="Restore its blob")
        self._flavor, self._model, self.digest = flavor, model, published.model

    @property
    def is_ready(self) -> bool:
        """Whether there is a model; before that the prior answers."""
        return self._model is not None

    def predict_one(self, columns: list[str], values: list[Any]) -> float:
        """Probability of the positive class."""
        if self._flavor is None:
            return self.prior
        return self._flavor.predict_one(self._model, self._flavor.inputs(columns, values))
