"""The batch family: models that a job trained once, in a form that serving computes without what trained them.

The bytes are made by ``export``. Reading them runs nobody's code and imports only the runtime that they name. A model
carries rows and what its runtime answered on them where it was made: one that answers otherwise here is not served.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from journal.errors import Corrupt, Refused
from journal.record import canonical_json
from registry.flavor import Inputs
from registry.flavors import batch_onnx, batch_skops, batch_treelite
from registry.flavors.batch_columns import Matrix
from registry.flavors.batch_document import (
    Alignment,
    Converted,
    Probabilities,
    Runtime,
    RuntimeName,
    floats_of_bytes,
    floats_to_bytes,
    unpacked,
)
from registry.flavors.encoder import Encoder

FAMILY = "batch"

RUNTIMES: dict[RuntimeName, ModuleType] = {"treelite": batch_treelite, "onnx": batch_onnx, "skops": batch_skops}
"""In the order in which they are tried: each imports its libraries when it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchModel:
    """A model that was read.

    Attributes:
        encoder: Makes a row of a prediction's values.
        runtime_name: What computes the answers.
        runtime: The same, ready.
        alignment: What the runtime does to an encoded row.
        probe: Encoded rows that name the model by its answers.
    """

    encoder: Encoder
    runtime_name: RuntimeName
    runtime: Runtime
    alignment: Alignment
    probe: Matrix


def inputs(columns: Sequence[str], values: Sequence[Any]) -> Inputs:
    """A prediction's columns and values as they are: each model encodes them with its own encoder."""
    if len(columns) != len(values):
        raise Refused(which=f"{len(columns)} columns with {len(values)} values", fix="Give one value for each column")
    return columns, values


def predict_one(model: BatchModel, x: Inputs) -> float:
    """Probability of True."""
    return model.runtime.one(model.encoder.row(*x))


def predict_many(model: BatchModel, table: pa.Table, columns: Sequence[str] | None = None) -> Probabilities:
    """Probability of True for each row of a table, bit for bit what `predict_one` gives.

    Args:
        model: The model.
        table: Rows with the model's features, and others.
        columns: Only these are read; all of them when it is left out.
    """
    return predict_matrix(model, model.encoder.matrix(table if columns is None else table.select(list(columns))))


def predict_matrix(model: BatchModel, x: Matrix) -> Probabilities:
    """Probability of True for each encoded row; ``x`` has the shape (rows, the encoder's width)."""
    return model.runtime.many(x) if len(x) else np.zeros(0)


def load(data: bytes) -> BatchModel:
    """Read a model; check its signature first, since a crafted one can crash the process.

    Raises:
        Untrusted: The bytes are no batch model, ask for what is not allowed, or their runtime does not read them.
        Corrupt: They have changed, or the runtime computes something else here than where the model was made.
    """
    document = unpacked(data)
    encoder = Encoder.of(document.encoder)
    if encoder.width != document.width:
        raise Corrupt(which=f"an encoder of {encoder.width} columns for {document.width}", fix="Export the model again")
    probe, answers = floats_of_bytes(document.probe, document.width), floats_of_bytes(document.answers, 1)[:, 0]
    converted = Converted(data=document.model, alignment=document.alignment)
    model = BatchModel(
        encoder=encoder,
        runtime_name=document.runtime,
        runtime=open_runtime(document.runtime, converted, document.width),
        alignment=document.alignment,
        probe=probe,
    )
    _compare(model, answers)
    return model


def digest(model: BatchModel) -> str:
    """SHA-256 (hex) over what the model does: its encoder, its runtime, the probe, and what it answers on it now.

    Two fits that learned the same have the same digest, though the bytes that libraries write may differ.
    """
    parts = [
        canonical_json(model.encoder.document()),
        canonical_json([model.runtime_name, msgspec.to_builtins(model.alignment)]),
        floats_to_bytes(model.probe),
        floats_to_bytes(predict_matrix(model, model.probe)),
    ]
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def open_runtime(name: RuntimeName, converted: Converted, width: int) -> Runtime:
    """A model's runtime; raises `Untrusted` when it does not read the model."""
    runtime: Runtime = RUNTIMES[name].open_runtime(converted, width)
    return runtime


def _compare(model: BatchModel, answers: Probabilities) -> None:
    computed = predict_matrix(model, model.probe)
    if computed.tobytes() == answers.tobytes():
        return
    apart = float(np.abs(computed - answers).max()) if len(computed) == len(answers) else float("inf")
    raise Corrupt(
        which=f"{model.runtime_name} answers otherwise here than where the model was made, by {apart:.3g}",
        fix="Train it again on this machine, or install the versions that the model was made with",
    )
