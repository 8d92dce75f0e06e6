"""R1, R2 at every syscall class: owner and worker die inside a call of each kind that they make.

Nothing that the owner said is lost, and nothing that the worker learned is learned twice. Which kinds there are is
counted first, on the same work. ``RIVERMILL_KILLS_PER_SYSCALL`` says how often one dies in each.
"""

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import islice, takewhile
from pathlib import Path

import pytest

from journal.checkpoint import positions_in
from journal.log import START
from journal.sqlite_reader import SqliteReader
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run
from tests.crash.history import History, check
from tests.crash.live import (
    PATIENCE,
    Live,
    Producer,
    all_records,
    check_learned,
    digest_of,
    flights_live,
    replayed,
    requests_of,
)
from tests.crash.tracing import counted, die_within
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.slow
KILLS_EACH = int(os.environ.get("RIVERMILL_KILLS_PER_SYSCALL", "1"))
SEED = int(os.environ.get("RIVERMILL_SEED", "1"))
COUNTED = 60
"""Requests on which the kinds of calls are counted."""

WORK = 100
"""Requests within which the owner makes a call again, if it belongs to the work."""

PORTION = 2
"""Requests that the worker is given at a time; it has worked them off before it may die again."""

PORTIONS = 4
"""Portions within which the worker makes a call again, if it belongs to the work."""

WARM = 10
"""Portions after which the worker has loaded all that it needs, and on as many its calls are counted."""

UNTIL_LABELS_COME = 80
"""Requests behind which there are examples to learn."""

EVERY_COMMIT = frozenset({"fdatasync", "pwrite64", "fcntl"})
"""Calls that no commit goes without."""


@pytest.fixture
def zygote(tmp_path: Path) -> Iterator[Zygote]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    zygote = Zygote(configs_folder() / "flights", log=tmp_path / "log")
    yield zygote
    zygote.close()


def deaths(
    live: Live,
    role: str,
    calls: Mapping[str, int],
    per: int,
    work: Callable[[], Iterable[object]],
    between: Callable[[], object] = lambda: None,
) -> list[str]:
    """Let it die in each kind of call, somewhere in as many as it makes in a portion of work; the kinds it survived."""
    chance, survived = random.Random(SEED), []
    for call, count in sorted(calls.items()):
        for _ in range(KILLS_EACH):
            if not die_within(live, role, call, chance.randint(1, max(1, count // per)), work()):
                survived.append(call)
            between()
    return survived


def test_r01_the_owner_dies_inside_every_kind_of_call(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    _, live, recorded = flights_live(zygote, tmp_path / "home")
    over = threading.Event()
    requests = takewhile(lambda _: not over.is_set(), requests_of(recorded))
    turn = threading.Lock()
    producers = [Producer(live, f"producer-{n}", requests, turn) for n in range(2)]
    for producer in producers:
        producer.start()

    def work() -> Iterator[None]:
        for _ in range(WORK):
            yield
            live.acks.acquire(timeout=1)

    with counted(live, "owner") as calls:
        for _ in range(COUNTED):
            assert live.acks.acquire(timeout=PATIENCE)
    survived = deaths(live, "owner", calls, COUNTED, work)
    over.set()
    for producer in producers:
        producer.join(PATIENCE)
        assert producer.failure is None
    live.stop()
    counts = check([producer.history for producer in producers], all_records(live.home))
    died = sorted(set(live.kills))
    say(f"the owner died within {', '.join(died)}; never again made {', '.join(survived) or 'none'}")
    say(f"acked {counts.acked}, lost {counts.lost}, doubled {counts.doubled}, overtaken {counts.overtaken}")
    assert set(died) >= EVERY_COMMIT
    assert not {call for call in survived if calls[call] >= COUNTED}
    assert counts.is_clean
    assert counts.acked == counts.present


def test_r02_the_worker_dies_inside_every_kind_of_call(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """Between two deaths it catches up: else three of them at one record would be that record's fault."""
    pipeline, live, recorded = flights_live(zygote, tmp_path / "home")
    home, requests, turn = live.home, requests_of(recorded), threading.Lock()
    histories: list[History] = []

    def portion(size: int = PORTION) -> None:
        producer = Producer(live, f"producer-{len(histories)}", islice(requests, size), turn)
        histories.append(producer.history)
        producer.run()

    def work() -> Iterator[None]:
        for _ in range(PORTIONS):
            yield
            portion()
            yield from until_worked_off(home)

    def work_off(portions: int) -> None:
        for _ in range(portions):
            portion()
            list(until_worked_off(home))

    portion(UNTIL_LABELS_COME)
    work_off(WARM)
    with counted(live, "worker") as calls:
        work_off(WARM)
    survived = deaths(live, "worker", calls, WARM, work, lambda: list(until_worked_off(home)))
    live.stop()
    records, died = all_records(home), sorted(set(live.kills))
    counts = check(histories, records)
    with closing(open_run(pipeline, home)) as run:
        examples, found = check_learned(run, records), digest_of(run)
    say(f"the worker died within {', '.join(died)}; never again made {', '.join(survived) or 'none'}")
    say(f"acked {counts.acked}, lost {counts.lost}, doubled {counts.doubled}, learned {examples}")
    assert set(died) >= EVERY_COMMIT
    assert not {call for call in survived if calls[call] >= WARM}
    assert counts.is_clean
    assert examples
    assert replayed(home, pipeline, tmp_path / "replayed") == found


def until_worked_off(home: Home) -> Iterator[None]:
    """Turns until every fold has taken the whole journal; the learner's file says only where its last snapshot was."""
    until = time.monotonic() + PATIENCE
    with closing(SqliteReader(home.journal)) as journal:
        while min(_places(home).values(), default=START) < journal.end():
            assert time.monotonic() < until, f"the worker stands at {_places(home)}"
            yield
            time.sleep(0.01)


def _places(home: Home) -> dict[str, int]:
    return {name: place for name, place in positions_in(home.fold("x").parent).items() if name != "learner"}
