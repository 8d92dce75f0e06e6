"""Export takes the first runtime that gives the classifier's own answers, and says why it left out the others."""

import re
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from journal.errors import Refused
from registry.flavors import batch, batch_treelite, export
from registry.flavors.encoder import ColumnType, Encoder, Encoding, fit
from registry.flavors.export import Exported, NotPortable

COLUMNS = ["origin", "delay", "carrier", "late", "count"]
TYPES: list[ColumnType] = ["string", "float64", "string", "bool", "int64"]
ROWS = 600


def rows(count: int = ROWS, seed: int = 1, *, strings_missing: bool = True) -> pa.Table:
    rng = np.random.default_rng(seed)
    holes = rng.random((5, count)) < 0.1
    if not strings_missing:
        holes[[0, 2]] = False
    return pa.table(
        {
            "origin": pa.array([f"o{n}" for n in rng.integers(0, 7, count)], mask=holes[0]),
            "delay": pa.array(rng.normal(0, 30, count), mask=holes[1]),
            "carrier": pa.array([f"c{n}" for n in rng.integers(0, 40, count)], mask=holes[2]),
            "late": pa.array(rng.random(count) < 0.4, mask=holes[3]),
            "count": pa.array(rng.integers(0, 50, count), mask=holes[4]),
        }
    )


def outcomes(table: pa.Table, seed: int = 2) -> Any:
    noise = np.random.default_rng(seed).normal(0, 0.7, len(table))
    facts = [
        (row["delay"] or 0.0) / 30 + (row["origin"] in ("o1", "o3", None)) - (str(row["carrier"])[-1] in "258")
        for row in table.to_pylist()
    ]
    return np.array(facts) + noise > 0


def taught(make: Any, encoding: Encoding, table: pa.Table) -> tuple[Any, Encoder]:
    encoder = fit(table, COLUMNS, TYPES, encoding)
    return make(encoder).fit(encoder.matrix(table), outcomes(table)), encoder


def exported(make: Any, encoding: Encoding, table: pa.Table) -> tuple[Exported, Any, Encoder]:
    model, encoder = taught(make, encoding, table)
    return export.export(model, encoder, probe=encoder.matrix(table), check=encoder.matrix(table)), model, encoder


def boosted(encoder: Encoder) -> Any:
    return HistGradientBoostingClassifier(
        max_iter=15, categorical_features=list(encoder.categorical), early_stopping=False, random_state=0
    )


CASES: list[tuple[Any, Encoding, str]] = [
    (boosted, "codes", "treelite"),
    (lambda _: HistGradientBoostingClassifier(max_iter=10, random_state=0), "dense", "treelite"),
    (lambda _: RandomForestClassifier(5, max_depth=6, random_state=0), "codes", "treelite"),
    (lambda _: ExtraTreesClassifier(5, max_depth=6, random_state=0), "codes", "treelite"),
    (lambda _: GradientBoostingClassifier(n_estimators=5, random_state=0), "dense", "treelite"),
    (lambda _: LogisticRegression(max_iter=500), "dense", "onnx"),
    (lambda _: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), "dense", "onnx"),
    (lambda _: SGDClassifier(loss="log_loss", random_state=0), "dense", "onnx"),
    (lambda _: GaussianNB(), "dense", "skops"),
    (lambda _: make_pipeline(SimpleImputer(), LogisticRegression(max_iter=500)), "codes", "skops"),
    (lambda _: CalibratedClassifierCV(LogisticRegression(max_iter=500), cv=2), "dense", "skops"),
]


@pytest.mark.parametrize(("make", "encoding", "runtime"), CASES)
def test_each_kind_of_classifier_answers_the_same_on_rows_it_never_saw(
    make: Any, encoding: Encoding, runtime: str
) -> None:
    made, model, encoder = exported(make, encoding, rows())
    assert made.runtime == runtime
    assert made.parity["rows"] > ROWS
    assert made.parity["max_difference"] <= export.TOLERANCE
    assert [name for name, _ in made.parity["tried"]][-1] == runtime
    read = batch.load(made.data)
    assert batch.digest(read) == made.digest
    fresh = encoder.matrix(rows(200, seed=9))
    expected = model.predict_proba(fresh)[:, 1]
    assert np.abs(batch.predict_matrix(read, fresh) - expected).max() <= export.TOLERANCE
    assert expected.std() > 0.01


