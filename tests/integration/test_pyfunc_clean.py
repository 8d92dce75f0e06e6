"""A version loads through plain MLflow where Rivermill is not, and answers what Rivermill answers, bit for bit."""

import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from river import tree
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from journal.errors import Misconfigured
from registry.flavors import batch, encoder, export, river
from registry.flavors.river_parts import SquashedScaler
from registry.mlflow_client import reaching
from registry.pyfunc import rivermill_version
from registry.pyfunc.package import Columns, save
from registry.pyfunc.portable import portable_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["delay", "stops", "origin", "direct", "hour"]
TYPES: list[Any] = ["float64", "int64", "string", "bool", "int64"]
ARROW = {"float64": pa.float64(), "int64": pa.int64(), "string": pa.string(), "bool": pa.bool_()}

CLEAN = """
import json, sys
from importlib.machinery import PathFinder
from pathlib import Path

root, rooms = Path(sys.argv[1]), {"journal", "features", "registry", "training", "serving", "rivermill"}


class NoRivermill:
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name.partition(".")[0] in rooms else None
        where = spec and Path(spec.origin or next(iter(spec.submodule_search_locations)))
        if where and where.is_relative_to(root) and not where.is_relative_to(Path(sys.argv[2])):
            raise ModuleNotFoundError(name=name)


sys.path = [place for place in sys.path if Path(place or ".").resolve() != root]
sys.meta_path = [NoRivermill(), *(finder for finder in sys.meta_path if "Editable" not in str(finder))]
for room in rooms:
    try:
        __import__(room)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{room} is installed here")

import mlflow.pyfunc
import pandas

answers, readers = {}, {}
asked = json.loads(Path(sys.argv[3]).read_text())
for name in sorted(asked["models"]):
    model = mlflow.pyfunc.load_model(f"{sys.argv[2]}/{name}")
    readers[name] = model._model_impl._reader.__file__
    frame = pandas.DataFrame(asked["rows"], columns=asked["columns"])
    answers[name] = [answer.hex() for answer in model.predict(frame).tolist()]
left = sorted(name for name in sys.modules if name.partition(".")[0] in rooms)
imported = sorted({"river", "sklearn", "treelite", "onnxruntime"} & set(sys.modules))
print(json.dumps({"answers": answers, "readers": readers, "left": left, "imported": imported}))
"""


def rows(seed: int, count: int) -> list[list[Any]]:
    """Values in the order of the columns, an eighth of them missing."""
    draw = random.Random(seed)
    made = [
        [
            draw.expovariate(1 / 20) - 10,
            draw.randrange(5),
            draw.choice(["EWR", "JFK", "LGA", "Zürich"]),
            draw.random() < 0.5,
            draw.randrange(24),
        ]
        for _ in range(count)
    ]
    return [[None if draw.random() < 0.125 else value for value in row] for row in made]


TRAINED = rows(1, 600)
ASKED = rows(2, 500)
OUTCOMES = [(row[0] or 0.0) + 5 * (row[1] or 0) > 12 for row in TRAINED]


def table(values: list[list[Any]]) -> pa.Table:
    transposed = zip(COLUMNS, TYPES, zip(*values, strict=True), strict=True)
    return pa.table({name: pa.array(list(cells), ARROW[kind]) for name, kind, cells in transposed})


def batch_model(estimator: Any, encoding: Any) -> bytes:
    fitted = encoder.fit(table(TRAINED), COLUMNS, TYPES, encoding)
    x = fitted.matrix(table(TRAINED))
    estimator.fit(x, np.array(OUTCOMES))
    return export.export(estimator, fitted, probe=x[:100], check=x).data


