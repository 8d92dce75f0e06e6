"""The worker over small folds: any page cuts, two workers at once, and a record that a fold cannot take."""

import hashlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from journal.body import Decision, draft_of
from journal.checkpoint import FoldFile, positions_in
from journal.errors import DurabilityLost, Fenced, OwnerDown
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.poison import Attempts, stopped_at
from journal.record import Draft, Kind, Record
from journal.runner import Runner
from journal.sink_epochs import SinkEpochs
from journal.wire import Batch
from rivermill.worker_process import USUAL, LastingWorker, Pace, Worker, parts_of

Trip = Callable[[Record], None]


def nothing(_: Record) -> None:
    """No record is poison."""


class Echo:
    """Derives one example per event, and remembers what it saw."""

    name, version = "echo", 1
    kinds = frozenset({Kind.SOURCE})
    resume_offset: int | None = None

    def __init__(self, trip: Trip) -> None:
        self.seen: list[str] = []
        self._trip = trip

    def load(self, file: FoldFile) -> None:
        self.seen = [value.decode() for _, value in file.scan(self.name)]

    def apply(self, record: Record) -> Sequence[Draft]:
        self.seen.append(record.id)
        self._trip(record)
        return [Draft(kind=Kind.EXAMPLE, stream="echo", id=f"{record.id}-x", body=b"{}")]

    def save(self, file: FoldFile) -> None:
        file.put(self.name, ((n.to_bytes(4), id_.encode()) for n, id_ in enumerate(self.seen)))

    def digest(self) -> str:
        return hashlib.sha256(repr(self.seen).encode()).hexdigest()


class Learner(Echo):
    """Learns what the other derives."""

    name = "learner"
    kinds = frozenset({Kind.EXAMPLE})

    def apply(self, record: Record) -> Sequence[Draft]:
        super().apply(record)
        return ()


class SmallFolds:
    """Two folds in a folder."""

    beside = ()

    def __init__(self, folder: Path, journal: Any, trip: Trip) -> None:
        folds = (Echo(trip), Learner(nothing))
        self.runners = [Runner(fold, FoldFile(folder / f"{fold.name}.sqlite"), journal, "f") for fold in folds]

    def flush_history(self, at_least: int = 0) -> None:
        """There is none."""

    def close(self) -> None:
        for runner in self.runners:
            runner.close()

    def seen(self) -> list[list[str]]:
        return [cast(Echo, runner.fold).seen for runner in self.runners]


class Owner:
    """The owner, in this process: one client of it."""

    def __init__(self, journal: MemoryJournal, epochs: SinkEpochs) -> None:
        self._journal, self._known, self._granted = journal, epochs, dict[str, int]()

    def claim(self, epochs: dict[str, int]) -> dict[str, int]:
        self._granted = self._known.claim(epochs)
        return self._granted

    def append(self, batches: Sequence[tuple[str, Sequence[Draft]]]) -> int:
        numbered = [Batch(sink, list(drafts), self._granted.get(sink, 0)) for sink, drafts in batches]
        refusal = self._known.refusal(numbered)
        if refusal is not None:
            raise refusal
        for batch in numbered:
            self._journal.append(batch.drafts, sink=batch.sink)
        return self._journal.end()


class Reader:
    """The journal, as a worker reads it."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self.read, self.of_kind, self.end = journal.read, journal.of_kind, journal.end

    def refresh(self) -> None:
        """There is nothing to refresh."""


class Home:
    """One journal with its folds' folder."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.journal, self.epochs = folder, MemoryJournal("t"), SinkEpochs()
        self.said: list[str] = []
        self.add(*(f"e{n}" for n in range(count)))

    def add(self, *ids: str) -> None:
        self.journal.append([Draft(kind=Kind.SOURCE, stream="s", id=id_, source="/t", time=1, body=b"") for id_ in ids])

    def folds(self, trip: Trip = nothing) -> SmallFolds:
        return SmallFolds(self.folder, self.journal, trip)

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts.json"

    def worker(self, trip: Trip = nothing, build: str = "b", pace: Pace = USUAL) -> LastingWorker:
        return LastingWorker(
            lambda: cast(Any, self.folds(trip)),
            cast(Any, Reader(self.journal)),
            cast(Any, Owner(self.journal, self.epochs)),
            Attempts(self.attempts, build, *pace),
            self.said.append,
            _nothing_takes_over,
            pace,
        )

    def committed(self) -> int:
        return positions_in(self.folder)["echo"]

    def derived(self) -> list[str]:
        return [record.id for record in self.journal.read(0, START, 10_000) if record.kind is Kind.EXAMPLE]

    def decide_to_skip(self, fold: str, offset: int) -> None:
        details = {"fold": fold, "offset": offset}
        decision = Decision(sequence=1, action="skip", subject=fold, why="w", details=details)
        self.journal.append([draft_of(decision, kind=Kind.DECISION, stream="control", id="decision-1")])


