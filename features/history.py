"""History: every row that the online guard accepted, in Delta, each exactly once.

Rows take two steps. In the fold's transaction they go to an outbox table in the fold's own file, so they exist if and
only if the state that caused them does. Later a flush appends them to the view's Delta table and, once the append is
on disk, drops them from the outbox. The append carries a mark: the largest known time it holds. Known times rise with
the journal and a record's rows are never split between flushes, so after a crash between the two steps every row at or
below the mark is in the table already and is dropped.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from features.outbox import KNOWN, Outbox, arrow_schema
from features.rows import KeyValue, ViewSchema
from journal.errors import Corrupt, DurabilityLost, UnknownName

MARK = "history"
"""The app id under which a table keeps its mark."""


class History:
    """The Delta tables of a pipeline's views, one folder each under ``root``; written by one process."""

    def __init__(self, root: Path, views: Iterable[ViewSchema]) -> None:
        self.root = root
        self.views = {view.name: view for view in views}
        for view in self.views.values():
            path = root / view.name
            if not (path / "_delta_log").is_dir():
                path.mkdir(parents=True, exist_ok=True)
                DeltaTable.create(str(path), schema=arrow_schema(view), mode="ignore")

    def flush(self, outbox: Outbox, at_least: int = 0) -> int:
        """Move the outbox's saved rows to Delta, outside any transaction; how many rows were appended.

        Args:
            outbox: Where the fold's saves put them.
            at_least: Do nothing while fewer rows than this wait; 0 is the barrier before a read or a dataset.

        Raises:
            Corrupt: A table is damaged, or has lost rows that were flushed to it before.
        """
        if outbox.pending_rows() < max(at_least, 1):
            return 0
        appended = 0
        for view in outbox.pending_views():
            rows, through, last = outbox.read(view)
            appended += self.append(view, rows, through, outbox.flushed(view))
            outbox.confirm(view, through, last)
        return appended

    def append(self, view: str, rows: pa.Table, through: int, flushed: int) -> int:
        """Append rows that the table's mark does not cover yet, and make them durable.

        Args:
            view: Whose rows they are.
            rows: In the view's history schema.
            through: Their largest known time: the next mark.
            flushed: The mark that an earlier flush is known to have reached.
        """
        path = self.root / view
        table = open_table(path)
        mark = _mark(table)
        if mark < flushed:
            raise Corrupt(which=f"{path} ends at {mark}, but was flushed to {flushed}", fix=_REBUILD)
        fresh = rows.filter(pc.field(KNOWN) > _moment(mark))
        if len(fresh):
            marked = CommitProperties(app_transactions=[Transaction(MARK, through)])
            try:
                write_deltalake(table, fresh, mode="append", commit_properties=marked)
                _sync_commit(path, open_table(path).version())
            except (DeltaError, OSError) as error:
                fix = "Make room on the disk, then start again: what waits for history is flushed then"
                raise DurabilityLost(which=f"{path} ({str(error)[:200]})", fix=fix) from error
        return len(fresh)

    def read(self, view: str, key: Sequence[KeyValue] | None = None, limit: int = 100) -> pa.Table:
        """The newest ``limit`` rows of a view, or of one entity in it, oldest first.

        Args:
            view: Which view.
            key: The join-key values in sorted order of their names; None for every entity.
            limit: At most this many rows; more when several share the oldest known time.
        """
        if view not in self.views:
            raise UnknownName(which=f"view {view!r}", fix=f"There are: {', '.join(sorted(self.views))}")
        names = [name for name, _ in self.views[view].join_keys]
        wanted = _equal(dict(zip(names, key, strict=True))) if key is not None else pc.scalar(True)
        rows = open_dataset(self.root / view)
        known = rows.to_table(columns=[KNOWN], filter=wanted)[KNOWN]
        if len(known) > limit:
            oldest = known.take(pc.select_k_unstable(known, limit, [("", "descending")]))
            wanted = wanted & (pc.field(KNOWN) >= pc.min(oldest))
        return rows.to_table(filter=wanted).sort_by([(KNOWN, "ascending"), *((name, "ascending") for name in names)])


def open_table(path: Path) -> DeltaTable:
    """Open a view's Delta table.

    Raises:
        UnknownName: There is no table.
        Corrupt: Its log is damaged.
    """
    try:
        table = DeltaTable(str(path))
    except TableNotFoundError as error:
        raise UnknownName(which=f"{path} holds no Delta table", fix="Let the view's fold start once") from error
    except DeltaError as error:
        raise _damaged(path, error) from error
    last = _log_file(path, table.version())
    if last.exists() and not last.stat().st_size:
        raise Corrupt(which=f"{last} is empty", fix=_REBUILD)
    return table


def open_dataset(path: Path) -> ds.Dataset:
    """A view's rows, read lazily: only the columns and the range of known time that a scan asks for."""
    table = open_table(path)
    try:
        return table.to_pyarrow_dataset()
    except DeltaError as error:
        raise _damaged(path, error) from error


def mark_of(path: Path) -> int:
    """The largest known time that a view's table holds, in microseconds; 0 before its first row."""
    return _mark(open_table(path))


def _mark(table: DeltaTable) -> int:
    return table.transaction_version(MARK) or 0


_REBUILD = "Restore it from a backup, or delete it and its fold's file: both are rebuilt from the journal"


def _damaged(path: Path, error: Exception) -> Corrupt:
    return Corrupt(which=f"{path} ({str(error).partition(chr(10))[0]})", fix=_REBUILD)


def _moment(micros: int) -> pa.Scalar:
    return pa.scalar(micros, pa.timestamp("us", "UTC"))


def _equal(values: Mapping[str, KeyValue]) -> pc.Expression:
    wanted = pc.scalar(True)
    for name, value in values.items():
        wanted = wanted & (pc.field(name) == value)
    return wanted


def _log_file(path: Path, version: int) -> Path:
    return path / "_delta_log" / f"{version:020}.json"


def _sync_commit(path: Path, version: int) -> None:
    """Delta-rs leaves its files to the page cache; the outbox may forget rows only when they survive a power cut."""
    log = _log_file(path, version)
    actions = map(json.loads, log.read_text().splitlines())
    added = [path / action["add"]["path"] for action in actions if "add" in action]
    for file in chain(added, [log, log.parent, path]):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
