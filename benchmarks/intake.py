"""Intake beside its limits: durable events over HTTP (G6, G7), and the contract check over parsing (G20).

    python -m benchmarks.intake [--rounds N] [--batches N] [--events N]

The owner and the HTTP process of a fresh home run as under ``rivermill up``; the worker, which reads later, does not.
The limits are measured in the same round, in turn with ours, by the same client over the same number of connections: a
bare insert of the same bytes through apsw (write-ahead log, synchronous=FULL), and a server of the same kind that reads
the same request and does nothing.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import apsw
import orjson

from journal.envelope import read_envelope
from journal.privacy import KeyTable
from journal.stream import Stream
from rivermill.access import KeyRing
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

HUNDRED = 100
SINGLE_CONNECTIONS = 16
BATCH_CONNECTIONS = 4
G6, G7, G20 = 0.3, 3.0, 3.0
"""What is acceptable: at least, at most, at most."""

_NO_OP = """
import sys, uvicorn
async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    head = {"type": "http.response.start", "status": 202, "headers": headers}
    await send(head)
    await send({"type": "http.response.body", "body": b"{}"})
uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_level="warning", access_log=False)
"""


class Client:
    """One connection that sends requests one after the other."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key

    async def send(self, bodies: Sequence[bytes]) -> list[float]:
        """Send each body and wait for its answer; returns the seconds that each took."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        took = []
        for body in bodies:
            begun = time.perf_counter()
            writer.write(self._head(len(body)) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            if not head.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")):
                message = f"the server answered {head[:40]!r}"
                raise RuntimeError(message)
            took.append(time.perf_counter() - begun)
        writer.close()
        return took

    def _head(self, length: int) -> bytes:
        return (
            f"POST /v1/flights/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()


async def offer(port: int, key: str, bodies: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Send bodies over several connections, closed loop; returns the seconds in all, and each request's."""
    shares = [bodies[number::connections] for number in range(connections)]
    begun = time.perf_counter()
    took = await asyncio.gather(*(Client(port, key).send(share) for share in shares))
    return time.perf_counter() - begun, [seconds for each in took for seconds in each]


def bare_inserts(folder: Path, events: Sequence[bytes]) -> float:
    """L1: seconds for the same events, inserted by hundreds, each hundred durable."""
    db = apsw.Connection(str(folder / "bare.sqlite"))
    db.execute("PRAGMA journal_mode=WAL").fetchall()
    db.execute("PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS e (data BLOB)").fetchall()
    begun = time.perf_counter()
    for first in range(0, len(events), HUNDRED):
        with db:
            db.executemany("INSERT INTO e VALUES (?)", ((event,) for event in events[first : first + HUNDRED]))
    took = time.perf_counter() - begun
    db.close()
    return took


def one_fdatasync(folder: Path, count: int) -> float:
    """The median of writing 4 KiB and syncing them, in seconds."""
    took = []
    with (folder / "synced").open("ab", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return statistics.median(took)


def contract_check(pipeline: Pipeline, folder: Path, events: Sequence[bytes]) -> tuple[float, float]:
    """Seconds for envelope, contract and duplicate names, and for orjson alone (L6)."""
    keys = KeyTable(folder / "subjects.sqlite")
    streams = {name: Stream(contract, keys) for name, contract in pipeline.contracts.items()}
    begun = time.perf_counter()
    for raw in events:
        envelope = read_envelope(raw)
        streams[envelope.type].read(envelope, raw)
    ours = time.perf_counter() - begun
    begun = time.perf_counter()
    for raw in events:
        orjson.loads(raw)
    keys.close()
    return ours, time.perf_counter() - begun


@contextlib.contextmanager
def running(*command: str) -> Iterator[None]:
    """A process, as long as it is needed."""
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def wait_for(port: int) -> None:
    """Until somebody listens."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def show(name: str, ours: Sequence[float], limit: Sequence[float], unit: str, goal: str) -> None:
    """One line: the medians, and the ratio of each round."""
    ratios = [one / other for one, other in zip(ours, limit, strict=True)]
    print(
        f"{name}: ours {statistics.median(ours):,.4g} {unit}, limit {statistics.median(limit):,.4g} {unit}, "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}); goal {goal}",
        flush=True,
    )


def batched(events: Sequence[bytes]) -> list[bytes]:
    """Hundreds of events as one body each."""
    return [b"[" + b",".join(events[n : n + HUNDRED]) + b"]" for n in range(0, len(events), HUNDRED)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=textwrap.dedent(str(__doc__)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=100, help="hundreds of events per round")
    parser.add_argument("--events", type=int, default=1_000, help="single events per round")
    given = parser.parse_args()
    pipeline = load_pipeline(configs_folder() / "flights")
    assert pipeline.recorded is not None
    per_round = given.batches * HUNDRED + given.events
    events = list(islice(pipeline.recorded(), given.rounds * per_round))
    with tempfile.TemporaryDirectory() as name:
        root, (port, no_op) = Path(name), (free_port(), free_port())
        home = Home(root, "flights")
        open_run(pipeline, home).close()
        KeyRing.open(root / "access")
        key = (root / "access" / "admin.key").read_text().strip()
        folder = str(configs_folder() / "flights")
        with (
            running("-m", "rivermill.owner_process", name, folder),
            running("-m", "rivermill.http_process", name, str(port), "", folder),
            running("-c", _NO_OP, str(no_op)),
        ):
            wait_for(port)
            wait_for(no_op)
            while not home.socket.exists():
                time.sleep(0.1)
            _measure(given, events, root, (port, no_op), key)
        _check(pipeline, root, events, given.rounds)


def _measure(given: argparse.Namespace, events: Sequence[bytes], root: Path, ports: tuple[int, int], key: str) -> None:
    rates, limits, acks, floors = [], [], [], []
    source = iter(events)
    for _ in range(given.rounds):
        many, single = list(islice(source, given.batches * HUNDRED)), list(islice(source, given.events))
        bodies, count = batched(many), len(many)
        ours, _ = asyncio.run(offer(ports[0], key, bodies, BATCH_CONNECTIONS))
        idle, _ = asyncio.run(offer(ports[1], key, bodies, BATCH_CONNECTIONS))
        rates.append(count / ours)
        limits.append(count / (bare_inserts(root, many) + idle))
        _, each = asyncio.run(offer(ports[0], key, single, SINGLE_CONNECTIONS))
        _, bare = asyncio.run(offer(ports[1], key, single, SINGLE_CONNECTIONS))
        acks.append(statistics.median(each) * 1_000)
        floors.append((one_fdatasync(root, 200) + statistics.median(bare)) * 1_000)
    show("G6 durable events over HTTP in hundreds", rates, limits, "events/s", f"at least {G6}")
    show(f"G7 acknowledgement at c={SINGLE_CONNECTIONS}, p50", acks, floors, "ms", f"at most {G7}")


def _check(pipeline: Pipeline, root: Path, events: Sequence[bytes], rounds: int) -> None:
    share = len(events) // rounds
    # Each round has events of its own: what was checked once is remembered.
    pairs = [contract_check(pipeline, root, events[n * share : (n + 1) * share]) for n in range(rounds)]
    micros = [[seconds / share * 1e6 for seconds in each] for each in zip(*pairs, strict=True)]
    show("G20 contract check of one event", micros[0], micros[1], "us", f"at most {G20}")


if __name__ == "__main__":
    main()
