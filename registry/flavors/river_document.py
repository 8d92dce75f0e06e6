"""A River model's parameters as canonical JSON, for the families that are nothing but their parameters.

That is a logistic regression behind scalers and categories, alone or in a union. `registry.pyfunc.linear` answers from
the document without River. JSON keeps floats exactly: they are written in the shortest form that reads back the same.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from river import compose, linear_model, optim, preprocessing

from registry.flavors.canonical import all_finite
from registry.flavors.river_parts import Categories, SquashedScaler
from registry.pyfunc.linear import FORMAT

Document = dict[str, Any]


def document(model: Any) -> Document | None:
    """The parameters that the model's answers follow from, or None for a model that has no such form.

    Args:
        model: Any River model.

    Returns:
        ``format``, ``parts`` (in the order of the union), ``weights`` by feature and ``intercept``.
    """
    steps = list(model.steps.values()) if type(model) is compose.Pipeline else [model]
    last = steps.pop()
    if type(last) is not linear_model.LogisticRegression or type(last.loss) is not optim.losses.Log:
        return None
    parts = _parts(steps)
    if parts is None:
        return None
    written = {"format": FORMAT, "parts": parts, "weights": last.weights, "intercept": float(last.intercept)}
    return written if all_finite(written) else None


def write(document: Document) -> bytes:
    """The document's canonical bytes: keys sorted, so equal parameters give equal bytes."""
    return msgspec.json.encode(document, order="deterministic")


def _parts(steps: list[Any]) -> list[Document] | None:
    """One transformer before the regression, or a union of them."""
    if len(steps) != 1:
        return None
    step = steps[0]
    members = list(step.transformers.values()) if type(step) is compose.TransformerUnion else [step]
    written = [_WRITERS[type(member)](member) if type(member) in _WRITERS else None for member in members]
    parts = [part for part in written if part is not None]
    return parts if len(parts) == len(members) else None


def _squashed(scaler: SquashedScaler) -> Document:
    return {"kind": "squashed_scaler", "unit": scaler.unit, "limit": scaler.limit, "moments": scaler.moments}


def _standard(scaler: Any) -> Document | None:
    if scaler.window_size is not None:
        return None
    # Predicting leaves zeros behind for names that were never learned; they would say nothing here.
    moments = {name: [scaler.means[name], scaler.vars[name]] for name in scaler.counts}
    return {"kind": "standard_scaler", "with_std": scaler.with_std, "moments": moments}


def _categories(categories: Categories) -> Document:
    return {"kind": "categories", "groups": list(categories.groups)}


_WRITERS: dict[type, Callable[[Any], Document | None]] = {
    SquashedScaler: _squashed,
    preprocessing.StandardScaler: _standard,
    Categories: _categories,
}
