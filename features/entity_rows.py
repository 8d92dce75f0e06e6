"""Entity rows for those who bring none: from a query, or every key that something happened to in a range of time."""

from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.asof_join import AsofView, Limits, connect
from journal.errors import Refused

AT = "event_timestamp"
"""The column of the moment, by the name that Feast gives it where it says none itself."""


def entities_from(query: str, limits: Limits) -> pa.Table:
    """What a query for DuckDB answers, under the same limits as a join; it may read files.

    Raises:
        Refused: It fails.
    """
    with connect(limits) as db:
        try:
            return db.sql(query).to_arrow_table()
        except (duckdb.Error, AttributeError) as error:
            which = f"the query for entity rows ({str(error).partition(chr(10))[0]})"
            raise Refused(which=which, fix="Pass a SELECT that DuckDB can run") from None


def entities_of(views: Sequence[AsofView], start: datetime, end: datetime) -> pa.Table:
    """One row at ``end`` for each key that any of the views has a row of, from ``start`` to ``end`` of event time.

    Args:
        views: With the same keys, or with none.
        start: The first moment. Naive ones are UTC.
        end: The last.

    Raises:
        Refused: The views have different keys.
    """
    keyed = [view for view in views if view.keys]
    if len({frozenset(view.keys) for view in keyed}) > 1:
        found = ", ".join(f"{view.name} ({', '.join(view.keys)})" for view in keyed)
        raise Refused(which=f"views with different keys: {found}", fix="Pass entity rows, or ask for them one by one")
    moment = pa.scalar(_utc(end), pa.timestamp("us", "UTC"))
    if not keyed:
        return pa.table({AT: pa.array([moment])})
    names = sorted(keyed[0].keys)
    rows = pa.concat_tables([_keys(view, names, start, end) for view in keyed], promote_options="permissive")
    distinct = rows.group_by(names).aggregate([]).select(names).sort_by([(name, "ascending") for name in names])
    return distinct.append_column(AT, pa.repeat(moment, len(distinct)))


def _keys(view: AsofView, names: Sequence[str], start: datetime, end: datetime) -> pa.Table:
    rows = view.rows if isinstance(view.rows, ds.Dataset) else ds.dataset(view.rows)
    kind = pa.timestamp("us", rows.schema.field(view.event).type.tz)
    event, first, last = pc.field(view.event), pa.scalar(_utc(start), kind), pa.scalar(_utc(end), kind)
    columns = {name: pc.field(view.keys[name]) for name in names}
    found = rows.to_table(columns=columns, filter=(event >= first) & (event <= last))
    return found.group_by(list(names)).aggregate([]).drop_null()


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
