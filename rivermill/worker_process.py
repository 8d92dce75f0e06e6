"""The worker of one pipeline: reads the journal, runs the folds, hands what follows to the journal's owner.

A page of records goes through every fold; what they derive is sent to the owner in one piece; when the owner has made
it durable the folds may commit. So a checkpoint trails the journal here as in lock-step, and what a restarted worker
sends again the owner drops by the sinks' marks. A page is what has arrived since the last one: a record at a time when
idle, `RECORDS_PER_PAGE` when behind. Folds commit behind each page, and while pages are full once in
`RECORDS_PER_COMMIT`: a state that changes with every page is written once for several.

A record that a fold cannot take stops all folds of this worker, since each reads what another derives; the owner takes
events on, and serving answers from the last snapshot. See `journal.poison`.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from features.view_sets import PUBLISH_VIEWS
from journal.body import Decision, body_of
from journal.errors import Busy, Fenced, OwnerDown, RivermillError, UpstreamError
from journal.owner_client import OwnerClient
from journal.poison import Attempts, skips_in
from journal.rebuild import CUTOVER, Succession
from journal.record import Cause, Draft, Kind, Record
from journal.runner import Runner
from journal.sqlite_reader import SqliteReader
from rivermill.build import build_fingerprint
from rivermill.lockstep import rare_collections
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home
from rivermill.skipping import cut_over
from rivermill.supervisor import say_on_stderr
from rivermill.wiring import Folds, open_folds

RECORDS_PER_PAGE = 1_000
RECORDS_PER_COMMIT = 8_000
DRAFTS_AT_ONCE = 4_000
"""Drafts of one request to the owner: even answers with all their features stay well within a frame."""
_LOOK_EVERY = 0.001
_RETRY_AFTER = 0.1
_PATIENCE = 10.0
HISTORY_ROWS_PER_FLUSH = 50_000


class Pace(NamedTuple):
    """How many records a worker takes at once, and at most before it commits."""

    page: int
    commit: int


USUAL = Pace(RECORDS_PER_PAGE, RECORDS_PER_COMMIT)


class FollowedJournal:
    """A journal that another process owns, as folds see it."""

    def __init__(self, reader: SqliteReader) -> None:
        self._reader = reader

    @property
    def incarnation(self) -> str:
        """Its life."""
        return self._reader.incarnation

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return self._reader.read(partition, after, limit)

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return self._reader.of_kind(kind, after, limit)

    def end(self, partition: int = 0) -> int:
        """See `journal.log.Journal.end`."""
        return self._reader.end(partition)

    def mark(self, sink: str) -> Cause | None:
        """See `journal.log.Journal.mark`."""
        return self._reader.mark(sink)


class Worker:
    """Drives a pipeline's folds behind the journal's end."""

    def __init__(self, folds: Folds, reader: SqliteReader, owner: OwnerClient, pace: Pace) -> None:
        self._reader, self._owner, self._pace = reader, owner, pace
        self._stopping = threading.Event()
        self._uncommitted = 0
        self._take_up(folds)

    def _take_up(self, folds: Folds) -> None:
        self._folds = folds
        self._routes = {kind: [runner for runner in folds.runners if kind in runner.kinds] for kind in Kind}

    def run(self) -> None:
        """Follow the journal until `stop`."""
        with rare_collections():
            while not self._stopping.is_set():
                if not self.step():
                    self._folds.table.tend()
                    self._stopping.wait(_LOOK_EVERY)
        self._folds.flush_history()

    def stop(self) -> None:
        """Let `run` return after the page it is at."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the folds' files."""
        self._folds.close()

    def step(self) -> bool:
        """Take one page through every fold, or commit what pages before it left; whether there was anything to do.

        Raises:
            Fenced: A newer worker has taken the folds.
        """
        self._reader.refresh()
        page = self._next()
        return self._take(page) if page else self._commit_all()

    def _next(self) -> Sequence[Record]:
        return self._reader.read(0, min(runner.offset for runner in self._folds.runners), self._pace.page)

    def _take(self, page: Sequence[Record]) -> bool:
        derived = self._derive(page)
        if derived and not self._hand_over(derived):
            self._uncommitted = 0  # the folds hold what the owner does not: only a restart may commit them
            return False
        for runner in self._folds.runners:
            runner.pass_over(page[-1].offset)
        self._uncommitted += len(page)
        if not self._may_wait(page):
            self._commit_all()
        return True

    def _may_wait(self, page: Sequence[Record]) -> bool:
        """Whether the commit may stand behind a later page."""
        return len(page) == self._pace.page and self._uncommitted + len(page) <= self._pace.commit

    def _commit_all(self) -> bool:
        """Commit every fold, if there is anything to commit; whether there was."""
        if not self._uncommitted:
            return False
        for runner in self._folds.runners:
            self._commit(runner)
        self._uncommitted = 0
        self._folds.flush_history(HISTORY_ROWS_PER_FLUSH)
        return True

    def _derive(self, page: Sequence[Record]) -> dict[str, list[Draft]]:
        derived: dict[str, list[Draft]] = {}
        alone = len(page) == 1
        try:
            for record in page:
                for runner in self._routes[record.kind]:
                    if alone:
                        self._enter(runner)
                    if drafts := runner.apply(record):
                        derived.setdefault(runner.fold.name, []).extend(drafts)
        except Exception as error:  # whatever a fold trips over is counted against the record
            self._accuse(runner, record, error)
            raise
        return derived

    def _commit(self, runner: Runner) -> None:
        runner.commit()

    def _enter(self, runner: Runner) -> None:
        """A batch of one enters a fold."""

    def _accuse(self, runner: Runner, record: Record, error: Exception) -> None:
        """A fold raised at a record."""

    def _hand_over(self, derived: dict[str, list[Draft]]) -> bool:
        """Send until the owner has it; False when this worker is told to stop first. Nothing was committed then.

        What is much goes in parts: one record may let a hundred thousand questions expire. What the owner has of it
        when something dies, the sinks' marks drop.
        """
        return all(self._send(part) for part in parts_of(derived, DRAFTS_AT_ONCE))

    def _send(self, part: list[tuple[str, list[Draft]]]) -> bool:
        while not self._stopping.is_set():
            with contextlib.suppress(OwnerDown, Busy):
                self._owner.append(part)
                return True
            self._stopping.wait(_RETRY_AFTER)
        return False


