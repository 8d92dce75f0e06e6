"""The journal's owner over its socket: in a process of its own, and in this one where its journal must fail."""

import asyncio
import json
import os
import random
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from journal import wire
from journal.asking import Asking
from journal.body import Prediction, decode
from journal.clock import DAY, HOUR, format_time, parse_time
from journal.contract import Contract
from journal.errors import (
    Busy,
    ConflictingId,
    Corrupt,
    DurabilityLost,
    Malformed,
    OwnerDown,
    Refused,
    RivermillError,
    UnknownName,
    UpstreamError,
    Violation,
)
from journal.event_reader import EventReader
from journal.field import Field
from journal.intake import Intake
from journal.log import START
from journal.owner_client import AsyncOwnerClient, OwnerClient
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Cause, Draft, Kind, Record
from journal.settlement import Release
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.wire import AcceptedFate, Asked, AskedBefore, ConflictedFate, QuarantinedFate, RefusedFate, RepeatedFate

NOON = parse_time("2013-01-01T12:00:00Z")
DEPARTURES = Contract(
    stream="departures",
    version="1.0.0",
    fields=(Field(name="flight", type="integer", required=True, limits={"ge": 1}),),
    dedup_window=20 * DAY,
    max_gap=DAY,
)
ANSWER = Prediction(
    key="", question=START, service="s@1", values=[1], stamps=[], score=0.25, line="online", model="m", snapshot=3,
    control=1, degraded=False, build="b",
)  # fmt: skip
SERVER = textwrap.dedent("""
    import asyncio, signal, sys
    from pathlib import Path
    from journal.asking import Asking
    from journal.clock import DAY
    from journal.contract import Contract
    from journal.field import Field
    from journal.intake import Intake
    from journal.owner_server import OwnerServer
    from journal.privacy import KeyTable
    from journal.sqlite_log import SqliteJournal
    home = Path(sys.argv[1])
    flight = Field(name="flight", type="integer", required=True, limits={"ge": 1})
    contract = Contract(stream="departures", version="1.0.0", fields=(flight,), dedup_window=20 * DAY, max_gap=DAY)
    journal = SqliteJournal(home / "journal", "t", dedup_window=20 * DAY, records_per_segment=int(sys.argv[2]))
    keys = KeyTable(home / "keys.sqlite")
    intake = Intake(journal, {"departures": contract}, keys, None)
    server = OwnerServer(journal, intake, Asking(journal, contract, keys, "flight"), home / "owner.sock")
    async def serve():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
        task = asyncio.create_task(server.serve())
        while not server.is_serving and not task.done():
            await asyncio.sleep(0)
        print("serving", flush=True)
        await task
    try:
        asyncio.run(serve())
    finally:
        journal.close()
""")


@contextmanager
def owner(home: Path, segment: int = 1_000_000) -> Iterator[subprocess.Popen[str]]:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(home), str(segment)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "serving\n":
            raise AssertionError(process.communicate()[1])
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str]) -> str:
    """SIGTERM; what it complained about."""
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate(timeout=30)
    assert process.returncode == 0, complaints
    return complaints


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with owner(tmp_path):
        yield tmp_path


@pytest.fixture
def client(home: Path) -> Iterator[OwnerClient]:
    client = OwnerClient(home / "owner.sock")
    yield client
    client.close()


def event(id_: str, flight: int = 7, time: int = NOON) -> bytes:
    envelope = {"specversion": "1.0", "id": id_, "source": "/t", "type": "departures", "time": format_time(time)}
    return json.dumps(envelope | {"data": {"flight": flight}}).encode()


def derived(n: int, part: int = 0) -> Draft:
    return Draft(kind=Kind.EXAMPLE, stream="join", id=f"d{n}.{part}", body=b"{}", cause=Cause(0, n, part))


def stored(home: Path) -> list[Record]:
    reader = SqliteReader(home / "journal")
    records = reader.read(0, START, 1_000_000)
    reader.close()
    return records


