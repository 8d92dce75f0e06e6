"""`rivermill predictions show`: an answer with its provenance, and the same answer computed again."""

import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from click.testing import CliRunner

from journal.body import Prediction, decode
from journal.errors import Refused, UnknownName
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.prediction_commands import predictions
from rivermill.recomputing import differences
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow
EVENTS = 700


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("predictions")
    shutil.copytree(configs_folder() / "phishing", root / "configs" / "phishing")
    pipeline = load_pipeline(root / "configs" / "phishing")
    assert pipeline.recorded is not None
    run = open_run(pipeline, Home(root / "home", "phishing"))
    run.lockstep.play(islice(pipeline.recorded(weeks=1), EVENTS), "t")
    run.close()
    yield Place(root / "home", root / "configs")


@pytest.fixture(scope="module")
def answers(place: Place) -> list[tuple[Record, Prediction]]:
    journal = SqliteReader(place.home_of("phishing").journal)
    found = [(record, decode(record.body, Prediction)) for record in journal.of_kind(Kind.PREDICTION, 0, EVENTS)]
    journal.close()
    return found


def told(place: Place, *words: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(predictions, ["show", "phishing", *words, "--json"], obj=place, catch_exceptions=False)
    assert done.exit_code == code, done.output
    facts: dict[str, Any] = orjson.loads(done.stdout)
    return facts


def test_the_prior_a_snapshot_and_every_answer_between_come_out_again(
    place: Place, answers: list[tuple[Record, Prediction]]
) -> None:
    assert (answers[0][1].model, answers[-1][1].model != "") == ("", True)
    for record, answer in (answers[0], answers[len(answers) // 2], answers[-1]):
        facts = told(place, f"@{record.offset}", "--recompute")
        assert facts["recomputed"]["verdict"] == "equal"
        assert (facts["offset"], facts["probability"]) == (record.offset, answer.score)
        assert list(facts["features"].values()) == answer.values


def test_an_answer_tells_where_it_came_from(place: Place, answers: list[tuple[Record, Prediction]]) -> None:
    record, answer = answers[-1]
    facts = told(place, record.id.partition("#")[2], "--source", record.id.removeprefix("p-").partition("#")[0])
    assert facts["question"]["offset"] == answer.question
    assert facts["judged_at"] == facts["at"]
    assert (facts["model"]["offset"], facts["model"]["digest"]) == (answer.snapshot, answer.model)
    assert facts["model"]["kind"] == "snapshot"
    assert facts["model"]["examples"] > 0
    assert (facts["decision"]["action"], facts["decision"]["line"]) == ("bootstrap", "online")
    assert "recomputed" not in facts
    assert told(place, f"@{answers[0][0].offset}")["model"] is None


def test_the_table_says_the_same(place: Place, answers: list[tuple[Record, Prediction]]) -> None:
    done = CliRunner().invoke(
        predictions, ["show", "phishing", f"@{answers[-1][0].offset}", "--recompute"], obj=place, catch_exceptions=False
    )
    assert re.search(r"^recomputed +verdict equal", done.stdout, re.MULTILINE)
    assert "reports_by_ip@1" in done.stdout


def test_what_comes_out_otherwise_is_said_and_exits_with_1(
    place: Place, answers: list[tuple[Record, Prediction]], tmp_path: Path
) -> None:
    shutil.copytree(place.pipelines, tmp_path / "configs")
    settings = tmp_path / "configs" / "phishing" / "pipeline.yaml"
    settings.write_text(settings.read_text().replace("prior: 0.44", "prior: 0.45"))
    found = told(Place(place.home, tmp_path / "configs"), f"@{answers[0][0].offset}", "--recompute", code=1)
    assert found["recomputed"]["differences"] == ["score"]
    assert found["recomputed"]["score"] == {"recorded": 0.44, "recomputed": 0.45}


def test_an_answer_on_other_views_cannot_be_computed_again(
    place: Place, answers: list[tuple[Record, Prediction]], tmp_path: Path
) -> None:
    shutil.copytree(place.pipelines, tmp_path / "configs")
    views = tmp_path / "configs" / "phishing" / "views.py"
    views.write_text(views.read_text().replace('over="7d", tile="6h"', 'over="2h", tile="1h"'))
    with pytest.raises(Refused, match=r"answered on service phishing@.*views\.py declares phishing@"):
        told(Place(place.home, tmp_path / "configs"), f"@{answers[0][0].offset}", "--recompute")


def test_a_model_that_is_gone_is_named(place: Place, answers: list[tuple[Record, Prediction]], tmp_path: Path) -> None:
    shutil.copytree(place.home, tmp_path / "home")
    for blob in Home(tmp_path / "home", "phishing").blobs.rglob("*"):
        if blob.is_file():
            blob.unlink()
    with pytest.raises(UnknownName, match="blob"):
        told(Place(tmp_path / "home", place.pipelines), f"@{answers[-1][0].offset}", "--recompute")


@pytest.mark.parametrize("which", ["nobody", "@0", "@999999", "@x", "@"])
def test_what_is_not_there_is_said(place: Place, which: str) -> None:
    with pytest.raises(UnknownName):
        told(place, which)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ()),
        ({"build": "another", "now": 7, "key": "k", "question": 3}, ()),
        ({"score": 0.1 + 0.2}, ("score",)),
        ({"values": [1.0, None]}, ("values",)),
        ({"stamps": [(5, 7)], "degraded": True}, ("stamps", "degraded")),
        ({"model": "m2", "snapshot": 4, "control": 2, "line": "l2"}, ("line", "model", "snapshot", "control")),
    ],
)
def test_answers_are_compared_to_the_last_bit(changes: dict[str, Any], named: tuple[str, ...]) -> None:
    answer = Prediction(
        key="",
        question=1,
        service="s",
        values=[1, None],
        stamps=[(5, 6)],
        score=0.3,
        line="l",
        model="m",
        snapshot=2,
        control=1,
        degraded=False,
        build="b",
    )
    assert differences(answer, msgspec.structs.replace(answer, **changes)) == named