def parts_of(derived: dict[str, list[Draft]], most: int) -> Iterator[list[tuple[str, list[Draft]]]]:
    """Batches by sink in parts of at most so many drafts, in order; usually there is one."""
    if sum(map(len, derived.values())) <= most:
        yield list(derived.items())
        return
    for sink, drafts in derived.items():
        for start in range(0, len(drafts), most):
            yield [(sink, drafts[start : start + most])]


class FoldRaised(Exception):
    """A fold could not take a record."""

    def __init__(self, fold: str, offset: int, error: Exception) -> None:
        super().__init__(f"fold {fold!r} at offset {offset}: {type(error).__name__}: {error}")
        self.fold, self.offset, self.error = fold, offset, error


class LastingWorker(Worker):
    """A worker that is its folds' only writer, and that finds the record which it cannot survive."""

    def __init__(
        self,
        open_folds: Callable[[], Folds],
        reader: SqliteReader,
        owner: OwnerClient,
        attempts: Attempts,
        say: Callable[[str], None],
        take_over: Callable[[Succession], object],
        pace: Pace = USUAL,
    ) -> None:
        """Restore the folds.

        Args:
            open_folds: Restores them from their files; again after one of them raised.
            reader: The journal.
            owner: Takes what they derive.
            attempts: What is known about the batches that the last worker did not survive.
            say: Told when a record cannot be taken.
            take_over: Decides, and echoes, that a fold which was rebuilt beside its file takes over.
            pace: How many records at once.
        """
        self._open, self._attempts, self._say, self._take_over = open_folds, attempts, say, take_over
        self._claimed = False
        super().__init__(open_folds(), reader, owner, pace)

    def run(self) -> None:
        """See `Worker.run`."""
        super().run()
        self._attempts.leave()

    def step(self) -> bool:
        """See `Worker.step`. A page whose record made a fold raise counts as none that was taken."""
        try:
            return super().step() or self._lets_take_over()
        except FoldRaised as poison:
            suspect = self._attempts.raised(poison.fold, poison.offset, poison.error)
            self._say(f"{poison}; time {suspect.deaths}" + (", and it stays there" if suspect.holds else ""))
            self._reopen()
            return False

    def _next(self) -> Sequence[Record]:
        may_go_on = (self._claimed or self._claim()) and not self._is_held()
        return self._attempts.cut(super()._next()) if may_go_on else ()

    def _claim(self) -> bool:
        with contextlib.suppress(OwnerDown, Busy):
            granted = self._owner.claim({runner.fold.name: runner.epoch for runner in self._folds.runners})
            for runner in self._folds.runners:
                runner.raise_epoch(granted[runner.fold.name])
            self._claimed = True
        return self._claimed

    def _is_held(self) -> bool:
        """Whether this worker stays before a record; it goes on when it is decided to skip that record."""
        suspect = self._attempts.stopped
        if suspect is None:
            return False
        if suspect.offset not in skips_in(self._reader).get(suspect.fold, ()):
            return True
        self._attempts.skipped()
        self._reopen()
        return not self._claim()

    def _lets_take_over(self) -> bool:
        """Decide that folds which were rebuilt beside their files take over, now that they have caught up."""
        if not (self._folds.beside and self._claimed and self._attempts.stopped is None and self._has_caught_up()):
            return False
        try:
            for succession in self._folds.beside:
                self._take_over(succession)
        except (OwnerDown, Busy):
            self._stopping.wait(_RETRY_AFTER)
        return True

    def _has_caught_up(self) -> bool:
        return min(runner.offset for runner in self._folds.runners) >= self._reader.end()

    def _reopen(self) -> None:
        self._folds.close()
        self._claimed, self._uncommitted = False, 0
        self._take_up(self._open())

    def _take(self, page: Sequence[Record]) -> bool:
        self._attempts.begin(page)
        if not super()._take(page):
            return False
        self._attempts.passed(page[-1].offset)
        if self._changes_files(page):
            self._commit_all()
            self._reopen()
        return True

    def _may_wait(self, page: Sequence[Record]) -> bool:
        return not self._attempts.is_careful and super()._may_wait(page)

    def _changes_files(self, page: Sequence[Record]) -> bool:
        """Whether from here on a fold runs that this worker does not have yet, or one takes its predecessor's place."""
        running = {runner.fold.name for runner in self._folds.runners}
        rebuilt = {(each.fold, each.identity.name) for each in self._folds.beside}
        decided = (body_of(record, Decision) for record in page if record.kind is Kind.DECISION)
        return any(
            (each.action == PUBLISH_VIEWS and each.details["fold"] not in running)
            or (each.action == CUTOVER and (each.details["fold"], each.details["identity"]) in rebuilt)
            for each in decided
        )

    def _enter(self, runner: Runner) -> None:
        self._attempts.enter(runner.fold.name)

    def _commit(self, runner: Runner) -> None:
        self._attempts.enter(runner.fold.name)
        runner.commit()

    def _accuse(self, runner: Runner, record: Record, error: Exception) -> None:
        if not isinstance(error, UpstreamError | Fenced):
            raise FoldRaised(runner.fold.name, record.offset, error) from error


def main(home_root: Path, folder: Path) -> None:
    """Run the worker of the pipeline in a folder until SIGTERM."""
    pipeline = load_pipeline(folder)
    home = Home(home_root, pipeline.name)
    reader = SqliteReader(home.journal)
    attempts = Attempts(home.attempts, build_fingerprint(), *USUAL)
    owner = OwnerClient(home.socket, timeout=_PATIENCE)
    worker = LastingWorker(
        lambda: open_folds(pipeline, home, FollowedJournal(reader), beside=True),
        reader,
        owner,
        attempts,
        say_on_stderr,
        partial(cut_over, home, why="rebuilt up to the journal's end", principal="worker"),
    )

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        worker.stop()

    signal.signal(signal.SIGTERM, ask_to_stop)
    try:
        worker.run()
    finally:
        worker.close()
        reader.close()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RivermillError as error:
        sys.stderr.write(f"rivermill: {error}\n")
        sys.exit(error.exit_code)
