"""R1 at every syscall class: the owner dies inside a call of each kind that it makes, and nothing that it said is lost.

Which kinds there are is counted first, on the same work. ``RIVERMILL_KILLS_PER_SYSCALL`` says how often it dies in
each.
"""

import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run
from tests.crash.history import check
from tests.crash.live import PATIENCE, Live, Producer, all_records, requests_of
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.slow
KILLS_EACH = int(os.environ.get("RIVERMILL_KILLS_PER_SYSCALL", "1"))
SEED = int(os.environ.get("RIVERMILL_SEED", "1"))
ALONG_THE_WAY = frozenset({"exit", "exit_group", "rt_sigreturn", "restart_syscall"})
"""Calls that end a thread, a signal or another call: there is nothing inside them."""
COUNTED = 60
"""Requests on which the kinds of calls are counted."""

WORK = 100
"""Requests within which a call is made again, if it belongs to the work."""

EVERY_COMMIT = frozenset({"fdatasync", "pwrite64", "fcntl", "futex"})
"""Calls that no commit goes without."""


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    zygote = Zygote(configs_folder() / "flights", log=tmp_path / "log")
    yield zygote
    zygote.close()


def attached(pid: int, *options: str) -> subprocess.Popen[str]:
    """A strace that has hold of every thread of a process."""
    tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *options], stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    line = tracer.stderr.readline()
    assert "attached" in line, line
    return tracer


def calls_of(live: Live, producer: Producer) -> dict[str, int]:
    """How often the owner makes each call while it takes some requests in."""
    table = live.home.folder / "calls"
    tracer = attached(live.pids["owner"], "-c", "-o", str(table))
    for _ in range(COUNTED):
        assert live.acks.acquire(timeout=PATIENCE)
    tracer.terminate()
    tracer.communicate()
    rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", table.read_text(), flags=re.MULTILINE)
    assert producer.failure is None
    return {name: int(count) for count, name in rows if name not in ALONG_THE_WAY | {"total"}}


def die_within(live: Live, call: str, number: int) -> bool:
    """Let the owner die in its next call of a kind but so many; whether it did before the work ran out."""
    pid = live.pids["owner"]
    tracer = attached(pid, "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
    for _ in range(WORK):
        if tracer.poll() is not None:
            break
        live.acks.acquire(timeout=1)
    else:
        tracer.terminate()
        tracer.communicate()
        return False
    tracer.communicate()
    live.up.clear()
    live.zygote.wait(pid)
    live.kills[call] += 1
    live.start("owner")
    return True


def test_r01_the_owner_dies_inside_every_kind_of_call(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    folder = configs_folder() / "flights"
    pipeline, home = load_pipeline(folder), Home(tmp_path / "home", "flights")
    assert pipeline.recorded is not None
    open_run(pipeline, home).close()
    live = Live(zygote, home, folder)
    over = threading.Event()

    def until_over() -> Iterator[list[bytes]]:
        for request in requests_of(islice(pipeline.recorded(), 2_000_000) if pipeline.recorded else iter(())):
            if over.is_set():
                return
            yield request

    requests, turn = until_over(), threading.Lock()
    producers = [Producer(live, f"producer-{n}", requests, turn) for n in range(2)]
    for producer in producers:
        producer.start()
    calls = calls_of(live, producers[0])
    chance = random.Random(SEED)
    survived = [
        call
        for call, count in sorted(calls.items())
        for _ in range(KILLS_EACH)
        if not die_within(live, call, chance.randint(1, max(1, count // COUNTED)))
    ]
    over.set()
    for producer in producers:
        producer.join(PATIENCE)
        assert producer.failure is None
    live.stop()
    counts = check([producer.history for producer in producers], all_records(home))
    died = sorted(set(live.kills))
    say(f"the owner died within {', '.join(died)}; never again made {', '.join(survived) or 'none'}")
    say(f"acked {counts.acked}, lost {counts.lost}, doubled {counts.doubled}, overtaken {counts.overtaken}")
    assert set(died) >= EVERY_COMMIT
    assert not {call for call in survived if calls[call] >= COUNTED}
    assert counts.is_clean
    assert counts.acked == counts.present
