"""The hot routes: events, labels and predict, as bare routes without validation layers between bytes and structs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from starlette.requests import Request

from journal.contract import Contract
from journal.envelope import read_envelope
from journal.errors import Malformed, RivermillError, UnknownName
from journal.event_reader import EventReader
from journal.owner_client import AsyncOwnerClient
from journal.record import Draft
from journal.stream import Stream
from journal.wire import AcceptedFate, ConflictedFate, Fate, QuarantinedFate, RefusedFate, RepeatedFate
from rivermill.access import Principal
from rivermill.api_guard import BadRequest, Room, TooLarge, read_body
from serving.live import Ack, LiveService, Question, event_of

MOST_EVENTS = 10_000
MOST_QUESTIONS = 1_000
WORTH_READING = 10
"""Events of one request that are read here and not by the owner, whose time they would take from everybody."""

BATCHES_AT_ONCE = 2
READ_AT_ONCE = 100
"""Of these: some milliseconds' worth, and then whoever waits has his turn."""

HANDED_IN_AT_ONCE = 200
"""Events that the owner takes at a time from one request: no question waits for more than some of them."""

QUESTIONS_AT_ONCE = 25
"""Of one request: they share the journal's commits, and no other request waits long behind them."""

OWNER_SECONDS = 5.0
DEFAULT_SOURCE = "http"

JSON = "application/json"
_ACCEPTED, _OK, _CONFLICT, _UNPROCESSABLE, _BAD, _TOO_LARGE = 202, 200, 409, 422, 400, 413
_NO_OUTCOME = "no_outcome"
_STATUS_OF_REFUSED = {"too_large": _TOO_LARGE, _NO_OUTCOME: _UNPROCESSABLE, "discarded": _UNPROCESSABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineService:
    """One pipeline as the API sees it.

    Attributes:
        name: Its name.
        live: Answers its questions.
        owner: Its journal's owner.
        question: Reads questions by their contract.
        label: The contract of the outcomes.
        reader: Reads events that come in numbers, so that the owner need not.
        attempts: What the worker leaves about a record that it stays before; see `journal.poison`.
        room: Bounds the events that are under way, questions apart.
        reading: Bounds how many larger batches are read and handed in at a time: read, they take ten times their bytes.
    """

    name: str
    live: LiveService
    owner: AsyncOwnerClient
    question: Stream
    label: Contract
    reader: EventReader
    attempts: Path | None = None
    room: Room = field(default_factory=Room)
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BATCHES_AT_ONCE))


class Reply(NamedTuple):
    """What a hot route answers: a status, and JSON."""

    status: int
    body: bytes


class _AskOne(msgspec.Struct):
    """A question: an id, and the data of its contract."""

    id: str
    data: msgspec.Raw
    source: str = DEFAULT_SOURCE
    type: str | None = None


class _AskMany(msgspec.Struct):
    """Several questions."""

    questions: list[msgspec.Raw]


_read_many = msgspec.json.Decoder(_AskMany).decode
_read_one = msgspec.json.Decoder(_AskOne).decode
_read_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


async def take_events(service: PipelineService, request: Request, principal: Principal) -> Reply:
    """POST /v1/{pipeline}/events: one CloudEvent, or several."""
    return await _take(service, request, principal)


async def take_labels(service: PipelineService, request: Request, principal: Principal) -> Reply:
    """POST /v1/{pipeline}/labels: the same for outcomes alone."""

    def turn_away(event: bytes) -> RefusedFate | None:
        try:
            found = read_envelope(event).type
        except Malformed:
            return None
        if found == service.label.stream:
            return None
        return RefusedFate(_NO_OUTCOME, f"Type {found[:64]!r} is no outcome. Send type {service.label.stream!r}")

    return await _take(service, request, principal, turn_away)


TurnAway = Callable[[bytes], RefusedFate | None]


async def _take(
    service: PipelineService, request: Request, principal: Principal, turn_away: TurnAway | None = None
) -> Reply:
    with service.room.hold(request):
        body = await read_body(request)
        events = _events_in(body)
        if turn_away is None:
            fates = await _hand_in(service, [body] if events is None else events, principal)
        else:
            fates = await _fates(service, [body] if events is None else events, principal, turn_away)
    if events is None:
        return _json(fates[0], _status_of(fates[0]))
    return _json({"fates": fates}, _OK)


async def _fates(
    service: PipelineService,
    events: Sequence[bytes],
    principal: Principal,
    turn_away: TurnAway,
) -> list[Fate]:
    """What became of each event, in order: some are turned away here, the owner says it of the others."""
    turned = [turn_away(event) for event in events]
    admitted = [event for event, fate in zip(events, turned, strict=True) if fate is None]
    taken = iter(await _hand_in(service, admitted, principal))
    return [next(taken) if fate is None else fate for fate in turned]


async def _hand_in(service: PipelineService, events: Sequence[bytes], principal: Principal) -> list[Fate]:
    if not events:
        return []
    if len(events) < WORTH_READING:
        return await service.owner.take(events, principal.name, OWNER_SECONDS)
    if len(events) <= READ_AT_ONCE:
        return await _hand_in_read(service, events, principal)
    async with service.reading:
        return await _hand_in_read(service, events, principal)


