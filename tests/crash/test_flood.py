"""R14: producers that offer five times what may be under way, while somebody asks.

The short form floods for some seconds; ``RIVERMILL_FLOOD_SECONDS`` says for how many. What was acknowledged, refused
and answered, the memory it took and how long answers took is printed; only the last of these proves nothing, since it
depends on the machine.
"""

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from journal.owner_server import MOST_WAITING_BYTES
from journal.record import Kind
from rivermill.api_guard import MOST_UNDER_WAY
from rivermill.settings import configs_folder
from tests.crash.live import PATIENCE, all_records, flights_live, send
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("RIVERMILL_FLOOD_SECONDS", "5"))
EVENTS_PER_POST = 2_000
WARM_UP = 8_000
QUESTIONS_BEFORE = 100
TIMES_TOO_MUCH = 5
SOURCE = "/flood"
OK, BUSY, AWAY = 200, 429, 503
CACHE = 64 * 1024 * 1024
"""Pages of the newest segment that its owner may hold."""

COPIES = 8
"""How often a body may lie in a process at once: as it came, as events, as drafts, as frames, and as garbage."""


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with closing(Zygote(configs_folder() / "flights", log=tmp_path_factory.mktemp("zygote") / "log")) as zygote:
        yield zygote


class Client:
    """One connection of a producer or of somebody who asks, without a client's own costs."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of an answer; raises OSError when the connection breaks."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:-2])}
        answer = await reader.readexactly(int(headers[b"content-length"]))
        return int(lines[0].split()[1]), headers, answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


@dataclass
class Seen:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    acked: list[bytes] = field(default_factory=list)
    sent: int = 0
    before: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)


class Flood:
    """Producers that offer too much, and somebody who asks."""

    def __init__(self, port: int, key: str, observation: dict[str, Any], question: dict[str, Any]) -> None:
        self._address = port, key
        before, _, after = orjson.dumps({**observation, "id": "<id>", "source": SOURCE}).partition(b"<id>")
        self._template, self._question = (before, after), question
        self._numbers, self._asked = count(), count()
        self.is_on = True
        self.seen = Seen()

    def body(self) -> tuple[list[bytes], bytes]:
        """The ids of events that nobody has sent, and a request with them."""
        ids = [b"f%d" % number for number in islice(self._numbers, EVENTS_PER_POST)]
        before, after = self._template
        return ids, b"[" + b",".join(before + id_ + after for id_ in ids) + b"]"

    async def produce(self) -> None:
        """Offer batch after batch, each again until it is taken."""
        client = Client(*self._address)
        while self.is_on:
            ids, body = self.body()
            self.seen.sent += len(ids)
            while self.is_on:
                status, headers, answer = await client.post("/v1/flights/events", body)
                self.seen.statuses[status] += 1
                if status == OK:
                    self._acked(ids, orjson.loads(answer)["fates"])
                    break
                assert status in (BUSY, AWAY), answer
                await asyncio.sleep(int(headers[b"retry-after"]))
        client.close()

    def _acked(self, ids: list[bytes], fates: list[dict[str, Any]]) -> None:
        assert {fate["type"] for fate in fates} <= {"accepted", "repeated"}, fates[:3]
        self.seen.acked += ids

    async def ask(self, took: list[float], is_enough: Callable[[], bool]) -> None:
        """Ask one question after the other; whatever happens, each is answered."""
        client = Client(*self._address)
        while not is_enough():
            body = orjson.dumps({"id": f"ask {next(self._asked)}", "data": self._question["data"]})
            begun = time.perf_counter()
            status, _, answer = await client.post("/v1/flights/predict", body)
            took.append(time.perf_counter() - begun)
            assert status == OK, answer
            await asyncio.sleep(0.02)
        client.close()

    async def run(self) -> None:
        """Somebody asks, at first alone."""
        seen = self.seen
        await self.ask(seen.before, lambda: len(seen.before) >= QUESTIONS_BEFORE)
        most = TIMES_TOO_MUCH * MOST_UNDER_WAY // len(self.body()[1])
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.ask(seen.during, lambda: not self.is_on))
            for _ in range(most):
                tasks.create_task(self.produce())
            await asyncio.sleep(SECONDS)
            self.is_on = False


def most_memory(pid: int) -> int:
    """The most bytes that a process has ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def p99(seconds: list[float]) -> str:
    return f"{statistics.quantiles(seconds, n=100)[98] * 1_000:.0f} ms"


def test_r14_a_flood_is_refused_in_time_and_every_question_is_answered(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    pipeline, live, events = flights_live(zygote, tmp_path / "home")
    home, recorded = live.home, list(islice(events, WARM_UP))
    send(live, iter(recorded)).join(PATIENCE)
    newest = {event["type"]: event for event in map(orjson.loads, recorded)}
    live.start("http")
    held = {role: most_memory(pid) for role, pid in live.pids.items()}
    key = (home.root / "access" / "admin.key").read_text().strip()
    flood = Flood(live.port, key, newest["weather"], newest[pipeline.question.stream])
    asyncio.run(flood.run())
    grown = {role: most_memory(live.pids[role]) - held[role] for role in ("http", "owner")}
    live.stop()

    seen = flood.seen
    http_mb, owner_mb = grown["http"] >> 20, grown["owner"] >> 20
    say(
        f"R14, {SECONDS:.0f} s: {len(seen.acked):,} events acknowledged of {seen.sent:,} offered, answers by status "
        f"{dict(seen.statuses)}; {len(seen.during)} questions answered, p99 {p99(seen.before)} before and "
        f"{p99(seen.during)} meanwhile; memory grew by {http_mb} MB (http), {owner_mb} MB (owner)"
    )
    assert seen.statuses[BUSY] > 0, "what is too much is refused"
    assert seen.statuses[OK] > 0, "and the rest is taken"
    assert seen.during
    assert grown["http"] < COPIES * MOST_UNDER_WAY
    assert grown["owner"] < COPIES * MOST_WAITING_BYTES + CACHE
    there = Counter(r.id.encode() for r in all_records(home) if r.kind is Kind.SOURCE and r.source == SOURCE)
    assert set(there.values()) == {1}
    assert set(seen.acked) <= there.keys()
    assert len(seen.acked) == len(set(seen.acked))
