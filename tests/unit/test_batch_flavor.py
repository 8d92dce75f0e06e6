"""The batch family in serving: one answer however it is asked, and nothing is loaded that is not needed or trusted."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB

from journal.errors import Corrupt, Refused, Untrusted
from registry.flavor import Flavor
from registry.flavors import batch, batch_onnx
from registry.flavors.batch_document import Alignment, Converted, Document, packed, unpacked
from registry.flavors.encoder import ColumnType, Encoding, fit
from registry.flavors.export import export

COLUMNS = ["carrier", "delay", "late", "count"]
TYPES: list[ColumnType] = ["string", "float64", "bool", "int64"]
RUNTIMES = ["treelite", "onnx", "skops"]
ROOT = Path(__file__).parents[2]


def rows(count: int = 300, seed: int = 4) -> pa.Table:
    rng = np.random.default_rng(seed)
    holes = rng.random((3, count)) < 0.1
    return pa.table(
        {
            "carrier": pa.array([f"c{n}" for n in rng.integers(0, 12, count)], mask=holes[0]),
            "delay": pa.array(rng.normal(0, 30, count), mask=holes[1]),
            "late": pa.array(rng.random(count) < 0.4),
            "count": pa.array(rng.integers(0, 50, count), mask=holes[2]),
            "other": pa.array(["not a feature"] * count),
        }
    )


def exported(runtime: str, seed: int = 4) -> bytes:
    table = rows(seed=seed)
    makers: dict[str, tuple[Any, Encoding]] = {
        "treelite": (HistGradientBoostingClassifier(max_iter=8, categorical_features=[0], random_state=0), "codes"),
        "onnx": (LogisticRegression(max_iter=500), "dense"),
        "skops": (GaussianNB(), "dense"),
    }
    model, encoding = makers[runtime]
    encoder = fit(table, COLUMNS, TYPES, encoding)
    matrix = encoder.matrix(table)
    noise = np.random.default_rng(seed).normal(0, 0.5, len(table))
    model.fit(matrix, np.nan_to_num(np.asarray(table["delay"].to_pylist(), float)) / 30 + noise > 0)
    made = export(model, encoder, probe=matrix[:50], check=matrix)
    assert made.runtime == runtime
    return made.data


@pytest.fixture(scope="module")
def data() -> dict[str, bytes]:
    return {runtime: exported(runtime) for runtime in RUNTIMES}


def changed(data: bytes, **fields: Any) -> bytes:
    """A model with other parts under a checksum that holds: what only a signature would find."""
    return packed(msgspec.structs.replace(unpacked(data), **fields))


def test_the_module_is_a_flavor() -> None:
    flavor: Flavor = batch
    assert flavor.FAMILY == "batch"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_row_alone_answers_as_among_others_bit_for_bit(runtime: str, data: dict[str, bytes]) -> None:
    model = batch.load(data[runtime])
    table = rows(80, seed=11)
    together = batch.predict_many(model, table)
    alone = [batch.predict_one(model, batch.inputs(list(row), list(row.values()))) for row in table.to_pylist()]
    assert together.tolist() == alone
    assert batch.predict_many(model, table.slice(7, 13), COLUMNS).tolist() == alone[7:20]
    assert all(type(answer) is float and 0.0 <= answer <= 1.0 for answer in alone)
    assert len(set(alone)) > 20


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_rows_give_no_answers(runtime: str, data: dict[str, bytes]) -> None:
    assert batch.predict_many(batch.load(data[runtime]), rows().slice(0, 0)).shape == (0,)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_predicting_leaves_the_encoded_rows_as_they_were(runtime: str, data: dict[str, bytes]) -> None:
    model = batch.load(data[runtime])
    matrix = model.encoder.matrix(rows())
    before = matrix.copy()
    batch.predict_matrix(model, matrix)
    model.runtime.one(matrix[:1])
    np.testing.assert_array_equal(matrix, before)


def test_inputs_need_a_value_for_each_column() -> None:
    with pytest.raises(Refused, match="2 columns with 1 values"):
        batch.inputs(["a", "b"], [1.0])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_keeps_its_digest_when_it_is_read_and_another_has_another(runtime: str, data: dict[str, bytes]) -> None:
    digests = {batch.digest(batch.load(data[runtime])) for _ in range(2)}
    assert len(digests) == 1
    assert batch.digest(batch.load(exported(runtime, seed=5))) not in digests


def test_the_digest_names_the_encoder_the_alignment_and_the_probe_too(data: dict[str, bytes]) -> None:
    document = unpacked(data["treelite"])
    first = batch.digest(batch.load(data["treelite"]))
    renamed = {**document.encoder, "columns": ["carrier", "delay", "late", "number"]}
    fewer = {"probe": document.probe[: 8 * document.width], "answers": document.answers[:8]}
    others: list[dict[str, Any]] = [{"encoder": renamed}, {"alignment": Alignment(absent=((0, (99.0,)),))}, fewer]
    digests = [batch.digest(batch.load(changed(data["treelite"], **other))) for other in others]
    assert len({first, *digests}) == 4


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_any_changed_byte_is_found_before_a_runtime_reads_it(runtime: str, data: dict[str, bytes]) -> None:
    good = data[runtime]
    for place in (*range(0, 120, 3), len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 0x55
        with pytest.raises((Corrupt, Untrusted)):
            batch.load(bytes(bad))
    for bad_bytes in (good[:-1], good[: len(good) // 2], good + b"x", b""):
        with pytest.raises((Corrupt, Untrusted)):
            batch.load(bad_bytes)


@pytest.mark.parametrize("foreign", [b"", b"{}", b"\x80\x05N.", bytes(500), msgspec.msgpack.encode({"kind": "batch"})])
def test_foreign_bytes_are_no_model(foreign: bytes) -> None:
    with pytest.raises(Untrusted, match="no batch model"):
        batch.load(foreign)


def test_another_format_is_said(data: dict[str, bytes]) -> None:
    envelope = msgspec.msgpack.decode(data["onnx"])
    with pytest.raises(Untrusted, match="format 2, not 1"):
        batch.load(msgspec.msgpack.encode({**envelope, "format": 2}))


def test_the_envelope_holds_the_contents_sha256(data: dict[str, bytes]) -> None:
    envelope = msgspec.msgpack.decode(data["onnx"])
    assert envelope["sha256"] == hashlib.sha256(envelope["content"]).digest()
    with pytest.raises(Corrupt, match="SHA-256"):
        batch.load(msgspec.msgpack.encode({**envelope, "sha256": bytes(32)}))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_that_answers_otherwise_than_where_the_model_was_made_is_not_served(
    runtime: str, data: dict[str, bytes]
) -> None:
    answers = np.frombuffer(unpacked(data[runtime]).answers).copy()
    answers[3] = np.nextafter(answers[3], 1.0)
    with pytest.raises(Corrupt, match=f"{runtime} answers otherwise here"):
        batch.load(changed(data[runtime], answers=answers.tobytes()))
    with pytest.raises(Corrupt, match="by inf"):
        batch.load(changed(data[runtime], answers=answers[1:].tobytes()))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_parts_that_do_not_fit_together_are_refused(runtime: str, data: dict[str, bytes]) -> None:
    document = unpacked(data[runtime])
    other = unpacked(data["onnx" if runtime == "treelite" else "treelite"])
    misfits: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"model": b"garbage" * 20}, Untrusted),
        ({"model": b""}, Untrusted),
        ({"model": other.model}, Untrusted),
        ({"runtime": other.runtime}, Untrusted),
        ({"encoder": other.encoder}, Corrupt),
        ({"width": document.width + 1}, Corrupt),
        ({"probe": document.probe[:-1]}, Corrupt),
        ({"probe": b"", "answers": b""}, Corrupt),
    ]
    for fields, error in misfits:
        with pytest.raises(error):
            batch.load(changed(data[runtime], **fields))


def test_a_code_of_a_column_that_is_not_there_is_refused(data: dict[str, bytes]) -> None:
    with pytest.raises(Untrusted, match="not among 4"):
        batch.load(changed(data["treelite"], alignment=Alignment(absent=((4, (0.0,)),))))


def test_trees_for_rows_of_another_width_are_refused(data: dict[str, bytes]) -> None:
    model = unpacked(data["treelite"]).model
    with pytest.raises(Untrusted, match="4 columns of float64, not 5"):
        batch.open_runtime("treelite", Converted(data=model), 5)


def with_tensor_outside(where: str) -> bytes:
    """An ONNX model of which one tensor lies in a file."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - it comes with the converter

    outside = TensorProto(name="w", data_type=TensorProto.DOUBLE, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="weights.bin")
    constant = helper.make_node("Constant", [], ["w"], value=outside)
    double = TensorProto.DOUBLE
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("w", double, [1])])
    condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    nodes = {
        "initializer": [helper.make_node("Mul", ["x", "w"], ["probabilities"])],
        "attribute": [constant, helper.make_node("Mul", ["x", "w"], ["probabilities"])],
        "branch": [
            helper.make_node("Constant", [], ["c"], value=condition),
            helper.make_node("If", ["c"], ["probabilities"], then_branch=branch, else_branch=branch),
        ],
    }[where]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", double, [None, 1])],
        [helper.make_tensor_value_info("probabilities", double, [None, 1])],
        [outside] if where == "initializer" else [],
    )
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("where", ["initializer", "attribute", "branch"])
def test_onnx_that_names_a_file_is_refused(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, bytes]
) -> None:
    (tmp_path / "weights.bin").write_bytes(np.ones(1).tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Untrusted, match="a file outside itself"):
        batch.load(changed(data["onnx"], model=with_tensor_outside(where)))
    assert not batch_onnx.has_external_data(unpacked(data["onnx"]).model)