async def _hand_in_read(service: PipelineService, events: Sequence[bytes], principal: Principal) -> list[Fate]:
    """Hand events in by parts, each behind the one before; the next part is read while the owner commits one."""
    reader, owner, fates = service.reader, service.owner, list[Fate]()

    def take(part: Sequence[bytes], read: Sequence[Draft | None]) -> Awaitable[Sequence[Fate]]:
        return owner.take(part, principal.name, OWNER_SECONDS, read=read, contracts=reader.digest)

    parts = [events[first : first + HANDED_IN_AT_ONCE] for first in range(0, len(events), HANDED_IN_AT_ONCE)]
    read = await _read(reader, parts[0], principal)
    for part, behind in pairwise(parts):
        some, read = await asyncio.gather(take(part, read), _read(reader, behind, principal))
        fates += some
    fates += await take(parts[-1], read)
    return fates


async def _read(reader: EventReader, events: Sequence[bytes], principal: Principal) -> list[Draft | None]:
    read = list[Draft | None]()
    for first in range(0, len(events), READ_AT_ONCE):
        if first:
            await asyncio.sleep(0)
        read += [reader.read(event, principal.name) for event in events[first : first + READ_AT_ONCE]]
    return read


def _events_in(body: bytes) -> list[bytes] | None:
    """The events of a batch; None when the body is one event, or nothing that can be told apart here."""
    if body.lstrip()[:1] != b"[":
        return None
    try:
        events = [bytes(raw) for raw in _read_events(body)]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(which="The batch is not a JSON array", fix="Send an array of CloudEvents") from error
    if len(events) > MOST_EVENTS:
        raise TooLarge(which=f"{len(events)} events, more than {MOST_EVENTS}", fix="Send less at a time")
    return events


def _status_of(fate: Fate) -> int:
    match fate:
        case AcceptedFate():
            return _ACCEPTED
        case RepeatedFate():
            return _OK
        case ConflictedFate():
            return _CONFLICT
        case QuarantinedFate():
            return _UNPROCESSABLE
        case RefusedFate():
            return _STATUS_OF_REFUSED.get(fate.bucket, _BAD)


async def predict(service: PipelineService, request: Request, principal: Principal) -> Reply:
    """POST /v1/{pipeline}/predict: one question, or several."""
    body, ack = await read_body(request), _ack(request)
    many = _questions_in(body)
    if many is None:
        return _json(await service.live.ask(_question(service, body, principal), ack), _OK)
    answers: list[dict[str, Any]] = []
    for first in range(0, len(many), QUESTIONS_AT_ONCE):
        some = many[first : first + QUESTIONS_AT_ONCE]
        answers += await asyncio.gather(*(_answered(service, raw, principal, ack) for raw in some))
    return _json({"answers": answers}, _OK)


async def _answered(service: PipelineService, raw: bytes, principal: Principal, ack: Ack) -> dict[str, Any]:
    """One of several: what is wrong with it does not cost the others their answers."""
    try:
        return await service.live.ask(_question(service, raw, principal), ack)
    except RivermillError as error:
        return {"error": {"status": error.status, "detail": error.which, "fix": error.fix}}


def _questions_in(body: bytes) -> Sequence[bytes] | None:
    try:
        questions = [bytes(raw) for raw in _read_many(body).questions]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    if len(questions) > MOST_QUESTIONS:
        raise TooLarge(which=f"{len(questions)} questions, more than {MOST_QUESTIONS}", fix="Send less at a time")
    return questions


def _question(service: PipelineService, raw: bytes, principal: Principal) -> Question:
    try:
        asked = _read_one(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        fix = 'Send {"id": "...", "data": {...}}'
        raise BadRequest(which=f"The question cannot be read ({str(error)[:200]})", fix=fix) from error
    stream = service.question.contract.stream
    if asked.type not in (None, stream):
        raise BadRequest(which=f"type {str(asked.type)[:64]!r} is no question", fix=f"Send type {stream!r}, or none")
    event = event_of(asked.id, asked.source, stream, service.live.now, bytes(asked.data))
    most = service.question.contract.max_bytes
    if len(event) > most:
        raise TooLarge(which=f"a question of {len(event)} bytes, more than {most}", fix="Send less")
    envelope = read_envelope(event)
    fields = service.question.read(envelope, event)
    stored = service.question.stored(fields)
    return Question(id=asked.id, source=asked.source, fields=stored, event=event, principal=principal.name)


def _ack(request: Request) -> Ack:
    given = request.query_params.get("ack", "durable")
    if given not in ("durable", "enqueued"):
        raise BadRequest(which=f"ack={given[:40]!r}", fix="It is durable or enqueued")
    ack: Literal["durable", "enqueued"] = "durable" if given == "durable" else "enqueued"
    return ack


def _json(value: object, status: int) -> Reply:
    return Reply(status, msgspec.json.encode(value))


Hot = Callable[[PipelineService, Request, Principal], Awaitable[Reply]]

HOT: dict[str, tuple[str, Hot]] = {
    "events": ("/v1/{pipeline}/events", take_events),
    "labels": ("/v1/{pipeline}/labels", take_labels),
    "predict": ("/v1/{pipeline}/predict", predict),
}
"""Route name to path and endpoint; all of them are POST."""


def service_of(services: Mapping[str, PipelineService], request: Request) -> PipelineService:
    """The pipeline that a request names; raises UnknownName."""
    name = request.path_params["pipeline"]
    if name not in services:
        raise UnknownName(which=f"pipeline {name[:64]!r}; there are: {', '.join(sorted(services))}", fix="Name one")
    return services[name]
