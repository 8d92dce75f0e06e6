"""The feature fold: records in; the newest row of every entity that they touched out, each at most once per record.

Rules:

- The clock is the largest time of the source events so far. When it reaches the boundary at which a tile leaves a
  window, that entity gets a row, whether or not a value changed; however many boundaries a record crosses, it is one.
- A source event touches one entity in every window view that its stream feeds and whose join keys it has. Its row holds
  the state after all that left and all that came.
- A window row's event time is the clock, its known time the record's ``at``: per entity both never decrease.
- An event later than the allowed lateness changes no window and is counted, unless a decision released it. A late one
  enters its own tile, if that is still in the window.
- A plain view's row has the record's own time; the table's guard refuses one that is older than what it holds.
- Rows are offered view by view as declared, within a view by key. Those that the table accepts go to the outbox.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Protocol

import msgspec

from features.entities import Entity, Timers, WindowView
from features.feeds import StreamFeeds
from features.rows import Row, decode_key
from features.timed import Timed
from features.views import ViewPlan
from journal.body import Decision, body_of
from journal.checkpoint import FoldFile
from journal.errors import Refused
from journal.record import Draft, Kind, Record

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_in_order = attrgetter("order")


class Table(Protocol):
    """The online store's table, as this fold needs it."""

    def put(self, view: str, row: Row) -> bool:
        """Offer a row; whether the guard took it."""
        ...

    def rows(self, view: str) -> Iterable[Row]:
        """Every row of a view, deletes included."""
        ...

    def flush(self) -> None:
        """Write what changed into the open transaction."""
        ...


class RowsOut(Protocol):
    """The way to history, as this fold needs it."""

    def add(self, view: str, rows: Sequence[Row]) -> None:
        """Take accepted rows, in order."""
        ...

    def save(self) -> None:
        """Write what was added into the open transaction."""
        ...


