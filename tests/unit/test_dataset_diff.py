"""What differs between two versions, and where two tables differ first."""

import re
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from features import dataset
from features.dataset_diff import difference, first_difference
from journal.body import Definition, Example, Prediction, draft_of
from journal.memory_log import MemoryJournal
from journal.record import Kind


@pytest.fixture
def made(tmp_path: Path) -> tuple[dataset.Manifest, pa.Table]:
    """A version of three rows."""
    journal = MemoryJournal("t")
    columns = ["v__x", "v__name"]
    defined = Definition(service="s@1", request=[], views=["v@1"], columns=columns, types=["float64", "string"])
    journal.append([draft_of(defined, kind=Kind.DEFINITION, stream="f", id="s@1")])
    for number in range(1, 4):
        body = Prediction(
            key=str(number), question=0, service="s@1", values=[number / 2, "n"], stamps=[None], score=0.5, line="l",
            model="", snapshot=-1, control=1, degraded=False, build="b",
        )  # fmt: skip
        journal.append([draft_of(body, kind=Kind.PREDICTION, stream="p", id=str(number))])
    for number in range(1, 4):
        body_of = Example(key="", prediction=number, label=0, outcome=number == 2)
        journal.append([draft_of(body_of, kind=Kind.EXAMPLE, stream="e", id=str(number))])
    manifest = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    return manifest, dataset.read(tmp_path, manifest.version)


def test_a_version_does_not_differ_from_itself(made: tuple[dataset.Manifest, pa.Table]) -> None:
    manifest, rows = made
    found = msgspec.to_builtins(difference(manifest, manifest, rows, rows))
    assert not any(found.values())


def test_rows_columns_facts_and_definitions_are_told_apart(made: tuple[dataset.Manifest, pa.Table]) -> None:
    manifest, rows = made
    others = rows.slice(1).set_column(3, "v__x", pa.array([1.0, None])).drop_columns(["v__name"])
    others = pa.concat_tables([others, others.slice(0, 1).set_column(0, "prediction", pa.array([9]))])
    schema = [(field.name, str(field.type)) for field in others.schema]
    other = msgspec.structs.replace(
        manifest, through=8, schema=schema, digests={"v@1": "d"}, excluded={"no_label": 2}, rows_out=3
    )
    found = difference(manifest, other, rows, others)
    assert found.facts == {"through": (6, 8)}
    assert found.views == {"v@1": ("unknown", "d")}
    assert found.excluded == {"no_label": (0, 2)}
    assert found.columns == {"v__name": ("string", "")}
    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert found.changed_by_column == {"v__x": 1}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (pa.table({"prediction": [1, 2], "x": [0.0, None]}), r"row 0 .prediction 1., column x: -0\.0 against 0\.0"),
        (pa.table({"prediction": [1, 3], "x": [-0.0, None]}), "row 1 .prediction 2., column prediction: 2 against 3"),
        (pa.table({"prediction": [1, 2], "x": [-0.0, 1.0]}), r"row 1 .*, column x: None against 1\.0"),
        (pa.table({"prediction": [1], "x": [-0.0]}), "2 rows against 1"),
        (pa.table({"prediction": [1, 2]}), "the columns differ: x"),
    ],
)
def test_the_first_difference_is_named(found: pa.Table, words: str) -> None:
    expected = pa.table({"prediction": [1, 2], "x": [-0.0, None]})
    assert re.search(words, first_difference(expected, found))
