"""A fold: a deterministic reader of the journal with state.

f(journal) and nothing else: no wall clock, no unseeded randomness, no dependence on how the records were batched.
"""

from collections.abc import Sequence
from typing import Protocol

from journal.checkpoint import FoldFile
from journal.record import Draft, Kind, Record


class Fold(Protocol):
    """What the runner drives. ``name`` names its file and its sink; ``version`` rises when its state changes shape."""

    @property
    def name(self) -> str:
        """Stored in the checkpoint and used as the sink of what the fold derives."""
        ...

    @property
    def version(self) -> int:
        """A checkpoint of another version is rebuilt from the journal."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of records that it looks at; the runner passes it no others."""
        ...

    @property
    def resume_offset(self) -> int | None:
        """Where to resume after a restart when the saved state is older than the last record applied; None: there."""
        ...

    def load(self, file: FoldFile) -> None:
        """Restore the state that the last commit saved; an empty file means the beginning."""
        ...

    def apply(self, record: Record) -> Sequence[Draft]:
        """Take one record of its kinds, in order; return what follows from it. The order numbers the outputs."""
        ...

    def save(self, file: FoldFile) -> None:
        """Write what changed since the last save into the open transaction."""
        ...

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical state: equal for equal journals, whatever the restarts."""
        ...
