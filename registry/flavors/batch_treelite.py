"""Tree ensembles of scikit-learn, computed by Treelite without scikit-learn.

Two of scikit-learn's habits are not in the trees that Treelite reads, and are added here. Its forests round what they
read to float32. And its histogram trees take a category that they never saw for missing, where Treelite takes it for
one that is not in the split's set: so such a code becomes NaN, which both send the same way. (A NaN among the
categories of the *training* rows is another matter: Treelite is wrong there and does not say so; it is refused.)
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from journal.errors import Refused, Untrusted
from registry.flavors.batch_columns import Matrix
from registry.flavors.batch_document import Alignment, Converted, Probabilities
from registry.flavors.encoder import Encoder

if TYPE_CHECKING:
    from treelite import Model


def convert(estimator: Any, encoder: Encoder) -> Converted:
    """A tree ensemble for Treelite; raises `Refused` when Treelite cannot take it."""
    import treelite  # noqa: PLC0415 - only where a model is made
    from sklearn import ensemble  # noqa: PLC0415

    histogram = isinstance(estimator, ensemble.HistGradientBoostingClassifier)
    forests = (ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier, ensemble.GradientBoostingClassifier)
    if not histogram and not isinstance(estimator, forests):
        raise Refused(which="it is no tree ensemble", fix="Another runtime may take it")
    absent = _absent(estimator, encoder) if histogram else ()
    try:
        model = treelite.sklearn.import_model(estimator)
    except treelite.TreeliteError as error:
        raise Refused(which=f"Treelite says: {error}", fix="Another runtime may take it") from error
    alignment = Alignment(single=not histogram, absent=absent)
    return Converted(data=model.serialize_bytes(), alignment=alignment)


def open_runtime(converted: Converted, width: int) -> "TreeliteRuntime":
    """Read a model. Check its bytes before: Treelite does not, and may crash on damaged ones.

    Raises:
        Untrusted: Treelite does not read it, or it is for rows of another width.
    """
    import treelite  # noqa: PLC0415 - only what serves trees pays for it

    try:
        model = treelite.Model.deserialize_bytes(converted.data)
    except treelite.TreeliteError as error:
        raise Untrusted(which=f"Treelite does not read the model: {error}", fix="Export it again") from error
    if model.num_feature != width or model.input_type != "float64":
        raise Untrusted(
            which=f"the trees are for {model.num_feature} columns of {model.input_type}, not {width} of float64",
            fix="Export the model again",
        )
    if not all(0 <= column < width for column, _ in converted.alignment.absent):
        raise Untrusted(which=f"a column that is not among {width} lacks a code", fix="Export the model again")
    return TreeliteRuntime(model, converted.alignment)


class TreeliteRuntime:
    """Treelite's general inference, in one thread."""

    def __init__(self, model: "Model", alignment: Alignment) -> None:
        from treelite.gtil import predict  # noqa: PLC0415 - only what serves trees pays for it

        self._model = model
        self._predict = predict
        self._single = alignment.single
        self._absent = [(column, frozenset(codes)) for column, codes in alignment.absent]

    def one(self, x: Matrix) -> float:
        """Probability of True for a matrix of one row."""
        for column, codes in self._absent:
            if x.item(0, column) in codes:
                x = x.copy()
                x[0, column] = np.nan
        return float(self._compute(x)[0, 0, -1])

    def many(self, x: Matrix) -> Probabilities:
        """Probability of True for each row."""
        x = x.copy()
        for column, codes in self._absent:
            x[np.isin(x[:, column], list(codes)), column] = np.nan
        return np.ascontiguousarray(self._compute(x)[:, 0, -1], dtype=np.float64)

    def _compute(self, x: Matrix) -> Any:
        if self._single:
            x = x.astype(np.float32).astype(np.float64)
        return self._predict(self._model, x, nthread=1)


def _absent(estimator: Any, encoder: Encoder) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """The codes that each column of codes could have and that the estimator never saw."""
    if estimator.is_categorical_ is None:
        return ()
    columns = np.flatnonzero(estimator.is_categorical_).tolist()
    seen = dict(zip(columns, estimator._preprocessor.named_transformers_["encoder"].categories_, strict=True))
    if any(np.isnan(codes).any() for codes in seen.values()):
        raise Refused(
            which="a categorical column has NaN, on which Treelite is silently wrong", fix="Give missing a code"
        )
    possible = {column: range(len(encoder.categories[column]) + 1) for column in encoder.categorical}
    absent = {
        column: tuple(float(code) for code in possible.get(column, ()) if code not in codes)
        for column, codes in seen.items()
    }
    return tuple((column, codes) for column, codes in absent.items() if codes)
