"""CloudEvents 1.0 in JSON: the envelope that every source event comes in.

Required are ``specversion``, ``id``, ``source``, ``type``, ``time`` (RFC 3339, with an offset) and ``data``. Other
attributes may be there and are not kept, apart from the trace id of a W3C ``traceparent``. A name that stands twice in
one object is refused: two readers of such an event could differ about what it says.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta

from journal.clock import EPOCH, MICROSECOND
from journal.errors import Malformed

_FIX = "Send CloudEvents 1.0 as JSON, in UTF-8"
_REQUIRED = 6
_QUOTES_PER_ATTRIBUTE = 4
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_Name = Annotated[str, Meta(min_length=1, max_length=256)]

_UNSAID = EPOCH - MICROSECOND
"""Stands for the time of a question that says none; known by being this very object."""


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """An event whose envelope holds; its data is not yet parsed."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    type: _Name
    moment: Annotated[datetime, Meta(tz=True)] = msgspec.field(name="time")
    data: msgspec.Raw
    datacontenttype: str | None = None
    dataschema: str | None = None
    subject: str | None = None
    traceparent: str | None = None

    @property
    def time(self) -> int:
        """When it happened, in microseconds."""
        return (self.moment - EPOCH) // MICROSECOND

    @property
    def trace(self) -> str:
        """The W3C trace id; empty when there is none that is well-formed."""
        match = _TRACEPARENT.fullmatch(self.traceparent) if self.traceparent else None
        return match[1] if match else ""

    def __repr__(self) -> str:
        """Without the data, which may be personal."""
        return f"{type(self).__name__}(type={self.type!r})"

    def quotes(self) -> int:
        """How many quotation marks an event has with these attributes, without its data and without escapes."""
        keys = _REQUIRED if self.datacontenttype is None else _REQUIRED + 1
        if self.dataschema is not None:
            keys += 1
        if self.subject is not None:
            keys += 1
        if self.traceparent is not None:
            keys += 1
        return _QUOTES_PER_ATTRIBUTE * keys - 2


class QuestionEnvelope(Envelope, frozen=True, kw_only=True, gc=False):
    """A question whose envelope holds. It is asked when it is recorded, so it need not say a time."""

    moment: Annotated[datetime, Meta(tz=True)] = msgspec.field(name="time", default=_UNSAID)

    def quotes(self) -> int:
        """See `Envelope.quotes`."""
        return super().quotes() - (_QUOTES_PER_ATTRIBUTE if self.moment is _UNSAID else 0)


_decode = msgspec.json.Decoder(Envelope, strict=True).decode
_decode_question = msgspec.json.Decoder(QuestionEnvelope, strict=True).decode


def read_envelope(raw: bytes) -> Envelope:
    """Parse an event as far as its data.

    Raises:
        Malformed: It is not JSON or not a CloudEvent. The message never quotes a value.
    """
    return _read(raw, _decode)


def read_question_envelope(raw: bytes) -> Envelope:
    """The same for a question, whose ``time`` may be absent; raises `Malformed`."""
    return _read(raw, _decode_question)


def _read(raw: bytes, decode: Callable[[bytes], Envelope]) -> Envelope:
    try:
        envelope = decode(raw)
    except msgspec.ValidationError as error:
        raise Malformed(which=_explain(error), fix=_FIX) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(which="It is not JSON in UTF-8", fix=_FIX) from None
    except RecursionError:
        raise Malformed(which="It is nested too deeply", fix="Send flat data") from None
    names = envelope.id + envelope.source
    if not names.isprintable() and _CONTROL.search(names):
        raise Malformed(which="Its id or source holds a control character", fix=_FIX)
    moment = envelope.moment
    # The year first: it settles nearly all, at a third of what comparing two moments costs.
    if moment.year <= EPOCH.year and moment <= EPOCH and moment is not _UNSAID:
        raise Malformed(which="Its time is not after 1970-01-01T00:00:00Z", fix="Send the time at which it happened")
    content = envelope.datacontenttype
    if content is not None and content != "application/json" and "json" not in content:
        raise Malformed(which="Its datacontenttype is not JSON", fix=_FIX)
    return envelope


def quotes_of(data: msgspec.Raw, fields: dict[str, Any], strings: int) -> int:
    """How many quotation marks flat data has that decoded to ``fields``, without escapes.

    Args:
        data: The data as it came.
        fields: What it decoded to, every field of the contract.
        strings: How many of the contract's fields are strings.
    """
    values = fields.values()
    if None not in values:
        return 2 * (len(fields) + strings)
    # Null or absent? Only the data itself knows.
    return 2 * (len(orjson.loads(memoryview(data))) + sum(type(value) is str for value in values))


def require_unique_names(raw: bytes, quotes: int) -> None:
    """Refuse an event in which a name stands twice in an object, or an attribute's name is not a CloudEvents name.

    Args:
        raw: The whole event, known to be JSON.
        quotes: How many quotation marks it has if it says nothing twice, as far as that is known; -1 when it is not.
            Whatever is repeated or escaped only adds to them, so an equal count settles it at little cost.

    Raises:
        Malformed: With the rule; names are not quoted.
    """
    if raw.count(b'"') == quotes:
        return
    try:
        event = json.loads(raw.decode(), object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except (UnicodeDecodeError, RecursionError):
        raise Malformed(which="It is not UTF-8, or nested too deeply", fix=_FIX) from None
    for name in event:
        if not _ATTRIBUTE.fullmatch(name):
            raise Malformed(which="An attribute's name is not lower-case letters and digits", fix=_FIX)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) < len(pairs):
        raise Malformed(which="A name stands twice in one object", fix="Send each name once")
    return known


def _explain(error: msgspec.ValidationError) -> str:
    message, _, path = str(error).partition(" - at `")
    if message.startswith("Invalid enum value"):
        message = "Expected `1.0`"
    return f"{path.removesuffix('`') or '$'}: {message}"
