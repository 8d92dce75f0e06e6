"""G13 in short: a live run of several processes over disturbed events, compared with a rebuild from its journal.

`python -m benchmarks.skew` is the same over ten weeks.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec
import orjson
import pytest
from click.testing import CliRunner

from benchmarks.skew import CHANGES, Service, disturbed, judge, run_live
from features.skew import Known, Range, compare
from features.skew_report import Skew
from journal.body import Prediction, decode, encode
from journal.clock import HOUR, MINUTE, format_time, parse_time
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.feature_commands import features
from rivermill.feature_skew import replay_rules
from rivermill.inspection import reading
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.prediction_commands import predictions
from rivermill.settings import Home, configs_folder

pytestmark = pytest.mark.slow
FOLDER = configs_folder() / "flights"
PLANES = 3_322
"""They come first; the last hundred of them are enough here."""
FIRST, LAST = PLANES - 100, PLANES + 1_200
STALE_AFTER = 3 * HOUR
"""The TTL of ``weather``."""


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
        ask_while_weather_ages(service, recorded)
    finally:
        service.stop()
    yield home, sent


def ask_while_weather_ages(service: Service, recorded: list[bytes]) -> None:
    """Over HTTP, right behind each event that moves the clock, until the weather elsewhere is long past its TTL."""
    events = [orjson.loads(line) for line in recorded]
    newest = {event["type"]: event for event in events if event["data"].get("origin") == "JFK"}
    weather, asked = newest["weather"], newest["schedule"]
    begin = max(parse_time(event["time"]) for event in events)
    for step in range(12):
        moment = format_time(begin + step * 30 * MINUTE)
        service.take([{**weather, "id": f"w{step}", "time": moment, "data": {**weather["data"], "origin": "LGA"}}])
        service.ask([{**asked, "id": f"aging-{step}-{n}"} for n in range(3)])


class Misdated:
    """A journal whose answers over HTTP say that staleness was judged as much later."""

    def __init__(self, journal: SqliteReader, by: int) -> None:
        self._journal, self._by = journal, by

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        return [self._misdate(record) for record in self._journal.read(partition, after, limit)]

    def _misdate(self, record: Record) -> Record:
        if record.kind is not Kind.PREDICTION:
            return record
        body = decode(record.body, Prediction)
        if body.now is None:
            return record
        return msgspec.structs.replace(record, body=encode(msgspec.structs.replace(body, now=body.now + self._by)))


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


def test_answers_over_http_say_when_staleness_was_judged(lived: tuple[Home, dict[str, Any]]) -> None:
    """So that those past a TTL are compared like all others, and another moment is found out."""
    pipeline, journal = load_pipeline(FOLDER), SqliteReader(lived[0].journal)
    place = [view.name for view in pipeline.views].index("weather")
    answers = [(record, decode(record.body, Prediction)) for record in journal.of_kind(Kind.PREDICTION, 0, 100_000)]
    over_http = [answer for record, answer in answers if record.id.startswith("p-http#")]
    assert {answer.now is None for answer in over_http} == {False}
    assert {answer.now for record, answer in answers if not record.id.startswith("p-http#")} == {None}
    aging = [answer for record, answer in answers if record.id.startswith("p-http#aging-")]
    assert (aging[0].stamps[place] is None, aging[-1].stamps[place] is None) == (False, True)
    known = Known(services=frozenset({pipeline.service.label}))
    for by in (-STALE_AFTER, STALE_AFTER):
        found = compare(Misdated(journal, by), replay_rules(pipeline, journal), known, Range())
        assert found.causes.keys() == {"ttl"}
    journal.close()


def test_every_kind_of_answer_is_computed_again_to_the_last_bit(lived: tuple[Home, dict[str, Any]]) -> None:
    """Over HTTP with weather that is fresh and that is stale, and as an event; from journal and blobs alone."""
    home = lived[0]
    with reading(home) as journal:
        found = journal.of_kind(Kind.PREDICTION, 0, 100_000)
    by_event = [f"@{record.offset}" for record in found if not record.id.startswith("p-http#")]
    shown = []
    for which in ("aging-0-0", "aging-11-2", by_event[0], by_event[-1]):
        words = ["show", "flights", which, "--recompute", "--json"]
        done = CliRunner().invoke(predictions, words, obj=Place(home.root, configs_folder()), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        shown.append(orjson.loads(done.stdout))
    assert {facts["recomputed"]["verdict"] for facts in shown} == {"equal"}
    assert [facts["question"]["kind"] for facts in shown] == ["question", "question", "source", "source"]
    assert [facts["stamps"]["weather@1"] is None for facts in shown[:2]] == [False, True]


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
