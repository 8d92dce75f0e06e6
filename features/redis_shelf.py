"""A project's rows in Redis, as the Feast plugin writes them: behind the guard, and only under one field list."""

from collections.abc import Sequence

from features.redis_table import RedisTable
from features.rows import Row
from features.stored_row import Wanted, layout_of, move, newest
from journal.errors import LostRace, Refused, StoreDown

LIFE = "life"
"""The project's note of which journal life all rows of a fold's copy are of."""


class RedisShelf:
    """A project's rows. See `features.guarded_online_store.Shelf`."""

    def __init__(self, table: RedisTable) -> None:
        self.table = table

    def read(self, wanted: Wanted) -> list[Row | None]:
        """The stored rows asked for, in order, deletes included, in one round trip."""
        return self.table.read(wanted)

    def write(self, view: str, fields: Sequence[str], rows: Sequence[Row], keep: int | None) -> None:
        """Offer rows to the guard; all commands go in one round trip."""
        place, layout = self.table.layout_place(view), layout_of(fields)
        keep_ms = 0 if keep is None else max(keep // 1_000, 1)
        if self.table.offer(view, rows, (place, layout), keep_ms) is None:
            self._require_layout(view, layout)
            if self.table.offer(view, rows, (place, layout), keep_ms) is None:
                raise LostRace(which=f"the fields of view {view!r} changed at this moment", fix="Write again")

    def write_copy(self, view: str, rows: Sequence[Row]) -> None:
        """Offer rows of a fold's history, while the copy is of one journal life."""
        life = self.table.get(self.table.place(LIFE))
        if life is None:
            raise StoreDown(which="Redis holds no copy of the fold's table yet", fix="Let the pipeline's worker run")
        fresh = list(newest(rows).values())
        if self.table.offer(view, fresh, (self.table.place(LIFE), life)) is None:
            raise LostRace(which="the journal's life changed at this moment", fix="Materialize again")

    def lay_out(self, view: str, fields: Sequence[str]) -> None:
        """Let the rows follow these fields, first for writers, then row by row."""
        place, layout = self.table.layout_place(view), layout_of(fields)
        stored = self.table.get(place)
        if stored == layout:
            return
        if not self.table.exchange(place, stored, layout):
            raise LostRace(which=f"the fields of view {view!r} changed at this moment", fix="Apply again")
        if stored is not None:
            for row in self.table.rows(view):
                self.table.replace(view, row, move(row, stored, fields))

    def forget(self, view: str) -> None:
        """Remove every key of the view."""
        self.table.forget(view)

    def close(self) -> None:
        """Let go of the connection."""
        self.table.close()

    def _require_layout(self, view: str, layout: bytes) -> None:
        """A server that was emptied has no field list: give it back. Refuse where there is another."""
        place = self.table.layout_place(view)
        self.table.exchange(place, None, layout)
        if self.table.get(place) != layout:
            raise Refused(which=f"the fields of view {view!r} have changed", fix="Refresh the registry, write again")