def test_every_fate_of_an_event(client: OwnerClient, home: Path) -> None:
    first, *fates = client.take(
        [event("a"), event("a"), event("a", 8), event("b", 0), b"{", event("c", time=NOON + 9 * DAY)], "gate"
    )
    assert (first, fates[0], fates[1]) == (AcceptedFate(0), RepeatedFate(0), ConflictedFate("a", 0))
    broken, malformed, gap = fates[2:]
    assert isinstance(broken, QuarantinedFate)
    assert isinstance(malformed, RefusedFate)
    assert malformed.bucket == "malformed"
    assert isinstance(gap, QuarantinedFate)
    assert "--advance" in gap.reason
    assert [(record.kind, record.principal) for record in stored(home)] == [
        (Kind.SOURCE, "gate"),
        (Kind.QUARANTINE, "gate"),
        (Kind.QUARANTINE, "gate"),
    ]
    assert client.state().tallies == {"conflicts": 1, "refused": 1, "refused.malformed": 1, "repeated": 1}


def test_what_was_read_by_other_contracts_is_read_again(home: Path) -> None:
    other = {"departures": replace(DEPARTURES, fields=(Field(name="flight", type="integer", limits={"le": 9}),))}
    keys = KeyTable(home / "keys.sqlite")

    async def hand_in(contracts: dict[str, Contract], *events: bytes) -> list[wire.Fate]:
        reader, client = EventReader(contracts, keys), AsyncOwnerClient(home / "owner.sock")
        read = [reader.read(raw, "gate") for raw in events]
        fates = await client.take(events, "gate", 10, read=read, contracts=reader.digest)
        await client.close()
        return fates

    too_low = event("low", flight=0)
    assert EventReader(other, keys).read(too_low, "gate") is not None
    assert [type(fate) for fate in asyncio.run(hand_in(other, too_low, event("a")))] == [QuarantinedFate, AcceptedFate]
    fates = asyncio.run(hand_in({"departures": DEPARTURES}, event("a"), event("b"), too_low, event("c", time=DAY)))
    assert [type(fate) for fate in fates] == [RepeatedFate, AcceptedFate, QuarantinedFate, QuarantinedFate]
    assert {record.principal for record in stored(home)} == {"gate"}
    keys.close()


def test_nothing_to_take_is_nothing(client: OwnerClient) -> None:
    assert client.take([], "gate") == []
    assert client.append([]) == START


def test_the_state_is_the_journals(client: OwnerClient, home: Path) -> None:
    client.take([event("a"), event("b", time=NOON + HOUR)], "gate")
    state, reader = client.state(), SqliteReader(home / "journal")
    assert (state.incarnation, state.end, state.clock) == (reader.incarnation, 1, NOON + HOUR)
    reader.close()


def test_derived_drafts_come_once(client: OwnerClient, home: Path) -> None:
    batch = [derived(0), derived(0, 1), derived(3)]
    assert client.append([("join", batch), ("", [Draft(kind=Kind.EXPIRED, stream="x", id="x", body=b"{}")])]) == 3
    assert client.append([("join", batch)]) == 3
    assert client.append([("join", [*batch, derived(4)])]) == 4
    assert [record.id for record in stored(home)] == ["d0.0", "d0.1", "d3.0", "x", "d4.0"]
    assert stored(home)[1].cause == Cause(0, 0, 1)


def test_a_release_lets_a_quarantined_event_in_once(client: OwnerClient, home: Path) -> None:
    (held,) = client.take([event("late", time=NOON)], "gate") and client.take(
        [event("early", time=NOON + 5 * DAY)], "gate"
    )
    assert isinstance(held, QuarantinedFate)
    with pytest.raises(Violation, match="--advance"):
        client.settle(Release(held.id, "a gap", "anna", False))
    released = client.settle(Release(held.id, "a gap", "anna", True))
    assert (released.id, released.stream, released.offset) == ("early", "departures", 3)
    with pytest.raises(Refused, match="already"):
        client.settle(Release(held.id, "again", "anna", True))
    with pytest.raises(UnknownName, match="'q-0'"):
        client.settle(Release("q-0", "?", "anna", True))
    decision, entered = stored(home)[2:]
    assert (decision.kind, decision.principal, entered.principal) == (Kind.DECISION, "anna", "anna")