class FeatureFold:
    """Computes the views of a pipeline. See the rules above."""

    version: ClassVar[int] = 1
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.SOURCE, Kind.DECISION})
    resume_offset: ClassVar[int | None] = None

    def __init__(
        self, plans: Sequence[ViewPlan], lateness: int, table: Table, outbox: RowsOut, name: str = "features"
    ) -> None:
        """Compile the plans.

        Args:
            plans: The views to compute.
            lateness: How far an event's time may lie behind the clock to still change a window (microseconds).
            table: Where rows are offered; its file is this fold's.
            outbox: Where accepted rows go; its file is this fold's.
            name: Of the fold, and of its file.

        ``late_dropped`` and ``late_by_stream`` count the events that were too late for every window.
        """
        self.name = name
        self.plans = tuple(plans)
        self.lateness = lateness
        self._table, self._outbox = table, outbox
        self._reset()

    def _reset(self) -> None:
        windows = [WindowView(plan, n, self.lateness) for n, plan in enumerate(self.plans) if plan.kind == "windows"]
        plain = [plan for plan in self.plans if plan.kind == "plain"]
        self.clock = 0
        self.late_dropped = 0
        self.late_by_stream: dict[str, int] = {}
        self.superseded = 0
        self._released = ""
        self._timers = Timers()
        self._windows = {view.name: view for view in windows}
        self._plain_rows: dict[str, list[Row]] = {plan.name: [] for plan in plain}
        streams = {stream for plan in self.plans for stream in plan.streams}
        self._streams = {stream: StreamFeeds(stream, windows, plain, self._timers) for stream in sorted(streams)}
        self._dirty: set[Entity] = set()

    def apply(self, record: Record) -> Sequence[Draft]:
        """Take one record. It derives nothing for the journal."""
        if record.kind is Kind.DECISION:
            self._obey(body_of(record, Decision), record.at)
            return ()
        time = record.at if record.time is None else record.time
        touched: list[Entity] = []
        if time > self.clock:
            self.clock = time
            if self._timers.next <= time:
                self._expire(record.offset, touched)
        feeds = self._streams.get(record.stream)
        if feeds is not None:
            if feeds.feeds:
                self._feed(feeds, record, time, touched)
            if feeds.plain:
                self._offer_plain(feeds, record, time)
        if touched:
            self._offer(touched, record.at)
        return ()

    def _obey(self, decision: Decision, known: int) -> None:
        if decision.action == "release":
            self._released = decision.details["event"]
        elif decision.action == "erase":
            for plan in self.plans:
                self._erase(plan, decision.details["pseudonyms"], known)

    def _erase(self, plan: ViewPlan, pseudonyms: Mapping[str, Sequence[str]], known: int) -> None:
        """End every row of a person in one view: state, online row, and a delete in history."""
        named = [(n, frozenset(pseudonyms[name])) for n, name in enumerate(plan.join_keys) if name in pseudonyms]
        if not named:
            return
        view = self._windows.get(plan.name)
        rows = self._plain_rows[plan.name] if view is None else view.rows
        for row in list(self._table.rows(plan.name)):
            values = decode_key(row.key)
            if row.values is None or not any(values[n] in theirs for n, theirs in named):
                continue
            end = Row(row.key, self.clock, known, None)
            if self._table.put(plan.name, end):
                rows.append(end)
            if view is not None and (entity := view.forget(row.key)) is not None:
                entity.gone = True
                self._dirty.add(entity)

    def _expire(self, offset: int, touched: list[Entity]) -> None:
        for entity in self._timers.fire(self.clock):
            if entity.touched != offset and not entity.gone:
                entity.touched = offset
                touched.append(entity)
        if self._timers.unseen:
            self._dirty.update(entity for entity in self._timers.unseen if not entity.gone)
            self._timers.unseen.clear()

    def _feed(self, feeds: StreamFeeds, record: Record, time: int, touched: list[Entity]) -> None:
        clock, offset, data = self.clock, record.offset, record.data
        id_ = record.id
        if time < clock - self.lateness and id_ != self._released:
            self.late_dropped += 1
            self.late_by_stream[record.stream] = self.late_by_stream.get(record.stream, 0) + 1
            return
        samples = [sample(data, time, id_, clock) for sample in feeds.samplers]
        for feed in feeds.feeds:
            entity = feed(data, samples)
            if entity is not None and entity.touched != offset:
                entity.touched = offset
                touched.append(entity)

    def _offer(self, touched: list[Entity], known: int) -> None:
        # A row is made several times per event; this is what Row(...) does, without its Python-level constructor.
        clock, put, new_row = self.clock, self._table.put, tuple.__new__
        touched.sort(key=_in_order)
        for entity in touched:
            view = entity.view
            row = new_row(Row, (entity.key, clock, known, tuple(entity.values)))
            if put(view.name, row):
                view.rows.append(row)
            else:
                self.superseded += 1
        self._dirty.update(touched)

    def _offer_plain(self, feeds: StreamFeeds, record: Record, time: int) -> None:
        for name, row_of in feeds.plain:
            row = row_of(record.data, time, record.at)
            if row is None:
                continue
            if self._table.put(name, row):
                self._plain_rows[name].append(row)
            else:
                self.superseded += 1

    def save(self, file: FoldFile) -> None:
        """Write the entities that changed, the counters, and the rows; an empty entity is forgotten."""
        ended: list[Entity] = []
        kept: list[Entity] = []
        # In order, as they lie in the file: the order of a set jumps from page to page.
        for entity in sorted(self._dirty, key=_in_order):
            (ended if entity.gone or entity.is_empty() else kept).append(entity)
        file.delete("windows", (entity.view.prefix + entity.key for entity in ended))
        file.put("windows", ((entity.view.prefix + entity.key, entity.dump()) for entity in kept))
        for entity in ended:
            if not entity.gone:
                entity.view.forget(entity.key)
        self._dirty.clear()
        counters = [(b"counters", _encode(self._counters())), (b"late", self._late()), (b"views", self._definition())]
        file.put("fold", counters)
        for view in self._windows.values():
            self._outbox.add(view.name, view.rows)
            view.rows = []
        for name, rows in self._plain_rows.items():
            self._outbox.add(name, rows)
            self._plain_rows[name] = []
        self._table.flush()
        self._outbox.save()

    def load(self, file: FoldFile) -> None:
        """Restore what the last `save` wrote.

        Raises:
            Refused: The state is of other views than these.
        """
        self._reset()
        counters = file.get("fold", b"counters")
        if counters is None:
            return
        if file.get("fold", b"views") != self._definition():
            fix = "Play into a fresh home, or restore views.py and the contracts"
            raise Refused(which=f"{file.path.name} holds the state of other view definitions", fix=fix)
        self.clock, self.late_dropped, self.superseded, self._released = _decode(counters)
        self.late_by_stream = dict(_decode(file.get("fold", b"late") or self._late()))
        for key, blob in file.scan("windows"):
            name, _, entity_key = key.partition(b"\0")
            self._restore(self._windows[name.decode()].restore(entity_key), _decode(blob))

    def _restore(self, entity: Entity, contents: Sequence[Any]) -> None:
        for pane, content in zip(entity.panes, contents, strict=True):
            pane.load(content, self.clock)
            if isinstance(pane, Timed):
                for boundary in pane.boundaries():
                    self._timers.schedule(boundary, pane)

    def digest(self) -> str:
        """SHA-256 (hex) over definitions, counters and every entity that is not empty, by view and key."""
        total = hashlib.sha256(self._definition() + _encode(self._counters()))
        if self.late_by_stream:
            total.update(self._late())
        for view in self._windows.values():
            for entity in sorted(view.entities.values(), key=_in_order):
                if not entity.is_empty():
                    total.update(_encode((view.name, entity.key, entity.dump())))
        return total.hexdigest()

    def sizes(self) -> dict[str, int]:
        """How many entities of each window view are held in memory."""
        return {view.name: len(view.entities) for view in self._windows.values()}

    def _counters(self) -> tuple[int, int, int, str]:
        return self.clock, self.late_dropped, self.superseded, self._released

    def _late(self) -> bytes:
        return _encode(sorted(self.late_by_stream.items()))

    def _definition(self) -> bytes:
        return _encode([(plan.name, plan.digest) for plan in self.plans])
