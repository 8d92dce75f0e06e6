"""What predictions do not hold, looked up afterwards: each view as it was known at the prediction's ``at``.

Rows on their way to history count as well: they are read from the folds' files before the Delta tables, so that a row
which a flush moves in between is seen twice rather than not at all, and the table's mark tells which those are.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.asof_join import AsofView, asof_join
from features.dataset_service import KnownView
from features.examples import ARROW_TYPES, Gap, Rows
from features.history import mark_of, open_dataset
from features.outbox import DELETED, EVENT, KNOWN, Outbox
from features.rows import ViewSchema
from journal.checkpoint import FoldFile
from journal.errors import Refused
from journal.log import START
from journal.reading import Pages
from journal.record import Record
from journal.upcast import Lift, as_stored

_PAGE = 500

_decode_views = msgspec.msgpack.Decoder(list[tuple[str, str]]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Where views' rows are.

    Attributes:
        history: The folder of the views' Delta tables.
        folds: The files of the folds that compute views.
    """

    history: Path
    folds: Sequence[Path]

    def rows(self, view: KnownView, through: int) -> ds.Dataset:
        """Every row of a view that records up to an offset have caused, and perhaps later ones.

        Raises:
            Refused: Its fold has not come that far, or nothing computes this view.
        """
        schema = ViewSchema(view.schema.name, tuple(view.schema.join_keys), tuple(view.schema.fields))
        waiting = self._waiting(view, schema, through)
        path = self.history / schema.name
        flushed = open_dataset(path)
        fresh = waiting.filter(pc.field(KNOWN) > pa.scalar(mark_of(path), pa.timestamp("us", "UTC")))
        return ds.dataset([flushed, ds.dataset(fresh.cast(flushed.schema))])

    def _waiting(self, view: KnownView, schema: ViewSchema, through: int) -> pa.Table:
        for path in self.folds:
            with closing(FoldFile(path, readonly=True)) as file:
                # One read transaction: the position and the rows that wait are those of one commit.
                file.db.execute("BEGIN")
                if computed_by(file).get(schema.name) == view.digest:
                    _require(file, view.label, through)
                    return Outbox(file.db, [schema]).read(schema.name)[0]
        raise Refused(which=f"nothing computes {view.label} here", fix="Publish it first, or name another service")


def computed_by(file: FoldFile) -> dict[str, str]:
    """The views that a fold's file holds the state of: the digest of each definition by its name."""
    saved = file.get("fold", b"views")
    return {} if saved is None else dict(_decode_views(saved))


def _require(file: FoldFile, view: str, through: int) -> None:
    position = file.position(file.path.stem)
    offset = START if position is None else position.offset
    if offset < through:
        raise Refused(
            which=f"{view} is computed up to record {offset}, and the range ends at {through}",
            fix="Wait until its fold has caught up, or name an earlier --as-of",
        )


def fill(rows: Rows, journal: Pages, known: Known | None, through: int, lift: Lift = as_stored) -> pa.Table:
    """The rows with every gap filled, in the same order.

    Args:
        rows: What was collected.
        journal: Where the questions are.
        known: Where views' rows are; None where none can be looked up.
        through: The last offset of the range.
        lift: Makes questions of earlier versions readable.

    Raises:
        Refused: A view cannot be looked up.
    """
    if not rows.gaps:
        return rows.table
    views = {view.label: view for view in rows.service.views} if known is not None else {}
    for gap in rows.gaps:
        if gap.view and gap.view not in views:
            raise Refused(
                which=f"{len(gap.rows)} prediction(s) hold no {gap.view}, and it cannot be looked up here",
                fix="`rivermill dataset build --service` looks it up, where the pipeline declares it",
            )
    asked, table = _Questions(journal, rows, lift), rows.table
    for gap in rows.gaps:
        if gap.view and known is not None:
            view = views[gap.view]
            found = _joined(view, known.rows(view, through), gap, rows, asked)
        else:
            found = pa.table({name: asked.column(name, gap, _kind_of(rows, name)) for name in gap.columns})
        for name in gap.columns:
            table = _scattered(table, name, gap.rows, found[name])
    return table


def _joined(view: KnownView, answers: ds.Dataset, gap: Gap, rows: Rows, asked: "_Questions") -> pa.Table:
    keys = {f"key_{name}": name for name, _ in view.schema.join_keys}
    columns = {f"key_{name}": asked.column(name, gap, ARROW_TYPES[kind]) for name, kind in view.schema.join_keys}
    entities = pa.table({"asked_at": rows.table["at"].take(pa.array(gap.rows)), **columns})
    side = AsofView(
        name=view.label,
        rows=answers,
        keys=keys,
        event=EVENT,
        known=KNOWN,
        fields=view.columns,
        ttl=view.ttl,
        deleted=DELETED,
        ordered=True,
    )
    return asof_join(entities, "asked_at", [side])


class _Questions:
    """The questions of the rows that have a gap, each read once."""

    def __init__(self, journal: Pages, rows: Rows, lift: Lift) -> None:
        self._offsets = rows.questions
        wanted = sorted({int(self._offsets[row]) for gap in rows.gaps for row in gap.rows})
        self._data = {record.offset: lift(record).data for record in _records_at(journal, wanted)}

    def column(self, name: str, gap: Gap, kind: pa.DataType) -> pa.Array:
        """One field of each question, in the order of the gap's rows."""
        return pa.array((self._data[offset].get(name) for offset in self._offsets[gap.rows].tolist()), kind)


def _records_at(journal: Pages, offsets: Sequence[int]) -> Iterator[Record]:
    """The records at these rising offsets, in as few reads as they lie close."""
    wanted, reached = set(offsets), START
    for offset in offsets:
        if offset > reached:
            page = journal.read(0, offset - 1, _PAGE)
            yield from (record for record in page if record.offset in wanted)
            reached = page[-1].offset


def _kind_of(rows: Rows, name: str) -> pa.DataType:
    kind: pa.DataType = rows.table.schema.field(name).type
    return kind


def _scattered(table: pa.Table, name: str, rows: Any, values: Any) -> pa.Table:
    """The table with other values of one column in some of its rows."""
    mask = np.zeros(len(table), np.bool_)
    mask[rows] = True
    column = table[name].combine_chunks()
    found = values.combine_chunks().cast(column.type) if isinstance(values, pa.ChunkedArray) else values
    filled = pc.replace_with_mask(column, pa.array(mask), found)
    return table.set_column(table.schema.get_field_index(name), name, filled)
