"""Linear models of scikit-learn, computed by ONNX Runtime in float64."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from journal.errors import Refused, Untrusted
from registry.flavors.batch_columns import Matrix
from registry.flavors.batch_document import Converted, Probabilities
from registry.flavors.encoder import Encoder

_INPUT = "x"
_OUTPUT = "probabilities"

_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external", 14: "external"},
}
"""The parts of ONNX's schema through which a tensor is reached: message, field number, message."""


def convert(estimator: Any, encoder: Encoder) -> Converted:
    """A linear model, or a pipeline that ends in one, as ONNX; raises `Refused` when it is neither."""
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, SGDClassifier  # noqa: PLC0415
    from sklearn.pipeline import Pipeline  # noqa: PLC0415

    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    if not isinstance(last, LogisticRegression | LogisticRegressionCV | SGDClassifier):
        raise Refused(which="it is no linear model", fix="Another runtime may take it")
    import skl2onnx  # type: ignore[import-untyped]  # noqa: PLC0415 - seconds that only where a model is made should pay
    from skl2onnx.common.data_types import DoubleTensorType  # type: ignore[import-untyped]  # noqa: PLC0415

    rows = [(_INPUT, DoubleTensorType([None, encoder.width]))]
    model = skl2onnx.convert_sklearn(estimator, initial_types=rows, options={id(last): {"zipmap": False}})
    return Converted(data=model.SerializeToString(deterministic=True))


def open_runtime(converted: Converted, width: int) -> "OnnxRuntime":
    """Read a model.

    Raises:
        Untrusted: ONNX Runtime does not read it, it wants other rows, or it names a file outside itself.
    """
    import onnxruntime  # type: ignore[import-untyped]  # noqa: PLC0415 - only what serves ONNX pays for it
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # type: ignore[import-untyped]  # noqa: PLC0415

    if has_external_data(converted.data):
        raise Untrusted(which="the ONNX model names a file outside itself", fix="Nothing was run")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 4
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    try:
        session = onnxruntime.InferenceSession(converted.data, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        raise Untrusted(which=f"ONNX Runtime does not read the model: {error}", fix="Export it again") from error
    runtime = OnnxRuntime(session)
    if runtime.shape != (width, "tensor(double)"):
        raise Untrusted(which=f"the ONNX model is for {runtime.shape}, not {width} doubles", fix="Export it again")
    return runtime


class OnnxRuntime:
    """An ONNX session in one thread that does not spin."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._run = session.run
        self._outputs = [_OUTPUT]

    @property
    def shape(self) -> tuple[int, str]:
        """Columns of a row, and the type of its answers; zero columns when it has other inputs than ours."""
        inputs = [(entry.name, entry.shape[-1]) for entry in self._session.get_inputs()]
        outputs = {entry.name: entry.type for entry in self._session.get_outputs()}
        width = inputs[0][1] if [name for name, _ in inputs] == [_INPUT] else 0
        return width, outputs.get(_OUTPUT, "nothing")

    def one(self, x: Matrix) -> float:
        """Probability of True for a matrix of one row."""
        return float(self._run(self._outputs, {_INPUT: x})[0][0, 1])

    def many(self, x: Matrix) -> Probabilities:
        """Probability of True for each row, one by one: a product's last bit may follow the number of rows."""
        return np.array([self.one(x[row : row + 1]) for row in range(len(x))], dtype=np.float64)


def has_external_data(data: bytes) -> bool:
    """Whether a tensor of a serialised model lies in a file of its own.

    ONNX Runtime would read it from the working folder, also for a model that it gets as bytes. Reading the fields takes
    less than the ``onnx`` package, which serving has no other use for. Bytes that are no fields name no file.
    """
    open_messages = [("model", memoryview(data))]
    while open_messages:
        kind, message = open_messages.pop()
        for number, content in _fields(message):
            inner = _FIELDS[kind].get(number)
            if inner == "external" and content:
                return True
            if inner and isinstance(content, memoryview):
                open_messages.append((inner, content))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The numbers and contents of a Protocol Buffers message's fields; ends where the bytes stop being one."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            content, place = _varint(message, place)
            yield number, content
        elif wire == _LENGTH:
            size, place = _varint(message, place)
            yield number, message[place : place + size]
            place += size
        elif wire in _FIXED:
            place += _FIXED[wire]
        else:
            return


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while place < len(message):
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the highest bit says that more follow
            break
        shift += 7
    return value, place
