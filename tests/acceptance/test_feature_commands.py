"""`rivermill features`: each verb over a pipeline that ran, as a table and as JSON, and what it says to bad input."""

import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from features import dataset
from features.catalog import User
from features.history import History
from features.outbox import Outbox
from journal.body import Version, draft_of
from journal.checkpoint import FoldFile
from journal.clock import SECOND, format_time
from journal.errors import CallerError, UnknownName
from journal.intake import Accepted
from journal.record import Kind
from rivermill.feature_catalog import relies
from rivermill.feature_commands import features
from rivermill.feature_rows import WrongKey
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow
EVENTS = 1_000
VIEW = "reports_by_ip"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A pipeline of that name, played; its dataset is one line's."""
    root = tmp_path_factory.mktemp("features")
    shutil.copytree(configs_folder() / "phishing", root / "configs" / "phishing")
    pipeline = load_pipeline(root / "configs" / "phishing")
    assert pipeline.recorded is not None
    home = Home(root / "home", "phishing")
    run = open_run(pipeline, home)
    recorded = list(islice(pipeline.recorded(weeks=1), EVENTS))
    run.lockstep.play(recorded, "t")
    last = orjson.loads(recorded[-1])
    late = {**last, "id": "late", "time": format_time(run.journal.clock - pipeline.lateness - SECOND)}
    assert isinstance(run.lockstep.offer(orjson.dumps(late)), Accepted)
    made = dataset.build(run.journal, home.datasets, "phishing", run.journal.end(), "b")
    version = Version(
        line="logistic-1",
        family="batch",
        model="m" * 64,
        blob="",
        signature="",
        service=pipeline.service.label,
        dataset=made.version,
        job="j",
        trigger=0,
        recipe="logistic",
        evidence={},
    )
    run.lockstep.land(draft_of(version, kind=Kind.VERSION, stream="v", id="logistic-1"))
    run.close()
    yield Place(home.root, root / "configs")


