"""One meter per quality rule: takes records, keeps a window's numbers.

A meter is told of every record of the streams that it listens to and passes over kinds that are not its own. It does
one comparison or one dictionary look-up per record; windows are opened and closed by the fold.
"""

from collections.abc import Callable
from typing import Protocol

from journal.body import Definition, Expired, Prediction, Quarantined, body_of
from journal.log import START
from journal.meter_memory import Memory, Numbers
from journal.record import Kind, Record
from journal.stage_rule import LATE_LABEL, MISSING_FEATURE, NO_LABEL, StageRule


class Meter(Protocol):
    """What the fold drives."""

    rule: StageRule
    numbers: Numbers

    def streams(self) -> tuple[str, ...]:
        """Whose records it wants."""
        ...

    def measure(self, record: Record) -> None:
        """Take a record of one of its streams."""
        ...

    def memories(self) -> tuple[Memory, ...]:
        """What it remembers beside its numbers."""
        ...

    def turn(self, at: int, offset: int) -> None:
        """A window ended before the record at this moment and offset."""
        ...


class _Plain:
    """A meter that remembers nothing but its numbers."""

    def __init__(self, rule: StageRule) -> None:
        self.rule = rule
        self.numbers = Numbers()

    def streams(self) -> tuple[str, ...]:
        return (self.rule.stream,)

    def memories(self) -> tuple[Memory, ...]:
        return ()

    def turn(self, at: int, offset: int) -> None:
        del at, offset

    def _count(self, is_bad: bool) -> None:
        numbers = self.numbers
        numbers.events += 1
        if is_bad:
            numbers.bad += 1


class Missing(_Plain):
    """Events whose field is null."""

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind is Kind.SOURCE:
            self._count(record.data.get(self.rule.field) is None)


class Invalid(_Plain):
    """Events that went to quarantine: for this field, or for any reason."""

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind is Kind.SOURCE:
            self._count(is_bad=False)
        elif record.kind is Kind.QUARANTINE:
            self._count(self._concerns(body_of(record, Quarantined).reason))

    def _concerns(self, reason: str) -> bool:
        field = self.rule.field
        return not field or reason.startswith((f"$.data.{field}: ", f"$.data: Object missing required field `{field}`"))


class Late(_Plain):
    """Events whose time trails the moment at which they became known by more than the contract's timeliness."""

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind is Kind.SOURCE and record.time is not None:
            self._count(record.at - record.time > self.rule.bound)


class Reference(_Plain):
    """Values that the other stream has not said before, neither by events nor by questions over HTTP."""

    def __init__(self, rule: StageRule) -> None:
        super().__init__(rule)
        assert rule.reference is not None, "rules_of settles it"
        self._stream, self._field = rule.reference
        self._seen = Memory(f"seen {rule.name}")

    def streams(self) -> tuple[str, ...]:
        """See `Meter.streams`."""
        return tuple(dict.fromkeys((self.rule.stream, self._stream)))

    def memories(self) -> tuple[Memory, ...]:
        """See `Meter.memories`."""
        return (self._seen,)

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind not in _SAY:
            return
        is_event = record.kind is Kind.SOURCE
        if is_event and record.stream == self.rule.stream and (value := record.data.get(self.rule.field)) is not None:
            self._count(value not in self._seen.known)
        if record.stream == self._stream:
            said = record.data.get(self._field)
            if said is not None and said not in self._seen.known:
                self._seen.put(said)


class Unique(_Plain):
    """Values that came before within the window."""

    def __init__(self, rule: StageRule) -> None:
        super().__init__(rule)
        self._values = Memory(f"values {rule.name}")

    def memories(self) -> tuple[Memory, ...]:
        """See `Meter.memories`."""
        return (self._values,)

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind is Kind.SOURCE and (value := record.data.get(self.rule.field)) is not None:
            is_double = value in self._values.known
            self._count(is_double)
            if not is_double:
                self._values.put(value)

    def turn(self, at: int, offset: int) -> None:
        """See `Meter.turn`."""
        del at, offset
        self._values.clear()


