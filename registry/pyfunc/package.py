"""A version as a folder that ``mlflow.pyfunc.load_model`` reads: the model, its reader, and what the reader imports.

The folder names a loader module instead of holding a pickled Python object, so that no path of this machine and no
pickle of ours gets in.
"""

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from registry.pyfunc.carried import Carried, carried
from registry.pyfunc.portable import Portable

_LOADER = Path(__file__).with_name("rivermill_version.py")
_README = """# {version}

`mlflow.pyfunc.load_model(...)` gives a model whose `predict(frame)` returns the probability of True for each row, to
the last bit what Rivermill answers. The frame has a column for each feature (`model.json` says which); None, NaN and
NA are missing. It needs what `requirements.txt` names, and no Rivermill: the reader travels in `code/`.

Loading checks the SHA-256 of the model's bytes, not Rivermill's signature under them: that is checked inside Rivermill
only, which serves from its own store and never from here. Whoever can write to these files can change what they do.
{state}"""
_STATE = """
This family has no form but its whole state, which is a pickle. It is read by an allow-list (data and the classes of
estimators, nothing that can be called); an allow-list reduces what a forged pickle can do and is no proof of origin.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What a model takes.

    Attributes:
        names: Every column, in order.
        types: One per column: ``int64``, ``float64``, ``string`` or ``bool``.
        required: Columns that are never missing. MLflow has no integer that may be missing: other integer columns are
            declared as anything, and the loader checks them.
    """

    names: Sequence[str]
    types: Sequence[str]
    required: frozenset[str] = frozenset()


def save(folder: Path, name: str, portable: Portable, columns: Columns, **model: Any) -> None:
    """Write the folder, which must not exist yet.

    Args:
        folder: Where to.
        name: Of the version, for people.
        portable: The model.
        columns: What it takes.
        model: Facts that ``mlflow.models.Model`` records about itself, such as ``run_id``.
    """
    from mlflow import pyfunc  # noqa: PLC0415 - takes a second or more
    from mlflow.models import Model  # noqa: PLC0415

    code = carried(portable.reader, *portable.named)
    with tempfile.TemporaryDirectory() as beside, warnings.catch_warnings():
        # An example would be rows of the training set, which may not leave it.
        warnings.filterwarnings("ignore", message=".*An input example was not provided", category=UserWarning)
        pyfunc.save_model(
            folder,
            loader_module=_LOADER.stem,
            data_path=_write_model(Path(beside), name, portable, columns),
            code_paths=_write_code(Path(beside), code),
            signature=_signature(columns),
            pip_requirements=_pinned({"numpy", "pandas", *code.distributions, *portable.requirements}),
            mlflow_model=Model(**model),
        )
    state = _STATE if portable.state else ""
    (folder / "README.md").write_text(_README.format(version=name, state=state))


def _pinned(distributions: set[str]) -> list[str]:
    """As ``name==version`` of what is installed here; MLflow adds itself."""
    return [f"{name}=={version(name)}" for name in sorted(distributions)]


def _write_model(beside: Path, name: str, portable: Portable, columns: Columns) -> str:
    folder = beside / "model"
    folder.mkdir()
    about = {
        "version": name,
        "reader": portable.reader,
        "columns": list(columns.names),
        "types": list(columns.types),
        "sha256": hashlib.sha256(portable.data).hexdigest(),
    }
    (folder / "model.json").write_bytes(msgspec.json.format(msgspec.json.encode(about)))
    (folder / "model.bin").write_bytes(portable.data)
    return str(folder)


def _write_code(beside: Path, code: Carried) -> list[str]:
    for place, file in code.files.items():
        (beside / "carried" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, beside / "carried" / place)
    return [str(_LOADER), str(beside / "carried")]


def _signature(columns: Columns) -> Any:
    from mlflow.models import ModelSignature  # noqa: PLC0415
    from mlflow.types import ColSpec, DataType, Schema  # noqa: PLC0415
    from mlflow.types.schema import AnyType  # noqa: PLC0415

    kinds = {"int64": DataType.long, "float64": DataType.double, "string": DataType.string, "bool": DataType.boolean}
    anything = AnyType()  # type: ignore[no-untyped-call]
    takes: list[Any] = [
        ColSpec(kinds[kind] if kind != "int64" or name in columns.required else anything, name)
        for name, kind in zip(columns.names, columns.types, strict=True)
    ]
    return ModelSignature(Schema(takes), Schema([ColSpec(DataType.double)]))
