"""G8: from the moment an event is acknowledged until an answer is given on the feature that it changed.

    python -m benchmarks.freshness [--rounds N] [--events N] [--json]

A service of several processes over a fresh home, as `rivermill up` starts it. An observation of the weather is sent;
when it is acknowledged, questions about that airport follow one another, each behind the record of the one before,
until one of them was answered with the new row, as its record says. In turn with that, and in the same round: the same
without questions, where only the online store's file is looked at (what the way to the fold costs by itself), and a
durable commit of one row by a bare apsw on the same disk: the commit interval.
"""

import argparse
import contextlib
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import orjson

from benchmarks.skew import Service
from features.online_table import OnlineReader
from features.rows import encode_key
from journal.body import Prediction, decode
from journal.clock import HOUR, format_time, parse_time
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder

ACCEPTED_MS, AIM_MS = 20.0, 10.0
"""Accepted: two commit intervals and this; the aim is without them."""

WARM_UP = 4_000
_BATCH = 500
VIEW, AIRPORT = "weather", "JFK"
APART = 1_000
"""Microseconds of journal time between two observations: newer, and nothing expires in between."""
_PATIENCE = 10.0
_LOOK_EVERY = 0.0002


class Probe:
    """Sends observations to a service and finds out when they were there to be answered with."""

    def __init__(self, service: Service, pipeline: Pipeline, recorded: list[dict[str, Any]], number: int) -> None:
        """Prepare.

        Args:
            service: Has taken what was recorded.
            pipeline: The service's.
            recorded: Its events; the last about the airport are what later ones are made from.
            number: Of the round; each is an hour of journal time after the one before.
        """
        self._home, self._pipeline, self._number = service.home, pipeline, number
        api = service.address
        self._line = http.client.HTTPConnection(api.host, api.port, timeout=_PATIENCE)
        self._headers = {"authorization": service.authorization, "content-type": "application/json"}
        newest = {event["type"]: event for event in recorded if event["data"].get("origin") == AIRPORT}
        self._weather, self._asked = newest["weather"], newest[pipeline.question.stream]
        self._clock = max(parse_time(event["time"]) for event in recorded) + number * HOUR
        self._online, self._key = OnlineReader(self._home.fold("features")), encode_key([AIRPORT])
        self._sent = 0
        self.asks: dict[str, list[tuple[int, float]]] = {}
        """By event: the offsets of the answers behind it, and how long after its acknowledgement each was there."""

    def observe(self) -> float:
        """Send one observation; when it was acknowledged."""
        self._sent += 1
        self._clock += APART
        self._post("events", {**self._weather, "id": self.id, "time": format_time(self._clock)})
        return time.perf_counter()

    @property
    def id(self) -> str:
        """Of the last observation."""
        return f"fresh-{self._number}-{self._sent}"

    def until_committed(self, acked: float) -> float:
        """Seconds until the online store's file holds the last observation."""
        while not self._is_committed():
            time.sleep(_LOOK_EVERY)
        return time.perf_counter() - acked

    def ask_until_committed(self, acked: float) -> None:
        """Ask about the airport until an answer was begun after the file held the last observation."""
        answers = self.asks[self.id] = []
        asked, is_last = 0, False
        while not is_last:
            is_last = self._is_committed()
            asked += 1
            said = self._post("predict", {"id": f"{self.id}-{asked}", "data": self._asked["data"]})
            took, receipt = time.perf_counter() - acked, said["receipt"]
            if isinstance(receipt, dict):
                answers.append((receipt["prediction"], took))
            else:
                # What is not recorded tells nothing, and the next one is asked as well.
                is_last = False

    def _is_committed(self) -> bool:
        (row,) = self._online.get_many([(VIEW, self._key)])
        return row is not None and row.event == self._clock

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._line.request("POST", f"/v1/{self._home.pipeline}/{path}", orjson.dumps(body), self._headers)
        answer = self._line.getresponse()
        said = answer.read()
        assert answer.status in {200, 202}, said
        taken: dict[str, Any] = orjson.loads(said)
        return taken

    def visible(self) -> list[float]:
        """Seconds from each acknowledgement to the first answer on the new row, as the journal recorded them."""
        place = [view.name for view in self._pipeline.service.views].index(VIEW)
        with contextlib.closing(SqliteReader(self._home.journal)) as journal:
            return [self._first(journal, event, place) for event in self.asks]

    def _first(self, journal: SqliteReader, event: str, place: int) -> float:
        offset = journal.find(Kind.SOURCE, self._weather["source"], event)
        assert offset is not None, event
        known = journal.read(0, offset - 1, 1)[0].at
        for answer, took in self.asks[event]:
            stamp = decode(journal.read(0, answer - 1, 1)[0].body, Prediction).stamps[place]
            if stamp is not None and stamp[1] >= known:
                return took
        message = f"no answer behind {event} has its row"
        raise AssertionError(message)

    def close(self) -> None:
        """Let go of the connection and the file."""
        self._line.close()
        self._online.close()


