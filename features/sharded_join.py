"""The point-in-time join in shares, for ranges that one process should not hold: each by a plain function of its own.

Entity rows are cut by time, so that each share reads only what lies within its reach, and by a key, so that it holds
only a part of that. Whoever calls brings what runs the shares: processes, threads or a cluster.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.asof_join import AsofView, Bucket, Limits, asof_join, bucket_of, check_names, connect
from features.asof_keys import as_key
from journal.errors import Refused


@dataclass(frozen=True)
class Share:
    """What one call joins; it can be pickled."""

    entities: pa.Table
    at: str
    views: Sequence[AsofView]
    limits: Limits


Run = Callable[[Callable[[Share], pa.Table], Sequence[Share]], Iterable[pa.Table]]
"""Like `map`: calls the function with each share, anywhere, and gives back what it returned, in the shares' order."""


def join_share(share: Share) -> pa.Table:
    """The columns that the views add to a share's entity rows, in their order."""
    joined = asof_join(share.entities, share.at, share.views, share.limits)
    return joined.select([name for view in share.views for name in view.outputs])


def sharded_join(
    entities: pa.Table,
    at: str,
    views: Sequence[AsofView],
    run: Run,
    *,
    slices: int,
    buckets: int = 1,
    by: str = "",
    limits: Limits | None = None,
) -> pa.Table:
    """What `asof_join` answers, bit for bit, computed in ``slices`` * ``buckets`` shares.

    Args:
        entities: As `asof_join` takes them.
        at: Their timestamp column.
        views: Whose columns to add. Where a share goes to another process their rows are datasets of files.
        run: Runs the shares, such as ``ProcessPoolExecutor().map``.
        slices: Into how many stretches of time to cut.
        buckets: Into how many shares of a key to cut each of these.
        by: That key, a column of the entity rows. Views without it are read whole by every bucket.
        limits: Of each share.

    Raises:
        Refused: As `asof_join`; the key is nobody's, or is of different types in the views.
    """
    check_names(entities, at, views)
    if slices * buckets <= 1:
        return asof_join(entities, at, views, limits)
    slice_of = _slices(entities[at], slices)
    bucket = _buckets(entities, views, by, buckets) if buckets > 1 else np.zeros(len(entities), np.int64)
    places = [np.flatnonzero((slice_of == n) & (bucket == b)) for n in range(slices) for b in range(buckets)]
    numbers = [b for _ in range(slices) for b in range(buckets)]
    needed = entities.select(list(dict.fromkeys([at, *(name for view in views for name in view.keys)])))
    shares = [
        Share(needed.take(pa.array(place)), at, [_part(view, by, b, buckets) for view in views], limits or Limits())
        for place, b in zip(places, numbers, strict=True)
        if len(place)
    ]
    if not shares:
        return asof_join(entities, at, views, limits)
    joined = pa.concat_tables(list(run(join_share, shares)))
    back = pa.array(np.argsort(np.concatenate(places), kind="stable"))
    for name, column in zip(joined.column_names, joined.take(back).columns, strict=True):
        entities = entities.append_column(name, column)
    return entities


def _slices(moments: pa.ChunkedArray, slices: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which stretch of time each row is in; as many rows in each."""
    order = pc.array_sort_indices(moments).to_numpy()
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order)) * slices // max(len(order), 1)
    return number


def _buckets(
    entities: pa.Table, views: Sequence[AsofView], by: str, buckets: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which share of the keys each row is in: found as the views find theirs, after the same conversion."""
    types = {_schema(view).field(view.keys[by]).type for view in views if by in view.keys}
    if len(types) != 1:
        found = ", ".join(sorted(map(str, types))) or "no view's"
        raise Refused(which=f"key {by!r} is {found}", fix="Cut by a key that has one type in all views that have it")
    keys = pa.table({"k": as_key(entities[by], types.pop(), f"key {by!r}")})
    with connect(Limits(threads=1)) as db:
        db.register("keys", keys)
        found = db.sql(f"SELECT coalesce({bucket_of('k', buckets)}, 0) AS n FROM keys").to_arrow_table()
    numbers: np.ndarray[tuple[int], np.dtype[np.int64]] = found["n"].to_numpy().astype(np.int64)
    return numbers


def _part(view: AsofView, by: str, number: int, buckets: int) -> AsofView:
    return replace(view, bucket=Bucket(by, number, buckets)) if buckets > 1 and by in view.keys else view


def _schema(view: AsofView) -> pa.Schema:
    rows: ds.Dataset | pa.Table = view.rows
    return rows.schema
