"""What is stored of a batch model: MessagePack, the same bytes for the same parts.

An envelope holds a SHA-256 and the content under it, so that damaged bytes are found before any runtime reads them:
some would crash the process. It proves nothing about who wrote them; that is what a version's signature is for.
"""

import hashlib
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from journal.errors import Corrupt, Untrusted
from registry.flavors.batch_columns import Matrix

FORMAT = 1

Probabilities = NDArray[np.float64]
RuntimeName = Literal["treelite", "onnx", "skops"]


class Alignment(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime must do to a row to read it as the estimator did.

    Attributes:
        single: Numbers are rounded to float32, as scikit-learn's forests round theirs.
        absent: Per column, the codes that the estimator never saw; it takes them for missing.
    """

    single: bool = False
    absent: tuple[tuple[int, tuple[float, ...]], ...] = ()


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """An estimator in a runtime's own form."""

    data: bytes
    alignment: Alignment = Alignment()


class Runtime(Protocol):
    """What computes a model's answers. One thread; an answer never depends on the rows around it."""

    def one(self, x: Matrix) -> float:
        """Probability of True for a matrix of one row."""
        ...

    def many(self, x: Matrix) -> Probabilities:
        """Probability of True for each row, bit for bit what `one` gives."""
        ...


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch model, whole.

    Attributes:
        runtime: What computes its answers.
        encoder: The encoder's document.
        alignment: What the runtime does to an encoded row.
        model: The model in the runtime's own form.
        width: Columns of an encoded row.
        probe: Encoded rows, little-endian float64, row by row.
        answers: What the runtime answered on them where the model was made, little-endian float64.
    """

    runtime: RuntimeName
    encoder: dict[str, Any]
    alignment: Alignment
    model: bytes
    width: int
    probe: bytes
    answers: bytes


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="batch"):
    format: int
    sha256: bytes
    content: bytes


def packed(document: Document) -> bytes:
    """A document's bytes."""
    content = msgspec.msgpack.encode(document)
    envelope = _Envelope(format=FORMAT, sha256=hashlib.sha256(content).digest(), content=content)
    return msgspec.msgpack.encode(envelope)


def unpacked(data: bytes) -> Document:
    """Read a document.

    Raises:
        Untrusted: The bytes are no batch model's, or of a format that this code does not know.
        Corrupt: They were, and have changed.
    """
    try:
        envelope = msgspec.msgpack.decode(data, type=_Envelope)
        if envelope.format != FORMAT:
            raise Untrusted(which=f"a batch model of format {envelope.format}, not {FORMAT}", fix="Export it again")
        if hashlib.sha256(envelope.content).digest() != envelope.sha256:
            raise Corrupt(which="the batch model's SHA-256 differs", fix="Restore the model from its version")
        return msgspec.msgpack.decode(envelope.content, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Untrusted(which=f"the bytes are no batch model ({error})", fix="Nothing was run") from error


def floats_to_bytes(numbers: NDArray[np.float64]) -> bytes:
    """Little-endian float64, row by row."""
    return np.ascontiguousarray(numbers, dtype="<f8").tobytes()


def floats_of_bytes(data: bytes, width: int) -> Matrix:
    """The matrix of some bytes; raises `Corrupt` when they do not make whole rows."""
    if width < 1 or not data or len(data) % (8 * width):
        raise Corrupt(which=f"{len(data)} bytes are no rows of {width} numbers", fix="Export the model again")
    return np.frombuffer(data, dtype="<f8").astype(np.float64).reshape(-1, width)
