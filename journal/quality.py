"""Quality by stage: windows of journal time, and an alert for each that holds more bad than its rule allows.

The rules:

- Windows tumble by the records' ``at`` and begin at whole multiples of their width. A window closes with the first
  record that is known behind it; a window with fewer than `LEAST` records says nothing.
- A window above its limit emits an alert. The first one within it afterwards emits one too: it lifts the other.
- A rule that says ``stop`` holds its stage from its alert until the lifting one, or a ``resume`` decision.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from journal.body import Alert, Definition, body_of, decode, draft_of
from journal.checkpoint import FoldFile
from journal.clock import format_time
from journal.errors import Stopped
from journal.log import START
from journal.meter_memory import Numbers
from journal.meters import Meter, MissingFeature, meter_of
from journal.reading import ByKind, decisions_in, each_of
from journal.record import Draft, Kind, Record
from journal.stage_rule import INTAKE, StageRule, version_of

LEAST = 20
"""Records. A share of fewer says nothing: one bad event in five is an event, not a rate."""

RESUME = "resume"
"""The action of the decision that lifts a rule's alert; its subject is the rule's name."""

_NEVER = 1 << 62
_MEASURED = (
    Kind.DEFINITION,
    Kind.SOURCE,
    Kind.QUESTION,
    Kind.QUARANTINE,
    Kind.PREDICTION,
    Kind.EXAMPLE,
    Kind.EXPIRED,
)

_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack_numbers = msgspec.msgpack.Decoder(Numbers).decode
_unpack_counts = msgspec.msgpack.Decoder(dict[str, int]).decode


class QualityFold:
    """The fold that measures. Without rules it looks at no record."""

    name = "quality"
    resume_offset: int | None = None

    def __init__(self, rules: Sequence[StageRule]) -> None:
        """Make a meter per rule; see `journal.stage_rule.rules_of`."""
        self.version = version_of(rules)
        self.kinds = frozenset(_MEASURED if rules else ())
        self._meters: list[Meter] = [meter_of(rule) for rule in rules]
        self._by_stream: dict[str, list[Meter]] = {}
        for meter in self._meters:
            for stream in meter.streams():
                self._by_stream.setdefault(stream, []).append(meter)
        self._due = 0
        self._counts = Counter[str]()
        self._definitions: dict[str, bytes] = {}

    def counts(self) -> dict[str, int]:
        """Windows that were judged, those that were bad, and how many rules are in breach now."""
        in_breach = sum(meter.numbers.in_breach for meter in self._meters)
        return {"windows": self._counts["windows"], "breaches": self._counts["breaches"], "in_breach": in_breach}

    def apply(self, record: Record) -> Sequence[Draft]:
        """See `journal.fold.Fold.apply`."""
        drafts = self._turn(record) if record.at >= self._due else ()
        if record.kind is Kind.DEFINITION:
            self._define(body_of(record, Definition), record.body)
        for meter in self._by_stream.get(record.stream, ()):
            meter.measure(record)
        return drafts

    def _turn(self, record: Record) -> Sequence[Draft]:
        """Close every window that ends before this record, and open the one that it lies in."""
        drafts: list[Draft] = []
        for meter in self._meters:
            if meter.numbers.ends <= record.at:
                drafts += self._judge(meter)
                meter.turn(record.at, record.offset)
                width = meter.rule.window
                begins = record.at // width * width
                meter.numbers = Numbers(begins=begins, ends=begins + width, in_breach=meter.numbers.in_breach)
        self._due = min((meter.numbers.ends for meter in self._meters), default=_NEVER)
        return drafts

    def _judge(self, meter: Meter) -> Iterator[Draft]:
        numbers = meter.numbers
        if numbers.events < LEAST:
            return
        alert = _alert(meter.rule, numbers)
        self._counts["windows"] += 1
        self._counts["breaches"] += alert.is_breach
        if alert.is_breach or numbers.in_breach:
            id_ = f"alert-{alert.name}-{alert.begins}"
            yield draft_of(alert, kind=Kind.ALERT, stream="quality", id=id_)
        numbers.in_breach = alert.is_breach

    def _define(self, definition: Definition, body: bytes) -> None:
        self._definitions[definition.service] = body
        for meter in self._meters:
            if isinstance(meter, MissingFeature):
                meter.define(definition)

    def load(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.load`."""
        for _, body in file.scan("definition"):
            self._define(decode(body, Definition), body)
        for meter in self._meters:
            saved = file.get("numbers", meter.rule.name.encode())
            if saved is not None:
                meter.numbers = _unpack_numbers(saved)
            for memory in meter.memories():
                memory.load(file)
        self._due = min((meter.numbers.ends for meter in self._meters), default=_NEVER)
        counts = file.get("fold", b"counts")
        if counts is not None:
            self._counts = Counter(_unpack_counts(counts))

    def save(self, file: FoldFile) -> None:
        """See `journal.fold.Fold.save`."""
        file.put("definition", ((name.encode(), body) for name, body in self._definitions.items()))
        file.put("numbers", ((meter.rule.name.encode(), _pack(meter.numbers)) for meter in self._meters))
        file.put("fold", [(b"counts", _pack(dict(self._counts)))])
        for meter in self._meters:
            for memory in meter.memories():
                memory.save(file)

    def digest(self) -> str:
        """See `journal.fold.Fold.digest`."""
        state = [
            [meter.rule.name, meter.numbers, [memory.rows() for memory in meter.memories()]] for meter in self._meters
        ]
        return hashlib.sha256(_pack([state, dict(self._counts)])).hexdigest()


