"""The River family: states go on exactly as they were, have a digest of their own, and run nobody's code."""

import functools
import hashlib
import importlib
import math
import operator
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from river import compose, forest, linear_model, naive_bayes, optim, preprocessing, proba, tree

from journal.errors import Untrusted
from registry.flavors import river

Maker = Callable[[], Any]


def logistic() -> Any:
    numbers = compose.SelectType((int, float)) | preprocessing.StandardScaler()
    return numbers | linear_model.LogisticRegression(optim.AdaGrad(0.05))


def hoeffding() -> Any:
    return tree.HoeffdingTreeClassifier(grace_period=50)


def adaptive() -> Any:
    return tree.HoeffdingAdaptiveTreeClassifier(grace_period=50, seed=1)


MODELS: list[Maker] = [logistic, hoeffding, adaptive]


def stream(count: int, seed: int) -> Iterator[tuple[dict[str, Any], bool]]:
    rng = random.Random(seed)
    for _ in range(count):
        x: dict[str, Any] = {f"f{i}": rng.gauss(0, 1) for i in range(5)}
        x["carrier"] = rng.choice("ABC")
        yield x, x["f0"] + rng.gauss(0, 0.5) > 0


def taught(make: Maker, count: int = 1_200) -> Any:
    model = make()
    for x, y in stream(count, seed=1):
        river.learn_one(model, x, y)
    return model


def test_inputs_keep_the_columns_order_and_leave_out_what_is_missing() -> None:
    columns = ["late", "delay", "carrier", "zero"]
    assert list(river.inputs(columns, [True, None, "UA", 0]).items()) == [
        ("late", True),
        ("carrier", "UA"),
        ("zero", 0),
    ]
    assert list(river.inputs(columns, [False, 1.5, "UA", 0])) == columns
    with pytest.raises(ValueError, match="shorter"):
        river.inputs(columns, [1.0])


def test_a_model_that_knows_nothing_says_one_half() -> None:
    x = {"f0": 1.0}
    model = hoeffding()
    assert model.predict_proba_one(x) == {}
    assert river.predict_one(model, x) == 0.5
    river.learn_one(model, x, False)
    assert river.predict_one(model, x) == 0.0
    river.learn_one(model, x, True)
    assert river.predict_one(model, x) == model.predict_proba_one(x)[True] > 0.0


@pytest.mark.parametrize("make", MODELS)
def test_a_state_that_was_read_back_goes_on_exactly(make: Maker) -> None:
    kept, read = taught(make), taught(make)
    for turn in range(5):
        read = river.load(river.dump(read))
        for x, y in stream(200, seed=10 + turn):
            assert river.predict_one(kept, x) == river.predict_one(read, x)
            river.learn_one(kept, x, y)
            river.learn_one(read, x, y)
        assert river.digest(kept) == river.digest(read)
        # A tree's bytes hold sets, whose order tells how they grew.
        assert river.dump(kept) == river.dump(read) or make is not logistic


def identities(make: Maker) -> tuple[str, str, str, str]:
    """Digest and hash of the bytes, of a model and of the same model read back."""
    states = [taught(make), river.load(river.dump(taught(make)))]
    hashes = [hashlib.sha256(river.dump(state)).hexdigest() for state in states]
    return river.digest(states[0]), river.digest(states[1]), hashes[0], hashes[1]


_SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("flavor_tests", {path!r})
tests = sys.modules["flavor_tests"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)
for make in tests.MODELS:
    print(*tests.identities(make))
