"""Questions and events wait in lanes of their own: a flood in one neither refuses nor delays the other."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from journal import wire
from journal.asking import Asking
from journal.body import Prediction, encode
from journal.clock import DAY, format_time
from journal.contract import Contract
from journal.errors import Busy
from journal.field import Field
from journal.intake import Intake
from journal.log import START
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Cause, Draft, Kind
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

NOON = 1_357_041_600_000_000
FIELD = Field(name="flight", type="integer", required=True, limits={"ge": 1})
CONTRACT = Contract(stream="departures", version="1.0.0", fields=(FIELD,), dedup_window=DAY, max_gap=DAY)
MOST = 20
ANSWER = Prediction(
    key="", question=START, service="s@1", values=[1], stamps=[], score=0.25, line="online", model="m", snapshot=3,
    control=1, degraded=False, build="b",
)  # fmt: skip


class HeldJournal(SqliteJournal):
    """A journal whose groups wait, before they are made durable, until they may end."""

    may_end: threading.Event
    is_held: threading.Event
    groups = 0

    def _write_ends(self) -> None:
        self.groups += 1
        self.is_held.set()
        assert self.may_end.wait(30)
        super()._write_ends()


def event(id_: str) -> bytes:
    facts = {"specversion": "1.0", "id": id_, "source": "/t", "type": "departures", "time": format_time(NOON)}
    return json.dumps({**facts, "datacontenttype": "application/json", "data": {"flight": 1}}).encode()


def take(id_: str) -> wire.Request:
    return wire.Take([event(id_)], "p")


def ask(id_: str) -> wire.Request:
    return wire.Ask(event(id_), encode(ANSWER), "p")


class Caller:
    """One connection: requests go out in one piece, answers are kept in the order in which they come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, requests: Sequence[wire.Request], base: int) -> None:
        self._writer.write(b"".join(wire.frame(base + n, request) for n, request in enumerate(requests)))

    async def answers(self, count: int) -> dict[int, wire.Answer]:
        found: dict[int, wire.Answer] = {}
        while len(found) < count:
            length = wire.length_of(await self._reader.readexactly(wire.HEADER))
            number, answer = wire.answer_in(await self._reader.readexactly(length))
            found[number] = answer
        return found

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@asynccontextmanager
async def held(home: Path) -> AsyncIterator[tuple[HeldJournal, Caller]]:
    """An owner, in a thread of its own, whose first group is under way and held; whoever arrives now waits."""
    ready, made = threading.Event(), list[tuple[HeldJournal, OwnerServer, asyncio.AbstractEventLoop]]()

    async def own() -> None:
        journal = HeldJournal(home / "journal", "t", dedup_window=DAY)
        journal.may_end, journal.is_held = threading.Event(), threading.Event()
        keys = KeyTable(home / "keys.sqlite")
        intake, asking = (
            Intake(journal, {"departures": CONTRACT}, keys, None),
            Asking(journal, CONTRACT, keys, "flight"),
        )
        server = OwnerServer(journal, intake, asking, home / "owner.sock", most_waiting=MOST)
        made.append((journal, server, asyncio.get_running_loop()))
        asyncio.get_running_loop().call_soon(ready.set)
        await server.serve()
        keys.close()
        journal.close()

    thread = threading.Thread(target=lambda: asyncio.run(own()))
    thread.start()
    await asyncio.to_thread(ready.wait)
    ((journal, server, loop),) = made
    while not server.is_serving:
        await asyncio.sleep(0)
    caller = Caller(*await asyncio.open_unix_connection(str(home / "owner.sock")))
    caller.send([take("first")], 0)
    await asyncio.to_thread(journal.is_held.wait)
    try:
        yield journal, caller
    finally:
        journal.may_end.set()
        await caller.close()
        loop.call_soon_threadsafe(server.stop)
        await asyncio.to_thread(thread.join)


def fates(answers: dict[int, wire.Answer]) -> int:
    return sum(isinstance(answer, wire.Fates) for answer in answers.values())


def is_busy(answer: wire.Answer) -> bool:
    return isinstance(answer, wire.Failed) and isinstance(wire.error_of(answer), Busy)


def test_a_flood_of_events_neither_refuses_nor_delays_a_question(tmp_path: Path) -> None:
    async def run() -> None:
        async with held(tmp_path) as (journal, caller):
            caller.send([take(f"e{n}") for n in range(5 * MOST)], 100)
            caller.send([ask("q"), wire.State(), take("one more")], 1_000)
            journal.may_end.set()
            answers = await caller.answers(1 + 5 * MOST + 3)
            assert sum(map(is_busy, answers.values())) == 4 * MOST + 1, "the lane of events is full"
            assert is_busy(answers[1_002]), "and what was sent before it waits already"
            assert isinstance(answers[1_000], wire.Asked)
            assert answers[1_000].question == 1, "it stands before every event that waited"
            assert isinstance(answers[1_001], wire.OwnerState)
            assert fates(answers) == MOST + 1
            assert journal.groups == 2, "the question waited for the group under way, and for no other"

    asyncio.run(run())


def test_a_flood_of_events_refuses_nothing_that_a_fold_derived(tmp_path: Path) -> None:
    derived = Draft(kind=Kind.EXAMPLE, stream="join", id="x", body=b"{}", cause=Cause(0, 0, 0))

    async def run() -> None:
        async with held(tmp_path) as (journal, caller):
            caller.send([take(f"e{n}") for n in range(2 * MOST)], 100)
            caller.send([wire.Claim({"join": 1}), wire.Append([wire.Batch("join", [derived], 1)])], 1_000)
            journal.may_end.set()
            answers = await caller.answers(1 + 2 * MOST + 2)
            assert sum(map(is_busy, answers.values())) == MOST
            assert answers[1_000] == wire.Claimed({"join": 1})
            assert answers[1_001] == wire.Done(1), "it stands before every event that waited"
            assert fates(answers) == MOST + 1
            assert journal.groups == 2
            with closing(SqliteReader(tmp_path / "journal")) as reader:
                assert [record.offset for record in reader.read(0, START, 100) if record.kind is Kind.EXAMPLE] == [1]

    asyncio.run(run())


def test_a_flood_of_questions_neither_refuses_nor_delays_an_event(tmp_path: Path) -> None:
    async def run() -> None:
        async with held(tmp_path) as (journal, caller):
            caller.send([ask(f"q{n}") for n in range(5 * MOST)], 100)
            caller.send([take("event"), ask("one more")], 1_000)
            journal.may_end.set()
            answers = await caller.answers(1 + 5 * MOST + 2)
            assert sum(map(is_busy, answers.values())) == 4 * MOST + 1
            assert is_busy(answers[1_001])
            assert isinstance(answers[1_000], wire.Fates)
            assert isinstance(answers[1_000].fates[0], wire.AcceptedFate)
            assert sum(isinstance(answer, wire.Asked) for answer in answers.values()) == MOST
            assert journal.groups == 2

    asyncio.run(run())