def test_a_category_that_was_never_seen_answers_as_the_classifier_does() -> None:
    made, model, encoder = exported(boosted, "codes", rows(strings_missing=False))
    asked = {"origin": None, "delay": 3.0, "carrier": "never seen", "late": None, "count": 7}
    row = encoder.row(COLUMNS, [asked[name] for name in COLUMNS])
    assert row[0, list(encoder.categorical)].tolist() == [0.0, 0.0]
    read = batch.load(made.data)
    expected = model.predict_proba(row)[0, 1]
    assert made.runtime == "treelite"
    assert read.alignment.absent == ((0, (0.0,)), (2, (0.0,)))
    assert batch.predict_one(read, (COLUMNS, list(asked.values()))) == pytest.approx(expected, abs=1e-12)
    assert batch.predict_matrix(read, row)[0] == pytest.approx(expected, abs=1e-12)


def test_without_that_care_treelite_is_wrong_and_the_sweep_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_treelite, "_absent", lambda *_: ())
    with pytest.raises(NotPortable) as caught:
        exported(boosted, "codes", rows(strings_missing=False))
    found = re.search(r"treelite: ([0-9.e-]+);", str(caught.value))
    assert found is not None
    assert float(found[1]) > 0.001


def test_a_missing_value_in_a_categorical_column_keeps_treelite_out() -> None:
    table = rows()
    encoder = fit(table, COLUMNS, TYPES, "codes")
    late = COLUMNS.index("late")
    model = HistGradientBoostingClassifier(max_iter=5, categorical_features=[late], early_stopping=False)
    matrix = encoder.matrix(table)
    assert np.isnan(matrix[:, late]).any()
    with pytest.raises(NotPortable, match=r"silently wrong.*functools\.partial"):
        export.export(model.fit(matrix, outcomes(table)), encoder, probe=matrix, check=matrix)


def test_forests_read_rounded_numbers_as_they_did_in_training() -> None:
    table = pa.table({"x": np.repeat([1e8, 1e8 + 8], 50)})
    encoder = fit(table, ["x"], ["float64"], "codes")
    matrix = encoder.matrix(table)
    model = RandomForestClassifier(3, random_state=0).fit(matrix, matrix[:, 0] > 1e8)
    made = export.export(model, encoder, probe=matrix, check=matrix + 4.000001)
    read = batch.load(made.data)
    between = np.array([[1e8 + 3.9], [1e8 + 4.1]])
    assert made.runtime == "treelite"
    np.testing.assert_array_equal(batch.predict_matrix(read, between), model.predict_proba(between)[:, 1])
    assert [batch.predict_one(read, (["x"], [x])) for x in between[:, 0]] == model.predict_proba(between)[:, 1].tolist()


def test_equal_fits_have_equal_digests_and_other_fits_have_others() -> None:
    table = rows()
    first, second = (exported(boosted, "codes", table)[0] for _ in range(2))
    other = exported(lambda encoder: boosted(encoder).set_params(max_iter=14), "codes", table)[0]
    assert (first.digest, first.data) == (second.digest, second.data)
    assert other.digest != first.digest


def test_the_digest_follows_the_answers_and_not_the_bytes_of_the_model() -> None:
    table = rows()
    first, second = (exported(lambda _: GaussianNB(), "dense", table)[0] for _ in range(2))
    assert first.digest == second.digest


def test_only_so_many_probes_and_checks_are_taken() -> None:
    table = rows(300)
    model, encoder = taught(lambda _: LogisticRegression(max_iter=500), "dense", table)
    matrix = encoder.matrix(table)
    made = export.export(model, encoder, probe=matrix, check=np.tile(matrix, (20, 1)))
    assert made.parity["rows"] == export.MOST_CHECKS + 1
    assert batch.load(made.data).probe.shape == (export.MOST_PROBES, encoder.width)


