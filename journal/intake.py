"""What may enter the journal, and what becomes of the rest.

::

    not JSON, not a CloudEvent, too large, a stream nobody promised    refused: counted, not kept
    its data breaks the contract, or its time breaks the journal's     quarantined: kept whole, with the reason
    its data breaks a contract that says discard_row                   discarded: counted, not kept
    its id is taken by an event that says something else               conflicted: counted, not kept
    its id is taken by an event that says the same                     repeated: nothing changes
    the sink took its cause before                                     replayed: nothing changes
    everything else                                                    accepted: a source record

A quarantined event's id stays free, so that a corrected event may use it. A release or a fix reads again what was kept:
it must hold by today's contract, however old it is; to cross a gap in time it needs ``advance``.

Everything is counted: events handed in = accepted + repeated + refused + conflicts + quarantined + quarantined_again +
discarded, where what was accepted are the source records that no decision let in. What a contract's mode left out of
an accepted event is counted by name.
"""

from collections.abc import Mapping, Sequence

import msgspec

from journal.body import Alert
from journal.clock import format_span, format_time
from journal.contract import DEFAULT_MAX_BYTES, Contract
from journal.envelope import Envelope, read_envelope
from journal.errors import ConflictingId, Discarded, Malformed, UnknownName, Violation
from journal.event_reader import digest_of
from journal.held import find_held
from journal.log import Journal, Outcome, Repeat, Replayed
from journal.privacy import KeyTable
from journal.quality import stopped, stopped_streams
from journal.quarantine import Quarantine, decision_on, require_decided, require_entered
from journal.record import Cause, Draft, Record
from journal.settlement import ENDS, Discard, Fix, Order, Release, Settled, State, action_of, changed, corrected
from journal.stamp import is_behind
from journal.stream import Stream


class Accepted(msgspec.Struct, frozen=True):
    """The event is in the journal."""

    record: Record


class Repeated(msgspec.Struct, frozen=True):
    """The event was in the journal already."""

    offset: int


class Refused(msgspec.Struct, frozen=True):
    """This was counted, not kept: ``bucket`` is ``malformed``, ``too_large``, ``unknown_stream`` or ``discarded``."""

    bucket: str
    reason: str


class Conflicted(msgspec.Struct, frozen=True):
    """The id is taken, at ``offset``, by an event that says something else."""

    id: str
    offset: int


class Quarantined(msgspec.Struct, frozen=True):
    """The event waits in quarantine under ``id``; ``record`` is None when the same bytes waited there already."""

    id: str
    reason: str
    record: Record | None


Taken = Accepted | Repeated | Refused | Conflicted | Quarantined | Replayed

_RELEASE = "If it must count: rivermill journal quarantine release {id}"
_ADVANCE = "If the gap in time is real: rivermill journal quarantine release {id} --advance"


