"""What features plan, apply and backfill print, and how they exit."""

import json
import shutil
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rivermill.dataset_commands import dataset
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.settings import configs_folder
from rivermill.view_commands import apply, backfill, plan
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow

LATER = """

reports_12h = window_view(
    "reports_12h",
    entities=[ip_in_url],
    ttl=timedelta(days=7),
    owner="phishing@example.org",
    description="Reports in half a day",
    features={"reports": count("reports", over="12h", tile="1h")},
)

wider = FeatureService(name="wider", features=[reports_by_ip, reports_12h])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A home that was played without the view that is declared now."""
    root = tmp_path_factory.mktemp("commands")
    place, folder = Place(root / "home", root), root / "phishing"
    shutil.copytree(configs_folder() / "phishing", folder)
    pipeline = load_pipeline(folder)
    assert pipeline.recorded is not None
    with closing(open_run(pipeline, place.home_of("phishing"))) as run:
        run.lockstep.play(islice(pipeline.recorded(), 200), "test")
    views = folder / "views.py"
    views.write_text(views.read_text() + LATER)
    return place


def run(place: Place, command: object, *words: str) -> Result:
    assert command in (plan, apply, backfill)
    return CliRunner().invoke(command, ["phishing", *words], obj=place)


def test_a_view_is_planned_staged_filled_and_then_unchanged(place: Place) -> None:
    planned = run(place, plan, "--json")
    assert planned.exit_code == 0
    assert [(row["view"], row["what"], row["fold"]) for row in json.loads(planned.output)] == [
        ("reports_by_ip@1", "unchanged", "features"),
        ("reports_12h@1", "new", ""),
    ]
    assert run(place, apply).exit_code == 2
    staged = json.loads(run(place, apply, "--why", "more", "--json").output)
    assert staged["staged"] == ["reports_12h@1"]
    assert "nothing: no view is new" in run(place, apply, "--why", "more").output
    assert "staged" in run(place, plan).output
    filled = run(place, backfill, "reports_12h")
    assert filled.exit_code == 0
    assert staged["fold"] in filled.output
    assert run(place, backfill).output == "nothing is staged\n"
    assert [row["what"] for row in json.loads(run(place, plan, "--json").output)] == ["unchanged", "unchanged"]


def test_a_dataset_over_the_later_view_has_every_row_and_is_rebuilt_to_the_same_hash(place: Place) -> None:
    """Its columns were not there when the answers were given: they are as known then, reconstructed."""
    plain, wider = (facts_of(place, "build", *words) for words in ((), ("--service", "wider")))
    assert wider["rows_out"] == wider["rows_in"] == plain["rows_out"] > 0
    assert set(wider["views"]) == {*plain["views"], "reports_12h@1"}
    assert len(wider["schema"]) > len(plain["schema"])
    again = facts_of(place, "build", "--service", "wider")
    assert again["version"] == wider["version"]
    verified = facts_of(place, "verify", wider["version"])
    assert (verified["hash"], verified["verdict"]) == (wider["hash"], "rebuilt and stored rows both match")


def facts_of(place: Place, verb: str, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(dataset, [verb, "phishing", *words, "--json"], obj=place)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_an_edited_view_ends_the_plan_with_exit_code_1_and_what_to_do(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.pipelines / "phishing", tmp_path / "phishing")
    views = tmp_path / "phishing" / "views.py"
    views.write_text(views.read_text().replace('"reports", over="1d"', '"reports", over="2d"'))
    shown = run(Place(place.home, tmp_path), plan)
    assert shown.exit_code == 1
    assert "reports_by_ip@1 was changed. Put 'reports_by_ip' back" in shown.output
    assert "name reports_by_ip_v2, version 2." in shown.output
