"""The parts that River lacks: held against River's own, with a fixed order, and predicting without a trace."""

import io
import pickle
import random
from importlib.util import module_from_spec, spec_from_file_location
from math import asinh
from pathlib import Path
from typing import Any

import pytest
from river import preprocessing

from registry.flavors import river
from registry.flavors.river_parts import Categories, SquashedScaler

MODELS = Path(__file__).resolve().parents[2] / "configs" / "flights" / "models.py"


def instances(count: int) -> list[dict[str, Any]]:
    draw = random.Random(7)
    return [
        {
            "delay": draw.expovariate(1 / 20) - 10,
            "hour": float(draw.randrange(24)),
            "weekday": draw.randrange(7),
            "origin": draw.choice(["EWR", "JFK"]),
            "dest": draw.choice(["IAH", "BOS", "SFO"]),
            "carrier": draw.choice(["UA", "B6"]),
        }
        for _ in range(count)
    ]


def online() -> Any:
    spec = spec_from_file_location("flights_models_under_test", MODELS)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.online()


def taught(model: Any, examples: list[dict[str, Any]]) -> Any:
    for x in examples:
        model.learn_one(x, x["delay"] > 15)
    return model


def test_the_scaler_agrees_with_rivers_on_squashed_values() -> None:
    ours, theirs = SquashedScaler(unit=5.0, limit=1.2), preprocessing.StandardScaler()
    for x in instances(300):
        numbers = {name: asinh(value / 5.0) for name, value in x.items() if not isinstance(value, str)}
        ours.learn_one(x)
        theirs.learn_one(numbers)
        expected = {name: min(max(z, -1.2), 1.2) for name, z in theirs.transform_one(numbers).items()}
        assert ours.transform_one(x) == pytest.approx(expected, rel=1e-9)
    clipped = [ours.transform_one({"delay": delay})["delay"] for delay in (-1e6, 1e6)]
    assert clipped == [-1.2, 1.2]


def test_the_scaler_keeps_the_order_of_the_instance() -> None:
    scaler = SquashedScaler()
    assert list(scaler.transform_one({"b": 1.0, "carrier": "UA", "a": 2.0})) == ["b", "a"]
    assert scaler.transform_one({"never learned": 5.0}) == {"never learned": 0.0}


def test_one_wild_value_does_not_spoil_the_scale() -> None:
    winds = [float(5 + n % 11) for n in range(2000)]
    calm, stormy = SquashedScaler(), SquashedScaler()
    for wind in winds:
        calm.learn_one({"wind": wind})
        stormy.learn_one({"wind": wind})
    for _ in range(20):
        stormy.learn_one({"wind": 1048.0})
    spread = [s.transform_one({"wind": 15.0})["wind"] - s.transform_one({"wind": 5.0})["wind"] for s in (calm, stormy)]
    assert spread[1] > 0.4 * spread[0]


def test_categories_keep_their_order_and_leave_out_what_is_missing() -> None:
    encode = Categories("dest", "origin*dest", "hour", "carrier*origin")
    x = {"hour": 5, "origin": "EWR", "dest": "IAH", "carrier": "UA"}
    encoded = encode.transform_one(x)
    assert list(encoded) == ["dest=IAH", "origin*dest=EWR*IAH", "hour=5", "carrier*origin=UA*EWR"]
    assert set(encoded.values()) == {1.0}
    assert list(encode.transform_one({"origin": "EWR", "hour": 5})) == ["hour=5"]
    assert encode.transform_one({}) == {}


def test_predicting_leaves_no_trace() -> None:
    model = taught(online(), instances(50))
    before = river.digest(model)
    model.predict_proba_one({"a new number": 3.0, "origin": "LGA", "dest": "ORD", "carrier": "AA", "hour": 1.0})
    assert river.digest(model) == before


def test_a_clone_is_untaught_and_alike() -> None:
    taught_model = taught(online(), instances(50))
    clone = taught_model.clone()
    assert river.digest(clone) == river.digest(online())
    assert river.digest(taught(clone, instances(50))) == river.digest(taught_model)


def test_a_state_that_was_put_away_goes_on_exactly() -> None:
    first, rest = instances(400)[:200], instances(400)[200:]
    straight = taught(online(), first)
    resumed = river.load(river.dump(straight))
    for x in rest:
        assert resumed.predict_proba_one(x) == straight.predict_proba_one(x)
        taught(resumed, [x])
        taught(straight, [x])
    assert river.digest(resumed) == river.digest(straight)


def test_the_state_is_made_of_known_classes_only() -> None:
    allowed = ("river", "numpy", "builtins", "collections", "registry.flavors.river_parts")
    found: set[str] = set()

    class Watching(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add(module)
            return super().find_class(module, name)

    Watching(io.BytesIO(pickle.dumps(taught(online(), instances(50))))).load()
    assert "registry.flavors.river_parts" in found
    assert {module for module in found if not module.startswith(allowed)} == set()


def test_it_learns() -> None:
    model = taught(online(), instances(2000))
    late = {**instances(1)[0], "delay": 60.0}
    assert model.predict_proba_one(late)[True] > 0.7
    assert model.predict_proba_one({**late, "delay": -5.0})[True] < 0.3