class MissingFeature(_Plain):
    """Values of one view that were missing in predictions."""

    def __init__(self, rule: StageRule) -> None:
        super().__init__(rule)
        self._columns: dict[str, tuple[int, int]] = {}

    def streams(self) -> tuple[str, ...]:
        """See `Meter.streams`."""
        return (self.rule.stream,)

    def define(self, definition: Definition) -> None:
        """Learn where a service's columns of the view lie: they stand side by side."""
        prefix = f"{self.rule.field}__"
        places = [index for index, name in enumerate(definition.columns) if name.startswith(prefix)]
        self._columns[definition.service] = (places[0], places[-1] + 1) if places else (0, 0)

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind is not Kind.PREDICTION:
            return
        body = body_of(record, Prediction)
        begin, end = self._columns.get(body.service, (0, 0))
        numbers = self.numbers
        numbers.events += 1
        numbers.total += end - begin
        numbers.bad += body.values[begin:end].count(None)


class NoLabel(_Plain):
    """Predictions that ended because no label came in time."""

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        if record.kind is Kind.EXAMPLE:
            self._count(is_bad=False)
        elif record.kind is Kind.EXPIRED:
            self._count(body_of(record, Expired).reason == "no_label")


class LateLabel(_Plain):
    """Labels of predictions that had ended without one.

    The record of an expiry may stand behind labels that came after the moment of it, since a worker hands it in later:
    its cause tells. So labels are remembered too, for one to two windows.
    """

    def __init__(self, rule: StageRule) -> None:
        super().__init__(rule)
        self._expired = Memory(f"expired {rule.name}")
        self._labels = Memory(f"labels {rule.name}")
        self._turned = Memory(f"turned {rule.name}")

    def streams(self) -> tuple[str, ...]:
        """See `Meter.streams`."""
        return tuple(dict.fromkeys((self.rule.stream, "examples", "predictions")))

    def memories(self) -> tuple[Memory, ...]:
        """See `Meter.memories`."""
        return (self._expired, self._labels, self._turned)

    def measure(self, record: Record) -> None:
        """See `Meter.measure`."""
        kind = record.kind
        if kind is Kind.SOURCE and record.stream == self.rule.stream:
            self._take_label(record)
        elif kind is Kind.EXPIRED:
            self._take_expiry(record)
        elif kind is Kind.PREDICTION:
            self._expired.drop(body_of(record, Prediction).key)

    def _take_label(self, record: Record) -> None:
        named = record.data.get(self.rule.field)
        if named is not None:
            self._count(str(named) in self._expired.known)
            self._labels.put(str(named), record.offset)

    def _take_expiry(self, record: Record) -> None:
        expired = body_of(record, Expired)
        if expired.reason == "no_label" and record.cause is not None:
            self._expired.put(expired.key, record.at + self.rule.bound)
            self.numbers.bad += self._labels.known.get(expired.key, START) >= record.cause.offset

    def turn(self, at: int, offset: int) -> None:
        """See `Meter.turn`."""
        self._expired.drop_below(at)
        self._labels.drop_below(self._turned.known.get(_BEFORE, 0))
        self._turned.put(_BEFORE, offset)


def meter_of(rule: StageRule) -> Meter:
    """The meter of a rule."""
    return _METERS[rule.metric](rule)


_SAY = (Kind.SOURCE, Kind.QUESTION)
_BEFORE = "before"
_METERS: dict[str, Callable[[StageRule], Meter]] = {
    "missing": Missing,
    "invalid": Invalid,
    "late": Late,
    "reference": Reference,
    "unique": Unique,
    MISSING_FEATURE: MissingFeature,
    NO_LABEL: NoLabel,
    LATE_LABEL: LateLabel,
}