@contextlib.contextmanager
def bare_database(path: Path) -> Iterator[apsw.Connection]:
    """A table in a file that is synced at every commit."""
    database = apsw.Connection(str(path))
    database.pragma("journal_mode", "wal")
    database.pragma("synchronous", "full")
    database.execute("CREATE TABLE t (a INTEGER)")
    yield database
    database.close()


def one_commit(database: apsw.Connection) -> float:
    """Seconds of a durable commit of one row."""
    begun = time.perf_counter()
    database.execute("INSERT INTO t VALUES (1)")
    return time.perf_counter() - begun


def measure(rounds: int, events: int, root: Path) -> dict[str, Any]:
    """Run the rounds; milliseconds by what was measured."""
    home, pipeline = Home(root, "flights"), load_pipeline(configs_folder() / "flights")
    assert pipeline.recorded is not None, "flights are recorded"
    recorded = [orjson.loads(line) for line in islice(pipeline.recorded(weeks=1), WARM_UP)]
    service = Service(home, root / "up.log")
    try:
        for first in range(0, len(recorded), _BATCH):
            service.take(recorded[first : first + _BATCH])
        service.wait_until_behind_by(0)
        with bare_database(root / "bare.sqlite") as bare:
            # The first is to warm up.
            probes = [Probe(service, pipeline, recorded, number) for number in range(rounds + 1)]
            each = [_round(service, probe, bare, events) for probe in probes][1:]
    finally:
        service.stop()
    return _figures(Round(*(list(chain.from_iterable(part)) for part in zip(*each, strict=True))))


class Round(NamedTuple):
    """Seconds, by what was measured; and how many questions each event took."""

    commits: list[float]
    committed: list[float]
    visible: list[float]
    asked: list[int]


def _round(service: Service, probe: Probe, bare: apsw.Connection, events: int) -> Round:
    commits, committed = list[float](), list[float]()
    for _ in range(events):
        commits.append(one_commit(bare))
        committed.append(probe.until_committed(probe.observe()))
    for _ in range(events):
        commits.append(one_commit(bare))
        probe.ask_until_committed(probe.observe())
    service.wait_until_behind_by(0)
    found = Round(commits, committed, probe.visible(), [len(answers) for answers in probe.asks.values()])
    probe.close()
    return found


def _figures(found: Round) -> dict[str, Any]:
    interval = statistics.median(found.commits) * 1_000
    visible = _marks(found.visible)
    return {
        "events": len(found.visible),
        "questions": sum(found.asked),
        "commit_ms": _marks(found.commits),
        "committed_ms": _marks(found.committed),
        "visible_ms": visible,
        "limit_ms": round(2 * interval + ACCEPTED_MS, 2),
        "aim_ms": AIM_MS,
        "accepted": visible["p99"] <= 2 * interval + ACCEPTED_MS,
    }


def _marks(seconds: list[float]) -> dict[str, float]:
    marks = statistics.quantiles(seconds, n=100)
    return {name: round(marks[n] * 1_000, 2) for name, n in (("p50", 49), ("p90", 89), ("p99", 98))}


def main() -> None:
    """Run it and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given.rounds, given.events, Path(folder))
    options = 0 if given.json else orjson.OPT_INDENT_2
    sys.stdout.write(orjson.dumps(figures, option=options).decode() + "\n")
    sys.exit(0 if figures["accepted"] else 1)


if __name__ == "__main__":
    main()
