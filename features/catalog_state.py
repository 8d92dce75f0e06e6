"""What a fold's file and history hold of the views it computes: read-only, beside the fold that writes them."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pyarrow as pa

from features.catalog import Held
from features.dataset_known import computed_by
from features.history import mark_of, open_dataset
from features.outbox import KNOWN, Outbox
from features.rows import KeyValue
from features.stored_row import pack_time, unpack_time
from features.views import ViewPlan
from journal.checkpoint import FoldFile
from journal.errors import UnknownName

_HELD = """
WITH held (event, known, lives) AS (
    SELECT substr(row, 5, 8), substr(row, 13, 8), length(row) > 20 FROM online WHERE view = ?)
SELECT coalesce(sum(lives), 0), coalesce(sum(lives AND event < ?), 0), max(event), max(known) FROM held
"""
"""Of rows as `features.stored_row` packs them."""
_WAITING = "SELECT coalesce(sum(count), 0) FROM outbox WHERE view = ? AND through_known > ?"
_NEVER = -(2**63)


def held_of(view: ViewPlan, files: Iterable[Path], history: Path, now: int) -> Held | None:
    """What the fold that computes a view holds of it.

    Args:
        view: Which.
        files: Of the folds that may compute it.
        history: The folder of the views' Delta tables.
        now: The journal's, in microseconds: what staleness is judged at.

    Returns:
        None where none of the folds computes it.
    """
    for path in files:
        with closing(FoldFile(path, readonly=True)) as file:
            # One read transaction: all counts are those of one commit.
            file.db.execute("BEGIN")
            if computed_by(file).get(view.name) != view.digest:
                continue
            before = _NEVER if view.ttl is None else now - view.ttl
            entities, stale, event, known = file.db.execute(_HELD, (view.name, pack_time(before))).get
            mark, flushed = _flushed(history / view.name)
            waiting: int = file.db.execute(_WAITING, (view.name, mark)).get
            return Held(
                entities=entities,
                stale=stale,
                rows=flushed + waiting,
                newest_event=None if event is None else unpack_time(event),
                newest_known=None if known is None else unpack_time(known),
                late=_late(file, view),
            )
    return None


def require_computed(file: FoldFile, view: ViewPlan) -> None:
    """Raise `UnknownName` unless a fold's file holds this view, by this very definition."""
    computed = computed_by(file).get(view.name)
    if computed is None:
        fix = "`rivermill features plan` says what is missing: an apply, a backfill, or the fold's first start"
        raise UnknownName(which=f"nothing computes view {view.label} here", fix=fix)
    if computed != view.digest:
        fix = "Declare it as it was, or as a new version beside it; `rivermill features plan` says more"
        raise UnknownName(which=f"view {view.label} is computed here under another definition", fix=fix)


def _late(file: FoldFile, view: ViewPlan) -> dict[str, int]:
    """What of a view's streams came too late for every window; what has none takes events however late."""
    saved = file.get("fold", b"late")
    if saved is None or view.kind != "windows":
        return {}
    late = dict(msgspec.msgpack.decode(saved, type=list[tuple[str, int]]))
    return {stream: late[stream] for stream in view.streams if stream in late}


def rows_of(view: ViewPlan, files: Iterable[Path], history: Path, key: Sequence[KeyValue], limit: int) -> pa.Table:
    """The newest rows of one entity, oldest first, from history and from what waits to be moved there.

    Args:
        view: Which.
        files: Of the folds that may compute it.
        history: The folder of the views' Delta tables.
        key: The entity's join-key values, in sorted order of their names.
        limit: At most so many.

    Raises:
        UnknownName: None of the folds computes the view.
    """
    for path in files:
        with closing(FoldFile(path, readonly=True)) as file:
            file.db.execute("BEGIN")
            if computed_by(file).get(view.name) != view.digest:
                continue
            waiting = Outbox(file.db, [view.schema]).read(view.name)[0]
            return _newest(view, history / view.name, waiting, key, limit)
    raise UnknownName(which=f"nothing computes view {view.label} here", fix="Let its fold start once")


def _newest(view: ViewPlan, path: Path, waiting: pa.Table, key: Sequence[KeyValue], limit: int) -> pa.Table:
    import pyarrow.compute as pc  # noqa: PLC0415 - half of what this module costs

    wanted = pc.scalar(True)
    for name, value in zip(view.join_keys, key, strict=True):
        wanted = wanted & (pc.field(name) == value)
    flushed, mark = pa.table({}), 0
    if (path / "_delta_log").is_dir():
        mark = mark_of(path)
        flushed = open_dataset(path).to_table(filter=wanted)
    fresh = waiting.filter(wanted & (pc.field(KNOWN) > pa.scalar(mark, pa.timestamp("us", "UTC"))))
    rows = pa.concat_tables([flushed.cast(fresh.schema), fresh]) if len(flushed) else fresh
    ordered = rows.sort_by(KNOWN)
    return ordered.slice(max(0, len(ordered) - limit))


def _flushed(path: Path) -> tuple[int, int]:
    """Through which known time a view's rows are in history, and how many they are."""
    if not (path / "_delta_log").is_dir():
        return 0, 0
    return mark_of(path), open_dataset(path).count_rows()
