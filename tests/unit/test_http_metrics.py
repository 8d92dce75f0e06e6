"""What a scrape reads: counters that only grow, gauges that say how serving stands beside the journal."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from features.reader import FeatureReader, define
from features.rows import Row, encode_key
from features.views import ServicePlan, ViewPlan
from journal.asking import Asking
from journal.blobs import DirectoryBlobs
from journal.body import Prediction
from journal.clock import DAY, HOUR, SECOND, parse_time
from journal.contract import Contract
from journal.errors import OwnerDown
from journal.field import Field
from journal.privacy import KeyTable
from journal.record import Draft, Kind, canonical_json
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.wire import Asked, AskedBefore
from registry.flavors import river
from registry.signing import Signer
from rivermill.http_metrics import HttpMetrics
from serving.answering import Answering
from serving.champion import Champion
from serving.live import Ack, LiveService, Question, event_of

NOON = parse_time("2013-01-01T12:00:00Z")
FIELDS = {"key": "k"}
QUESTIONS = Contract(
    stream="questions",
    version="1.0.0",
    fields=(Field(name="key", type="string", required=True),),
    dedup_window=2 * DAY,
    max_gap=DAY,
)
VIEW = ViewPlan(
    name="v", join_keys=("key",), key_types=("string",), fields=(("x", "float64"),), ttl=None, stale="default",
    kind="plain", streams=("s",),
)  # fmt: skip


class Bench:
    """A live service that nobody has named a line for, over a journal on disk and one view."""

    def __init__(self, folder: Path) -> None:
        self.journal = SqliteJournal(folder / "journal", "t", dedup_window=2 * DAY)
        self.keys = KeyTable(folder / "keys.sqlite")
        self.asking = Asking(self.journal, QUESTIONS, self.keys, "key")
        self.is_down = False
        self.row: Row | None = None
        self.append("a", NOON)
        self.reader = SqliteReader(folder / "journal")
        service = ServicePlan(name="s", views=(VIEW,))
        champion = Champion(
            pipeline="t",
            flavor_of=lambda _: river,
            blobs=DirectoryBlobs(folder / "blobs"),
            verifier=Signer.open(folder / "key"),
            prior=0.25,
            read_record=lambda offset: self.journal.read(0, offset - 1, 1)[0],
        )
        features = FeatureReader(service, ["key"], self)
        definition = define(service, {"key": "string"})
        answering = Answering(key="key", definition=definition, reader=features, champion=champion, build="b")
        self.live = LiveService(answering, self.reader, self)
        self.metrics = HttpMetrics({"t": self.live})

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        return [self.row for _ in wanted]

    async def ask(self, question: bytes, prediction: Prediction, principal: str, timeout: float) -> Asked | AskedBefore:
        if self.is_down:
            raise OwnerDown(which="t")
        return self.asking.ask(question, prediction, principal)

    def append(self, id_: str, time: int) -> None:
        self.journal.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id=id_, time=time, body=b"{}")])

    def know(self, known: int) -> None:
        self.row = Row(encode_key(("k",)), known, known, (1.0,))

    def answer(self, id_: str, ack: Ack = "durable") -> None:
        event = event_of(id_, "http", "questions", self.live.now, canonical_json(FIELDS))
        asyncio.run(self.live.ask(Question(id=id_, source="http", fields=FIELDS, event=event, principal="me"), ack))

    def close(self) -> None:
        self.reader.close()
        self.keys.close()
        self.journal.close()

    def scrape(self) -> dict[str, float]:
        """Every sample by its name and labels, as a scraper reads them."""
        families = text_string_to_metric_families(self.metrics.text().decode())
        return {_key(sample.name, sample.labels): sample.value for family in families for sample in family.samples}


def _key(name: str, labels: dict[str, Any]) -> str:
    return " ".join([name, *(f"{label}={value}" for label, value in sorted(labels.items()))])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.live.follow()
    yield bench
    bench.close()


def test_requests_are_counted_by_route_and_status_and_timed_by_route(bench: Bench) -> None:
    for status, seconds in ((200, 0.002), (200, 0.2), (503, 9.0)):
        bench.metrics.count("predict", status, seconds)
    found = bench.scrape()
    assert found["rivermill_http_requests_total route=predict status=200"] == 2
    assert found["rivermill_http_requests_total route=predict status=503"] == 1
    assert found["rivermill_http_seconds_bucket le=0.0025 route=predict"] == 1
    assert found["rivermill_http_seconds_bucket le=2.5 route=predict"] == 2
    assert found["rivermill_http_seconds_bucket le=+Inf route=predict"] == 3
    assert math.isclose(found["rivermill_http_seconds_sum route=predict"], 9.202)


def test_two_apps_count_apart(bench: Bench) -> None:
    bench.metrics.count("predict", 200, 0.1)
    assert b"predict" not in HttpMetrics({"t": bench.live}).text()


def test_the_fates_of_answers_add_up_and_what_may_shrink_is_a_gauge(bench: Bench) -> None:
    bench.answer("a")
    bench.answer("a")
    bench.answer("b", "enqueued")
    bench.is_down = True
    bench.answer("c")
    found = bench.scrape()
    fates = {fate: found[f"rivermill_answers_total fate={fate} pipeline=t"] for fate in ("recorded", "repeated")}
    assert fates == {"recorded": 1, "repeated": 1}
    assert found["rivermill_answers_total fate=unrecorded pipeline=t"] == 1
    assert found["rivermill_answers_pending pipeline=t"] == 1
    assert found["rivermill_answers_total fate=answered pipeline=t"] == 4
    assert "rivermill_answers_total fate=pending pipeline=t" not in found


def test_how_far_serving_has_followed_the_journal(bench: Bench) -> None:
    before = bench.scrape()
    assert before["rivermill_journal_end pipeline=t"] == bench.journal.end()
    bench.append("b", NOON + HOUR)
    assert bench.scrape() == before, "it has not looked yet"
    bench.live.follow()
    after = bench.scrape()
    assert after["rivermill_journal_end pipeline=t"] == before["rivermill_journal_end pipeline=t"] + 1
    assert after["rivermill_journal_clock_seconds pipeline=t"] == bench.live.now / SECOND >= (NOON + HOUR) / SECOND


def test_the_features_age_is_that_of_the_newest_row_that_any_answer_has_read(bench: Bench) -> None:
    age = "rivermill_features_age_seconds pipeline=t"
    bench.answer("nothing is known")
    assert age not in bench.scrape()
    for id_, known in (("a", NOON - HOUR), ("b", NOON - 2 * HOUR)):
        bench.know(known)
        bench.answer(id_)
    assert bench.scrape()[age] == (bench.live.now - NOON + HOUR) / SECOND
    bench.append("b", NOON + HOUR)
    bench.live.follow()
    assert bench.scrape()[age] == (bench.live.now - NOON + HOUR) / SECOND > 2 * HOUR / SECOND - 1


def test_the_line_that_answers_is_a_label_and_the_decision_its_value(bench: Bench) -> None:
    assert bench.scrape()["rivermill_champion_info line= pipeline=t"] == 0