class Intake:
    """The journal's door for source events."""

    def __init__(
        self,
        journal: Journal,
        contracts: Mapping[str, Contract],
        keys: KeyTable,
        starts: tuple[int, int] | None,
        principal: str = "",
    ) -> None:
        """Compile the contracts.

        Args:
            journal: Where accepted and quarantined events go; its dedup window is the largest of the contracts'.
            contracts: By stream.
            keys: What personal fields are sealed under.
            starts: The first and last moment at which the journal's first event may lie; None for any.
            principal: Who hands the events in.
        """
        self._journal = journal
        self._quarantined = Quarantine(keys)
        self._starts = starts
        self._principal = principal
        self.digest = digest_of(contracts)
        self._streams = {name: Stream(contract, keys) for name, contract in contracts.items()}
        self._stopped: Mapping[str, Alert] = {}
        self._largest = max((contract.max_bytes for contract in contracts.values()), default=DEFAULT_MAX_BYTES)

    def take(self, raw: bytes, *, sink: str = "", cause: Cause | None = None, principal: str | None = None) -> Taken:
        """Take one event in, or say why not. Counts are exact with the sink's mark inside ``journal.group()``.

        Args:
            raw: A CloudEvent as JSON.
            sink: Names the input that the event comes from, if it can come again after a crash.
            cause: The event's place in that input.
            principal: Who hands this one in, if not the intake's own principal.

        Raises:
            Stopped: A quality rule holds the stream; nothing was counted, and it may be sent again. See `heed_alerts`.
        """
        opened = self._open(raw)
        if isinstance(opened, Refused):
            return self._refuse(opened, sink, cause)
        envelope, stream = opened
        if self._stopped and envelope.type in self._stopped:
            raise stopped(self._stopped[envelope.type])
        principal = self._principal if principal is None else principal
        try:
            fields = stream.read(envelope, raw)
            time = envelope.time
            self._check_time(time, stream.contract)
        except Malformed as error:
            return self._refuse(Refused("malformed", error.which), sink, cause)
        except Discarded as error:
            return self._refuse(Refused("discarded", error.which), sink, cause, stream=envelope.type)
        except Violation as error:
            held, reason = self._quarantined.hold(stream, envelope, raw, error, cause, principal)
            return self._quarantine(held, reason, sink)
        draft = stream.draft(envelope, time, fields, principal, cause)
        taken = self._taken(self._journal.append((draft,), sink=sink)[0], draft)
        if stream.notes and isinstance(taken, Accepted):
            self._note(stream)
        return taken

    def take_read(self, events: Sequence[bytes], drafts: Sequence[Draft | None], principal: str) -> list[Taken]:
        """Take in events that a `journal.event_reader.EventReader` with this intake's `digest` has read, in order.

        What comes of them is what `take` says, at half its cost.

        Args:
            events: As `take` takes them.
            drafts: One for each, None of what was left to be read here.
            principal: Who hands them in.

        Raises:
            Stopped: As `take`.
        """
        self._journal.foresee(draft for draft in drafts if draft is not None)
        return [
            self.take(raw, principal=principal) if draft is None else self._take_read(raw, draft)
            for raw, draft in zip(events, drafts, strict=True)
        ]

    def _take_read(self, raw: bytes, draft: Draft) -> Taken:
        assert draft.time is not None, "a source event says its time"
        try:
            self._check_time(draft.time, self._streams[draft.stream].contract)
        except Violation:
            return self.take(raw, principal=draft.principal)
        if draft.stream in self._stopped:
            raise stopped(self._stopped[draft.stream])
        return self._taken(self._journal.append((draft,))[0], draft)

    def heed_alerts(self) -> Mapping[str, Alert]:
        """Look up which streams quality rules hold, and refuse their events from now on; return the alerts by stream.

        Whoever appends an alert or a decision calls this afterwards.
        """
        self._stopped = stopped_streams(self._journal)
        return self._stopped

    def _open(self, raw: bytes) -> tuple[Envelope, Stream] | Refused:
        if len(raw) > self._largest:
            return _too_large(raw, self._largest)
        try:
            envelope = read_envelope(raw)
        except Malformed as error:
            return Refused("malformed", error.which)
        stream = self._streams.get(envelope.type)
        if stream is None:
            return Refused("unknown_stream", f"No contract for type {envelope.type[:64]!r}")
        if len(raw) > stream.contract.max_bytes:
            return _too_large(raw, stream.contract.max_bytes)
        return envelope, stream

    def _taken(self, outcome: Outcome, draft: Draft) -> Taken:
        if isinstance(outcome, Record):
            return Accepted(outcome)
        if isinstance(outcome, Repeat):
            self._journal.tally("repeated")
            return Repeated(outcome.offset)
        if isinstance(outcome, Replayed):
            return outcome
        self._journal.tally("conflicts")
        return Conflicted(draft.id, outcome.offset)

    def _note(self, stream: Stream) -> None:
        """Count what the contract's mode left out of the event that was read last."""
        for name in stream.notes:
            self._journal.tally(name)

    def _refuse(self, refused: Refused, sink: str, cause: Cause | None, stream: str = "") -> Refused | Replayed:
        if sink and cause is not None:
            if is_behind(cause, self._journal.mark(sink)):
                return Replayed()
            self._journal.set_mark(sink, cause)
        group, kind = ("discarded", stream) if stream else ("refused", refused.bucket)
        self._journal.tally(group)
        self._journal.tally(f"{group}.{kind}")
        return refused

    def _check_time(self, time: int, contract: Contract) -> None:
        self._check_gap(time, contract)
        clock = self._journal.clock
        if time < clock - contract.dedup_window:
            age, window = format_span(clock - time), format_span(contract.dedup_window)
            which = f"$.time: Too old to deduplicate: {age} behind the clock, dedupWindow is {window}"
            raise Violation(which=which, fix=_RELEASE)

    def _check_gap(self, time: int, contract: Contract) -> None:
        clock = self._journal.clock
        if clock == 0:
            self._check_start(time)
        elif time - clock > contract.max_gap:
            gap, allowed = format_span(time - clock), format_span(contract.max_gap)
            which = f"$.time: It would advance the clock by {gap}, maxGap is {allowed}"
            raise Violation(which=which, fix=_ADVANCE)

    def _check_start(self, time: int) -> None:
        if self._starts is not None and not self._starts[0] <= time <= self._starts[1]:
            first, last = (format_time(moment) for moment in self._starts)
            which = f"$.time: {format_time(time)} is the journal's first, but the pipeline starts in {first} .. {last}"
            raise Violation(which=which, fix=_ADVANCE)

    def _quarantine(self, draft: Draft, reason: str, sink: str) -> Quarantined | Replayed:
        outcome = self._journal.append((draft,), sink=sink)[0]
        if isinstance(outcome, Replayed):
            return outcome
        if isinstance(outcome, Record):
            return Quarantined(draft.id, reason, outcome)
        self._journal.tally("quarantined_again")
        return Quarantined(draft.id, reason, None)

    def settle(self, order: Order) -> Settled:
        """End a quarantined event's wait, by a decision that stands before the event. Opens a group of its own.

        Raises:
            UnknownName: Nothing of that id is in quarantine, or its stream has no contract any more.
            Malformed: The correction is no JSON, or too large.
            Violation: The event breaks today's contract, or needs ``advance``.
            ConflictingId: A corrected event has taken its id.
            Refused: Its wait has ended before, it has entered the journal by itself, or its person was erased, so that
                it can only be given up.
        """
        waiting = find_held(self._journal, order.quarantine_id)
        if isinstance(order, Discard):
            return self._discard(order)
        raw = self._quarantined.kept(waiting)
        mended = corrected(raw, order) if isinstance(order, Fix) else raw
        event, stream = self._read_again(mended, order)
        self._require_new(event, order)
        details = {"advance": order.advance, "event": event.id, "source": event.source, "stream": event.stream}
        if isinstance(order, Fix):
            details["changed"] = changed(stream.contract.field_names, raw, mended)
        with self._journal.group():
            decided, entered = self._journal.append((decision_on(order, details), event))
            require_decided(decided, order.quarantine_id)
            record = require_entered(entered, order.quarantine_id)
            self._note(stream)
        return Settled(ENDS[action_of(order)], record)

    def _require_new(self, event: Draft, order: Release | Fix) -> None:
        """Refuse what was accepted before its id was forgotten: it waits as too old to tell, and would count twice."""
        known = self._journal.forgotten(event)
        if known is not None and known.conflict == event.conflict:
            raise ConflictingId(
                which=f"{order.quarantine_id} says what record {known.offset} says, under the same id",
                fix="It counts already: `rivermill journal quarantine discard`",
            )

    def _discard(self, order: Discard) -> Settled:
        with self._journal.group():
            (decided,) = self._journal.append((decision_on(order, {}),))
            return Settled(State.DISCARDED, require_decided(decided, order.quarantine_id))

    def _read_again(self, raw: bytes, order: Release | Fix) -> tuple[Draft, Stream]:
        """The event's draft by today's contract, however old it is."""
        envelope = read_envelope(raw)
        stream = self._streams.get(envelope.type)
        if stream is None:
            raise UnknownName(which=f"the stream of {order.quarantine_id}", fix="Add its contract to the pipeline")
        if len(raw) > stream.contract.max_bytes:
            raise Malformed(which=_too_large(raw, stream.contract.max_bytes).reason, fix="Correct it with less")
        try:
            fields = stream.read(envelope, raw)
            if not order.advance:
                self._check_gap(envelope.time, stream.contract)
        except Violation as error:
            raise Violation(which=error.which, fix=error.fix.format(id=order.quarantine_id)) from None
        return stream.draft(envelope, envelope.time, fields, order.principal, None), stream


def _too_large(raw: bytes, limit: int) -> Refused:
    return Refused("too_large", f"{len(raw)} bytes, more than {limit}")