@pytest.mark.parametrize("damaged", [b"", b"\xff" * 50, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x05ab", bytes(range(256))])
def test_looking_for_files_ends_on_any_bytes(damaged: bytes) -> None:
    assert batch_onnx.has_external_data(damaged) is False


def test_skops_bytes_that_ask_for_another_type_run_nothing(data: dict[str, bytes], tmp_path: Path) -> None:
    import skops.io  # type: ignore[import-untyped]  # noqa: PLC0415 - only here

    asks = skops.io.dumps({"x": Path(tmp_path), "p": print})
    with pytest.raises(Untrusted, match="skops does not read"):
        batch.load(changed(data["skops"], model=asks))
    with pytest.raises(Untrusted, match="no fitted classifier"):
        batch.load(changed(data["skops"], model=skops.io.dumps([1, 2])))
    silent = SGDClassifier().fit(np.eye(2), [False, True])
    with pytest.raises(Untrusted, match="no fitted classifier"):
        batch.open_runtime("skops", Converted(data=skops.io.dumps(silent)), 2)


LOADS = """
import sys
from pathlib import Path
from registry.flavors import batch
model = batch.load(Path(sys.argv[1]).read_bytes())
columns = ["carrier", "delay", "late", "count"]
print(batch.digest(model), batch.predict_one(model, batch.inputs(columns, ["c1", 2.5, True, None])).hex())
heavy = ("sklearn", "skl2onnx", "onnx", "skops", "onnxruntime", "treelite", "pandas", "river", "mlflow", "feast")
print(",".join(name for name in heavy if name in sys.modules))
"""


@pytest.mark.parametrize(("runtime", "loaded"), [("treelite", "treelite"), ("onnx", "onnxruntime")])
def test_serving_imports_only_the_runtime_it_needs_and_answers_the_same_under_any_hash_seed(
    runtime: str, loaded: str, data: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.write_bytes(data[runtime])
    model = batch.load(data[runtime])
    answer = batch.predict_one(model, (COLUMNS, ["c1", 2.5, True, None]))
    for seed in ("0", "7"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LOADS, str(path)],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [batch.digest(model), answer.hex(), loaded]


def test_a_documents_bytes_follow_from_its_parts() -> None:
    fields: dict[str, Any] = {"runtime": "onnx", "encoder": {"b": 1, "a": [1.5]}, "alignment": Alignment(single=True)}
    first, second = (Document(**fields, model=b"m", width=1, probe=b"12345678", answers=b"") for _ in range(2))
    assert packed(first) == packed(second)
    assert unpacked(packed(first)) == first