class Stranger(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that no list knows."""

    def fit(self, x: Any, y: Any) -> "Stranger":
        self.classes_ = np.unique(y)
        self.n_features_in_ = x.shape[1]
        return self

    def predict_proba(self, x: Any) -> Any:
        return np.tile([0.25, 0.75], (len(x), 1))


def test_what_no_runtime_computes_is_refused_with_each_ones_reason() -> None:
    with pytest.raises(NotPortable) as caught:
        exported(lambda _: Stranger(), "dense", rows())
    text = str(caught.value)
    assert "treelite: it is no tree ensemble" in text
    assert "onnx: it is no linear model" in text
    assert "Stranger, which are not on the list" in text


def test_a_converters_long_complaint_is_cut_to_its_first_line() -> None:
    with pytest.raises(NotPortable, match=r"SplineTransformer.*BSpline") as caught:
        exported(lambda _: make_pipeline(SplineTransformer(), LogisticRegression(max_iter=500)), "dense", rows(80))
    assert "\n" not in str(caught.value)


def test_a_compiled_structure_that_is_not_on_the_list_is_refused() -> None:
    with pytest.raises(NotPortable, match="KDTree"):
        exported(lambda _: KNeighborsClassifier(algorithm="kd_tree"), "dense", rows(80))


def test_a_runtime_whose_answers_differ_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(NotPortable, match=r"onnx: \d.*skops: \d"):
        exported(lambda _: LogisticRegression(max_iter=500), "dense", rows(80))


@pytest.mark.parametrize(
    ("make", "target", "reason"),
    [
        (LinearRegression, [0.0, 1.0], "no classifier"),
        (object, None, "object is no classifier"),
        (LogisticRegression, None, "not fitted"),
        (LogisticRegression, [0, 1, 2], r"outcomes \[0, 1, 2\]"),
        (LogisticRegression, ["no", "yes"], "outcomes"),
        (LogisticRegression, [-1, 1], "outcomes"),
        (lambda: RandomForestClassifier(2), [True], r"outcomes \[True\]"),
        (SGDClassifier, [False, True], "no probability"),
    ],
)
def test_what_is_no_binary_classifier_is_refused(make: Any, target: list[Any] | None, reason: str) -> None:
    table = rows(60)
    encoder = fit(table, COLUMNS, TYPES, "dense")
    matrix = encoder.matrix(table)
    model = make()
    if target is not None:
        model.fit(matrix, np.resize(target, len(table)))
    with pytest.raises(Refused, match=reason):
        export.export(model, encoder, probe=matrix, check=matrix)


def test_a_classifier_that_cannot_take_missing_numbers_is_refused_before_serving_meets_one() -> None:
    table = pa.table({"x": np.arange(40.0)})
    encoder = fit(table, ["x"], ["float64"], "codes")
    matrix = encoder.matrix(table)
    model = LogisticRegression().fit(matrix, matrix[:, 0] > 20)
    with pytest.raises(Refused, match=r"NaN[\s\S]*dense encoding"):
        export.export(model, encoder, probe=matrix, check=matrix)


def test_rows_of_another_shape_are_refused() -> None:
    model, encoder = taught(lambda _: LogisticRegression(max_iter=500), "dense", rows(80))
    good = np.zeros((2, encoder.width))
    for bad in (np.zeros((0, encoder.width)), np.zeros((2, encoder.width + 1)), np.zeros(encoder.width)):
        with pytest.raises(Refused, match="probe rows have the shape"):
            export.export(model, encoder, probe=bad, check=good)
        with pytest.raises(Refused, match="check rows have the shape"):
            export.export(model, encoder, probe=good, check=bad)


def test_exporting_warns_of_nothing() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for make, encoding, _ in (CASES[0], CASES[6]):
            exported(make, encoding, rows(100))
    assert [str(each.message) for each in caught] == []
