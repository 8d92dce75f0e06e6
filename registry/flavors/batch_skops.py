"""Any other classifier of scikit-learn, read by skops from a fixed list of types and computed by scikit-learn itself.

The slowest runtime by far, and the only one that loads scikit-learn in serving. What skops trusts of its own (public
estimators and plain NumPy functions) is enough for most; the list below is all that we add.
"""

import zipfile
from typing import Any

import numpy as np

from journal.errors import Refused, Untrusted
from registry.flavors.batch_columns import Matrix
from registry.flavors.batch_document import Converted, Probabilities
from registry.flavors.encoder import Encoder

TRUSTED = (
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Types beyond skops' own list: the private parts of calibrated classifiers, trees, imputers and votes."""

_DAMAGE = (ArithmeticError, AttributeError, ImportError, LookupError, TypeError, ValueError, zipfile.BadZipFile)


def convert(estimator: Any, encoder: Encoder) -> Converted:  # noqa: ARG001 - one signature for all runtimes
    """A classifier as skops writes it; raises `Refused` when it holds a type that is not on the list."""
    import skops.io  # type: ignore[import-untyped]  # noqa: PLC0415 - only where such a model is made or served

    try:
        data = skops.io.dumps(estimator)
        strangers = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED))
    except TypeError as error:
        raise Refused(which=f"skops says: {error}", fix="Use a classifier of scikit-learn") from error
    if strangers:
        raise Refused(which=f"it holds {', '.join(strangers)}, which are not on the list", fix="Use another classifier")
    return Converted(data=data)


def open_runtime(converted: Converted, width: int) -> "SkopsRuntime":
    """Read a classifier by the list; raises `Untrusted` when it is none, or asks for another type."""
    import skops.io  # noqa: PLC0415 - only where such a model is made or served
    from sklearn.base import BaseEstimator, is_classifier  # noqa: PLC0415

    try:
        estimator = skops.io.loads(converted.data, trusted=list(TRUSTED))
    except _DAMAGE as error:
        raise Untrusted(which=f"skops does not read the model: {error}", fix="Nothing was run") from error
    classifies = isinstance(estimator, BaseEstimator) and is_classifier(estimator)
    if not classifies or getattr(estimator, "n_features_in_", None) != width or not hasattr(estimator, "predict_proba"):
        raise Untrusted(which=f"it is no fitted classifier of {width} columns", fix="Export the model again")
    return SkopsRuntime(estimator)


class SkopsRuntime:
    """scikit-learn in one thread, row by row: its sums may differ in the last bit with the rows around."""

    def __init__(self, estimator: Any) -> None:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # noqa: PLC0415 - as skops

        jobs = [name for name in estimator.get_params() if name.rpartition("__")[2] == "n_jobs"]
        self._estimator = estimator.set_params(**dict.fromkeys(jobs, 1))
        self._threads = ThreadpoolController()

    def one(self, x: Matrix) -> float:
        """Probability of True for a matrix of one row."""
        with self._threads.limit(limits=1):
            return float(self._estimator.predict_proba(x)[0, 1])

    def many(self, x: Matrix) -> Probabilities:
        """Probability of True for each row."""
        with self._threads.limit(limits=1):
            answers = [self._estimator.predict_proba(x[row : row + 1])[0, 1] for row in range(len(x))]
        return np.array(answers, dtype=np.float64)