def online() -> Any:
    spec = spec_from_file_location("flights_models_for_pyfunc", ROOT / "configs" / "flights" / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.online()


def river_model(model: Any) -> bytes:
    for row, outcome in zip(TRAINED, OUTCOMES, strict=True):
        river.learn_one(model, river.inputs(COLUMNS, row), outcome)
    return river.dump(model)


@pytest.fixture(scope="module")
def models() -> dict[str, tuple[str, bytes]]:
    """Family and bytes, one of each way to travel."""
    return {
        "treelite": ("batch", batch_model(HistGradientBoostingClassifier(max_iter=20, random_state=0), "codes")),
        "onnx": ("batch", batch_model(LogisticRegression(max_iter=500), "dense")),
        "linear": ("river", river_model(online())),
        "state": (
            "river",
            river_model(SquashedScaler() | tree.HoeffdingTreeClassifier(grace_period=50, leaf_prediction="nb")),
        ),
    }


@pytest.fixture(scope="module")
def saved(models: dict[str, tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("versions")
    columns = Columns(names=COLUMNS, types=TYPES)
    with reaching(f"sqlite:///{folder}/mlflow.db"):
        for name, (family, data) in models.items():
            save(folder / name, name, portable_of(family, data), columns)
    return folder


def ask_cleanly(saved: Path, names: list[str], values: list[list[Any]]) -> Any:
    """What a process without Rivermill answers."""
    question = saved / "question.json"
    question.write_text(json.dumps({"models": names, "rows": values, "columns": COLUMNS}))
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    asked = subprocess.run(
        [sys.executable, "-I", "-c", CLEAN, str(ROOT), str(saved), str(question)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=saved,
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout.splitlines()[-1])


def here(family: str, data: bytes) -> list[float]:
    flavor: Any = {"river": river, "batch": batch}[family]
    model = flavor.load(data)
    return [float(flavor.predict_one(model, flavor.inputs(COLUMNS, row))) for row in ASKED]


def test_a_clean_process_answers_bit_for_bit(saved: Path, models: dict[str, tuple[str, bytes]]) -> None:
    told = ask_cleanly(saved, list(models), ASKED)
    for name, (family, data) in models.items():
        expected = here(family, data)
        assert told["answers"][name] == [answer.hex() for answer in expected], name
        assert len(set(expected)) > 50
    assert told["left"] == []
    assert {name: Path(reader).relative_to(saved).parts[:3] for name, reader in told["readers"].items()} == {
        name: (name, "code", "carried") for name in models
    }


def test_a_version_imports_only_what_it_declares(saved: Path) -> None:
    declared = {
        name: sorted(line.partition("==")[0] for line in (saved / name / "requirements.txt").read_text().split())
        for name in ("treelite", "onnx", "linear", "state")
    }
    common = ["mlflow", "numpy", "pandas"]
    assert declared["linear"] == common
    assert declared["state"] == sorted([*common, "river"])
    assert set(declared["treelite"]) - set(declared["onnx"]) == {"treelite"}
    assert set(declared["onnx"]) - set(declared["treelite"]) == {"onnxruntime"}
    assert "scikit-learn" not in declared["treelite"] + declared["onnx"]
    assert ask_cleanly(saved, ["linear"], ASKED[:1])["imported"] == []
    assert ask_cleanly(saved, ["onnx"], ASKED[:1])["imported"] == ["onnxruntime"]


def test_the_readme_says_what_is_not_checked(saved: Path) -> None:
    for name in ("treelite", "onnx", "linear", "state"):
        assert "not Rivermill's signature" in (saved / name / "README.md").read_text()
    assert "allow-list" in (saved / "state" / "README.md").read_text()
    assert "allow-list" not in (saved / "linear" / "README.md").read_text()


def test_the_same_model_is_packed_the_same(saved: Path, models: dict[str, tuple[str, bytes]]) -> None:
    family, data = models["linear"]
    again = portable_of(family, river.dump(river.load(data)))
    assert again.data == (saved / "linear" / "data" / "model" / "model.bin").read_bytes()
    assert b"\n" not in again.data


@pytest.fixture(scope="module")
def loaded(saved: Path) -> Any:
    return rivermill_version._load_pyfunc(str(saved / "linear" / "data" / "model"))


def frame(*values: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(list(values), columns=COLUMNS)


def test_where_rivermill_is_it_is_left_alone(loaded: Any, models: dict[str, tuple[str, bytes]]) -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ("registry", "journal")}
    assert sys.modules[river.__name__] is river
    assert loaded._reader is not sys.modules.get("registry.pyfunc.linear")
    assert loaded.predict(frame(*ASKED)).tolist() == here(*models["linear"])
    assert {name: sys.modules[name] for name in before} == before
    assert not [place for place in sys.path if place.endswith("carried")]


def test_missing_is_missing_however_pandas_spells_it(loaded: Any) -> None:
    expected = loaded.predict(frame([1.5, None, None, None, 3])).tolist()
    for nothing in (None, float("nan"), pd.NA, pd.NaT, np.nan):
        assert loaded.predict(frame([1.5, nothing, nothing, nothing, 3])).tolist() == expected
    whole = frame([1.5, 2, "EWR", True, 3], [1.5, None, "EWR", None, 3])
    assert whole["stops"].dtype == np.float64
    nullable = whole.astype({"stops": "Int64", "direct": "boolean", "origin": "string"})
    assert loaded.predict(nullable).tolist() == loaded.predict(whole).tolist()


def test_a_value_of_another_type_is_refused_and_not_guessed(loaded: Any) -> None:
    good: list[Any] = [1.5, 2, "EWR", True, 3]
    wrong: dict[str, list[Any]] = {
        "delay": ["1.5", True],
        "stops": ["2", 2.5, True],
        "origin": [7],
        "direct": [1, "yes"],
        "hour": [3.25],
    }
    for name, values in wrong.items():
        for value in values:
            row = [value if column == name else known for column, known in zip(COLUMNS, good, strict=True)]
            with pytest.raises(ValueError, match=f"Column '{name}' takes"):
                loaded.predict(frame(row))
    with pytest.raises(ValueError, match="no column origin, hour"):
        loaded.predict(frame(good).drop(columns=["hour", "origin"]))


def test_a_model_that_was_changed_is_refused(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved / "linear", tmp_path / "changed")
    model = copy / "data" / "model" / "model.bin"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="not the one that was logged"):
        rivermill_version._load_pyfunc(str(model.parent))


def test_a_forged_state_runs_nothing(saved: Path, tmp_path: Path) -> None:
    """The digest is no signature: whoever forges both still meets the allow-list."""
    copy, canary = shutil.copytree(saved / "state", tmp_path / "forged"), tmp_path / "canary"
    folder = copy / "data" / "model"
    forged = pickle.dumps(Forged(str(canary)))
    (folder / "model.bin").write_bytes(forged)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, "sha256": hashlib.sha256(forged).hexdigest()}))
    with pytest.raises(Exception, match=r"the pickle asks for posix\.mkdir") as refused:
        rivermill_version._load_pyfunc(str(folder))
    assert type(refused.value).__name__ == "Untrusted"
    assert not canary.exists()
    pickle.loads(forged)
    assert canary.exists()


class Forged:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_a_family_that_does_not_travel_is_named() -> None:
    with pytest.raises(Misconfigured, match="family 'oracle' does not travel"):
        portable_of("oracle", b"")
