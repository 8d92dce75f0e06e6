"""Ending waits in quarantine through the journal's owner, and streams that quality rules hold there."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.asking import Asking
from journal.body import Alert, Decision, draft_of
from journal.clock import DAY, format_time, parse_time
from journal.contract import Contract
from journal.errors import Refused, Stopped, UnknownName, Violation
from journal.field import Field
from journal.held import count_held
from journal.intake import Intake
from journal.owner_client import OwnerClient
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Cause, Kind
from journal.settlement import Discard, Fix, State
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.wire import AcceptedFate, QuarantinedFate

NOON = parse_time("2013-01-01T12:00:00Z")
FLIGHT = Field(name="flight", type="integer", required=True, limits={"ge": 1})
CONTRACT = Contract(stream="departures", version="1.0.0", fields=(FLIGHT,), dedup_window=2 * DAY, max_gap=DAY)


def serve(home: Path, started: threading.Event, stopping: list[Any]) -> None:
    """An owner in a thread of its own: the journal is opened, used and closed there."""
    journal = SqliteJournal(home / "journal", "t", dedup_window=2 * DAY)
    keys = KeyTable(home / "keys" / "keys.sqlite")
    intake = Intake(journal, {"departures": CONTRACT}, keys, None)

    async def run() -> None:
        server = OwnerServer(journal, intake, Asking(journal, CONTRACT, keys, "flight"), home / "owner.sock")
        loop = asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(server.stop))
        task = asyncio.create_task(server.serve())
        while not server.is_serving:
            await asyncio.sleep(0)
        started.set()
        await task

    asyncio.run(run())
    keys.close()
    journal.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[OwnerClient]:
    started, stopping = threading.Event(), list[Any]()
    thread = threading.Thread(target=serve, args=(tmp_path, started, stopping))
    thread.start()
    assert started.wait(20)
    client = OwnerClient(tmp_path / "owner.sock")
    yield client
    client.close()
    stopping[0]()
    thread.join(20)
    assert not thread.is_alive()


def event(flight: int, id: str = "e1") -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": id,
            "source": "/f",
            "type": "departures",
            "time": format_time(NOON),
            "data": {"flight": flight},
        }
    ).encode()


def held(client: OwnerClient, id: str = "e1") -> str:
    (fate,) = client.take([event(0, id)], "gate")
    assert isinstance(fate, QuarantinedFate)
    return fate.id


def test_a_fix_and_a_discard_go_through_the_owner(client: OwnerClient, tmp_path: Path) -> None:
    fixed, given_up, waiting = (held(client, id) for id in ("a", "b", "c"))
    with pytest.raises(Violation, match=r"\$\.data\.flight"):
        client.settle(Fix(fixed, "why", "carla", data=b'{"flight": -1}'))
    done = client.settle(Fix(fixed, "why", "carla", data=b'{"flight": 7}'))
    assert (done.state, done.id, done.stream) == (State.FIXED, "a", "departures")
    assert client.settle(Discard(given_up, "why", "carla")).state == State.DISCARDED
    with pytest.raises(Refused, match="ended already"):
        client.settle(Fix(given_up, "why", "carla", data=b'{"flight": 7}'))
    with pytest.raises(UnknownName, match="'q-0'"):
        client.settle(Discard("q-0", "why", "carla"))
    journal = SqliteReader(tmp_path / "journal")
    counts = {state: count for state, count in count_held(journal).items() if count}
    assert counts == {"quarantined": 3, "fixed": 1, "discarded": 1, "waiting": 1}
    (record,) = journal.read(0, done.offset - 1, 1)
    journal.close()
    assert (record.id, record.principal, record.data) == ("a", "carla", {"flight": 7})
    assert waiting not in (fixed, given_up)


def alert(measured: float, n: int) -> Any:
    body = Alert(
        name="rule", stage="intake", stream="departures", field="", metric="late", measured=measured, most=0.1,
        begins=n, ends=n + 1, stop=True, events=50,
    )  # fmt: skip
    return draft_of(body, kind=Kind.ALERT, stream="quality", id=f"alert-rule-{n}", cause=Cause(0, n, 0))


def test_a_stream_that_a_rule_holds_is_refused_by_the_owner_until_it_is_resumed(client: OwnerClient) -> None:
    client.take([event(1)], "gate")
    before = client.state()
    end = client.append([("quality", [alert(0.5, 0)])])
    with pytest.raises(Stopped, match=r"rule: 50\.0%"):
        client.take([event(2, "e2")], "gate")
    assert (client.state().end, client.state().tallies) == (end, before.tallies)
    decision = Decision(sequence=1, action="resume", subject="rule", why="mended", details={})
    client.append([("", [draft_of(decision, kind=Kind.DECISION, stream="control", id="decision-1")])])
    (fate,) = client.take([event(2, "e2")], "gate")
    assert isinstance(fate, AcceptedFate)
