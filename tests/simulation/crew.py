"""The journal's owner and the workers behind it, as live operation has them; now and then one worker too many."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

from journal.errors import Fenced
from journal.poison import Attempts
from journal.record import Draft, Kind, Record
from journal.sink_epochs import SinkEpochs
from journal.wire import Batch
from rivermill.worker_process import LastingWorker, Pace
from tests.simulation.oracle import Broken
from tests.simulation.process import FoldSet, Life, World

_PACE = Pace(page=16, commit=48)
_MOST_AT_ONCE = 30
_SHARE_OF_RIVALS = 0.06
_MOST_BUILDS = 3
_MOST_STEPS = 400


class _Reader:
    """The journal as a worker reads it, a few records at a time."""

    def __init__(self, world: World, chance: Random) -> None:
        self._journal, self._chance = world.journal, chance

    def refresh(self) -> None:
        """Nothing: a simulated segment never ends."""

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return self._journal.read(partition, after, min(limit, self._chance.randrange(1, _MOST_AT_ONCE)))

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return self._journal.of_kind(kind, after, limit)


class _Owner:
    """The owner as one worker hands over to it."""

    def __init__(self, world: World, epochs: SinkEpochs, meanwhile: Callable[[], None]) -> None:
        self._world, self._known, self._meanwhile = world, epochs, meanwhile
        self._epochs: dict[str, int] = {}

    def claim(self, epochs: Mapping[str, int]) -> dict[str, int]:
        """See `journal.owner_client.OwnerClient.claim`."""
        self._epochs = self._known.claim(epochs)
        return self._epochs

    def append(self, batches: Sequence[tuple[str, Sequence[Draft]]]) -> None:
        """Append what folds derived, as one group; somebody else may come first."""
        self._meanwhile()
        refusal = self._known.refusal([Batch(sink, list(drafts), self._epochs[sink]) for sink, drafts in batches])
        if refusal is not None:
            raise refusal
        with self._world.journal.group():
            for sink, drafts in batches:
                self._world.journal.append(drafts, sink=sink)
        self._world.faults.reach("owner answered")


class _Folds:
    """What a worker asks of `rivermill.wiring.Folds`."""

    beside = ()

    def __init__(self, life: Life) -> None:
        self._life = life
        self.set = life.folds
        self.runners = life.folds.runners

    def flush_history(self, at_least: int = 0) -> None:
        """History is not simulated."""

    def close(self) -> None:
        """Let go of the files."""
        self._life.end()


class Crew:
    """One owner's life, and the workers in it.

    Attributes:
        fenced: How many workers were told that they are not the last.
    """

    def __init__(
        self, world: World, chance: Random, epochs: SinkEpochs, attempts: Path, start: Callable[[], Life]
    ) -> None:
        """Start the owner; the first worker comes with the first step.

        Args:
            world: What they stand on.
            chance: Draws who does what next.
            epochs: What the owner knows of its sinks' writers.
            attempts: The workers' attempt file.
            start: Opens the folds' files and restores the folds.
        """
        self._world, self._chance, self._epochs, self._path, self._start = world, chance, epochs, attempts, start
        self._workers: list[tuple[LastingWorker, list[_Folds], Attempts]] = []
        self._build = 0
        self._is_nested = False
        self.fenced = 0

    def step(self) -> bool:
        """One worker takes a page; whether there may be more to do."""
        rivals = self._chance.random() < _SHARE_OF_RIVALS
        if not self._workers or (rivals and len(self._workers) == 1):
            self._hire()
        place = self._chance.randrange(len(self._workers))
        worker, folds, _ = self._workers[place]
        try:
            return worker.step() or len(self._workers) > 1
        except Fenced:
            self.fenced += 1
            worker.close()
            self._workers = [other for other in self._workers if other[1] is not folds]
            return True

    def finish(self) -> FoldSet:
        """Let the newest worker take everything there is, and return its folds."""
        for _ in range(_MOST_BUILDS):
            folds = self._catch_up()
            if folds is not None:
                return folds
            self.go_home()
            self._build += 1
        sentence = "the folds do not come to the journal's end, whatever the build"
        raise Broken(sentence)

    def _catch_up(self) -> FoldSet | None:
        """The folds at the journal's end; None when they stop before a record."""
        for _ in range(_MOST_STEPS):
            self._workers = self._workers[-1:]
            if self.step() or len(self._workers) != 1:
                continue
            _, folds, attempts = self._workers[0]
            if attempts.stopped is not None:
                return None
            if all(runner.offset == self._world.journal.end() for runner in folds[-1].runners):
                return folds[-1].set
        return None

    def go_home(self) -> None:
        """Let go of every file."""
        for worker, _, _ in self._workers:
            worker.close()
        self._workers.clear()

    def _hire(self) -> None:
        opened: list[_Folds] = []

        def open_folds() -> Any:
            opened.append(_Folds(self._start()))
            return opened[-1]

        attempts = Attempts(self._path, f"build {self._build}", *_PACE)
        owner = _Owner(self._world, self._epochs, self._interrupt)
        reader = _Reader(self._world, self._chance)
        worker = LastingWorker(
            open_folds, cast(Any, reader), cast(Any, owner), attempts, _say_nothing, _nothing_takes_over, _PACE
        )
        self._workers.append((worker, opened, attempts))

    def _interrupt(self) -> None:
        """A rival may come while a worker waits for the owner's answer."""
        if not self._is_nested and len(self._workers) == 1 and self._chance.random() < _SHARE_OF_RIVALS:
            self._is_nested = True
            try:
                self._hire()
                self._workers[-1][0].step()
            finally:
                self._is_nested = False


def _nothing_takes_over(_: object) -> None:
    """Rebuilds beside files are not simulated."""


def _say_nothing(_: str) -> None:
    """Nobody listens."""
