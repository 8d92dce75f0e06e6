"""G13: every feature of every prediction of a live run, against a rebuild from the journal that the run left.

    python -m benchmarks.skew [--weeks 10] [--kills 3] [--home H] [--json]

Recorded flights go into a service of several processes, disturbed: some events come out of order, some too late to
count, some are corrected. Part of the questions go over HTTP, the others come as events. The worker is killed now and
then. At the end `rivermill features skew`'s comparison is run over everything; and, to show that it can fail, once more
with a rebuild that ignores what came late.
"""

import argparse
import contextlib
import heapq
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec
import orjson

from benchmarks.live import pids_of
from features.replay import Rules
from features.skew import Known, Range, compare
from features.skew_report import Skew
from journal.checkpoint import positions_in
from journal.clock import HOUR, parse_time
from journal.sqlite_reader import SqliteReader
from rivermill.feature_skew import as_facts, replay_rules
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder

SEED = 1
ITEMS_PER_ROUND = 100
MOST_BEHIND = 200
"""Records: the recording goes in as fast as it is folded, and an hour of 2013 takes a tenth of a second."""
PART_OVER_HTTP = 0.5
_PATIENCE = 600.0
_RETRY_AFTER = 0.2
_LOOK_EVERY = 0.05

LATE_PART, LATE_BY = 0.1, 3 * HOUR
"""Within the contracts' lateness: they correct windows."""
TOO_LATE_PART, TOO_LATE_BY = 0.01, 12 * HOUR
CORRECTED_PART, CORRECTED_BY = 0.05, 2 * HOUR

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What a correction changes in an event of a stream: a field, and by how much."""

    field: str
    by: float


CHANGES = {"weather": Change("temp", 1.5), "departures": Change("delay", 7), "arrivals": Change("delay", -4)}
"""The streams that are disturbed, and their corrections."""


def disturbed(lines: Iterable[bytes], seed: int, counts: Counter[str]) -> Iterator[Event]:
    """The events in the order in which they arrive here; what was done to them is counted."""
    rng, waiting = random.Random(seed), list[tuple[int, int, Event]]()
    for number, line in enumerate(lines):
        event: Event = orjson.loads(line)
        moment = parse_time(event["time"])
        while waiting and waiting[0][0] <= moment:
            yield heapq.heappop(waiting)[2]
        change = CHANGES.get(event["type"])
        delay = 0 if change is None else _delay(rng, counts)
        if change is not None and event["data"].get(change.field) is not None and rng.random() < CORRECTED_PART:
            counts["corrected"] += 1
            corrected = {**event, "id": f"{event['id']}/corrected", "data": {**event["data"]}}
            corrected["data"][change.field] += change.by
            heapq.heappush(waiting, (moment + rng.randrange(CORRECTED_BY), 2 * number, corrected))
        if delay:
            heapq.heappush(waiting, (moment + delay, 2 * number + 1, event))
        else:
            yield event
    while waiting:
        yield heapq.heappop(waiting)[2]


def _delay(rng: random.Random, counts: Counter[str]) -> int:
    chance = rng.random()
    if chance < TOO_LATE_PART:
        counts["too late"] += 1
        return rng.randrange(LATE_BY + HOUR, TOO_LATE_BY)
    if chance < TOO_LATE_PART + LATE_PART:
        counts["late"] += 1
        return rng.randrange(1, LATE_BY)
    return 0


class Service:
    """A service of several processes over a home."""

    def __init__(self, home: Home, log: Path) -> None:
        """Start it and wait until it answers."""
        self.home = home
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "rivermill", "--home", str(home.root), "up", home.pipeline),
                    *("--no-mlflow", "--json", "--port", str(_free_port())),
                ],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        announced = self.process.stdout.readline()
        assert announced, log.read_text()
        said = orjson.loads(announced)
        key = Path(said["admin_key"]).read_text().strip()
        self.authorization, self.address = f"Bearer {key}", httpx.URL(said["api"])
        headers = {"Authorization": self.authorization}
        self._api = httpx.Client(base_url=f"{said['api']}/v1/{home.pipeline}", headers=headers, timeout=30.0)

    def take(self, events: list[Event]) -> Counter[str]:
        """Send events until they are acknowledged; their fates."""
        answer = self._until_taken("/events", orjson.dumps(events))
        return Counter(fate["type"] for fate in answer["fates"])

    def ask(self, questions: list[Event]) -> Counter[str]:
        """Ask over HTTP; what kind of receipt each got."""
        asked = [{"id": event["id"], "data": event["data"]} for event in questions]
        answer = self._until_taken("/predict", orjson.dumps({"questions": asked}))
        return Counter(_receipt(each) for each in answer["answers"])

    def _until_taken(self, path: str, body: bytes) -> dict[str, Any]:
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            with contextlib.suppress(httpx.TransportError):
                answer = self._api.post(path, content=body, headers={"content-type": "application/json"})
                if answer.status_code in {200, 202}:
                    taken: dict[str, Any] = answer.json()
                    return taken
                assert answer.status_code in {429, 503}, answer.text
            time.sleep(_RETRY_AFTER)
        message = f"{path} was not taken in {_PATIENCE:g} s"
        raise TimeoutError(message)

    def kill_worker(self) -> None:
        """As a crash; the supervisor starts another one."""
        for pid in pids_of(self.home.root, "worker_process"):
            os.kill(pid, signal.SIGKILL)

    def wait_until_behind_by(self, most: int) -> None:
        """Wait until the features' fold has come as close to the journal's end."""
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            with contextlib.closing(SqliteReader(self.home.journal)) as journal:
                end = journal.end()
            positions = positions_in(self.home.fold("x").parent)
            if all(end - positions.get(fold, -1) <= most for fold in ("features", "answer", "join")):
                return
            time.sleep(_LOOK_EVERY)
        message = f"the folds stayed more than {most} records behind"
        raise TimeoutError(message)

    def stop(self) -> None:
        """Stop every process, in order."""
        self._api.close()
        self.process.terminate()
        self.process.wait(120)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _receipt(answer: dict[str, Any]) -> str:
    receipt = answer.get("receipt", "error")
    return receipt if isinstance(receipt, str) else "recorded"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_live(service: Service, lines: Iterable[bytes], question: str, kills: Iterable[int]) -> dict[str, Any]:
    """Send a disturbed recording, and kill the worker before these rounds; the counts of what was sent."""
    rng, counts, fates, receipts = random.Random(SEED), Counter[str](), Counter[str](), Counter[str]()
    arriving, wanted = disturbed(lines, SEED, counts), set(kills)
    for number in range(sys.maxsize):
        some = list(islice(arriving, ITEMS_PER_ROUND))
        if not some:
            break
        if number in wanted:
            service.kill_worker()
        asked = [event for event in some if event["type"] == question and rng.random() < PART_OVER_HTTP]
        over_http = {id(event) for event in asked}
        fates += service.take([event for event in some if id(event) not in over_http])
        if asked:
            receipts += service.ask(asked)
        service.wait_until_behind_by(MOST_BEHIND)
    service.wait_until_behind_by(0)
    return {"disturbed": dict(counts), "fates": dict(fates), "receipts": dict(receipts)}


def judge(folder: Path, home: Home) -> tuple[Skew, Skew]:
    """The comparison, and one with a rebuild that takes no late event."""
    pipeline = load_pipeline(folder)
    with contextlib.closing(SqliteReader(home.journal)) as journal:
        rules, known = replay_rules(pipeline, journal), Known(services=frozenset({pipeline.service.label}))
        strict = Rules(views=rules.views, lateness=0, lift=rules.lift, skips=rules.skips)
        return compare(journal, rules, known, Range()), compare(journal, strict, known, Range())


def main() -> None:
    """Run it and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--home", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = given.home or Path(folder)
        figures = _run(root, given.weeks, given.kills)
    options = 0 if given.json else orjson.OPT_INDENT_2
    sys.stdout.write(orjson.dumps(figures, option=options).decode() + "\n")
    sys.exit(1 if figures["mismatches"] else 0)


def _run(root: Path, weeks: int, kills: int) -> dict[str, Any]:
    folder, home = configs_folder() / "flights", Home(root, "flights")
    recorded = load_pipeline(folder).recorded
    assert recorded is not None, "flights are recorded"
    root.mkdir(parents=True, exist_ok=True)
    rounds = sum(1 for _ in recorded(weeks=weeks)) // ITEMS_PER_ROUND
    service, begun = Service(home, root / "up.log"), time.monotonic()
    try:
        sent = run_live(
            service, recorded(weeks=weeks), "schedule", [rounds * n // (kills + 1) for n in range(1, kills + 1)]
        )
    finally:
        service.stop()
    played = time.monotonic() - begun
    found, strict = judge(folder, home)
    return {
        **sent,
        "kills": kills,
        "seconds_live": round(played, 1),
        "seconds_compared_twice": round(time.monotonic() - begun - played, 1),
        **as_facts(found),
        "without_late_events": {"mismatches": strict.mismatches, "causes": msgspec.to_builtins(strict.causes)},
    }


if __name__ == "__main__":
    main()
