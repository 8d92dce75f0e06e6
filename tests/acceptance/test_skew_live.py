"""G13 in short: a live run of several processes over disturbed events, compared with a rebuild from its journal.

`python -m benchmarks.skew` is the same over ten weeks.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from benchmarks.skew import CHANGES, Service, disturbed, judge, run_live
from features.skew_report import Skew
from journal.clock import parse_time
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.feature_commands import features
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.settings import Home, configs_folder

pytestmark = pytest.mark.slow
FOLDER = configs_folder() / "flights"
PLANES = 3_322
"""They come first; the last hundred of them are enough here."""
FIRST, LAST = PLANES - 100, PLANES + 1_200


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    pipeline = load_pipeline(FOLDER)
    assert pipeline.recorded is not None
    return list(islice(pipeline.recorded(weeks=1), FIRST, LAST))


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, recorded: list[bytes]) -> Iterator[tuple[Home, dict[str, Any]]]:
    """A home that a service has left, its worker killed once, and what was sent to it."""
    root = tmp_path_factory.mktemp("skew")
    home = Home(root, "flights")
    service = Service(home, root / "up.log")
    try:
        sent = run_live(service, recorded, "schedule", kills=[6])
    finally:
        service.stop()
    yield home, sent


@pytest.fixture(scope="module")
def judged(lived: tuple[Home, dict[str, Any]]) -> tuple[Skew, Skew]:
    return judge(FOLDER, lived[0])


def test_the_recording_is_disturbed_in_every_way(lived: tuple[Home, dict[str, Any]]) -> None:
    _, sent = lived
    assert all(sent["disturbed"][name] > 0 for name in ("late", "too late", "corrected"))
    assert set(sent["fates"]) == {"accepted"}
    assert sent["fates"]["accepted"] + sum(sent["receipts"].values()) == LAST - FIRST + sent["disturbed"]["corrected"]


def test_no_feature_of_any_prediction_differs(judged: tuple[Skew, Skew], lived: tuple[Home, dict[str, Any]]) -> None:
    found, _ = judged
    home, sent = lived
    journal = SqliteReader(home.journal)
    predictions = journal.of_kind(Kind.PREDICTION, 0, 100_000)
    journal.close()
    assert found.predictions == len(predictions)
    assert len(predictions) > sum(sent["receipts"].values()) > 50
    assert found.values > 5_000
    assert (found.mismatches, found.causes, found.examples) == (0, {}, [])


def test_a_rebuild_that_ignores_what_came_late_differs(judged: tuple[Skew, Skew]) -> None:
    """So the comparison can fail."""
    found = judged[1]
    assert found.mismatches > 100
    assert found.causes["late event"] > 0


def test_the_command_says_the_same(judged: tuple[Skew, Skew], lived: tuple[Home, dict[str, Any]]) -> None:
    home, _ = lived
    place = Place(home.root, configs_folder())
    done = CliRunner().invoke(features, ["skew", "flights", "--json"], obj=place)
    assert done.exit_code == 0
    said = orjson.loads(done.stdout)
    assert (said["predictions"], said["mismatches"], said["values"]) == (judged[0].predictions, 0, judged[0].values)
    assert {view["view"]: view["freshness"] for view in said["views"]} == {
        view.view: view.freshness for view in judged[0].views
    }


def test_disturbing_loses_no_event_and_is_the_same_each_time(recorded: list[bytes]) -> None:
    counts = Counter[str]()
    once = list(disturbed(recorded, 3, counts))
    assert once == list(disturbed(recorded, 3, Counter()))
    own = [event for event in once if not event["id"].endswith("/corrected")]
    assert sorted(event["id"] for event in own) == sorted(orjson.loads(line)["id"] for line in recorded)
    assert len(once) - len(own) == counts["corrected"] > 0
    newest = 0
    behind = 0
    for event in own:
        moment = parse_time(event["time"])
        behind += moment < newest
        newest = max(newest, moment)
        assert moment >= newest or event["type"] in CHANGES
    assert 0 < behind <= counts["late"] + counts["too late"]