def alerts_in(journal: ByKind, through: int | None = None) -> Iterator[tuple[Record, Alert]]:
    """Every alert up to an offset, in order."""
    for record in each_of(journal, Kind.ALERT, through):
        yield record, decode(record.body, Alert)


def standing(journal: ByKind, through: int | None = None) -> dict[str, Alert]:
    """By rule, the alerts that neither a later window nor a ``resume`` decision has lifted by an offset."""
    last = {alert.name: (record.offset, alert) for record, alert in alerts_in(journal, through)}
    breaches = {name: (offset, alert) for name, (offset, alert) in last.items() if alert.is_breach}
    if not breaches:
        return {}
    resumed: dict[str, int] = {}
    for record, decision in decisions_in(journal, through):
        if decision.action == RESUME:
            resumed[decision.subject] = record.offset
    return {name: alert for name, (offset, alert) in breaches.items() if resumed.get(name, START) < offset}


def stopped_stages(journal: ByKind, through: int | None = None) -> dict[str, Alert]:
    """By stage, the first alert that holds it; stages that are not named go on."""
    held: dict[str, Alert] = {}
    for alert in standing(journal, through).values():
        if alert.stop:
            held.setdefault(alert.stage, alert)
    return held


def stopped_streams(journal: ByKind) -> dict[str, Alert]:
    """By stream, the alert that holds its intake."""
    alerts = standing(journal).values()
    return {alert.stream: alert for alert in alerts if alert.stop and alert.stage == INTAKE}


def require_running(journal: ByKind, *stages: str, through: int | None = None) -> None:
    """Let work on these stages go on.

    Raises:
        Stopped: A rule holds one of them; the message names it.
    """
    held = stopped_stages(journal, through)
    for stage in stages:
        if stage in held:
            raise stopped(held[stage])


def stopped(alert: Alert) -> Stopped:
    """The error that an alert which stops its stage gives to whoever comes."""
    about = f"{alert.stream}.{alert.field}" if alert.field else alert.stream
    return Stopped(
        which=f"{alert.name}: {alert.measured:.1%} of {alert.events} {about} {alert.metric} from "
        f"{format_time(alert.begins)} to {format_time(alert.ends)}, at most {alert.most:.1%}",
        fix=f"Mend the source; the next good window lifts it, or `rivermill quality resume {alert.name}`",
    )


def _alert(rule: StageRule, numbers: Numbers) -> Alert:
    return Alert(
        name=rule.name,
        stage=rule.stage,
        stream=rule.stream,
        field=rule.field,
        metric=rule.metric,
        measured=min(numbers.bad / (numbers.total or numbers.events), 1.0),
        most=rule.most,
        begins=numbers.begins,
        ends=numbers.ends,
        stop=rule.stop,
        events=numbers.events,
    )
