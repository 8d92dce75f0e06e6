"""A live pipeline that is killed and started again, and producers that wait for it: what crash tests share."""

import os
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import httpx
import msgspec

from journal.body import Example, decode
from journal.digest import digest_journal, digest_parts
from journal.errors import Busy, OwnerDown
from journal.log import START
from journal.owner_client import OwnerClient
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from journal.wire import AcceptedFate, RepeatedFate
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run
from tests.crash.history import History, Step
from tests.crash.zygote import Zygote

EVENTS_PER_REQUEST = 50
PATIENCE = 120.0
"""Seconds that anybody waits for what must come."""


class Named(msgspec.Struct):
    """What names an event."""

    id: str
    source: str


class Live:
    """An owner and a worker over one home, killed and started again while producers wait for them."""

    def __init__(self, zygote: Zygote, home: Home, folder: Path) -> None:
        self.zygote, self.home, self.folder = zygote, home, folder
        self.up, self.acks = threading.Event(), threading.Semaphore(0)
        self.kills: Counter[str] = Counter()
        self.pids: dict[str, int] = {}
        self.port = free_port()
        self.start("owner")
        self.start("worker")

    def start(self, role: str) -> None:
        port = (self.port,) if role == "http" else ()
        self.pids[role] = self.zygote.start(role, self.home.root, self.folder, *port)
        if role == "owner":
            self._until_it_answers()
            self.up.set()
        elif role == "http":
            self._until_ready()

    def _until_it_answers(self) -> None:
        client, pid = OwnerClient(self.home.socket), self.pids["owner"]
        while True:
            assert lives(pid), self.zygote.log.read_text()[-2_000:]
            try:
                client.state()
            except OwnerDown:
                continue
            client.close()
            return

    def _until_ready(self) -> None:
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(self.zygote.log.read_text()[-2_000:])

    def kill(self, role: str) -> None:
        if role == "owner":
            self.up.clear()
        self.zygote.kill(self.pids[role])
        self.kills[role] += 1
        self.start(role)

    def stop(self) -> None:
        """The worker before the owner that it waits for. One that has only just begun does not know SIGTERM yet."""
        for role, ends in (("http", (-signal.SIGTERM,)), ("worker", (0, -signal.SIGTERM)), ("owner", (0,))):
            if role not in self.pids:
                continue
            os.kill(self.pids[role], signal.SIGTERM)
            assert self.zygote.wait(self.pids[role]) in ends, self.zygote.log.read_text()[-2_000:]


def lives(pid: int) -> bool:
    """Whether a process that may not have been waited for has not ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def flights_live(zygote: Zygote, root: Path) -> tuple[Pipeline, Live, Iterator[bytes]]:
    """The flights of a new home, their owner and worker at work, and the recorded events, none of them sent."""
    folder = configs_folder() / "flights"
    pipeline, home = load_pipeline(folder), Home(root, "flights")
    assert pipeline.recorded is not None
    open_run(pipeline, home).close()
    return pipeline, Live(zygote, home, folder), pipeline.recorded()


class Producer(threading.Thread):
    """Sends its share of the events in order, each again until it is acknowledged."""

    def __init__(self, live: Live, name: str, requests: Iterator[list[bytes]], turn: threading.Lock) -> None:
        super().__init__(name=name, daemon=True)
        self.live, self.requests, self.turn = live, requests, turn
        self.client = OwnerClient(live.home.socket)
        self.history = History(name)
        self.offered = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while request := self._next():
                while not self._send(request):
                    assert self.live.up.wait(PATIENCE)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.client.close()
            self.live.acks.release(1_000_000)

    def _next(self) -> list[bytes]:
        with self.turn:
            return next(self.requests, [])

    def _send(self, request: list[bytes]) -> bool:
        named = [msgspec.json.decode(raw, type=Named) for raw in request]
        events = [(event.source, event.id) for event in named]
        self.history.note(events, Step.INVOKE)
        try:
            fates = self.client.take(request, self.name)
        except OwnerDown:
            self.history.note(events, Step.UNKNOWN)
            return False
        except Busy:
            self.history.note(events, Step.FAIL)
            return False
        for event, fate in zip(events, fates, strict=True):
            assert isinstance(fate, AcceptedFate | RepeatedFate), fate
            self.history.acked(event, fate.offset)
        self.offered += len(request)
        self.live.acks.release()
        return True


def all_records(home: Home) -> list[Record]:
    reader = SqliteReader(home.journal)
    records, after = [], START
    while page := reader.read(0, after, 5_000):
        records += page
        after = page[-1].offset
    reader.close()
    return records


def requests_of(events: Iterator[bytes]) -> Iterator[list[bytes]]:
    while request := list(islice(events, EVENTS_PER_REQUEST)):
        yield request


def send(live: Live, events: Iterator[bytes]) -> Producer:
    """A producer at work."""
    producer = Producer(live, "producer", requests_of(events), threading.Lock())
    producer.start()
    return producer


def digest_of(run: Run) -> str:
    """Of the journal and every fold."""
    folds = {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners}
    return digest_parts({"journal": digest_journal(run.journal)[0], **folds})


def replayed(home: Home, pipeline: Pipeline, elsewhere: Path) -> str:
    """The digest of an uninterrupted replay of the journal that a home holds."""
    copy = Home(elsewhere, home.pipeline)
    shutil.copytree(home.folder, copy.folder, ignore=shutil.ignore_patterns("folds", "history", "*.sock"))
    end = len(all_records(home))
    with closing(open_run(pipeline, copy)) as run:
        run.folds.flush_history()
        assert run.journal.end() + 1 == end, "a replay derived what the journal does not hold"
        return digest_of(run)


def check_learned(run: Run, records: list[Record]) -> int:
    """Every label was learned exactly once, and every prediction ended in one place."""
    examples = [record for record in records if record.kind is Kind.EXAMPLE]
    joined = [decode(record.body, Example).prediction for record in examples]
    assert len({record.id for record in examples}) == len(set(joined)) == len(examples)
    predictions = sum(record.kind is Kind.PREDICTION for record in records)
    expired = sum(record.kind is Kind.EXPIRED for record in records)
    join, learner = run.folds.join.counts(), run.folds.learner.counts()
    assert learner["examples"] == len(examples)
    assert join["pending"] == learner["pending"] == predictions - expired - len(examples)
    assert join["expired"] == expired
    return len(examples)
