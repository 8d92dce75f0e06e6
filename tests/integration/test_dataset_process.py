"""A dataset built by a child process: the same version, the same refusals, and a word when the child dies."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from features import dataset
from features.dataset_process import build_apart
from journal.body import Definition, Example, Prediction, draft_of
from journal.errors import Corrupt, JobFailed, Refused
from journal.record import Draft, Kind
from journal.sqlite_log import SqliteJournal

DEFINITION = Definition(service="s@1", request=[], views=["v@1"], columns=["v__n"], types=["float64"])


def prediction(key: str, value: float, service: str = "s@1") -> Draft:
    facts: dict[str, Any] = {"key": key, "question": 0, "service": service, "values": [value], "stamps": [None]}
    body = Prediction(**facts, score=0.5, line="l", model="", snapshot=-1, control=1, degraded=False, build="b")
    return draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{key}")


def example(of: int) -> Draft:
    body = Example(key="", prediction=of, label=0, outcome=True)
    return draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"e-{of}")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """Two predictions, at offsets 1 and 2; the first has its outcome."""
    journal = SqliteJournal(tmp_path / "journal", "t")
    journal.append([draft_of(DEFINITION, kind=Kind.DEFINITION, stream="f", id="s@1")])
    journal.append([prediction("a", 1.5), prediction("b", 2.5), example(1)])
    yield journal
    journal.close()


def test_a_child_builds_the_version_that_we_would(journal: SqliteJournal, tmp_path: Path) -> None:
    made = build_apart(journal.folder, tmp_path / "child", "t", journal.end(), "b")
    assert made == dataset.build(journal, tmp_path / "ours", "t", journal.end(), "b")
    assert dataset.verify(journal, tmp_path / "child", made.version) == made
    assert (made.rows_out, made.excluded) == (1, {"pending": 1})


def test_what_it_refuses_is_refused_here(journal: SqliteJournal, tmp_path: Path) -> None:
    journal.append([prediction("c", 3.5, service="s@2"), example(4)])
    with pytest.raises(Refused, match="hold no v@1"):
        build_apart(journal.folder, tmp_path / "child", "t", journal.end(), "b")
    assert dataset.versions(tmp_path / "child") == []


def test_a_damaged_record_is_named_here(journal: SqliteJournal, tmp_path: Path) -> None:
    damaged = shutil.copytree(journal.folder, tmp_path / "damaged")
    with closing(sqlite3.connect(next(damaged.glob("segment-*.sqlite")))) as database, database:
        database.execute("UPDATE record SET checksum = checksum + 1 WHERE offset = 3")
    with pytest.raises(Corrupt, match="record 3"):
        build_apart(damaged, tmp_path / "child", "t", 3, "b")


def test_a_child_that_dies_says_what_it_printed(journal: SqliteJournal, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JobFailed, match=r"(?s)ended with 1:.*FileExistsError"):
        build_apart(journal.folder, tmp_path / "file", "t", journal.end(), "b")