def test_asked_twice_the_recorded_answer_comes_back(home: Path) -> None:
    async def run() -> None:
        client = AsyncOwnerClient(home / "owner.sock")
        assert await client.ask(event("q"), ANSWER, "me", 10) == Asked(0, 1)
        again = await client.ask(event("q", time=NOON + HOUR), ANSWER, "me", 10)
        assert isinstance(again, AskedBefore)
        body = decode(again.prediction, Prediction)
        assert (again.offset, body.key, body.question) == (1, "7", 0)
        with pytest.raises(ConflictingId, match="'q', at offset 0"):
            await client.ask(event("q", 8), ANSWER, "me", 10)
        with pytest.raises(Violation, match="flight"):
            await client.ask(event("r", 0), ANSWER, "me", 10)
        with pytest.raises(Malformed):
            await client.ask(b"{", ANSWER, "me", 10)
        assert (await client.state(10)).end == 1
        await client.close()

    asyncio.run(run())


def test_the_socket_is_its_owners_alone(home: Path) -> None:
    assert stat.S_IMODE((home / "owner.sock").stat().st_mode) == 0o600


def test_several_clients_at_once_lose_and_mix_nothing(home: Path) -> None:
    """Four threads, a pipelining task and a worker: every answer is its own request's."""
    failures: list[BaseException] = []

    def produce(name: str) -> None:
        try:
            client = OwnerClient(home / "owner.sock")
            for n in range(25):
                (fate,) = client.take([event(f"{name}-{n}", time=NOON + n)], name)
                assert isinstance(fate, AcceptedFate)
                assert client.take([event(f"{name}-{n}", time=NOON + n)], name) == [RepeatedFate(fate.offset)]
            client.close()
        except BaseException as error:
            failures.append(error)

    async def pipeline() -> None:
        client = AsyncOwnerClient(home / "owner.sock")
        answers = await asyncio.gather(*(client.ask(event(f"q{n}", n + 1), ANSWER, "me", 30) for n in range(60)))
        await client.close()
        records = {record.offset: record for record in stored(home)}
        for n, answer in enumerate(answers):
            assert isinstance(answer, Asked)
            assert answer.prediction == answer.question + 1
            assert records[answer.question].data == {"flight": n + 1}
            assert decode(records[answer.prediction].body, Prediction).key == str(n + 1)

    threads = [threading.Thread(target=produce, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    asyncio.run(pipeline())
    for thread in threads:
        thread.join()
    assert failures == []
    taken = [record for record in stored(home) if record.kind is Kind.SOURCE]
    assert len({(record.source, record.id) for record in taken}) == len(taken) == 100
    for name in "abcd":
        assert [r.id for r in taken if r.principal == name] == [f"{name}-{n}" for n in range(25)]


def raw_connection(home: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(home / "owner.sock"))
    return connection


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, wire.Answer]]:
    file = connection.makefile("rb")
    frames = (file.read(wire.length_of(file.read(wire.HEADER))) for _ in range(count))
    return [wire.answer_in(content) for content in frames]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        struct.pack(">I", 0),
        struct.pack(">I", 2**32 - 1) + b"x" * 100,
        struct.pack(">I", wire.LARGEST_FRAME + 1),
        struct.pack(">I", 19) + b"\x92\x01\x93\xa4Take\x91\xc4\x01x\xa6\xff\xfe\xfd\xfc\xfb\xfa",
        struct.pack(">I", 50_003) + b"\x92\x01" + b"\x91" * 50_000 + b"\xc0",
    ],
    ids=["http", "empty", "largest", "oversized", "utf8", "nested"],
)
def test_garbage_closes_only_its_own_connection(tmp_path: Path, garbage: bytes) -> None:
    with owner(tmp_path) as process:
        good, bad = raw_connection(tmp_path), raw_connection(tmp_path)
        good.sendall(wire.frame(1, wire.State()))
        bad.sendall(wire.frame(1, wire.Take([event("a")], "p")))
        assert len(read_answers(bad, 1)) == 1
        bad.sendall(garbage)
        with suppress(ConnectionResetError):
            assert bad.recv(100) == b""
        good.sendall(wire.frame(2, wire.Take([event("a")], "p")))
        assert [number for number, _ in read_answers(good, 2)] == [1, 2]
        good.close()
        bad.close()
        assert stop(process) == ""


