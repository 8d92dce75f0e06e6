"""What a run shows while it goes: event time, events per second, lag, AUC; and each event that was not accepted."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, assert_never

from journal.clock import DAY, datetime_of
from journal.intake import Accepted, Conflicted, Quarantined, Refused, Repeated, Taken
from journal.log import Replayed
from rivermill.lockstep import Progress
from rivermill.wiring import Run

if TYPE_CHECKING:
    from rich.progress import Progress as Progressing

_MOST_NOTICES = 20
_PLAIN_EVERY = 5.0


class LiveLine:
    """A progress line on a terminal, a plain line now and then elsewhere, nothing when quiet. On standard error."""

    def __init__(self, run: Run, *, quiet: bool, until: int | None) -> None:
        """Prepare to show a run.

        Args:
            run: What goes.
            quiet: Show nothing.
            until: Where the clock will stand at the end, in microseconds; None when nobody knows.
        """
        self._run, self._quiet, self._until = run, quiet, until
        self._started = time.monotonic()
        self._first: int | None = None
        self._last_plain = self._started
        self._notices = 0
        self._bar: Progressing | None = None

    def __enter__(self) -> Self:
        """Start showing."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
            from rich.progress import BarColumn, SpinnerColumn, TextColumn  # noqa: PLC0415
            from rich.progress import Progress as Progressing  # noqa: PLC0415

            columns = (SpinnerColumn(), BarColumn(20), TextColumn("{task.description}"))
            self._bar = Progressing(*columns, console=Console(stderr=True))
            total = None if self._until is None else self._until - self._run.pipeline.starts[0]
            self._task = self._bar.add_task("starting", total=total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: Progress) -> None:
        """Show how far the run is."""
        if self._quiet:
            return
        if self._first is None:
            self._first = progress.offered
            self._started = time.monotonic()
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.clock - self._run.pipeline.starts[0])
        self._show(self._sentence(progress))

    def finishing(self) -> None:
        """Say that the events are in and the rest is being written."""
        if not self._quiet:
            self._show("flushing history, building the dataset, computing digests", now=True)

    def tell(self, sentence: str) -> None:
        """Say what the run has stopped for."""
        if not self._quiet:
            self._show(f"{datetime_of(self._run.journal.clock):%Y-%m-%d %H:%M} · {sentence}", now=True)

    def notice(self, line: int, taken: Taken) -> None:
        """Say what became of an event that was not accepted; after some of them only the counts go on."""
        self._notices += 1
        if self._quiet or self._notices > _MOST_NOTICES:
            return
        more = " (further ones are only counted)" if self._notices == _MOST_NOTICES else ""
        sys.stderr.write(f"line {line + 1}: {_became(taken)}{more}\n")

    def _sentence(self, progress: Progress) -> str:
        rate = (progress.offered - (self._first or 0)) / max(time.monotonic() - self._started, 1e-9)
        auc = self._run.folds.learner.progress()["auc_binned"]
        waiting = self._run.folds.join.counts()["pending"]
        day = datetime_of(progress.clock)
        elapsed = (progress.clock - self._run.pipeline.starts[0]) / DAY
        return (
            f"{day:%Y-%m-%d %H:%M} (day {elapsed:.0f}) · {progress.offered:,} events · {rate:,.0f} events/s · "
            f"{waiting:,} answers wait for their outcome · AUC so far {auc:.3f}"
        )

    def _show(self, sentence: str, *, now: bool = False) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=sentence)
        elif now or time.monotonic() - self._last_plain >= _PLAIN_EVERY:
            self._last_plain = time.monotonic()
            sys.stderr.write(sentence + "\n")


def _became(taken: Taken) -> str:
    match taken:
        case Accepted():
            return f"accepted as record {taken.record.offset}"
        case Repeated():
            return f"repeated: record {taken.offset} says the same"
        case Conflicted():
            return f"refused: record {taken.offset} has its id and says something else"
        case Quarantined():
            return f"quarantined as {taken.id}: {taken.reason}"
        case Refused():
            return f"refused ({taken.bucket}): {taken.reason}"
        case Replayed():
            return "taken before"
        case _:
            assert_never(taken)
