"""What a prediction holds of each view, and what its answer could have seen: the one side of a comparison."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from features.rows import Row, encode_key
from features.views import ViewPlan
from journal.body import Definition, Prediction, Stamp
from journal.log import START
from journal.record import Kind, Record

_NEVER = -(2**63)


class Slot(NamedTuple):
    """Where a view's values stand among a prediction's; without a plan where it is not declared any more."""

    label: str
    plan: ViewPlan | None
    first: int
    end: int


class Sight(NamedTuple):
    """What an answer could have seen.

    Attributes:
        least: The known time up to which it had certainly seen every row.
        most: The known time after which it had certainly seen none.
        judged: When staleness was judged.
    """

    least: int
    most: int
    judged: int


class ServedView(NamedTuple):
    """What a prediction holds of one view.

    Attributes:
        record: The prediction's.
        prediction: Its body.
        slot: Where the view's values are.
        plan: The view.
        key: The entity's; empty where the question has none.
        stamp: Of the row that was read; None where none was.
        sight: What the answer could have seen.
        last_late: When an event that came late was last about the entity.
    """

    record: Record
    prediction: Prediction
    slot: Slot
    plan: ViewPlan
    key: bytes
    stamp: Stamp | None
    sight: Sight
    last_late: int

    @property
    def values(self) -> Sequence[Any]:
        """The view's values as they were served."""
        return self.prediction.values[self.slot.first : self.slot.end]

    def is_stale(self, row: Row) -> bool:
        """Whether a row must not have been served: past its TTL, and not to be flagged."""
        plan = self.plan
        return plan.ttl is not None and plan.stale != "flag" and self.sight.judged - row.event > plan.ttl

    @property
    def reach(self) -> int:
        """For how long an event shows in the view's windows, in microseconds; 0 in a plain view."""
        return max((aggregate.over + aggregate.tile for aggregate in self.plan.aggregates), default=0)


def slots_of(definition: Definition, plans: Mapping[str, ViewPlan]) -> Iterator[Slot]:
    """The views of a definition, in order; ``plans`` by label."""
    first = len(definition.request)
    for label in definition.views:
        prefix = label.rpartition("@")[0] + "__"
        end = first + sum(column.startswith(prefix) for column in definition.columns[len(definition.request) :])
        yield Slot(label, plans.get(label), first, end)
        first = end


def sight_of(record: Record, prediction: Prediction, question: Record) -> Sight:
    """An event is answered from the fold's own table; over HTTP, from what had been committed."""
    judged = prediction.judged_at(question)
    if question.kind is Kind.SOURCE:
        return Sight(question.at, question.at, judged)
    return Sight(max((stamp[1] for stamp in prediction.stamps if stamp), default=START), record.at, judged)


def key_of(plan: ViewPlan, question: Record) -> bytes:
    """The entity that a question asks a view about; empty where a part of it is null."""
    inputs = [question.data[name] for name in plan.join_keys]
    return b"" if None in inputs else encode_key(inputs)


class LateEvents:
    """When an event that came late was last about an entity, whether or not it changed anything."""

    def __init__(self, views: Iterable[ViewPlan]) -> None:
        self._views: dict[str, list[ViewPlan]] = {}
        for view in views:
            for stream in view.streams:
                self._views.setdefault(stream, []).append(view)
        self._last: dict[tuple[str, bytes], int] = {}

    def note(self, record: Record, clock: int) -> None:
        """Look at the next record, as the clock stands before it."""
        if record.time is None or record.time >= clock:
            return
        for view in self._views.get(record.stream, ()):
            inputs = [value for name in view.join_keys if (value := record.data.get(name)) is not None]
            if len(inputs) == len(view.join_keys):
                self._last[view.name, encode_key(inputs)] = record.at

    def last(self, view: str, key: bytes) -> int:
        """The known time of the last one; long ago before the first."""
        return self._last.get((view, key), _NEVER)
