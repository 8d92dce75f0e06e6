"""The journal on SQLite: segments in a folder, owned by one process, read by any (`journal.sqlite_reader`).

The owner keeps the stamps, marks and tallies in memory and writes them with the records of their group, so a commit is
one transaction on one file.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from journal.acked import Acked, read_acked
from journal.archive import load_archive, sweep
from journal.blobs import Blobs, sync_folder
from journal.chain import Chain
from journal.errors import Corrupt, DurabilityLost, Misconfigured
from journal.log import START, Conflict, Outcome, Repeat, Replayed
from journal.owner import OwnerLock
from journal.record import FORMAT, Cause, Draft, Kind, Record
from journal.segment import Segment, first_of, segment_path, segment_paths
from journal.stamp import Stamper, causes, identity, is_behind, is_remembered

RECORDS_PER_SEGMENT = 1_000_000
PAGES_PER_CHECKPOINT = 1_000
"""SQLite's own measure, 4 MB: more makes a start slower, less makes commits slower."""


class SqliteJournal:
    """The owner's end of the journal."""

    def __init__(
        self,
        folder: Path,
        pipeline: str,
        *,
        dedup_window: int | None = None,
        records_per_segment: int = RECORDS_PER_SEGMENT,
        blobs: Blobs | None = None,
    ) -> None:
        """Own the folder, make what was committed durable, and stand at its end.

        Args:
            folder: Where the segments are; created when missing.
            pipeline: Whose journal it is; another pipeline's folder is refused.
            dedup_window: How long ids are remembered, in microseconds of journal time; None means for ever.
            records_per_segment: When a segment is sealed.
            blobs: Where segments lie that have left the folder; by default where the folder's manifest says.

        Raises:
            OwnedElsewhere, NotWritable, Misconfigured, DurabilityLost
            Corrupt: A file is damaged, or records that were acknowledged are gone.
        """
        self._lock = OwnerLock(folder)
        try:
            self._open(folder, pipeline, blobs)
        except BaseException:
            self._lock.release()
            raise
        self.folder = folder
        self._window = dedup_window
        self._limit = records_per_segment
        self._failed = False
        self._closed = False
        self._open_group = False
        self._touched_marks: set[str] = set()
        self._touched_tallies: set[str] = set()

    def _open(self, folder: Path, pipeline: str, blobs: Blobs | None) -> None:
        _discard_unborn(folder)
        sweep(folder, load_archive(folder))
        if not segment_paths(folder):
            _create(folder, 0, pipeline, None).close()
        self._chain = Chain(folder, _open_synced, blobs)
        self._current = self._chain.local[-1]
        try:
            self._stand(folder, pipeline)
        except BaseException:
            self._chain.close()
            raise

    def _stand(self, folder: Path, pipeline: str) -> None:
        _check_belongs(self._current, pipeline)
        self._current.check_ends()
        self.incarnation = str(self._current.meta("incarnation"))
        end = self.end_on_disk()
        _check_acked(folder, end)
        self._acked = Acked(folder, self.incarnation, end)
        self._stamper = Stamper(end, self._current.meta("last_at") or 0, self._current.meta("clock") or 0)
        self._marks = self._current.marks()
        self._tallies = self._current.tallies()

    @property
    def clock(self) -> int:
        """The largest ``time`` accepted so far."""
        return self._stamper.clock

    def append(self, drafts: Sequence[Draft], *, sink: str = "", derived_from: Record | None = None) -> list[Outcome]:
        """See `journal.log.Journal.append`."""
        if self._open_group:
            return [self._append(draft, sink, cause) for draft, cause in causes(drafts, derived_from)]
        with self.group():
            return self.append(drafts, sink=sink, derived_from=derived_from)

    def foresee(self, drafts: Iterable[Draft]) -> None:
        """See `journal.log.Journal.foresee`."""
        keys = [key for draft in drafts if (key := identity(draft)) is not None]
        self._chain.foresee(keys, self._is_forgotten)

    def _append(self, draft: Draft, sink: str, cause: Cause | None) -> Outcome:
        if sink and cause is not None:
            if is_behind(cause, self._marks.get(sink)):
                return Replayed()
            self._marks[sink] = cause
            self._touched_marks.add(sink)
        key = identity(draft)
        if key is not None and (taken := self._taken(key, draft.kind)) is not None:
            return Repeat(taken.offset) if taken.conflict == draft.conflict else Conflict(taken.offset)
        record = self._stamper.place(draft, cause)
        self._current.insert(record, key)
        return record

    def _taken(self, key: str, kind: Kind) -> Record | None:
        record = self._chain.find(key, kind, self._is_forgotten)
        return record if record and is_remembered(record, self._stamper.clock, self._window) else None

    def forgotten(self, draft: Draft) -> Record | None:
        """See `journal.log.Journal.forgotten`."""
        key = identity(draft)
        record = None if key is None else self._chain.find(key, draft.kind)
        return None if record is None or is_remembered(record, self._stamper.clock, self._window) else record

    def _is_forgotten(self, moment: int) -> bool:
        return self._window is not None and moment < self._stamper.clock - self._window

    @contextmanager
    def group(self) -> Iterator[None]:
        """See `journal.log.Journal.group`. Groups do not nest."""
        self._refuse_after_failure()
        if self._stamper.end - self._current.first + 1 >= self._limit:
            try:
                self._rotate()
            except (apsw.Error, OSError) as error:
                raise self._lost(error) from error
        before = (dict(self._marks), dict(self._tallies), self._stamper.copy())
        self._open_group = True
        try:
            self._current.db.execute("BEGIN IMMEDIATE")
            yield
            self._current.write()
            self._write_ends()
            self._current.db.execute("COMMIT")
        except BaseException as error:
            self._marks, self._tallies, self._stamper = before
            self._roll_back(error)
            raise
        finally:
            self._chain.forget()
            self._open_group = False
            self._touched_marks.clear()
            self._touched_tallies.clear()
        self._acked.note(self._stamper.end)
        if self._current.wal_pages >= PAGES_PER_CHECKPOINT:
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Empty the log. What it holds is durable already, so a full disk may wait; a failed sync may not."""
        try:
            self._current.checkpoint()
        except (apsw.FullError, apsw.BusyError, apsw.LockedError):
            return
        except apsw.Error as error:
            raise self._lost(error) from error

    def _write_ends(self) -> None:
        self._current.set_meta(last_at=self._stamper.last_at, clock=self._stamper.clock)
        self._current.set_marks({sink: self._marks[sink] for sink in sorted(self._touched_marks)})
        self._current.set_tallies({name: self._tallies[name] for name in sorted(self._touched_tallies)})
        self._current.seal_ends(self._marks, self._tallies, self._stamper.last_at, self._stamper.clock)

    def _roll_back(self, error: BaseException) -> None:
        """Undo a failed group. A full disk may heal; any other failed write means that nothing may be acked again."""
        if self._current.db.in_transaction:
            try:
                self._current.db.execute("ROLLBACK")
            except apsw.Error:
                self._failed = True
        if isinstance(error, apsw.Error):
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> DurabilityLost:
        self._failed = self._failed or not isinstance(error, apsw.FullError)
        return DurabilityLost(
            which=f"{self._current.path.name} ({error})",
            fix="The owner stops here; check the disk, then start it again"
            if self._failed
            else "Make room on the disk and try again",
        )

    def _refuse_after_failure(self) -> None:
        if self._failed:
            raise DurabilityLost(
                which=f"{self._current.path.name} failed before", fix="Check the disk, then start the owner again"
            )

    def _rotate(self) -> None:
        first = self._stamper.end + 1
        segment = _create(
            self.folder, first, str(self._current.meta("pipeline")), self.incarnation, self._stamper.last_at
        )
        with segment.db:
            segment.set_meta(last_at=self._stamper.last_at, clock=self._stamper.clock)
            segment.set_marks(self._marks)
            segment.set_tallies(self._tallies)
            segment.seal_ends(self._marks, self._tallies, self._stamper.last_at, self._stamper.clock)
            segment.set_meta(born=1)
        self._checkpoint()
        self._chain.add(segment)
        self._current = segment

    @property
    def failed(self) -> bool:
        """Whether a write failed in a way that lets nothing be acknowledged again."""
        return self._failed

    def next_at(self) -> int:
        """The ``at`` of the next derived record."""
        return self._stamper.next_at()

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.read`; the owner also sees its open group."""
        return self._chain.read(after, limit) if partition == 0 else []

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        """See `journal.log.Journal.of_kind`."""
        return self._chain.of_kind(kind, after, limit)

    def end(self, partition: int = 0) -> int:
        """The last offset, the open group's included."""
        return self._stamper.end if partition == 0 else START

    def end_on_disk(self) -> int:
        """The last offset that the files hold."""
        return self._chain.last()

    def mark(self, sink: str) -> Cause | None:
        """The sink's mark."""
        return self._marks.get(sink)

    def marks(self) -> dict[str, Cause]:
        """Every sink's mark."""
        return dict(self._marks)

    def set_mark(self, sink: str, cause: Cause) -> None:
        """Move the sink's mark; inside a group, since it belongs to what the group holds."""
        self._marks[sink] = cause
        self._touched_marks.add(sink)

    def tally(self, name: str, count: int = 1) -> None:
        """Count what leaves no record; inside a group."""
        self._tallies[name] = self._tallies.get(name, 0) + count
        self._touched_tallies.add(name)

    def tallies(self) -> dict[str, int]:
        """All counts by name."""
        return dict(self._tallies)

    def close(self) -> None:
        """Let go of the files and of their ownership."""
        if self._closed:
            return
        self._closed = True
        if self._failed:
            self._current.abandon()
        self._acked.close()
        self._chain.close()
        self._lock.release()


