"""Drives one fold: restore, skip what is behind it, apply, number its outputs, commit state and position as one.

A commit follows the journal's own: a checkpoint may trail the journal and never leads it. After a crash the tail is
applied again; what the fold then emits again, the journal drops by the sink's mark.
"""

from collections.abc import Callable, Sequence

import msgspec

from journal.checkpoint import FoldFile
from journal.fold import Fold
from journal.log import START, Journal, Position
from journal.poison import skips_in
from journal.record import Draft, Record
from journal.stamp import causes
from journal.upcast import Lift, as_stored


class Runner:
    """One fold over one journal, with its file."""

    def __init__(
        self,
        fold: Fold,
        file: FoldFile,
        journal: Journal,
        fingerprint: str,
        *,
        lift: Lift = as_stored,
        beside: str = "",
    ) -> None:
        """Restore the fold, or start it anew when its checkpoint is not of this journal, version or build.

        Args:
            fold: What to drive.
            file: Where its state and position are committed.
            journal: What it reads and where its outputs go.
            fingerprint: Of the libraries whose numbers the state holds; another one means a rebuild.
            lift: What each record goes through before the fold sees it.
            beside: Another fold whose skipped records this one passes over as well; none when empty.
        """
        self.fold = fold
        self._file = file
        self._journal = journal
        self._fingerprint = fingerprint
        self.kinds = fold.kinds
        self.offset = self._restored()
        fold.load(file)
        self._lift = lift
        # A decision to skip stands behind the record that it is about: all of them are known before the first.
        skips = skips_in(journal)
        self._skips = skips.get(fold.name, frozenset()) | skips.get(beside, frozenset())
        is_plain = lift is as_stored and not self._skips
        self._take: Callable[[Record], Sequence[Draft]] = fold.apply if is_plain else self._take_lifted

    @property
    def epoch(self) -> int:
        """Which writer of its file this is."""
        return self._file.epoch

    def raise_epoch(self, epoch: int) -> None:
        """See `journal.checkpoint.FoldFile.raise_epoch`."""
        self._file.raise_epoch(epoch)

    def _take_lifted(self, record: Record) -> Sequence[Draft]:
        return () if record.offset in self._skips else self.fold.apply(self._lift(record))

    def _restored(self) -> int:
        position = self._file.position(self.fold.name)
        if position is None:
            return START
        known = self._file.identity(self.fold.name) == (self.fold.version, self._fingerprint)
        if not (known and position.lies_in(self._journal)):
            # Raises where retention let go of the beginning: a state that cannot be built again stays as it is.
            self._journal.read(position.partition, START, 1)
            self._file.clear()
            return START
        return position.offset

    def apply(self, record: Record) -> Sequence[Draft]:
        """Apply one record; return what follows from it, with its causes, for another process to append."""
        if record.offset <= self.offset:
            return ()
        self.offset = record.offset
        drafts = self._take(record) if record.kind in self.kinds else ()
        if not drafts:
            return ()
        return [msgspec.structs.replace(draft, cause=cause) for draft, cause in causes(drafts, record)]

    def step(self, record: Record) -> Sequence[Record]:
        """Apply one record; return what was appended because of it. Records behind the fold change nothing."""
        offset = record.offset
        if offset <= self.offset:
            return ()
        self.offset = offset
        drafts = self._take(record) if record.kind in self.kinds else ()
        if not drafts:
            return ()
        outcomes = self._journal.append(drafts, sink=self.fold.name, derived_from=record)
        return [new for new in outcomes if isinstance(new, Record)]

    def pass_over(self, offset: int) -> None:
        """Stand behind this offset: whoever drives several runners spares each the kinds that it does not look at."""
        self.offset = max(self.offset, offset)

    def commit(self) -> None:
        """Save the state and the position it belongs to, as one transaction; raises `Fenced`, `DurabilityLost`."""
        with self._file.transaction():
            self.fold.save(self._file)
            offset = self.fold.resume_offset
            position = Position(self._journal.incarnation, 0, self.offset if offset is None else offset)
            self._file.set_position(self.fold.name, self.fold.version, self._fingerprint, position)

    def close(self) -> None:
        """Let go of the fold's file."""
        self._file.close()
