"""The model that answers: the line's last published snapshot, or the line's prior until there is one."""

from typing import Any

from journal.blobs import Blobs
from journal.body import Snapshot
from journal.errors import Corrupt
from registry.flavor import Flavor
from registry.signing import Verifier


class Predictor:
    """Holds one model in memory and swaps it whole."""

    def __init__(self, flavor: Flavor, blobs: Blobs, verifier: Verifier, prior: float) -> None:
        self._flavor, self._blobs, self._verifier = flavor, blobs, verifier
        self.prior = prior
        self._model: Any = None
        self.digest = ""

    def follow(self, snapshot: Snapshot) -> None:
        """Serve this snapshot from now on; on any error the model before it goes on answering.

        Raises:
            Untrusted: It is not signed by us, or asks for code that is not allowed.
            Corrupt: The bytes or the model are not the ones that were signed.
        """
        self._verifier.verify(snapshot.signature, snapshot.line, snapshot.family, snapshot.model, snapshot.blob)
        model = self._flavor.load(self._blobs.get(snapshot.blob))
        if self._flavor.digest(model) != snapshot.model:
            raise Corrupt(which=f"snapshot {snapshot.line} after {snapshot.examples} examples", fix="Restore its blob")
        self._model, self.digest = model, snapshot.model

    @property
    def is_ready(self) -> bool:
        """Whether there is a model; before that the prior answers."""
        return self._model is not None

    def predict_one(self, columns: list[str], values: list[Any]) -> float:
        """Probability of the positive class."""
        if self._model is None:
            return self.prior
        return self._flavor.predict_one(self._model, self._flavor.inputs(columns, values))