def test_half_a_frame_and_gone_is_nothing(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        gone = raw_connection(tmp_path)
        gone.sendall(wire.frame(1, wire.Take([event("a")], "p"))[:-1])
        gone.close()
        client = OwnerClient(tmp_path / "owner.sock")
        assert client.state().end == START
        client.close()
        assert stop(process) == ""


def test_too_large_a_request_is_not_sent_and_the_next_one_is(client: OwnerClient, home: Path) -> None:
    with pytest.raises(Refused, match="Send less"):
        client.take([b"x" * wire.LARGEST_FRAME], "gate")
    assert client.take([event("a")], "gate") == [AcceptedFate(0)]

    async def run() -> None:
        client = AsyncOwnerClient(home / "owner.sock")
        with pytest.raises(Refused, match="Send less"):
            await client.take([b"x" * wire.LARGEST_FRAME], "gate", 10)
        assert await client.take([event("a")], "gate", 10) == [RepeatedFate(0)]
        await client.close()

    asyncio.run(run())


def test_too_large_an_answer_is_an_error_and_the_owner_goes_on(client: OwnerClient) -> None:
    with pytest.raises(Refused, match="a message of"):
        client.take([b""] * 500_000, "gate")
    assert client.state().tallies["refused.malformed"] == 500_000


def test_whoever_does_not_read_is_not_listened_to(tmp_path: Path) -> None:
    """Answers that nobody reads must not pile up in the owner's memory: it stops reading that connection."""
    with owner(tmp_path) as process:
        deaf, client = raw_connection(tmp_path), OwnerClient(tmp_path / "owner.sock")
        content = wire.frame(1, wire.Take([b""] * 5_000, "p"))
        for _ in range(5):
            deaf.sendall(content)
            client.state()
        deaf.settimeout(2)
        with pytest.raises(TimeoutError):
            for _ in range(2_000):
                deaf.sendall(content)
        assert client.take([event("a")], "p") == [AcceptedFate(0)]
        client.close()
        stop(process)
        deaf.close()


def test_sigterm_answers_what_has_arrived(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        connection = raw_connection(tmp_path)
        connection.sendall(b"".join(wire.frame(n, wire.Take([event(f"e{n}")], "p")) for n in range(300)))
        acked: dict[int, wire.Answer] = {}
        with connection.makefile("rb") as file:
            while len(header := file.read(wire.HEADER)) == wire.HEADER:
                number, answer = wire.answer_in(file.read(wire.length_of(header)))
                if not acked:
                    process.send_signal(signal.SIGTERM)
                acked[number] = answer
        connection.close()
        _, complaints = process.communicate(timeout=30)
        assert complaints == ""
        assert process.returncode == 0
    fates = {n: answer.fates[0] for n, answer in acked.items() if isinstance(answer, wire.Fates)}
    held = {record.id: record.offset for record in stored(tmp_path)}
    assert {f"e{n}": fate.offset for n, fate in fates.items() if isinstance(fate, AcceptedFate)} == held
    turned_away = [answer for answer in acked.values() if not isinstance(answer, wire.Fates)]
    assert all(isinstance(answer, wire.Failed) and answer.error == "OwnerDown" for answer in turned_away)
    assert not (tmp_path / "owner.sock").exists()


def test_sigterm_is_heard_under_load(tmp_path: Path) -> None:
    """Clients that send again as soon as they are answered must not keep the owner from stopping."""
    refused = threading.Event()

    def press() -> None:
        client = OwnerClient(tmp_path / "owner.sock", timeout=20)
        n = 0
        while True:
            try:
                client.take([event(f"{threading.get_ident()}-{n}")], "p")
            except OwnerDown:
                refused.set()
                return client.close()
            n += 1

    with owner(tmp_path) as process:
        threads = [threading.Thread(target=press) for _ in range(6)]
        for thread in threads:
            thread.start()
        watcher = OwnerClient(tmp_path / "owner.sock")
        while watcher.state().end < 50:
            pass
        assert stop(process) == ""
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        watcher.close()
    assert refused.is_set()


@pytest.mark.parametrize("length", [100, 107, 108, 200])
def test_a_long_path_works_like_a_short_one(tmp_path: Path, length: int) -> None:
    home = tmp_path
    while (missing := length - len(str(home / "owner.sock"))) > 0:
        home /= "d" * min(60, max(1, missing - 1))
    with owner(home) as process:
        client = OwnerClient(home / "owner.sock")
        assert client.take([event("a")], "p") == [AcceptedFate(0)]
        client.close()

        async def run() -> None:
            other = AsyncOwnerClient(home / "owner.sock")
            assert await other.take([event("a")], "p", 10) == [RepeatedFate(0)]
            await other.close()

        asyncio.run(run())
        assert stat.S_IMODE((home / "owner.sock").stat().st_mode) == 0o600
        assert stop(process) == ""
    assert not (home / "owner.sock").exists()


def test_a_dead_owners_socket_is_taken_over(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        process.kill()
        process.wait()
    assert (tmp_path / "owner.sock").exists()
    client = OwnerClient(tmp_path / "owner.sock")
    with pytest.raises(OwnerDown, match="rivermill up"):
        client.state()
    with owner(tmp_path):
        assert client.state().end == START
    client.close()


def test_no_owner_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OwnerDown, match=tmp_path.name):
        OwnerClient(tmp_path / "owner.sock").state()

    async def run() -> None:
        with pytest.raises(OwnerDown, match=tmp_path.name):
            await AsyncOwnerClient(tmp_path / "owner.sock").state(10)

    asyncio.run(run())


def test_an_owner_that_hangs_times_out_and_is_found_again(tmp_path: Path) -> None:
    with owner(tmp_path) as process:
        client = OwnerClient(tmp_path / "owner.sock", timeout=0.2)
        assert client.state().end == START
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(OwnerDown, match="in time"):
            client.take([event("a")], "p")

        async def run() -> None:
            other = AsyncOwnerClient(tmp_path / "owner.sock")
            with pytest.raises(OwnerDown, match="in time"):
                await other.take([event("b")], "p", 0.2)
            process.send_signal(signal.SIGCONT)
            assert (await other.take([event("b")], "p", 20))[0] == RepeatedFate(1)
            await other.close()

        asyncio.run(run())
        patient = OwnerClient(tmp_path / "owner.sock")
        assert patient.take([event("a")], "p") == [RepeatedFate(0)]
        patient.close()
        client.close()


class Answers:
    """A false owner that answers one connection with given bytes."""

    def __init__(self, path: Path, said: bytes) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._said = said
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        connection.recv(1_000)
        connection.sendall(self._said)
        while select.select([connection], [], [], 20)[0] and connection.recv(1_000):
            pass
        connection.close()

    def close(self) -> None:
        self._listener.close()
        self._thread.join()


@pytest.mark.parametrize(
    "said",
    [struct.pack(">I", 2**31), struct.pack(">I", 3) + b"abc", struct.pack(">I", 6) + b"\x92\x01\x92\xa1\xff\x01"],
    ids=["length", "content", "utf8"],
)
def test_an_owner_that_talks_garbage_is_hung_up_on(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "owner.sock"
    false = Answers(path, said)
    client = OwnerClient(path, timeout=20)
    with pytest.raises(OwnerDown):
        client.state()
    false.close()
    path.unlink()

    async def run() -> None:
        false = Answers(path, said)
        other = AsyncOwnerClient(path)
        with pytest.raises(OwnerDown):
            await other.state(20)
        await asyncio.to_thread(false.close)
        path.unlink()
        with owner(tmp_path):
            assert (await other.state(20)).end == START
            await other.close()

    asyncio.run(run())
    client.close()


def test_a_closed_client_tells_who_waits_and_connects_anew(tmp_path: Path) -> None:
    async def run() -> None:
        with owner(tmp_path) as process:
            client = AsyncOwnerClient(tmp_path / "owner.sock")
            await client.state(20)
            process.send_signal(signal.SIGSTOP)
            waiting = asyncio.create_task(client.take([event("a")], "p", 20))
            await asyncio.sleep(0)
            await client.close()
            with pytest.raises(OwnerDown):
                await waiting
            process.send_signal(signal.SIGCONT)
            assert len(await client.take([event("a")], "p", 20)) == 1
            await client.close()
            await client.close()

    asyncio.run(run())


@pytest.mark.slow
def test_a_killed_owner_is_told_at_once_and_found_again(tmp_path: Path) -> None:
    """One asyncio client over many lives of the owner, each killed with requests under way."""
    chance, acked, unsure = random.Random(7), dict[str, int](), 0

    async def send(client: AsyncOwnerClient, id_: str) -> str:
        (fate,) = await client.take([event(id_)], "p", 60)
        assert isinstance(fate, AcceptedFate | RepeatedFate)
        assert acked.setdefault(id_, fate.offset) == fate.offset
        return id_

    async def live(client: AsyncOwnerClient, process: subprocess.Popen[str], ids: list[str]) -> list[str]:
        """Send most at once, the last to an owner that is held, kill it, and give back what nobody acknowledged."""
        under_way = [asyncio.create_task(send(client, id_)) for id_ in ids[:-5]]
        await asyncio.wait(under_way[: chance.randrange(1, 40)])
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        under_way += [asyncio.create_task(send(client, id_)) for id_ in ids[-5:]]
        await asyncio.sleep(0)
        process.kill()
        results = await asyncio.gather(*under_way, return_exceptions=True)
        lost = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, OwnerDown) and "in time" not in str(error) for error in lost), lost
        return [id_ for id_, result in zip(ids, results, strict=True) if result != id_]

    async def run() -> None:
        nonlocal unsure
        client, again = AsyncOwnerClient(tmp_path / "owner.sock"), list[str]()
        for life in range(8):
            with owner(tmp_path, segment=100) as process:
                again = await live(client, process, [*again, *(f"{life}-{n}" for n in range(150))])
                unsure += len(again)
            with pytest.raises(OwnerDown):
                await client.state(60)
            held = {record.id: record.offset for record in stored(tmp_path)}
            assert acked.items() <= held.items()
        with owner(tmp_path, segment=100):
            for id_ in again:
                await send(client, id_)
            await client.close()

    asyncio.run(run())
    assert unsure > 0
    ids = [record.id for record in stored(tmp_path)]
    assert sorted(ids) == sorted(f"{life}-{n}" for life in range(8) for n in range(150))


class FailingJournal(SqliteJournal):
    """A journal whose next writes fail as they are told to."""

    fail: Callable[[], None] = staticmethod(lambda: None)
    groups = 0

    def _write_ends(self) -> None:
        self.groups += 1
        self.fail()
        super()._write_ends()


@asynccontextmanager
async def serving(home: Path, **limits: Any) -> AsyncIterator[tuple[OwnerServer, FailingJournal, asyncio.Task[None]]]:
    """An owner in this process, so that its journal can be made to fail."""
    journal = FailingJournal(home / "journal", "t", dedup_window=20 * DAY)
    keys = KeyTable(home / "keys.sqlite")
    intake = Intake(journal, {"departures": DEPARTURES}, keys, None)
    path = home / "owner.sock"
    server = OwnerServer(journal, intake, Asking(journal, DEPARTURES, keys, "flight"), path, **limits)
    task = asyncio.create_task(server.serve())
    while not server.is_serving:
        await asyncio.sleep(0)
    try:
        yield server, journal, task
    finally:
        server.stop()
        await asyncio.gather(task, return_exceptions=True)
        keys.close()
        journal.close()


async def answers_of(home: Path, requests: list[wire.Request]) -> list[wire.Answer]:
    """What several requests that arrive in one piece are answered."""
    reader, writer = await asyncio.open_unix_connection(str(home / "owner.sock"))
    writer.write(b"".join(wire.frame(n, request) for n, request in enumerate(requests)))
    answers: dict[int, wire.Answer] = {}
    while len(answers) < len(requests):
        length = wire.length_of(await reader.readexactly(wire.HEADER))
        number, answer = wire.answer_in(await reader.readexactly(length))
        answers[number] = answer
    writer.close()
    await writer.wait_closed()
    return [answers[n] for n in range(len(requests))]


def take(id_: str) -> wire.Take:
    return wire.Take([event(id_)], "p")


def test_what_arrives_together_is_committed_together(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as (_, journal, _):
            assert len(await answers_of(tmp_path, [take(f"e{n}") for n in range(200)])) == 200
            assert journal.end() == 199
            assert journal.groups < 20

    asyncio.run(run())


POISON: list[wire.Request] = [
    wire.Ask(event("poison"), b"no prediction", "p"),
    wire.Append(
        [wire.Batch("sink", [Draft(kind=Kind.EXAMPLE, stream="s", id="x", body=b"", cause=Cause(0, 2**63, 0))])]
    ),
    wire.Append([wire.Batch("", [Draft(kind=Kind.SOURCE, stream="s", id="x", body=b"", time=2**63)])]),
]


@pytest.mark.parametrize("poison", POISON, ids=["prediction", "cause", "time"])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_poison_costs_nobody_else_his_place(tmp_path: Path, poison: wire.Request, place: int) -> None:
    async def run() -> None:
        async with serving(tmp_path):
            plain = wire.Append([wire.Batch("", [Draft(kind=Kind.EXAMPLE, stream="s", id="plain", body=b"{}")])])
            requests: list[wire.Request] = [take("a"), take("b"), plain, take("a"), take("c"), take("d"), take("e")]
            requests.insert(place, poison)
            answers = await answers_of(tmp_path, requests)
            failed = answers.pop(place)
            assert isinstance(failed, wire.Failed)
            assert (failed.error, failed.fix) == ("UpstreamError", "This is a defect")
            fates = [answer.fates[0] for answer in answers if isinstance(answer, wire.Fates)]
            assert fates == [AcceptedFate(1), AcceptedFate(2), RepeatedFate(1), *map(AcceptedFate, (3, 4, 5))]
            assert [record.id for record in stored(tmp_path)] == ["plain", "a", "b", "c", "d", "e"]

    asyncio.run(run())


@pytest.mark.parametrize("poison", POISON, ids=["prediction", "cause", "time"])
def test_poison_beside_a_release_carries_nothing_out_twice(tmp_path: Path, poison: wire.Request) -> None:
    async def run() -> None:
        async with serving(tmp_path):
            _, held = await answers_of(tmp_path, [take("a"), wire.Take([event("gap", time=NOON + 9 * DAY)], "p")])
            assert isinstance(held, wire.Fates)
            assert isinstance(held.fates[0], QuarantinedFate)
            plain = wire.Append([wire.Batch("", [Draft(kind=Kind.EXAMPLE, stream="s", id="plain", body=b"{}")])])
            release = wire.Settle(Release(held.fates[0].id, "why", "anna", True))
            _, before, released, failed, _, again = await answers_of(
                tmp_path, [plain, take("b"), release, poison, plain, release]
            )
            assert before == wire.Fates([AcceptedFate(4)])
            assert released == wire.SettledAs("released", "gap", "departures", 6)
            assert isinstance(failed, wire.Failed)
            assert isinstance(again, wire.Failed)
            assert again.error == "Refused"
        ids = [record.id for record in stored(tmp_path) if record.kind in (Kind.SOURCE, Kind.EXAMPLE)]
        assert ids == ["a", "plain", "plain", "b", "gap"]

    asyncio.run(run())


def test_our_own_errors_are_told_as_what_they_are(tmp_path: Path) -> None:
    """A damaged record costs the request that needs it, and says what to do."""

    async def run() -> None:
        async with serving(tmp_path) as (_, journal, _):
            await answers_of(tmp_path, [take("a"), take("b")])
            journal._current.db.execute("UPDATE record SET checksum = checksum + 1 WHERE offset = 0")
            damaged, good = await answers_of(tmp_path, [take("a"), take("c")])
            assert good == wire.Fates([AcceptedFate(2)])
            assert isinstance(damaged, wire.Failed)
            assert isinstance(wire.error_of(damaged), Corrupt)

    asyncio.run(run())


def test_a_full_owner_says_come_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, most_waiting=3):
            answers = await answers_of(tmp_path, [take(f"e{n}") for n in range(50)])
            busy = [wire.error_of(answer) for answer in answers if isinstance(answer, wire.Failed)]
            assert busy
            assert all(isinstance(error, Busy) and error.status == 429 for error in busy)
            assert len(stored(tmp_path)) == 50 - len(busy) >= 3
            client = AsyncOwnerClient(tmp_path / "owner.sock")
            assert len(await client.take([event("later")], "p", 10)) == 1
            await client.close()

    asyncio.run(run())


def test_a_request_that_fills_the_owners_memory_is_turned_away(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, most_waiting_bytes=5_000):
            client = AsyncOwnerClient(tmp_path / "owner.sock")
            with pytest.raises(Busy):
                await client.take([event(f"e{n}") for n in range(100)], "p", 10)
            assert await client.take([event("small")], "p", 10) == [AcceptedFate(0)]
            await client.close()

    asyncio.run(run())


def test_a_full_disk_is_told_to_everybody_and_heals(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as (_, journal, task):
            pages = journal._current.db.execute("PRAGMA page_count").get
            journal._current.db.execute(f"PRAGMA max_page_count = {pages}")
            many = wire.Take([event(f"big{n}") for n in range(2_000)], "p")
            told = [wire.error_of(a) for a in await answers_of(tmp_path, [many] * 3) if isinstance(a, wire.Failed)]
            assert [type(error) for error in told] == [DurabilityLost] * 3
            assert "Make room" in told[0].fix
            assert not task.done()
            journal._current.db.execute("PRAGMA max_page_count = 1000000")
            (done,) = await answers_of(tmp_path, [many])
            assert isinstance(done, wire.Fates)
            assert done.fates[0] == AcceptedFate(0)

    asyncio.run(run())


def lose_the_disk() -> None:
    raise apsw.IOError


def test_a_failed_sync_is_told_to_everybody_and_stops_the_owner(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as (_, journal, task):
            assert await answers_of(tmp_path, [take("a")]) == [wire.Fates([AcceptedFate(0)])]
            journal.fail = lose_the_disk
            told = await answers_of(tmp_path, [take(f"{n}") for n in range(60)])
            assert {type(wire.error_of(answer)) for answer in told if isinstance(answer, wire.Failed)} == {
                DurabilityLost
            }
            assert not any(isinstance(answer, wire.Fates) for answer in told)
            with pytest.raises(DurabilityLost, match="start the owner again"):
                await task
            with pytest.raises(OwnerDown):
                await AsyncOwnerClient(tmp_path / "owner.sock").state(20)
            assert not (tmp_path / "owner.sock").exists()
        assert [record.id for record in stored(tmp_path)] == ["a"]

    asyncio.run(run())


def test_a_failed_sync_in_a_release_stops_the_owner_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path) as (_, journal, task):
            _, held = await answers_of(tmp_path, [take("a"), wire.Take([event("gap", time=NOON + 9 * DAY)], "p")])
            assert isinstance(held, wire.Fates)
            assert isinstance(held.fates[0], QuarantinedFate)
            journal.fail = lose_the_disk
            (told,) = await answers_of(tmp_path, [wire.Settle(Release(held.fates[0].id, "why", "p", True))])
            assert isinstance(told, wire.Failed)
            assert isinstance(wire.error_of(told), DurabilityLost)
            with pytest.raises(DurabilityLost):
                await task

    asyncio.run(run())


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("segment", [1_000_000, 50])
def test_a_disk_that_is_really_full(tmp_path: Path, segment: int) -> None:
    """Whatever was acked before it was full is there; what was not is refused, and taken once there is room."""
    home, acked = tmp_path / "disk", []
    with small_disk(home):
        ballast = home / "ballast"
        ballast.write_bytes(b"x" * 500_000)
        with owner(home, segment) as process:
            client = OwnerClient(home / "owner.sock")
            with pytest.raises(RivermillError) as lost:
                for n in range(10_000):
                    batch = [f"{n}-{m}" for m in range(20)]
                    client.take([event(id_) for id_ in batch], "p")
                    acked += batch
            assert isinstance(lost.value, DurabilityLost | UpstreamError)
            assert acked
            ballast.unlink()
            if process.poll() is None and isinstance(lost.value, DurabilityLost) and "Make room" in lost.value.fix:
                client.take([event("after")], "p")
                acked.append("after")
            client.close()
        with owner(home, segment):
            client = OwnerClient(home / "owner.sock")
            assert {type(fate) for fate in client.take([event(id_) for id_ in acked], "p")} == {RepeatedFate}
            client.close()
        ids = [record.id for record in stored(home)]
        assert len(set(ids)) == len(ids) >= len(acked)