def call(place: Place, *words: str, code: int = 0) -> str:
    done = CliRunner().invoke(features, words, obj=place, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.stdout


def told(place: Place, *words: str, code: int = 0) -> Any:
    return orjson.loads(call(place, *words, "--json", code=code))


def test_list_says_what_there_is_and_who_uses_it(place: Place) -> None:
    (row,) = told(place, "list", "phishing")
    assert (row["view"], row["trust"], row["owner"]) == ("reports_by_ip@1", "experimental", "phishing@example.org")
    assert (row["keys"], row["streams"], row["features"]) == (["ip_in_url"], ["reports"], 3)
    assert (row["entities"], row["used_by"]) == (2, ["online", "logistic-1"])
    assert "reports_by_ip@1" in call(place, "list", "phishing")


@pytest.mark.parametrize(
    ("kind", "state", "still"),
    [("online", "retired", True), ("batch", "retired", False), ("batch", "rejected", False), ("batch", "idle", True)],
)
def test_a_line_that_goes_on_learning_relies_on_its_views_whatever_answers(kind: str, state: str, still: bool) -> None:
    assert relies(User(line="l", kind=kind, state=state, model="m")) is still


def test_search_finds_or_says_that_nothing_is_there(place: Place) -> None:
    assert told(place, "search", "phishing", "reports", "IP_IN_URL") == told(place, "list", "phishing")
    assert told(place, "list", "phishing", "--search", "logistic-1") == told(place, "list", "phishing")
    assert told(place, "search", "phishing", "weather") == []
    assert "nothing here" in call(place, "search", "phishing", "weather")


def test_list_needs_no_run(place: Place, tmp_path: Path) -> None:
    (row,) = told(Place(tmp_path, place.pipelines), "list", "phishing")
    assert (row["entities"], row["newest"], row["used_by"]) == (None, None, [])


@pytest.mark.parametrize("name", ["reports_by_ip", "reports_by_ip@1"])
def test_show_tells_all_about_a_view(place: Place, name: str) -> None:
    shown = told(place, "show", "phishing", name)
    assert shown["fields"] == {"reports_1d": "int64", "phishing_1d": "float64", "phishing_7d": "float64"}
    assert shown["meaning"]["phishing_7d"] == "part of reports.phishing at or above 1 over the last 7d, in tiles of 6h"
    assert shown["services"] == ["phishing"]
    assert (shown["entities"], shown["stale_entities"]) == (2, 0)
    assert [(user["line"], user["kind"], user["state"]) for user in shown["users"]] == [
        ("online", "online", "champion"),
        ("logistic-1", "batch", "candidate"),
    ]
    assert "over the last 1d, in tiles of 1h" in call(place, "show", "phishing", name)


def test_history_ends_with_what_get_reads(place: Place) -> None:
    newest = told(place, "get", "phishing", VIEW, "ip_in_url=1")
    rows = told(place, "history", "phishing", VIEW, "ip_in_url=1", "-n", "5")
    assert len(rows) == 5
    assert [row["known_at"] for row in rows] == sorted(row["known_at"] for row in rows)
    last = rows[-1]
    assert {name: last[name] for name in ("event_time", "known_at", "reports_1d", "phishing_1d", "phishing_7d")} == {
        name: newest[name] for name in ("event_time", "known_at", "reports_1d", "phishing_1d", "phishing_7d")
    }
    assert not last["deleted"]


def test_history_is_the_same_wherever_the_rows_are(place: Place) -> None:
    """All of them wait in the outbox here; then they are in Delta; then a crash has left them in both."""
    home, words = place.home_of("phishing"), ("history", "phishing", VIEW, "ip_in_url=0", "-n", "10000")
    waiting = told(place, *words)
    rows = told(place, "freshness", "phishing")[0]["rows"]
    assert len(waiting) > 100
    pipeline = load_pipeline(place.folder("phishing"))
    with_journal = open_run(pipeline, home)
    incarnation = with_journal.journal.incarnation
    with_journal.close()
    schemas = [view.schema for view in pipeline.views]
    file = FoldFile(home.fold("features"))
    outbox, history = Outbox(file.db, schemas), History(home.history(incarnation), schemas)
    saved, through, last = outbox.read(VIEW)
    history.append(VIEW, saved, through, outbox.flushed(VIEW))
    assert told(place, *words) == waiting
    assert told(place, "freshness", "phishing")[0]["rows"] == rows
    outbox.confirm(VIEW, through, last)
    file.close()
    assert told(place, *words) == waiting
    assert told(place, "freshness", "phishing")[0]["rows"] == rows


def test_freshness_tells_how_far_the_rows_reach(place: Place) -> None:
    (row,) = told(place, "freshness", "phishing")
    newest = max(told(place, "get", "phishing", VIEW, f"ip_in_url={n}")["known_at"] for n in (0, 1))
    assert (row["view"], row["newest_known"], row["stale_entities"]) == ("reports_by_ip@1", newest, 0)
    assert row["behind"] >= 0
    assert row["late_by_stream"] == {"reports": 1}
    assert told(place, "show", "phishing", VIEW)["late_by_stream"] == {"reports": 1}
    assert "behind" in call(place, "freshness", "phishing")


def test_skew_of_a_lock_step_run_is_none_and_nothing_is_behind(place: Place) -> None:
    found = told(place, "skew", "phishing")
    assert (found["mismatches"], found["views"][0]["behind"]) == (0, 0)
    assert found["predictions"] == found["without_features"] + found["views"][0]["rows"] + found["views"][0]["missing"]
    middle = "2020-01-01T05:00:00Z"
    parts = [told(place, "skew", "phishing", f"--{side}", middle)["predictions"] for side in ("since", "until")]
    assert 0 < parts[0] < found["predictions"] == sum(parts)
    assert "mismatches" in call(place, "skew", "phishing")


def test_skew_exits_with_1_where_the_definition_is_another(place: Place, tmp_path: Path) -> None:
    """The views' file was changed behind a live journal: what it computes now is not what was served."""
    shutil.copytree(place.pipelines, tmp_path / "configs")
    views = tmp_path / "configs" / "phishing" / "views.py"
    views.write_text(views.read_text().replace('over="7d", tile="6h"', 'over="2h", tile="1h"'))
    found = told(Place(place.home, tmp_path / "configs"), "skew", "phishing", code=1)
    assert set(found["causes"]) == {"definition"}
    assert set(found["views"][0]["features"]) == {"phishing_7d"}
    text = call(Place(place.home, tmp_path / "configs"), "skew", "phishing", code=1)
    assert "the first of them" in text


def test_drift_compares_with_a_dataset_and_says_so(place: Place) -> None:
    (name,) = [made.version for made in dataset.versions(place.home_of("phishing").datasets)]
    found = told(place, "drift", "phishing", "--dataset", name)
    assert (found["verdict"], found["champion"], found["reference"]) == ("ok", "online", name)
    assert min(found["reference_rows"], found["rows"]) >= 200
    assert "reports_by_ip__phishing_7d" not in {each["feature"] for each in found["features"]}


def test_drift_exits_with_1_where_the_limits_are_passed(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.pipelines, tmp_path / "configs")
    settings = tmp_path / "configs" / "phishing" / "pipeline.yaml"
    said = "drift: {minimum: 50, window: 3h, psi: 0.001}\n\n"
    settings.write_text(re.sub(r"^drift:.*?(?=^gate:)", said, settings.read_text(), flags=re.DOTALL | re.MULTILINE))
    narrow = Place(place.home, tmp_path / "configs")
    found = told(narrow, "drift", "phishing", code=1)
    assert found["verdict"] == "drifted"
    assert found["drifted"]
    assert {each["feature"] for each in found["features"]} >= {"https", "reports_by_ip__phishing_7d"}
    assert "drifted" in call(narrow, "drift", "phishing", code=1)


@pytest.mark.parametrize(
    ("words", "error", "named"),
    [
        (("show", "phishing", "nope"), UnknownName, "view 'nope'; there are: reports_by_ip"),
        (("show", "phishing", "reports_by_ip@7"), UnknownName, "there are: reports_by_ip@1"),
        (("show", "nowhere", VIEW), UnknownName, "'nowhere'"),
        (("get", "phishing", "nope", "a=1"), UnknownName, "view 'nope'"),
        (("get", "phishing", VIEW), WrongKey, "ip_in_url=..."),
        (("get", "phishing", VIEW, "ip_in_url"), WrongKey, "ip_in_url=..."),
        (("get", "phishing", VIEW, "ip_in_url=1", "page=2"), WrongKey, "ip_in_url=..."),
        (("get", "phishing", VIEW, "ip_in_url=1", "ip_in_url=2"), WrongKey, "ip_in_url=..."),
        (("get", "phishing", VIEW, "ip_in_url=x"), WrongKey, "ip_in_url: int64"),
        (("get", "phishing", VIEW, f"ip_in_url={2**63}"), WrongKey, "64-bit"),
        (("get", "phishing", VIEW, "ip_in_url=77"), UnknownName, "no row for ip_in_url=77"),
        (("history", "phishing", VIEW, "ip_in_url=77"), UnknownName, "no row for ip_in_url=77"),
        (("history", "phishing", VIEW, "ip_in_url=x"), WrongKey, "ip_in_url: int64"),
        (("drift", "phishing", "--dataset", "nope"), UnknownName, "dataset 'nope'"),
    ],
)
def test_what_is_wrong_is_named(place: Place, words: tuple[str, ...], error: type[CallerError], named: str) -> None:
    with pytest.raises(error) as raised:
        call(place, *words)
    assert named in str(raised.value)


@pytest.mark.parametrize("verb", ["freshness", "skew", "drift"])
def test_where_nothing_has_run_there_is_nothing_to_say(place: Place, tmp_path: Path, verb: str) -> None:
    with pytest.raises(UnknownName, match="no state of 'phishing'"):
        call(Place(tmp_path, place.pipelines), verb, "phishing")


def test_a_time_without_offset_is_wrong_usage(place: Place) -> None:
    done = CliRunner().invoke(features, ["skew", "phishing", "--since", "2013-01-01"], obj=place)
    assert done.exit_code == 2
    assert "no UTC offset" in done.output
