"""The owner killed at any point under many clients: what was acknowledged is there, once, in order.

Run as a program, this file is the owner that is killed.
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from journal.asking import Asking
from journal.body import Prediction, decode
from journal.clock import DAY, SECOND, format_time
from journal.contract import Contract
from journal.errors import Corrupt, OwnerDown
from journal.field import Field
from journal.intake import Intake
from journal.log import START
from journal.owner_client import OwnerClient
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Cause, Draft, Kind, Record
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.wire import AcceptedFate, Asked, AskedBefore, RepeatedFate

NOON = 1_357_041_600 * SECOND
KILLS = 20
PRODUCERS = 3
PATIENCE = 60.0
FIELDS = (Field(name="n", type="integer", required=True),)
CONTRACTS = {
    name: Contract(stream=name, version="1.0.0", fields=FIELDS, dedup_window=9 * DAY, max_gap=DAY)
    for name in ("clicks", "asks")
}
ANSWER = Prediction(
    key="",
    question=-1,
    service="s",
    values=[1.5, None],
    stamps=[],
    score=0.25,
    line="l",
    model="m",
    snapshot=-1,
    control=0,
    degraded=False,
    build="b",
)


def own(folder: Path) -> None:
    journal = SqliteJournal(folder / "journal", "t", dedup_window=9 * DAY, records_per_segment=500)
    keys = KeyTable(folder / "keys" / "keys.sqlite")
    intake = Intake(journal, CONTRACTS, keys, None)
    server = OwnerServer(journal, intake, Asking(journal, CONTRACTS["asks"], keys, "n"), folder / "owner.sock")

    async def serve() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        await server.serve()

    asyncio.run(serve())
    keys.close()
    journal.close()


def cloud_event(stream: str, id_: str, n: int) -> bytes:
    event = {"specversion": "1.0", "id": id_, "source": "/t", "type": stream, "data": {"n": n}}
    return json.dumps(event if stream == "asks" else event | {"time": format_time(NOON + n)}).encode()


class Owner:
    """An owner process, killed and started again while clients wait for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "owner.sock"
        self.up = threading.Event()
        self.stopping = threading.Event()
        self.acks = threading.Semaphore(0)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, __file__, str(self.folder)])
        client = OwnerClient(self.socket)
        while not self._answers(client):
            assert self.process.poll() is None, "the owner did not come up"
        client.close()
        self.up.set()

    def _answers(self, client: OwnerClient) -> bool:
        try:
            client.state()
        except OwnerDown:
            return False
        return True

    def kill(self) -> None:
        self.up.clear()
        self.process.kill()
        self.process.wait()

    def finish(self) -> int:
        self.stopping.set()
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def until_acked(self, send: Callable[[], object]) -> None:
        """Send the same again until it is acknowledged."""
        while True:
            try:
                send()
            except OwnerDown:
                assert self.up.wait(PATIENCE)
            else:
                self.acks.release()
                return


