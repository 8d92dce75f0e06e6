"""The live service under load: recorded flights as events and questions over HTTP, a retrain and a kill in the middle.

    rivermill --home H up &
    python -m benchmarks.live --home H --seconds 1200 --kill-owner-at 600

Events are sent in order, in batches, and again until they are acknowledged. Part of the questions go over HTTP, the
others as events. At the end everything is reconciled with the journal.
"""

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import orjson

from journal.checkpoint import FoldFile, positions_in
from journal.clock import parse_time
from journal.log import START
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder

TICK = 0.2
RETRY_AFTER = 0.2
SAMPLE_EVERY = 10.0
SOURCE = "live"
_PAGE = 5_000
_ACCEPTED = {200, 202}


@dataclass
class Tally:
    """What the client saw."""

    asked: int = 0
    receipts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    refused_for_now: int = 0
    acked: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    acked_ids: list[tuple[str, str]] = field(default_factory=list)
    lines: Counter[str] = field(default_factory=Counter)


class Load:
    """One run of load against one pipeline."""

    def __init__(self, arguments: argparse.Namespace, home: Home) -> None:
        self.given, self.home = arguments, home
        key = (home.access / "admin.key").read_text().strip()
        self.api = httpx.AsyncClient(
            base_url=arguments.url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=10.0,
            limits=httpx.Limits(max_connections=40, max_keepalive_connections=40),
        )
        self.pipeline = load_pipeline(configs_folder() / home.pipeline)
        self.stream = self.pipeline.question.stream
        self.tally = Tally()
        self.batches: asyncio.Queue[list[bytes] | None] = asyncio.Queue()
        self.memory: list[dict[str, int]] = []
        self.job: dict[str, Any] = {}

    async def run(self) -> dict[str, Any]:
        """Send everything, then reconcile."""
        async with self.api:
            return await self._run()

    async def _run(self) -> dict[str, Any]:
        status = (await self.api.get(f"/v1/{self.home.pipeline}/status")).json()
        items = self._items(parse_time(status["now"]))
        # The recording is read up to where the journal stands before the clock starts.
        items = chain((next(items),), items)
        sender = asyncio.create_task(self._send_events())
        retrain, *chores = [asyncio.create_task(each) for each in (self._retrain(), self._sample(), self._kill())]
        begun, asking = time.monotonic(), set[asyncio.Task[None]]()
        for tick in range(round(self.given.seconds / TICK)):
            await asyncio.sleep(max(0.0, begun + tick * TICK - time.monotonic()))
            for task in self._tick(items):
                asking.add(task)
                task.add_done_callback(asking.discard)
        took = time.monotonic() - begun
        await asyncio.gather(*asking)
        await self.batches.put(None)
        await sender
        if self.given.retrain_at < self.given.seconds:
            await retrain
        for chore in (retrain, *chores):
            chore.cancel()
        await asyncio.gather(retrain, *chores, return_exceptions=True)
        served = await self._served_within()
        await self._caught_up()
        return {**self._figures(took), "served_within": served, **self._reconciled(), "job": self.job}

    async def _served_within(self) -> dict[str, int]:
        """How many answers the service gave within so many seconds, by its own count: this client stalls, too."""
        prefix, suffix = 'rivermill_http_seconds_bucket{le="', '",route="predict"}'
        lines = (await self.api.get("/metrics")).text.splitlines()
        buckets = [line.removeprefix(prefix).split(suffix) for line in lines if suffix in line and prefix in line]
        return {edge: int(float(count)) for edge, count in buckets}

    def _items(self, now: int) -> Iterator[dict[str, Any]]:
        assert self.pipeline.recorded is not None, "the load is a recording"
        for line in self.pipeline.recorded(weeks=53):
            event = orjson.loads(line)
            if parse_time(event["time"]) > now:
                yield event

    def _tick(self, items: Iterator[dict[str, Any]]) -> list[asyncio.Task[None]]:
        """The next events and questions of the recording, in its order."""
        events: list[bytes] = []
        asked: list[asyncio.Task[None]] = []
        wanted_events, wanted_questions = round(self.given.events * TICK), round(self.given.questions * TICK)
        while len(events) < wanted_events:
            event = next(items)
            if event["type"] == self.stream and len(asked) < wanted_questions:
                asked.append(asyncio.create_task(self._ask(event)))
            else:
                events.append(orjson.dumps({**event, "source": SOURCE}))
        self.batches.put_nowait(events)
        return asked

    async def _ask(self, event: dict[str, Any]) -> None:
        self.tally.asked += 1
        begun = time.perf_counter()
        try:
            body = {"id": event["id"], "data": event["data"]}
            answer = await self.api.post(f"/v1/{self.home.pipeline}/predict", json=body)
        except httpx.HTTPError as error:
            self.tally.failed[type(error).__name__] += 1
            return
        self.tally.seconds.append(time.perf_counter() - begun)
        if answer.status_code not in _ACCEPTED:
            self.tally.failed[str(answer.status_code)] += 1
            return
        said = answer.json()
        receipt = said["receipt"] if isinstance(said["receipt"], str) else "recorded"
        self.tally.receipts[receipt] += 1
        self.tally.lines[said["line"]] += 1

    async def _send_events(self) -> None:
        while (batch := await self.batches.get()) is not None:
            while (answer := await self._post_events(batch)) is None:
                self.tally.refused_for_now += 1
                await asyncio.sleep(RETRY_AFTER)
            self.tally.acked += len(batch)
            self.tally.fates.update(fate["type"] for fate in answer["fates"])
            for event, fate in zip(batch, answer["fates"], strict=True):
                if fate["type"] in ("accepted", "repeated"):
                    self.tally.acked_ids.append((SOURCE, orjson.loads(event)["id"]))

    async def _post_events(self, batch: list[bytes]) -> dict[str, Any] | None:
        try:
            answer = await self.api.post(
                f"/v1/{self.home.pipeline}/events",
                content=b"[" + b",".join(batch) + b"]",
                headers={"content-type": "application/json"},
            )
        except httpx.HTTPError:
            return None
        if answer.status_code not in _ACCEPTED:
            assert answer.status_code in (429, 503), answer.text
            assert "retry-after" in answer.headers
            return None
        fates: dict[str, Any] = answer.json()
        return fates

    async def _retrain(self) -> None:
        await asyncio.sleep(self.given.retrain_at)
        order = {"pipeline": self.home.pipeline, "promote": True}
        job = (await self.api.post("/v1/jobs", json=order)).json()
        while job["state"] in ("queued", "running"):
            await asyncio.sleep(1)
            job = (await self.api.get(f"/v1/jobs/{job['id']}")).json()
        self.job = job

    async def _kill(self) -> None:
        if self.given.kill_owner_at:
            await asyncio.sleep(self.given.kill_owner_at)
            for pid in pids_of(self.home.root, "owner_process"):
                os.kill(pid, signal.SIGKILL)

    async def _sample(self) -> None:
        while True:
            self.memory.append({role: sum(map(rss_of, pids_of(self.home.root, role))) for role in ROLES})
            await asyncio.sleep(SAMPLE_EVERY)

    async def _caught_up(self) -> None:
        """Wait until every fold stands at the journal's end; the learner's own checkpoint trails by design."""
        while any(self._lag().values()):
            await asyncio.sleep(0.5)

    def _lag(self) -> dict[str, int]:
        journal = SqliteReader(self.home.journal)
        end = journal.end()
        journal.close()
        positions = positions_in(self.home.fold("x").parent)
        return {fold: end - positions[fold] for fold in ("features", "answer", "join")}

    def _figures(self, took: float) -> dict[str, Any]:
        tally = self.tally
        marks = statistics.quantiles(tally.seconds, n=1000) if len(tally.seconds) > 1 else [0.0] * 999
        return {
            "seconds": round(took, 1),
            "events_per_second": round(tally.acked / took, 1),
            "questions_per_second": round(tally.asked / took, 1),
            "failed_requests": dict(tally.failed),
            "events_sent_again": tally.refused_for_now,
            "event_fates": dict(tally.fates),
            "receipts": dict(tally.receipts),
            "lines": dict(tally.lines),
            "predict_ms": {name: round(marks[n] * 1_000, 2) for name, n in (("p50", 499), ("p99", 989), ("p999", 998))},
            "memory_mb": [{role: size // 1024 for role, size in each.items()} for each in self._tenths()],
        }

    def _tenths(self) -> list[dict[str, int]]:
        step = max(len(self.memory) // 10, 1)
        return self.memory[::step]

    def _reconciled(self) -> dict[str, Any]:
        """What the journal holds, beside what the client was told."""
        journal = SqliteReader(self.home.journal)
        kinds, over_http, after = Counter[str](), 0, START
        seen = Counter[tuple[str, str]]()
        while page := journal.read(0, after, _PAGE):
            for record in page:
                kinds[record.kind.value] += 1
                over_http += record.kind is Kind.PREDICTION and record.id.startswith("p-http#")
                if record.kind is Kind.SOURCE and record.source == SOURCE:
                    seen[record.source, record.id] += 1
            after = page[-1].offset
        journal.close()
        file = FoldFile(self.home.fold("join"), readonly=True)
        pending = sum(1 for _ in file.scan("pending"))
        file.close()
        acked = set(self.tally.acked_ids)
        return {
            "acked_and_missing": len(acked - seen.keys()),
            "twice_in_the_journal": sum(count > 1 for count in seen.values()),
            "predictions": kinds["prediction"],
            "joined": kinds["example"],
            "expired": kinds["expired"],
            "pending": pending,
            "difference": kinds["prediction"] - kinds["example"] - kinds["expired"] - pending,
            "recorded_over_http": over_http,
        }


ROLES = ("owner_process", "worker_process", "http_process", "registrar_process")


def pids_of(root: Path, role: str) -> list[int]:
    """The processes of a role that serve a home."""
    found = subprocess.run(
        ["pgrep", "-f", f"rivermill.{role} {root.absolute()}"], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def rss_of(pid: int) -> int:
    """Resident memory in kilobytes; 0 when it has just gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Run the load and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--pipeline", default="flights")
    parser.add_argument("--url", default="http://127.0.0.1:8300")
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--events", type=float, default=200)
    parser.add_argument("--questions", type=float, default=50)
    parser.add_argument("--retrain-at", type=float, default=300)
    parser.add_argument("--kill-owner-at", type=float, default=0)
    arguments = parser.parse_args()
    figures = asyncio.run(Load(arguments, Home(arguments.home, arguments.pipeline)).run())
    sys.stdout.write(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode() + "\n")


if __name__ == "__main__":
    main()
