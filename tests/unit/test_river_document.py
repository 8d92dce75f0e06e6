"""The written parameters of a River model: they answer as the model does, to the last bit, and are canonical."""

import json
import math
import random
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from river import compose, linear_model, optim, preprocessing, tree

from registry.flavors import river, river_document
from registry.flavors.river_parts import Categories, SquashedScaler
from registry.pyfunc import linear

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NUMBERS = ("delay", "hour", "weekday", "wind")


def configured(pipeline: str) -> Any:
    spec = spec_from_file_location(f"{pipeline}_models_for_documents", CONFIGS / pipeline / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.online()


def instances(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows with a tenth of the values missing, numbers of very different sizes, and rare categories."""
    draw = random.Random(seed)
    return [{name: value for name, value in instance(draw).items() if draw.random() > 0.1} for _ in range(count)]


def instance(draw: random.Random) -> dict[str, Any]:
    return {
        "delay": draw.expovariate(1 / 20) - 10,
        "hour": draw.randrange(24),
        "origin": draw.choice(["EWR", "JFK"]),
        "dest": draw.choice([*"ABCD", "Zürich"]),
        "weekday": draw.randrange(7),
        "carrier": f"C{draw.randrange(200)}",
        "wind": draw.gauss(0, 1) * 10 ** draw.randrange(6),
    }


def numbers_only(x: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in x.items() if name in NUMBERS}


def whole(x: dict[str, Any]) -> dict[str, Any]:
    return x


def taught(model: Any, shape: Callable[[dict[str, Any]], dict[str, Any]] = whole, count: int = 800) -> Any:
    for x in instances(1, count):
        model.learn_one(shape(x), x.get("delay", 0.0) > 15)
    return model


def read_back(model: Any) -> linear.Linear:
    document = river_document.document(model)
    assert document is not None
    return linear.load(river_document.write(document))


def logistic() -> Any:
    return linear_model.LogisticRegression()


@pytest.mark.parametrize(("pipeline", "shape"), [("flights", whole), ("phishing", numbers_only)])
def test_a_document_answers_as_its_model_to_the_last_bit(pipeline: str, shape: Any) -> None:
    model = taught(configured(pipeline), shape)
    document = read_back(model)
    asked = [shape(x) for x in instances(2, 1000)] + [{}, {"never learned": 3.0}]
    answers = [linear.predict_one(document, x) for x in asked]
    assert answers == [river.predict_one(model, x) for x in asked]
    assert len(set(answers)) > 900


def test_answers_saturate_as_rivers_do() -> None:
    model = taught(SquashedScaler() | logistic(), numbers_only)
    for intercept in (-40.0, -30.0, 30.0, 40.0):
        model["LogisticRegression"].intercept = intercept
        for x in map(numbers_only, instances(2, 50)):
            assert linear.predict_one(read_back(model), x) == river.predict_one(model, x)


@pytest.mark.parametrize("with_std", [True, False])
def test_a_plain_scaler_answers_as_rivers_does(with_std: bool) -> None:
    model = taught(preprocessing.StandardScaler(with_std=with_std) | logistic(), numbers_only)
    document = read_back(model)
    for x in map(numbers_only, instances(3, 200)):
        assert linear.predict_one(document, x) == river.predict_one(model, x)


def test_of_two_parts_with_one_feature_the_first_counts() -> None:
    model = taught((SquashedScaler(unit=1.0) + SquashedScaler(unit=50.0)) | logistic(), numbers_only)
    swapped = taught((SquashedScaler(unit=50.0) + SquashedScaler(unit=1.0)) | logistic(), numbers_only)
    for x in map(numbers_only, instances(4, 100)):
        assert linear.predict_one(read_back(model), x) == river.predict_one(model, x)
    wind = {"wind": 30.0}
    assert linear.predict_one(read_back(model), wind) != linear.predict_one(read_back(swapped), wind)


def test_inputs_leave_out_what_is_missing_as_the_flavor_does() -> None:
    columns, values = ["a", "b", "c"], [1.0, None, "x"]
    assert linear.inputs(columns, values) == river.inputs(columns, values) == {"a": 1.0, "c": "x"}
    with pytest.raises(ValueError, match="shorter"):
        linear.inputs(columns, values[:2])


@pytest.mark.parametrize(("pipeline", "shape"), [("flights", whole), ("phishing", numbers_only)])
def test_equal_parameters_give_equal_bytes(pipeline: str, shape: Any) -> None:
    model = taught(configured(pipeline), shape)
    written = river_document.write(river_document.document(model) or {})
    model.predict_proba_one({"never learned": 1.0})
    again = river_document.write(river_document.document(river.load(river.dump(model))) or {})
    assert again == written
    assert json.loads(written) == river_document.document(model)
    last = model["LogisticRegression"]
    last.intercept = math.nextafter(last.intercept, math.inf)
    assert river_document.write(river_document.document(model) or {}) != written


def test_what_is_more_than_its_parameters_has_no_document() -> None:
    squared = linear_model.LogisticRegression(loss=optim.losses.Hinge())
    without: list[Any] = [
        tree.HoeffdingTreeClassifier(),
        logistic(),
        preprocessing.StandardScaler() | tree.HoeffdingTreeClassifier(),
        preprocessing.StandardScaler() | squared,
        preprocessing.StandardScaler(window_size=5) | logistic(),
        preprocessing.StandardScaler() | SquashedScaler() | logistic(),
        (Categories("origin") + preprocessing.MinMaxScaler()) | logistic(),
        compose.Select("a") | logistic(),
        SquashedScaler() + Categories("origin"),
    ]
    assert [river_document.document(model) for model in without] == [None] * len(without)


def test_numbers_that_json_cannot_hold_have_no_document() -> None:
    model = taught(configured("flights"), count=50)
    assert river_document.document(model) is not None
    model["LogisticRegression"].intercept = math.nan
    assert river_document.document(model) is None


def test_a_document_of_another_format_is_refused() -> None:
    document = river_document.document(taught(configured("flights"), count=50)) or {}
    newer = river_document.write({**document, "format": linear.FORMAT + 1})
    with pytest.raises(ValueError, match=f"format {linear.FORMAT + 1}, this reader knows {linear.FORMAT}"):
        linear.load(newer)
