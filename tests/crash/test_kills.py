"""R1, R2: the owner and the worker of a live pipeline, and a lock-step run, killed again and again over real events.

The short form kills a few times over a few thousand events. ``RIVERMILL_KILLS`` and ``RIVERMILL_EVENTS`` say how often
and over how many; the counts are printed.
"""

import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run
from tests.crash.history import Counts, check, reconcile
from tests.crash.live import (
    EVENTS_PER_REQUEST,
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
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("RIVERMILL_KILLS", "8"))
EVENTS = int(os.environ.get("RIVERMILL_EVENTS", "6000"))
SEED = int(os.environ.get("RIVERMILL_SEED", "1"))
PRODUCERS = 3
PLAYED = 260


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    names = ("flights", "phishing")
    log = tmp_path_factory.mktemp("zygote") / "log"
    zygote = Zygote(*(configs_folder() / name for name in names), log=log)
    yield zygote
    zygote.close()


def drive(live: Live, events: Iterator[bytes]) -> list[Producer]:
    """Let producers send everything while owner and worker are killed at random moments."""
    requests, turn, chance = requests_of(events), threading.Lock(), random.Random(SEED)
    producers = [Producer(live, f"producer-{n}", requests, turn) for n in range(PRODUCERS)]
    for producer in producers:
        producer.start()
    between = max(1, EVENTS // EVENTS_PER_REQUEST // KILLS)
    for _ in range(KILLS):
        for _ in range(chance.randint(1, 2 * between - 1)):
            assert live.acks.acquire(timeout=PATIENCE)
        live.kill(chance.choice(["owner", "worker"]))
    for producer in producers:
        producer.join(PATIENCE)
        assert producer.failure is None
        assert not producer.is_alive()
    return producers


def test_r01_owner_and_worker_killed_over_real_events(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """Events come so fast that labels stand before the predictions that they are about, and are joined all the same.

    How many examples were learned depends on where it was killed, so it is printed; each is learned once.
    """
    pipeline, live, recorded = flights_live(zygote, tmp_path / "home")
    home = live.home
    producers = drive(live, islice(recorded, EVENTS))
    live.stop()
    run = open_run(pipeline, home)
    records, tallies = all_records(home), run.journal.tallies()
    counts = check([producer.history for producer in producers], records)
    examples = check_learned(run, records)
    found = digest_of(run)
    run.close()
    assert replayed(home, pipeline, tmp_path / "replayed") == found
    say(report(live, counts, examples))
    assert counts.is_clean
    assert counts.acked == counts.present == EVENTS
    ends = reconcile(counts.present + tallies.get("repeated", 0), records, tallies)
    assert (ends["accepted"], ends["missing"]) == (EVENTS, 0)


def report(live: Live, counts: Counts, examples: int) -> str:
    return (
        f"kills {live.kills.total()} (owner {live.kills['owner']}, worker {live.kills['worker']})  "
        f"acked {counts.acked}  present {counts.present}  unknown {counts.unknown}  lost {counts.lost}  "
        f"doubled {counts.doubled}  learned {examples}  digest equal to that of a replay"
    )


def test_r02_lock_step_killed_at_any_call_gives_the_same_digest(
    zygote: Zygote, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """The points of death are counted in calls: between learn, checkpoint, position and rename too."""
    folder = configs_folder() / "phishing"
    pipeline, chance = load_pipeline(folder), random.Random(SEED)
    whole = tmp_path / "whole"
    assert zygote.wait(zygote.start("play", whole, folder, PLAYED, 0)) == 0, zygote.log.read_text()[-2_000:]
    calls = int((whole / "calls").read_text())
    lives = Counter[int]()
    for _ in range(KILLS):
        pid = zygote.start("play", tmp_path / "killed", folder, PLAYED, chance.randint(1, calls))
        lives[zygote.wait(pid)] += 1
        if lives.pop(0, 0):
            assert (tmp_path / "killed" / "digest").read_text() == (whole / "digest").read_text()
            shutil.rmtree(tmp_path / "killed")
    assert set(lives) == {-signal.SIGKILL}, zygote.log.read_text()[-2_000:]
    assert zygote.wait(zygote.start("play", tmp_path / "killed", folder, PLAYED, 0)) == 0
    digests = []
    for root in (whole, tmp_path / "killed"):
        run = open_run(pipeline, Home(root, "phishing"))
        digests.append(digest_of(run))
        check_learned(run, all_records(run.home))
        run.close()
    say(f"kills {lives[-signal.SIGKILL]} of a lock-step run, at any of {calls} calls; digests equal")
    assert digests[0] == digests[1]