class Client(threading.Thread):
    """Sends until it is told to stop; a failure of its own is told by `finish`."""

    def __init__(self, owner: Owner, name: str) -> None:
        super().__init__(name=name)
        self.owner = owner
        self.client = OwnerClient(owner.socket)
        self.acked: dict[str, int] = {}
        self.repeats = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:
            self.failure = error
        self.client.close()

    def work(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        self.join(PATIENCE)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure


class Producer(Client):
    def work(self) -> None:
        sizes, n = random.Random(self.name), 0
        while not self.owner.stopping.is_set():
            ids = [f"{self.name}-{m:06d}" for m in range(n, n + sizes.randint(1, 5))]
            self.owner.until_acked(lambda ids=ids, n=n: self.take(ids, n))  # type: ignore[misc]
            n += len(ids)

    def take(self, ids: list[str], n: int) -> None:
        fates = self.client.take([cloud_event("clicks", id_, n) for id_ in ids], self.name)
        for id_, fate in zip(ids, fates, strict=True):
            assert isinstance(fate, AcceptedFate | RepeatedFate)
            self.acked[id_] = fate.offset
            self.repeats += isinstance(fate, RepeatedFate)


class Asker(Client):
    def work(self) -> None:
        n = 0
        while not self.owner.stopping.is_set():
            self.owner.until_acked(lambda n=n: self.ask(f"{self.name}-{n:06d}", n))  # type: ignore[misc]
            n += 1

    def ask(self, id_: str, n: int) -> None:
        match self.client.ask(cloud_event("asks", id_, n), ANSWER, self.name):
            case Asked(question=question, prediction=prediction):
                assert prediction == question + 1
                self.acked[id_] = question
            case AskedBefore(prediction=body, offset=offset):
                assert decode(body, Prediction).question == offset - 1
                self.acked[id_] = offset - 1
                self.repeats += 1


class Deriver(Client):
    """A worker: two outputs per event. It forgets where it stood whenever the owner dies, and starts from the front."""

    def work(self) -> None:
        reader, after = SqliteReader(self.owner.folder / "journal"), START
        while not self.owner.stopping.is_set():
            reader.refresh()
            page = reader.read(0, after, 100)
            drafts = [draft for record in page if record.kind is Kind.SOURCE for draft in derived(record)]
            try:
                self.client.append([("double", drafts)])
            except OwnerDown:
                after = START
                assert self.owner.up.wait(PATIENCE)
                continue
            after = page[-1].offset if page else after
        reader.close()


def derived(record: Record) -> list[Draft]:
    return [
        Draft(kind=Kind.EXAMPLE, stream="d", id=f"{record.id}/{n}", body=b"{}", cause=Cause(0, record.offset, n))
        for n in range(2)
    ]


def all_records(folder: Path) -> list[Record]:
    reader = SqliteReader(folder / "journal")
    records, after = [], START
    while page := reader.read(0, after, 1_000):
        records += page
        after = page[-1].offset
    damage: list[Corrupt] = [error for segment in reader.segments() for error in segment.damage()]
    reader.close()
    assert damage == []
    return records


def check_acked(records: list[Record], clients: list[Client]) -> None:
    """Everything acknowledged is where it was said to be."""
    for client in clients:
        for id_, offset in list(client.acked.items()):
            assert records[offset].id == id_


def check_whole(records: list[Record], clients: list[Client]) -> None:
    assert [record.offset for record in records] == list(range(len(records)))
    assert all(one.at < next_.at for one, next_ in pairwise(records))
    for client in clients:
        mine = [record.id for record in records if record.principal == client.name and record.kind is not _ANSWER]
        assert mine == sorted(set(mine)), "an id is there twice, or out of order"
        assert set(client.acked) == set(mine)
    for question in (record for record in records if record.kind is Kind.QUESTION):
        answer = records[question.offset + 1]
        assert (answer.kind, answer.id) == (_ANSWER, f"p-/t#{question.id}")
        assert decode(answer.body, Prediction).question == question.offset
    assert _count(records, Kind.QUESTION) == _count(records, _ANSWER)


def check_derived(records: list[Record]) -> None:
    """Two per event up to the mark, none twice, in the order of their causes."""
    outputs = [record for record in records if record.kind is Kind.EXAMPLE]
    last = max(record.cause for record in outputs if record.cause is not None)
    sources = [record for record in records if record.kind is Kind.SOURCE and record.offset <= last.offset]
    expected = [(draft.id, draft.cause) for record in sources for draft in derived(record)]
    assert [(record.id, record.cause) for record in outputs] == expected[: len(outputs)]
    assert outputs[-1].cause == last
    assert len(expected) - len(outputs) <= 1


_ANSWER = Kind.PREDICTION


def _count(records: list[Record], kind: Kind) -> int:
    return sum(record.kind is kind for record in records)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.stopping.set()
    owner.process.kill()
    owner.process.wait()


@pytest.mark.slow
def test_killed_again_and_again_it_keeps_what_it_acknowledged(owner: Owner) -> None:
    clients: list[Client] = [Producer(owner, f"producer-{n}") for n in range(PRODUCERS)]
    clients.append(Asker(owner, "asker"))
    deriver = Deriver(owner, "deriver")
    for thread in (*clients, deriver):
        thread.start()
    pauses = random.Random(20)
    for _ in range(KILLS):
        for _ in range(pauses.randrange(1, 40)):
            assert owner.acks.acquire(timeout=PATIENCE)
        owner.kill()
        check_acked(all_records(owner.folder), clients)
        owner.start()
    owner.stopping.set()
    for client in (*clients, deriver):
        client.finish()
    assert owner.finish() == 0
    assert not owner.socket.exists()
    records = all_records(owner.folder)
    check_acked(records, clients)
    check_whole(records, clients)
    check_derived(records)
    assert all(client.acked for client in clients)


def test_what_is_sent_again_after_a_kill_is_a_repeat(owner: Owner) -> None:
    client = OwnerClient(owner.socket)
    events = [cloud_event("clicks", f"e{n}", n) for n in range(3)]
    taken = client.take(events, "p")
    asked = client.ask(cloud_event("asks", "q", 7), ANSWER, "p")
    drafts = [draft for record in all_records(owner.folder)[:3] for draft in derived(record)]
    end = client.append([("double", drafts)])
    assert end == 10
    owner.kill()
    with pytest.raises(OwnerDown):
        client.take(events, "p")
    owner.start()
    assert taken == [AcceptedFate(n) for n in range(3)]
    assert client.take(events, "p") == [RepeatedFate(n) for n in range(3)]
    assert isinstance(asked, Asked)
    again = client.ask(cloud_event("asks", "q", 7), ANSWER, "p")
    assert isinstance(again, AskedBefore)
    assert again.offset == asked.prediction
    assert client.append([("double", drafts)]) == end
    assert client.append([("double", drafts[-1:])]) == end
    state = client.state()
    assert (state.end, state.marks) == (end, {"double": Cause(0, 2, 1)})
    assert state.tallies == {"repeated": 4}
    client.close()


def test_asked_to_stop_it_answers_and_leaves_no_socket(owner: Owner) -> None:
    client = OwnerClient(owner.socket)
    assert client.take([cloud_event("clicks", "e", 1)], "p") == [AcceptedFate(0)]
    assert owner.finish() == 0
    assert not owner.socket.exists()
    with pytest.raises(OwnerDown, match="rivermill up"):
        client.state()
    assert [record.id for record in all_records(owner.folder)] == ["e"]


if __name__ == "__main__":
    own(Path(sys.argv[1]))
