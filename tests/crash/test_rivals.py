"""R18: two workers at once, as real processes. The stale one is fenced off, and nothing is done twice."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import apsw
import pytest

from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run
from tests.crash.live import PATIENCE, all_records, check_learned, digest_of, flights_live, replayed, send
from tests.crash.zygote import Zygote

pytestmark = pytest.mark.slow
SHARE, RIVALS = 500, 4


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    folders = (configs_folder() / name for name in ("flights", "phishing"))
    with closing(Zygote(*folders, log=tmp_path_factory.mktemp("zygote") / "log")) as zygote:
        yield zygote


def writer_of(home: Home) -> int:
    """The epoch of whoever writes the feature fold."""
    with closing(apsw.Connection(str(home.fold("features")))) as db:
        epoch: int = db.execute("SELECT epoch FROM writer").get
        return epoch


def until_another_writes(home: Home, epoch: int) -> None:
    give_up = time.monotonic() + PATIENCE
    while writer_of(home) == epoch:
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_r18_of_two_workers_the_older_is_fenced_off(zygote: Zygote, tmp_path: Path, say: Callable[[str], None]) -> None:
    """Every second one is stopped in its tracks, and goes on when its rival has been at work for a while."""
    pipeline, live, events = flights_live(zygote, tmp_path / "home")
    home = live.home
    for turn in range(RIVALS):
        send(live, islice(events, SHARE)).join(PATIENCE)
        older, epoch = live.pids["worker"], writer_of(home)
        if turn % 2:
            os.kill(older, signal.SIGSTOP)
        live.start("worker")
        until_another_writes(home, epoch)
        producer = send(live, islice(events, SHARE))
        producer.join(PATIENCE)
        assert producer.failure is None
        if turn % 2:
            os.kill(older, signal.SIGCONT)
        assert zygote.wait(older) == 1
    assert zygote.log.read_text().count("\njournal.errors.Fenced") == RIVALS
    live.stop()
    with closing(open_run(pipeline, home)) as run:
        learned = check_learned(run, all_records(home))
        found = digest_of(run)
    assert replayed(home, pipeline, tmp_path / "replayed") == found
    say(f"R18: {RIVALS} workers came beside a running one, {RIVALS} older ones were fenced off; {learned} learned once")
