"""Versioned datasets over hand-made journals: hashes, rules, verification, interrupted builds."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features import dataset
from features import dataset_store as store
from features.dataset_rules import check
from features.examples import collect
from journal.body import Definition, Example, Expired, Prediction, draft_of
from journal.errors import Corrupt, NoLongerProvable, Refused, UnknownName
from journal.field import Field
from journal.memory_log import MemoryJournal
from journal.record import Kind, Record
from tests.drafts import draft_again

DEFINITION = Definition(
    service="s@1", request=["n"], views=["v@1"], columns=["n", "v__x", "v__name"], types=["int64", "float64", "string"]
)


def prediction(key: str, values: list[Any], service: str = "s@1") -> Any:
    body = Prediction(
        key=key,
        question=0,
        service=service,
        values=values,
        stamps=[None],
        score=0.5,
        line="l",
        model="",
        snapshot=-1,
        control=1,
        degraded=False,
        build="b",
    )
    return draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{key}")


def example(of: int, outcome: bool) -> Any:
    return draft_of(
        Example(key="", prediction=of, label=0, outcome=outcome), kind=Kind.EXAMPLE, stream="e", id=f"ex-{of}"
    )


@pytest.fixture
def journal() -> MemoryJournal:
    """Four predictions at offsets 1 to 4: two examples, one expired, one pending."""
    journal = MemoryJournal("t")
    journal.append([draft_of(DEFINITION, kind=Kind.DEFINITION, stream="f", id="s@1")])
    journal.append([prediction(key, [n, n / 3, None if n == 2 else "x"]) for n, key in enumerate("abcd", 1)])
    expired = Expired(key="c", prediction=3, reason="no_label")
    journal.append([example(2, True), draft_of(expired, kind=Kind.EXPIRED, stream="e", id="end"), example(1, False)])
    return journal


def test_every_prediction_is_a_row_or_a_counted_exclusion(journal: MemoryJournal) -> None:
    rows = collect(journal, journal.end())
    assert (rows.considered, rows.excluded) == (4, {"no_label": 1, "pending": 1})
    assert rows.table.column("prediction").to_pylist() == [1, 2]
    assert rows.table.column("outcome").to_pylist() == [False, True]
    assert rows.table.column("v__x").to_pylist() == [1 / 3, 2 / 3]
    assert rows.table.column("v__name").to_pylist() == ["x", None]


def test_a_range_sees_nothing_behind_it(journal: MemoryJournal) -> None:
    rows = collect(journal, 5)
    assert (rows.considered, rows.excluded, rows.table.num_rows) == (4, {"pending": 3}, 1)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(Refused, match="defines no feature service"):
        collect(MemoryJournal("t"), 0)


def test_a_view_that_a_prediction_does_not_hold_is_not_made_up(journal: MemoryJournal, tmp_path: Path) -> None:
    journal.append([prediction("z", [9, 9.0, "z"], service="s@2"), example(journal.end() + 1, True)])
    with pytest.raises(Refused, match="hold no v@1"):
        dataset.build(journal, tmp_path, "t", journal.end(), "b")


def test_a_build_is_immutable_and_repeatable(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    stamp = (tmp_path / made.version / "rows.parquet").stat().st_mtime_ns
    assert dataset.build(journal, tmp_path, "t", journal.end(), "b") == made
    assert (tmp_path / made.version / "rows.parquet").stat().st_mtime_ns == stamp
    assert (made.rows_in, made.rows_out, made.positives) == (2, 2, 1)
    assert made.version == f"t-{made.hash[:12]}"
    assert dataset.versions(tmp_path) == [made]
    assert dataset.verify(journal, tmp_path, made.version) == made


def test_the_same_rows_from_a_longer_journal_are_the_same_version(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    journal.append([prediction("later", [5, 5.0, "x"])])
    assert dataset.build(journal, tmp_path, "t", journal.end(), "b") == made == dataset.load(tmp_path, made.version)


def test_an_interrupted_build_is_no_version_and_is_built_again(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    folder = tmp_path / made.version
    for torn in (folder.with_name(f".{folder.name}.partial"), folder):
        (torn / "junk").parent.mkdir(exist_ok=True)
        (torn / "manifest.json").unlink(missing_ok=True)
    assert dataset.versions(tmp_path) == []
    assert dataset.build(journal, tmp_path, "t", journal.end(), "b") == made
    assert dataset.verify(journal, tmp_path, made.version) == made


def test_a_changed_file_or_journal_is_found(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    path = tmp_path / made.version / "rows.parquet"
    written, table = path.read_bytes(), pq.read_table(path)
    pq.write_table(table.set_column(4, "v__x", pa.array([1.0, 2.0])), path)
    with pytest.raises(Corrupt, match=r"its file differs, first in row 0 .prediction 1., column v__x"):
        dataset.verify(journal, tmp_path, made.version)
    path.write_bytes(b"torn")
    with pytest.raises(Corrupt, match=made.version):
        dataset.verify(journal, tmp_path, made.version)
    path.write_bytes(written)
    with pytest.raises(Corrupt, match=r"rebuilt from the journal it differs, first in row 1 .*, column outcome"):
        dataset.verify(_with_other_outcome(journal), tmp_path, made.version)


def _with_other_outcome(journal: MemoryJournal) -> MemoryJournal:
    other = MemoryJournal("t")
    for record in journal.read(0, -1, 100):
        other.append([example(2, False) if record.id == "ex-2" else draft_again(record)])
    return other


@pytest.mark.parametrize("name", ["t-000", "../t", "", "."])
def test_unknown_versions_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="there are: none"):
        dataset.load(tmp_path, name)


def test_the_hash_is_of_the_content_alone() -> None:
    columns = {"a": pa.array([1.5, None, -0.5]), "b": pa.array(["x", "", None]), "c": pa.array([True, None, False])}
    table = pa.table(columns)
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert dataset.hash_rows(pieces) == dataset.hash_rows(table)
    buried = pa.Array.from_buffers(
        pa.float64(), 3, [columns["a"].buffers()[0], pa.array([1.5, 9.9, -0.5]).buffers()[1]]
    )
    assert buried.to_pylist() == [1.5, None, -0.5]
    assert dataset.hash_rows(table.set_column(0, "a", buried)) == dataset.hash_rows(table)


def test_any_change_of_content_changes_the_hash() -> None:
    table = pa.table({"a": pa.array([1.5, None]), "b": pa.array(["x", None])})
    others = [
        table.rename_columns(["a", "c"]),
        table.set_column(0, "a", pa.array([1.5, 0.0])),
        table.set_column(0, "a", pa.array([1.5000000000000002, None])),
        table.set_column(1, "b", pa.array(["x", ""])),
        table.take(pa.array([1, 0])),
        table.slice(0, 1),
    ]
    assert len({dataset.hash_rows(each) for each in [table, *others]}) == len(others) + 1


def test_rows_that_break_the_rules_are_named() -> None:
    good = {"prediction": [1, 2], "x": [0.5, None], "outcome": [True, False]}
    dataset.check(pa.table(good))
    for column, values, words in (
        ("x", [0.5, float("inf")], "prediction 2, x: not finite"),
        ("prediction", [1, 1], "prediction 1, prediction: not rising"),
        ("outcome", [True, None], "prediction 2, outcome: not_nullable"),
    ):
        with pytest.raises(Refused, match=words):
            dataset.check(pa.table({**good, column: values}))


class Shortened:
    """A journal whose first records retention let go, but for definitions."""

    incarnation = "memory"

    def __init__(self, journal: MemoryJournal, begins: int) -> None:
        self.journal, self.begins = journal, begins

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        if after + 1 < self.begins:
            raise NoLongerProvable(which=f"records {after + 1} to {self.begins - 1}", fix="None")
        return self.journal.read(partition, after, limit)

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        found = self.journal.of_kind(kind, after, 100)
        return [record for record in found if record.offset >= self.begins or kind is Kind.DEFINITION][:limit]

    def end(self, partition: int = 0) -> int:
        return self.journal.end(partition)


def test_what_retention_let_go_is_no_longer_provable_and_its_rows_stay(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    shortened = Shortened(journal, 2)
    with pytest.raises(NoLongerProvable, match=r"begins at record 0: records 0 to 1; its rows have its hash"):
        dataset.verify(shortened, tmp_path, made.version)
    path = tmp_path / made.version / store.ROWS
    pq.write_table(dataset.read(tmp_path, made.version).slice(1), path)
    with pytest.raises(NoLongerProvable) as raised:
        dataset.verify(shortened, tmp_path, made.version)
    assert "its rows" not in raised.value.which
    store.drop(tmp_path, made.version)
    with pytest.raises(NoLongerProvable, match="begins at record 0"):
        dataset.restore(shortened, tmp_path, made.version)
    assert store.keeping_of(tmp_path / made.version).storage == "dropped"


def test_a_version_of_what_is_left_is_provable_from_there(journal: MemoryJournal, tmp_path: Path) -> None:
    """Of the two examples one is of a prediction that retention let go."""
    shortened = Shortened(journal, 2)
    made = dataset.build(shortened, tmp_path, "t", journal.end(), "b")
    assert (made.first, made.considered, made.rows_out) == (2, 3, 1)
    assert dataset.verify(shortened, tmp_path, made.version) == made
    assert dataset.verify(journal, tmp_path, made.version) == made


def test_a_journal_that_ends_before_a_version_cannot_prove_it(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    earlier = MemoryJournal("t")
    for record in journal.read(0, -1, 6):
        earlier.append([draft_again(record)])
    with pytest.raises(NoLongerProvable, match=r"ends at record 7, the journal at 5; its rows have its hash"):
        dataset.verify(earlier, tmp_path, made.version)


@pytest.mark.parametrize(
    "state", ["standard", "damaged", "torn", "archive", "damaged archive", "torn archive", "lost archive", "dropped"]
)
def test_rows_are_restored_from_where_they_are(journal: MemoryJournal, tmp_path: Path, state: str) -> None:
    """From the archive without the journal, as long as they have their hash there; or else from the journal."""
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    rows, path = dataset.read(tmp_path, made.version), tmp_path / made.version / store.ROWS
    if "archive" in state:
        store.archive(tmp_path, made.version)
        path = tmp_path / "archive" / f"{made.version}.parquet"
    if state == "dropped":
        store.drop(tmp_path, made.version)
    if "damaged" in state:
        pq.write_table(rows.slice(1), path)
    if "torn" in state:
        path.write_bytes(path.read_bytes()[:-9])
    if "lost" in state:
        path.unlink()
    source = Shortened(journal, 2) if state == "archive" else journal
    dataset.restore(source, tmp_path, made.version)
    assert store.keeping_of(tmp_path / made.version).storage == "standard"
    assert dataset.read(tmp_path, made.version).equals(rows)
    assert dataset.verify(journal, tmp_path, made.version) == made
    assert [found.name for found in tmp_path.rglob("*.parquet")] == [store.ROWS]


def test_a_restore_from_another_journal_is_refused_and_changes_nothing(journal: MemoryJournal, tmp_path: Path) -> None:
    made = dataset.build(journal, tmp_path, "t", journal.end(), "b")
    store.drop(tmp_path, made.version)
    with pytest.raises(Corrupt, match="rebuilt from the journal it differs"):
        dataset.restore(_with_other_outcome(journal), tmp_path, made.version)
    assert store.keeping_of(tmp_path / made.version).storage == "dropped"


def test_a_promised_whole_number_may_be_missing() -> None:
    """Beside a null pandas reads whole numbers as floats, which the contract does not promise."""
    ages, old = [0, None, 1], [True, None, False]
    table = pa.table({"prediction": [1, 2, 3], "outcome": [True, False, True], "age": ages, "old": old})
    promised = {
        "age": Field(name="age", type="integer", limits={"ge": 0, "le": 1}),
        "old": Field(name="old", type="boolean"),
    }
    assert [(each.rule, each.values) for each in check(table, promised)][-1] == ("within the contract", 4)
    with pytest.raises(Refused, match="prediction 3, age: outside its contract"):
        check(table.set_column(2, "age", pa.array([0, None, 2])), promised)
