"""Loads a Rivermill version through plain ``mlflow.pyfunc``: this file travels with the version, whole.

Beside it lies ``carried/``: the modules that read the model, the same that served it inside Rivermill when it was
logged. What is checked here is the SHA-256 of the model's bytes. The signature under them is not:
only Rivermill holds the key that it could be checked with. Whoever can write to the artifacts can change both.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_ROOMS = ("journal", "registry")


class RivermillVersion:
    """One version: a model, the reader that answers from it, and the columns that it takes.

    Args:
        folder: Holds ``model.json`` (reader, columns, types, sha256) and ``model.bin``.
        carried: Holds the reader and what it imports.

    Raises:
        ValueError: The model's bytes are not those that were logged.
        ImportError: A library that the version declares is not there.
    """

    def __init__(self, folder: Path, carried: Path) -> None:
        about = json.loads((folder / "model.json").read_bytes())
        data = (folder / "model.bin").read_bytes()
        if hashlib.sha256(data).hexdigest() != about["sha256"]:
            message = f"The model of {about['version']} is not the one that was logged: log or download it again."
            raise ValueError(message)
        self._columns: list[str] = about["columns"]
        self._types: list[str] = about["types"]
        with _only_carried(carried):
            self._reader: Any = importlib.import_module(about["reader"])
            self._model = self._reader.load(data)

    def predict(self, frame: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:  # noqa: ARG002
        """Probability of True for every row.

        Args:
            frame: One column per feature; None, NaN and NA are missing.
            params: Not used; MLflow passes it.

        Raises:
            ValueError: A column is not there, or holds a value of another type.
        """
        inputs, predict_one, columns, model = self._reader.inputs, self._reader.predict_one, self._columns, self._model
        lacking = [name for name in columns if name not in frame]
        if lacking:
            message = f"The frame has no column {', '.join(lacking)}; a missing value is a None in its column."
            raise ValueError(message)
        cells = [_cells(frame[name], kind) for name, kind in zip(columns, self._types, strict=True)]
        answers = [predict_one(model, inputs(columns, values)) for values in zip(*cells, strict=True)]
        return np.array(answers, dtype=np.float64)


def _load_pyfunc(path: str) -> RivermillVersion:
    """What MLflow calls."""
    folder = Path(path)
    return RivermillVersion(folder, folder.parents[1] / "code" / "carried")


@contextmanager
def _only_carried(folder: Path) -> Iterator[None]:
    """Imports find a version's own modules, which are forgotten again afterwards by name, though not by who has them.

    So two versions in one process, a Rivermill that is installed and modules of yours of the same names do not meet.
    """
    hidden = {name: sys.modules.pop(name) for name in _loaded()}
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(hidden)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in _ROOMS]


def _cells(column: "pd.Series[Any]", kind: str) -> list[Any]:
    convert = _CONVERTERS[kind]
    cells = zip(column.isna().tolist(), column.tolist(), strict=True)
    try:
        return [None if missing else convert(value) for missing, value in cells]
    except TypeError as error:
        message = f"Column {column.name!r} takes {kind}: {error}"
        raise ValueError(message) from error


def _integer(value: Any) -> int:
    """Pandas makes floats of a column of integers with a gap in it."""
    if isinstance(value, bool | np.bool_ | str) or value != int(value):
        raise TypeError(_is_none(value))
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool | np.bool_ | str):
        raise TypeError(_is_none(value))
    return float(value)


def _only(kinds: type | tuple[type, ...], made: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise TypeError(_is_none(value))
        return made(value)

    return convert


def _is_none(value: Any) -> str:
    return f"{value!r} is none"


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "int64": _integer,
    "float64": _number,
    "string": _only(str, str),
    "bool": _only((bool, np.bool_), bool),
}