def _nothing_takes_over(_: object) -> None:
    """No fold here is rebuilt beside its file."""


def drive(worker: Worker) -> None:
    while worker.step():
        pass


def poison(id_: str) -> Trip:
    def trip(record: Record) -> None:
        if record.id == id_:
            message = f"no {id_}"
            raise ValueError(message)

    return trip


def test_of_two_workers_the_older_is_fenced_off_and_nothing_is_learned_twice(tmp_path: Path) -> None:
    home = Home(tmp_path, 30)
    older = home.worker()
    assert older.step()
    newer = home.worker()
    with pytest.raises(Fenced):
        drive(older)
    home.add("late")
    drive(newer)
    ids = [f"e{n}" for n in range(30)] + ["late"]
    assert home.derived() == [f"{id_}-x" for id_ in ids]
    folds = home.folds()
    assert folds.seen() == [ids, [f"{id_}-x" for id_ in ids]]
    folds.close()


def test_a_worker_that_has_derived_before_the_newer_came_may_not_hand_it_over(tmp_path: Path) -> None:
    """The older worker holds a page in its hands; meanwhile the newer one claims."""
    home = Home(tmp_path, 5)
    came = list[LastingWorker]()

    def newer_comes(record: Record) -> None:
        if record.id == "e3" and not came:
            came.append(home.worker())
            came[0].step()

    older = home.worker(newer_comes)
    with pytest.raises(Fenced, match="sink 'echo'"):
        older.step()
    drive(came[0])
    assert home.derived() == [f"e{n}-x" for n in range(5)]


FOURS = Pace(page=4, commit=12)


def test_full_pages_share_a_commit_and_the_last_page_has_its_own(tmp_path: Path) -> None:
    home = Home(tmp_path, 0)
    worker = home.worker(pace=FOURS)
    home.add(*(f"e{n}" for n in range(20)))
    committed = []
    for _ in range(5):
        assert worker.step()
        committed.append(home.committed())
    # The fourth page stands before the 12 records that the first three derived.
    assert committed == [START, START, 11, 11, 11]
    drive(worker)
    assert home.committed() == home.journal.end()
    worker.close()


def test_a_full_page_at_the_end_is_committed_by_the_next_step(tmp_path: Path) -> None:
    home = Home(tmp_path, 0)
    home.journal.append([Draft(kind=Kind.QUESTION, stream="s", id=f"q{n}", body=b"{}") for n in range(4)])
    worker = home.worker(pace=FOURS)
    assert worker.step()
    assert home.committed() == START
    assert worker.step()
    assert home.committed() == 3
    assert not worker.step()
    worker.close()


def test_a_record_behind_pages_that_were_not_committed_is_found_and_the_rest_is_derived_once(tmp_path: Path) -> None:
    home = Home(tmp_path, 20)
    worker = home.worker(poison("e10"), pace=FOURS)
    for _ in range(15):
        worker.step()
    suspect = stopped_at(home.attempts)
    assert suspect is not None
    assert (suspect.fold, suspect.offset, suspect.deaths) == ("echo", 10, 3)
    assert home.derived() == [f"e{n}-x" for n in range(10)]
    home.decide_to_skip("echo", 10)
    drive(worker)
    worker.close()
    expected = [f"e{n}-x" for n in range(20) if n != 10]
    assert home.derived() == expected
    folds = home.folds()
    assert folds.seen()[1] == expected
    folds.close()


def test_what_the_owner_was_not_given_is_never_committed(tmp_path: Path) -> None:
    """The worker is told to stop while the owner is down, behind a page that waits for its commit."""
    home = Home(tmp_path, 8)
    worker = home.worker(pace=FOURS)
    assert worker.step()

    def down(_: object) -> None:
        worker.stop()
        raise OwnerDown(which="owner")

    cast(Any, worker)._owner.append = down
    assert not worker.step()
    worker.run()
    worker.close()
    assert home.committed() == START
    drive(again := home.worker())
    again.close()
    assert home.derived() == [f"e{n}-x" for n in range(8)]


def test_a_record_that_raises_stops_the_worker_before_it_after_three_deaths(tmp_path: Path) -> None:
    home = Home(tmp_path, 20)
    worker = home.worker(poison("e7"))
    while stopped_at(home.attempts) is None:
        worker.step()
    suspect = stopped_at(home.attempts)
    assert suspect is not None
    assert (suspect.fold, suspect.offset, suspect.deaths, suspect.error) == ("echo", 7, 3, "ValueError: no e7")
    assert len(home.said) == 3
    assert home.said[-1] == "fold 'echo' at offset 7: ValueError: no e7; time 3, and it stays there"
    assert not worker.step()
    assert home.derived() == [f"e{n}-x" for n in range(7)]
    worker.close()
    again = home.worker(poison("e7"))
    assert not again.step(), "a restart does not forget"
    again.close()


