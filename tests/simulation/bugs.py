"""Mistakes that a store or a fold could make, planted behind a switch: the simulator must find every one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from journal.checkpoint import FoldFile
from tests.simulation.faults import Faults
from tests.simulation.stores import SimulatedFoldFile, SimulatedJournal
from training.join import JoinFold
from training.label_rule import LabelRule
from training.unanswered import Unanswered


class _Torn(SimulatedFoldFile):
    """Remembers the position that a transaction wants to write."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path, faults)
        self._wanted: tuple[Any, ...] | None = None

    def set_position(self, *place: Any) -> None:
        """See `FoldFile.set_position`; what it writes, and when, is the bug."""
        self._wanted = place

    def _write_position(self) -> None:
        if self._wanted is not None:
            with FoldFile.transaction(self):
                FoldFile.set_position(self, *self._wanted)
            self._wanted = None


class PositionFirst(_Torn):
    """Commits the position, whatever becomes of the effect."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `FoldFile.transaction`."""
        try:
            with super().transaction():
                yield
        finally:
            self._write_position()


class EffectFirst(_Torn):
    """Commits the effect, then the position: a crash between the two applies records twice."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `FoldFile.transaction`."""
        with super().transaction():
            yield
        self._write_position()


class ForgottenMarks(SimulatedJournal):
    """A restart forgets what the sinks have taken."""

    def restart(self) -> None:
        """See `SimulatedJournal.restart`."""
        super().restart()
        self._marks.clear()


class MarksFirst(SimulatedJournal):
    """A group that failed leaves its marks behind."""

    @contextmanager
    def group(self) -> Iterator[None]:
        """See `journal.log.Journal.group`."""
        moved = dict(self._marks)
        try:
            with super().group():
                yield
                moved = dict(self._marks)
        finally:
            self._marks.update(moved)


class RecordsFirst(SimulatedJournal):
    """A group that failed at its commit leaves its records behind, and not the ids and marks that belong to them."""

    @contextmanager
    def group(self) -> Iterator[None]:
        """See `journal.log.Journal.group`."""
        before = len(self._records)
        left: list[Any] = []
        stamper = self._stamper
        try:
            with super().group():
                try:
                    yield
                finally:
                    left, stamper = self._records[before:], self._stamper.copy()
        except BaseException:
            self._records += left
            self._stamper = stamper
            raise


class _Hasty(Unanswered):
    """Believes that nobody is behind with answers."""

    def precede(self, offset: int) -> bool:
        """See `Unanswered.precede`."""
        return False


class HastyJoin(JoinFold):
    """Takes the last answer that is there when a label comes."""

    def __init__(self, rule: LabelRule, questions: str) -> None:
        super().__init__(rule, questions)
        self._unanswered = _Hasty()


FILES: dict[str, type[SimulatedFoldFile]] = {
    "position-before-effect": PositionFirst,
    "effect-before-position": EffectFirst,
}
JOURNALS: dict[str, type[SimulatedJournal]] = {
    "forgotten-marks": ForgottenMarks,
    "marks-before-records": MarksFirst,
    "records-before-marks": RecordsFirst,
}
JOINS: dict[str, type[JoinFold]] = {"label-acts-at-once": HastyJoin}
ACK_BEFORE_COMMIT = "ack-before-commit"
CHECKPOINT_LEADS = "checkpoint-before-journal"
BUGS = (*FILES, *JOURNALS, *JOINS, ACK_BEFORE_COMMIT, CHECKPOINT_LEADS)