def _open_synced(path: Path) -> Segment:
    """Open a segment and make what its log holds durable before anyone reads it."""
    segment = Segment(path)
    try:
        segment.checkpoint(wholly=True)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        segment.abandon()
        raise segment.corrupt(str(error)) from error
    except (apsw.FullError, apsw.IOError) as error:
        segment.abandon()
        raise DurabilityLost(
            which=f"{path.name} ({error})", fix="Check the disk and make room, then start the owner again"
        ) from error
    return segment


def _check_acked(folder: Path, end: int) -> None:
    noted = read_acked(folder)
    if noted.end > end:
        raise Corrupt(
            which=f"{folder}: records {end + 1} to {noted.end} were acknowledged and are gone from the last segment",
            fix="Run `rivermill journal repair` with a backup that holds them; nothing was cut or overwritten",
        )


def _create(folder: Path, first: int, pipeline: str, incarnation: str | None, last_at: int = 0) -> Segment:
    segment = Segment(segment_path(folder, first))
    segment.first, segment.begins_after = first, last_at
    with segment.db:
        segment.set_meta(
            first=first,
            pipeline=pipeline,
            format=FORMAT,
            incarnation=incarnation or os.urandom(8).hex(),
            begins_after=last_at,
        )
        if incarnation is None:
            segment.set_meta(born=1)
    sync_folder(folder)
    return segment


def _discard_unborn(folder: Path) -> None:
    """Remove a segment whose birth a crash interrupted: it holds no record yet, or it would be marked as born."""
    for path in segment_paths(folder)[-1:]:
        if read_acked(folder).end >= first_of(path):
            return  # It was born: what its log has lost is for `_check_acked` to say.
        segment = Segment(path)
        unborn = segment.meta("born") is None and segment.last_offset() is None
        segment.close()
        if unborn:
            for file in folder.glob(f"{path.name}*"):
                file.unlink()


def _check_belongs(segment: Segment, pipeline: str) -> None:
    found, form = segment.meta("pipeline"), segment.meta("format")
    if found != pipeline:
        raise Misconfigured(
            which=f"{segment.path} is the journal of pipeline {found!r}, not of {pipeline!r}",
            fix="Use another RIVERMILL_HOME",
        )
    if form > FORMAT:
        raise Misconfigured(
            which=f"{segment.path} has format {form}, this release reads up to {FORMAT}", fix="Use a newer release"
        )