def test_a_skip_leads_past_it_and_every_replay_passes_the_same_record(tmp_path: Path) -> None:
    home = Home(tmp_path, 20)
    worker = home.worker(poison("e7"))
    for _ in range(10):
        worker.step()
    home.decide_to_skip("learner", 7)
    assert not worker.step(), "a decision about another fold leads nowhere"
    home.journal.append(
        [
            draft_of(
                Decision(sequence=2, action="skip", subject="echo", why="w", details={"fold": "echo", "offset": 7}),
                kind=Kind.DECISION,
                stream="control",
                id="decision-2",
            )
        ]
    )
    drive(worker)
    worker.close()
    assert stopped_at(home.attempts) is None
    assert home.derived() == [f"e{n}-x" for n in range(20) if n != 7]
    live = home.folds()
    (tmp_path / "replay").mkdir()
    replay = SmallFolds(tmp_path / "replay", home.journal, poison("e7"))
    for record in home.journal.read(0, START, 1_000):
        for runner in replay.runners:
            runner.apply(record)
    assert "e7" not in live.seen()[0]
    assert replay.seen() == live.seen(), "the tail that a crash leaves, and the whole, pass the same record"
    live.close()
    replay.close()


def test_a_skip_is_known_before_the_first_record_of_a_replay(tmp_path: Path) -> None:
    home = Home(tmp_path, 20)
    home.decide_to_skip("echo", 7)
    (tmp_path / "replay").mkdir()
    replay = SmallFolds(tmp_path / "replay", home.journal, poison("e7"))
    for record in home.journal.read(0, START, 1_000):
        for runner in replay.runners:
            runner.apply(record)
    assert replay.seen()[0] == [f"e{n}" for n in range(20) if n != 7]
    replay.close()


def test_a_mended_build_takes_the_record(tmp_path: Path) -> None:
    home = Home(tmp_path, 20)
    worker = home.worker(poison("e7"))
    for _ in range(10):
        worker.step()
    worker.close()
    mended = home.worker(build="mended")
    drive(mended)
    assert home.derived() == [f"e{n}-x" for n in range(20)]
    mended.close()


@pytest.mark.parametrize("error", [DurabilityLost(which="disk"), OwnerDown(which="owner"), Fenced(which="fold")])
def test_what_is_no_fault_of_the_record_accuses_nobody(tmp_path: Path, error: Exception) -> None:
    def trip(record: Record) -> None:
        if record.id == "e3":
            raise error

    home = Home(tmp_path, 5)
    worker = home.worker(trip)
    with pytest.raises(type(error)):
        worker.step()
    assert stopped_at(home.attempts) is None
    assert home.said == []
    worker.close()


KILLED = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from test_worker import Home, Pace
    def trip(record):
        if record.id == "e13":
            os.kill(os.getpid(), signal.SIGKILL)
    home = Home(Path(sys.argv[1]), 20)
    worker = home.worker(trip, pace=Pace(int(sys.argv[2]), int(sys.argv[3])))
    while worker.step():
        pass
    print("stays")
""")


@pytest.mark.slow
@pytest.mark.parametrize("pace", [USUAL, Pace(page=2, commit=20), FOURS])
def test_a_record_that_kills_its_process_is_found_by_bisecting(tmp_path: Path, pace: Pace) -> None:
    """Each process has the same journal in memory, and the folds' files of the one before."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])}  # noqa: PTH109
    lives = 0
    while True:
        lives += 1
        command = [sys.executable, "-c", KILLED, str(tmp_path), *map(str, pace)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert (done.returncode, done.stderr) == (-9, "")
        assert lives < 20
    assert done.stdout == "stays\n"
    suspect = stopped_at(tmp_path / "attempts.json")
    assert suspect is not None
    assert (suspect.fold, suspect.offset, suspect.deaths) == ("echo", 13, 3)


@pytest.mark.parametrize("most", [1, 2, 5, 6, 7, 100])
def test_what_is_derived_is_handed_over_in_parts_that_keep_the_order_of_each_sink(most: int) -> None:
    drafts = [Draft(kind=Kind.EXPIRED, stream="join", id=f"{n}", body=b"{}") for n in range(7)]
    derived = {"join": drafts[:5], "learner": drafts[5:]}
    parts = list(parts_of(derived, most))
    assert all(sum(len(some) for _, some in part) <= most for part in parts)
    for sink, expected in derived.items():
        assert [draft for part in parts for name, some in part if name == sink for draft in some] == expected
