"""Whole stretches of a source, for materialize and saved datasets: the newest row of each key, or all that live."""

from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL

from features.outbox import DELETED, EVENT, KNOWN
from journal.clock import micros_of

_OURS = (EVENT, KNOWN, DELETED)
"""A source with these columns is read as history: it obeys the laws of its rows, and its deletes are no values."""


def is_history(schema: pa.Schema) -> bool:
    """Whether these are rows of our own history."""
    return set(_OURS) <= set(schema.names)


def real_keys(keys: Iterable[str]) -> list[str]:
    """The keys without the stand-in that Feast gives to a view without entities, and that no row holds."""
    return [key for key in keys if key != DUMMY_ENTITY_ID]


def columns_of(keys: list[str], features: list[str], *stamps: str | None) -> list[str]:
    """What to read, each once: keys that exist, features, stamps."""
    return list(dict.fromkeys([*real_keys(keys), *features, *filter(None, stamps)]))


def in_range(
    rows: ds.Dataset, columns: list[str], event: str, start: datetime | None, end: datetime | None
) -> pa.Table:
    """These columns of the rows with an event from start to end, and our own stamps, if any; naive moments are UTC."""
    kind = pa.timestamp("us", rows.schema.field(event).type.tz)
    wanted = pc.scalar(True)
    if start is not None:
        wanted = wanted & (ds.field(event) >= pa.scalar(_micros(start), kind))
    if end is not None:
        wanted = wanted & (ds.field(event) <= pa.scalar(_micros(end), kind))
    ours = _OURS if is_history(rows.schema) else ()
    return rows.to_table(columns=list(dict.fromkeys([*columns, *ours])), filter=wanted)


def _micros(moment: datetime) -> int:
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def latest(rows: pa.Table, keys: list[str], stamps: list[str]) -> pa.Table:
    """Of each key the row with the largest stamps; values decide between equal ones, so the order of files does not."""
    values = [name for name in rows.column_names if name not in keys and name not in stamps]
    ranked = rows.sort_by([(name, "ascending") for name in [*stamps, *values]])
    numbered = ranked.select(keys).append_column("#", pa.array(range(len(ranked)), pa.int64()))
    newest = numbered.group_by(keys).aggregate([("#", "max")])["#_max"]
    return ranked.take(newest.drop_null())


def living(rows: pa.Table, keys: list[str], columns: list[str]) -> pa.Table:
    """Without deletes and what they ended. Feast expects its stand-in key where it asked by no key at all."""
    if not real_keys(keys):
        rows = rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * len(rows), pa.string()))
        keys, columns = [DUMMY_ENTITY_ID], [*columns, DUMMY_ENTITY_ID]
    if is_history(rows.schema):
        ended = rows.filter(pc.field(DELETED)).group_by(keys).aggregate([(KNOWN, "max")])
        rows = rows.join(ended, keys, join_type="left outer")
        rows = rows.filter(pc.coalesce(pc.field(KNOWN) > pc.field(f"{KNOWN}_max"), pc.scalar(True)))
    return rows.select(columns)