"""


@pytest.mark.slow
def test_digests_are_equal_in_every_process_and_under_every_hash_seed() -> None:
    """So are a linear model's bytes."""
    here = [identities(make) for make in MODELS]
    for seed in ("0", "1", "42"):
        printed = subprocess.run(
            [sys.executable, "-c", _SCRIPT.format(path=__file__)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        there = [tuple(line.split()) for line in printed.splitlines()]
        assert there[0] == here[0]
        assert [line[:2] for line in there] == [line[:2] for line in here]
        assert all(digest == read for digest, read, *_ in there)


def test_a_digest_sees_the_last_bit_and_ignores_who_shares_what() -> None:
    model = taught(logistic, 50)
    before = river.digest(model)
    last = model["LogisticRegression"]
    last.intercept = math.nextafter(last.intercept, math.inf)
    assert river.digest(model) != before
    shared: list[str] = ["a"]
    one, two = naive_pair(shared, shared), naive_pair(["a"], ["a"])
    assert river.digest(one) == river.digest(two)
    assert river.digest(one) != river.digest(naive_pair(["a"], ["b"]))


def naive_pair(left: object, right: object) -> Any:
    model = logistic()
    model.left, model.right = left, right
    return model


def test_a_digest_tells_types_and_shapes_apart() -> None:
    values: list[Any] = [1, 1.0, True, "1", b"1", [1], (1,), {1}, {1: 1}, [[1]], [1, 1], None, int, -0.0, 0.0, math.nan]
    assert len({river.digest(value) for value in values}) == len(values)
    assert river.digest({"a": 1, "b": 2}) == river.digest({"b": 2, "a": 1})
    assert river.digest({"a", "b", "c"}) == river.digest({"c", "b", "a"})


def test_objects_that_lead_back_to_each_other_have_a_digest() -> None:
    def mondrian() -> Any:
        return compose.SelectType((int, float)) | forest.AMFClassifier(n_estimators=2, seed=1)

    model = taught(mondrian, 200)
    assert river.digest(model) == river.digest(river.load(river.dump(model)))
    assert river.digest(model) != river.digest(taught(mondrian, 201))


def test_unseeded_generators_stay_out_and_seeded_ones_stay_in() -> None:
    model = taught(hoeffding)
    assert len(river.dump(model)) * 5 < len(pickle.dumps(model, 5))
    model.mine = proba.Gaussian(seed=3)
    read = river.load(river.dump(model))
    assert read.mine.sample() == proba.Gaussian(seed=3).sample()


def test_finite() -> None:
    model = taught(logistic, 50)
    assert river.finite(model)
    model["LogisticRegression"].intercept = math.nan
    assert not river.finite(model)
    model["LogisticRegression"].intercept = 0.0
    model["StandardScaler"].means["f1"] = -math.inf
    assert not river.finite(model)


class Forged:
    """Pickles as a call of somebody's choice."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.made_of = (call, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.made_of


def asking(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that imports a name by hand, which `pickle` itself would not write, and calls it."""
    text = "".join(f"\x8c{chr(len(part))}{part}" for part in (module, name)).encode("latin-1")
    return b"\x80\x04" + text + b"\x93" + pickle.dumps(arguments, 4)[2:-1] + b"R."


def write(canary: Path) -> str:
    return f"from pathlib import Path; Path({str(canary)!r}).write_text('touched')"


def forgeries(canary: Path) -> dict[str, bytes]:
    shell = f"echo touched > {canary}"
    system = Forged(os.system, shell)
    model = logistic()
    model.poison = system
    getattr_ = Forged(getattr, Forged(importlib.import_module, "os"), "system")
    forged = {
        "posix.system": system,
        "subprocess.Popen": Forged(subprocess.Popen, ["sh", "-c", shell]),
        "builtins.exec": Forged(exec, write(canary)),
        "builtins.eval": Forged(eval, f"exec({write(canary)!r})"),
        "builtins.getattr": getattr_,
        "functools.partial": Forged(functools.partial, print),
        "_?operator.methodcaller": Forged(operator.methodcaller, "system", shell),
        "posix.system nested": {"weights": [1.0, (system,)]},
        "posix.system in a model": model,
    }
    by_hand: dict[str, tuple[Any, ...]] = {
        "river.compose.pipeline.functools": ("river.compose.pipeline", "functools"),
        "river.compose.pipeline.functools.partial": ("river.compose.pipeline", "functools.partial", exec),
        "river.tree.utils.do_naive_bayes_prediction": ("river.tree.utils", "do_naive_bayes_prediction", {}, {}, {}),
        "river.linear_model.log_reg.LogisticRegression.__init__": (
            "river.linear_model.log_reg",
            "LogisticRegression.__init__",
        ),
        "river.linear_model.base.VectorDict": ("river.linear_model.base", "VectorDict"),
        "river.treehouse.Anything": ("river.treehouse", "Anything"),
        "river.datasets.base.FileDataset": ("river.datasets.base", "FileDataset"),
        "registry.flavors.river.dump": ("registry.flavors.river", "dump", 1),
    }
    return {
        **{name: pickle.dumps(value, 4) for name, value in forged.items()},
        **{name: asking(*call) for name, call in by_hand.items()},
    }


NAMES = sorted(forgeries(Path("/nowhere")))


@pytest.mark.parametrize("name", NAMES)
def test_a_forged_state_runs_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    asked_for = name.partition(" ")[0]
    with pytest.raises(Untrusted, match=rf"the pickle asks for {asked_for}\. Nothing was run"):
        river.load(forgeries(canary)[name])
    assert canary.read_text() == "alive"


@pytest.mark.parametrize("name", ["posix.system", "builtins.exec", "posix.system nested", "posix.system in a model"])
def test_the_same_forgeries_do_run_under_plain_pickle(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    pickle.loads(forgeries(canary)[name])
    assert canary.read_text().strip() == "touched"


def test_the_refusal_names_what_was_asked_for() -> None:
    with pytest.raises(Untrusted, match=r"the pickle asks for posix\.system"):
        river.load(pickle.dumps(Forged(os.system, "true")))


def test_bytes_that_are_no_state_are_refused() -> None:
    state = river.dump(taught(logistic, 20))
    missing = asking("river.optim.no_such_module", "Anything"), asking("river.optim.sgd", "NoSuchClass")
    broken = b"", b"not a pickle", state[:-40], state[:7] + state[40:], pickle.dumps([1.0]), pickle.dumps(dict)
    for damaged in (*missing, *broken):
        with pytest.raises(Untrusted, match=r"not a model's state|not a River model"):
            river.load(damaged)


def test_a_revived_distribution_is_one() -> None:
    forged = asking("registry.flavors.river", "revive", dict, {"a": 1})
    with pytest.raises(Untrusted, match="is no distribution"):
        river.load(forged)


def test_what_could_not_be_read_back_is_refused_when_it_is_dumped() -> None:
    """A Gaussian naive Bayes keeps a `functools.partial`: better said at the first dump than at the next start."""
    model = taught(lambda: compose.SelectType(float) | naive_bayes.GaussianNB(), 20)
    with pytest.raises(Untrusted, match=r"asks for functools\.partial"):
        river.dump(model)
