"""R3: the HTTP process dies while it takes up another model: inside each call by which it reads that model's file.

Somebody asks all the while. Every answer is the old model's or the new one's, whole; the process that comes back
answers by the control log, from its first answer on.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from journal.body import Decision, Definition, Prediction, Snapshot, Version, decode
from journal.log import START
from journal.owner_client import OwnerClient
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.registry_wiring import live_lines
from rivermill.settings import Home, configs_folder
from rivermill.wiring import predictor_of
from serving.predictor import Predictor
from tests.crash.live import PATIENCE, Live, all_records
from tests.crash.tracing import counted, die_within
from tests.crash.zygote import Zygote
from tests.played import play_with_retrains

pytestmark = pytest.mark.slow
FOLDER = configs_folder() / "phishing"
OK = 200
TRIES = 300
"""How often one looks whether it has died, a hundredth of a second apart."""


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with closing(Zygote(FOLDER, log=tmp_path / "log")) as zygote:
        yield zygote


class Asker(threading.Thread):
    """Asks one question after the other, whoever answers; goes on when nobody does."""

    def __init__(self, live: Live, data: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._live, self._data = live, data
        self._is_over = threading.Event()
        self.answers: list[tuple[int, str]] = []
        """Status, and the line that answered."""

    def run(self) -> None:
        key = (self._live.home.root / "access" / "admin.key").read_text().strip()
        url = f"http://127.0.0.1:{self._live.port}/v1/{self._live.home.pipeline}/predict"
        number = 0
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as client:
            while not self._is_over.is_set():
                number += 1
                try:
                    answer = client.post(url, json={"id": f"asked-{number}", "data": self._data})
                except httpx.TransportError:
                    time.sleep(0.005)
                    continue
                self.answers.append((answer.status_code, answer.json().get("line", answer.text)))

    def first(self) -> tuple[int, str]:
        """The first answer that comes from now on."""
        place, give_up = len(self.answers), time.monotonic() + PATIENCE
        while len(self.answers) == place:
            assert time.monotonic() < give_up
            time.sleep(0.005)
        return self.answers[place]

    def until(self, line: str) -> None:
        """Wait until a line answers."""
        give_up = time.monotonic() + PATIENCE
        while self.first()[1] != line:
            assert time.monotonic() < give_up

    def stop(self) -> None:
        self._is_over.set()
        self.join(PATIENCE)


class Champions:
    """Lets former champions answer again by turns: always the one that no process holds ready."""

    def __init__(self, pipeline: Pipeline, home: Home) -> None:
        self._pipeline, self._home = pipeline, home
        records = all_records(home)
        decided = [decode(record.body, Decision) for record in records if record.kind is Kind.DECISION]
        champions = dict.fromkeys(each.subject for each in decided if each.action == "promote")
        assert len(champions) == 3, "the one that answers and the one before it are held ready"
        self._turns = cycle(champions)
        bodies = [published_in(record) for record in records if record.kind in (Kind.VERSION, Kind.SNAPSHOT)]
        self._blobs = {body.line: body.blob for body in bodies if body.blob}
        self._done = 0

    def next(self) -> tuple[str, Path]:
        """Who is to answer, and the file of its model."""
        line = next(self._turns)
        blob = self._blobs[line]
        return line, self._home.blobs / blob[:2] / blob

    def swap(self, line: str) -> None:
        """Decide that it answers."""
        self._done += 1
        with closing(SqliteReader(self._home.journal)) as journal, closing(OwnerClient(self._home.socket)) as owner:
            lines = live_lines(self._pipeline, self._home, journal, owner.offer)
            lines.roll_back(line, why="a test asks", principal="tester", key=f"swap-{self._done}")


def published_in(record: Record) -> Version | Snapshot:
    """What a line published."""
    kind: type[Version | Snapshot] = Version if record.kind is Kind.VERSION else Snapshot
    return decode(record.body, kind)


def check_whole(pipeline: Pipeline, home: Home, records: list[Record]) -> int:
    """Count the answers by a model: each is, to the last bit, what the model of the decision that it names says."""
    columns = next(decode(record.body, Definition).columns for record in records if record.kind is Kind.DEFINITION)
    decided = {
        decision.sequence: decision.subject
        for record in records
        if record.kind is Kind.DECISION
        for decision in (decode(record.body, Decision),)
    }
    models: dict[int, Predictor] = {}
    predictions = [decode(record.body, Prediction) for record in records if record.kind is Kind.PREDICTION]
    by_model = [prediction for prediction in predictions if prediction.snapshot != START]
    for prediction in by_model:
        assert prediction.line == decided[prediction.control]
        if prediction.snapshot not in models:
            models[prediction.snapshot] = predictor_of(pipeline, home)
            models[prediction.snapshot].follow(published_in(records[prediction.snapshot]))
        model = models[prediction.snapshot]
        assert prediction.model == model.digest
        assert prediction.score == model.predict_one(columns, prediction.values)
    return len(by_model)


def test_r03_the_http_process_dies_while_it_takes_up_another_model(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    pipeline = load_pipeline(FOLDER)
    home = play_with_retrains(pipeline, tmp_path / "home")
    played = check_whole(pipeline, home, all_records(home))
    champions = Champions(pipeline, home)
    asked = [record for record in all_records(home) if record.stream == pipeline.question.stream][-1]
    live = Live(zygote, home, FOLDER)
    live.start("http")
    asker = Asker(live, asked.data)
    asker.start()

    def swap_to(line: str) -> Iterator[None]:
        champions.swap(line)
        for _ in range(TRIES):
            yield
            time.sleep(0.01)

    line, blob = champions.next()
    with counted(live, "http", "-P", str(blob)) as calls:
        champions.swap(line)
        asker.until(line)
    assert {"openat", "read", "close"} <= set(calls)
    for call in sorted(calls):
        before = len(asker.answers)
        line, blob = champions.next()
        assert die_within(live, "http", call, 1, swap_to(line), "-P", str(blob)), call
        assert asker.first() == (OK, line), "who comes back answers by the control log"
        assert {status for status, _ in asker.answers[before:]} == {OK}
    asker.stop()
    live.stop()
    assert check_whole(pipeline, home, all_records(home)) - played >= len(asker.answers)
    by_line = Counter(line for _, line in asker.answers)
    say(f"R3: it died within {', '.join(sorted(live.kills))}; {by_line.total()} answers, all whole: {dict(by_line)}")
