"""The worker of one pipeline: reads the journal, runs the folds, hands what follows to the journal's owner.

A page of records goes through every fold; what they derive is sent to the owner in one piece; when the owner has made
it durable the folds commit. So a checkpoint trails the journal here as in lock-step, and what a restarted worker sends
again the owner drops by the sinks' marks.
"""

import contextlib
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from journal.errors import Busy, OwnerDown
from journal.owner_client import OwnerClient
from journal.record import Cause, Draft, Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home
from rivermill.wiring import Folds, open_folds

RECORDS_PER_PAGE = 1_000
_LOOK_EVERY = 0.01
_RETRY_AFTER = 0.1
_PATIENCE = 10.0
HISTORY_ROWS_PER_FLUSH = 50_000


class FollowedJournal:
    """A journal that another process owns, as folds see it."""

    def __init__(self, reader: SqliteReader) -> None:
        self._reader = reader

    @property
    def incarnation(self) -> str:
        """Its life."""
        return self._reader.incarnation

    def next_at(self) -> int:
        """The least ``at`` that a record handed to the owner now can get."""
        return max(self._reader.last_at + 1, self._reader.clock)

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`."""
        return self._reader.read(partition, after, limit)

    def end(self, partition: int = 0) -> int:
        """See `journal.log.Journal.end`."""
        return self._reader.end(partition)

    def mark(self, sink: str) -> Cause | None:
        """See `journal.log.Journal.mark`."""
        return self._reader.mark(sink)


class Worker:
    """Drives a pipeline's folds behind the journal's end."""

    def __init__(self, folds: Folds, reader: SqliteReader, owner: OwnerClient) -> None:
        self._folds, self._reader, self._owner = folds, reader, owner
        self._routes = {kind: [runner for runner in folds.runners if kind in runner.kinds] for kind in Kind}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Follow the journal until `stop`."""
        while not self._stopping.is_set():
            if not self.step():
                self._stopping.wait(_LOOK_EVERY)
        self._folds.flush_history()

    def stop(self) -> None:
        """Let `run` return after the page it is at."""
        self._stopping.set()

    def step(self) -> bool:
        """Take one page through every fold; whether there was one."""
        self._reader.refresh()
        after = min(runner.offset for runner in self._folds.runners)
        page = self._reader.read(0, after, RECORDS_PER_PAGE)
        if not page:
            return False
        derived: dict[str, list[Draft]] = {}
        for record in page:
            for runner in self._routes[record.kind]:
                if drafts := runner.apply(record):
                    derived.setdefault(runner.fold.name, []).extend(drafts)
        if derived and not self._hand_over(derived):
            return False
        for runner in self._folds.runners:
            runner.pass_over(page[-1].offset)
            runner.commit()
        self._folds.flush_history(HISTORY_ROWS_PER_FLUSH)
        return True

    def _hand_over(self, derived: dict[str, list[Draft]]) -> bool:
        """Send until the owner has it; False when this worker is told to stop first. Nothing was committed then."""
        while not self._stopping.is_set():
            with contextlib.suppress(OwnerDown, Busy):
                self._owner.append(list(derived.items()))
                return True
            self._stopping.wait(_RETRY_AFTER)
        return False


def main(home_root: Path, folder: Path) -> None:
    """Run the worker of the pipeline in a folder until SIGTERM."""
    pipeline = load_pipeline(folder)
    home = Home(home_root, pipeline.name)
    reader = SqliteReader(home.journal)
    folds = open_folds(pipeline, home, FollowedJournal(reader))
    worker = Worker(folds, reader, OwnerClient(home.socket, timeout=_PATIENCE))

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        worker.stop()

    signal.signal(signal.SIGTERM, ask_to_stop)
    try:
        worker.run()
    finally:
        folds.close()
        reader.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
