"""What features plan, apply and backfill print, and how they exit."""

import json
import shutil
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

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


def test_an_edited_view_ends_the_plan_with_exit_code_1_and_what_to_do(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.pipelines / "phishing", tmp_path / "phishing")
    views = tmp_path / "phishing" / "views.py"
    views.write_text(views.read_text().replace('"reports", over="1d"', '"reports", over="2d"'))
    shown = run(Place(place.home, tmp_path), plan)
    assert shown.exit_code == 1
    assert "reports_by_ip@1 was changed. Put 'reports_by_ip' back" in shown.output
    assert "name reports_by_ip_v2, version 2." in shown.output
