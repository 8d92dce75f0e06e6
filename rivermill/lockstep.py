"""One process, every record through every fold before the next one is stamped.

A source event is taken in, then each runner applies it in order (features, answers, join, learner), then each applies
what followed from it, and only then the next event enters. The journal commits once per group of events and the folds
after it, so a checkpoint trails the journal. After a crash the tail is read back and applied again: what it emits is
there already, and the journal drops it by the sink's mark.

A quality rule that stops a stream does so here at the very next event: the group ends behind an alert or a decision,
and the first event that a rule holds back ends the run, with everything before it committed.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from journal.errors import Stopped
from journal.intake import Accepted, Intake, Quarantined, Taken
from journal.log import Journal
from journal.record import Cause, Draft, Kind, Record
from journal.runner import Runner

EVENTS_PER_GROUP = 8_000
_PAGE = 1_000
_STOPS_OR_RESUMES = frozenset({Kind.ALERT, Kind.DECISION})
# Records, rows and entities are no cycles and most of them live on: looking for garbage after every 700 of them, as
# Python does by default, costs a tenth of a run.
_OBJECTS_PER_COLLECTION = (1_000_000, 20, 100)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come: lines offered so far, and the journal's clock in microseconds."""

    offered: int
    clock: int


class Agenda(Protocol):
    """What is to be done when the journal's clock reaches a moment."""

    @property
    def due(self) -> int | None:
        """The next moment, in microseconds; None when there is nothing to do."""
        ...

    def act(self) -> None:
        """Do what is due at the journal's clock, with everything before it committed; `due` moves on."""
        ...


class NothingToDo:
    """An agenda without a moment."""

    due: int | None = None

    def act(self) -> None:
        """Nothing."""


NOTHING = NothingToDo()


class Lockstep:
    """The whole loop over one journal."""

    def __init__(self, journal: Journal, intake: Intake, runners: Sequence[Runner]) -> None:
        """Wire the loop; ``runners`` in the order in which each record visits them."""
        self.journal = journal
        self._intake = intake
        self.runners = runners
        self._routes = {kind: [runner for runner in runners if kind in runner.kinds] for kind in Kind}
        self._unheeded = True

    def catch_up(self) -> int:
        """Apply what the journal holds and the folds have not committed; return how many records that was."""
        applied = 0
        after = min(runner.offset for runner in self.runners)
        with self.journal.group():
            while page := self.journal.read(0, after, _PAGE):
                for record in page:
                    for runner in self.runners:
                        runner.step(record)
                after = page[-1].offset
                applied += len(page)
        self.commit_folds()
        return applied

    def offer(self, raw: bytes, *, sink: str = "", cause: Cause | None = None) -> Taken:
        """Take one event in and let everything follow from it. Durable when the surrounding group ends."""
        taken = self._intake.take(raw, sink=sink, cause=cause)
        record = taken.record if isinstance(taken, (Accepted, Quarantined)) else None
        if record is not None:
            self.run_through(record)
        return taken

    def land(self, draft: Draft) -> None:
        """Append what no fold derived (a version, a decision's echo) and let everything follow from it, durably."""
        with self.journal.group():
            (outcome,) = self.journal.append((draft,))
            if isinstance(outcome, Record):
                self.run_through(outcome)
        self.commit_folds()

    def run_through(self, record: Record) -> None:
        """One record and all that follows from it, through every fold."""
        queue = deque((record,))
        while queue:
            current = queue.popleft()
            if current.kind in _STOPS_OR_RESUMES:
                self._unheeded = True
            for runner in self._routes[current.kind]:
                queue.extend(runner.step(current))

    def play(
        self,
        events: Iterable[bytes],
        sink: str,
        *,
        group: int = EVENTS_PER_GROUP,
        agenda: Agenda = NOTHING,
        progress: Callable[[Progress], None] = lambda _: None,
        notice: Callable[[int, Taken], None] = lambda _, __: None,
        seal: Callable[[], None] = lambda: None,
    ) -> int:
        """Offer every event that this sink has not offered before; return how many lines the input had.

        Args:
            events: One JSON CloudEvent each. The same input again goes on where the last run stopped.
            sink: Names the input: its lines are its offsets.
            group: Events per commit. It changes nothing but speed.
            agenda: What to stop for: the group ends at the first event that reaches the moment.
            progress: Called after each commit.
            notice: Called with the line's number (from 0) and its fate, if that is anything but `Accepted`.
            seal: Called at the end of each group, inside its transaction.

        Raises:
            Stopped: A quality rule holds the next event's stream. The same input goes on there once it is lifted.
        """
        mark = self.journal.mark(sink)
        line = mark.offset + 1 if mark else 0
        remaining = islice(events, line, None)
        with rare_collections():
            self._act(agenda)
            more = True
            while more:
                begun, due, held = line, agenda.due, None
                self._heed()
                with self.journal.group():
                    for raw in islice(remaining, group):
                        try:
                            taken = self.offer(raw, sink=sink, cause=Cause(0, line, 0))
                        except Stopped as error:
                            held = error
                            break
                        if not isinstance(taken, Accepted):
                            notice(line, taken)
                        line += 1
                        if self._unheeded or (due is not None and self.journal.clock >= due):
                            break
                    seal()
                self.commit_folds()
                progress(Progress(line, self.journal.clock))
                if held is not None:
                    raise held
                self._act(agenda)
                more = line > begun
        return line

    def _heed(self) -> None:
        if self._unheeded:
            self._intake.heed_alerts()
            self._unheeded = False

    def _act(self, agenda: Agenda) -> None:
        while agenda.due is not None and self.journal.clock >= agenda.due:
            agenda.act()

    def commit_folds(self) -> None:
        """Checkpoint every fold at what the journal has committed."""
        end = self.journal.end()
        for runner in self.runners:
            runner.pass_over(end)
            runner.commit()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for garbage seldom while many records go through folds."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_OBJECTS_PER_COLLECTION)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
