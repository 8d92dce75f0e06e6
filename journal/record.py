"""The one record type. Everything that happens is one of these, in order, in a journal.

A writer hands in a `Draft`; the journal stamps it and gives back a `Record`. Times are integers: microseconds since
1970-01-01 UTC. Bodies are canonical JSON, so that equal content is equal bytes.
"""

from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import orjson

FORMAT = 1


class Kind(StrEnum):
    """What a record is. The values are stored and never change their meaning."""

    GENESIS = "genesis"
    DEFINITION = "definition"
    SOURCE = "source"
    QUARANTINE = "quarantine"
    QUESTION = "question"
    PREDICTION = "prediction"
    EXAMPLE = "example"
    EXPIRED = "expired"
    SNAPSHOT = "snapshot"
    VERSION = "version"
    DECISION = "decision"
    ALERT = "alert"


class Cause(NamedTuple):
    """Where a derived record comes from: the ``n``-th output of the record at ``(partition, offset)``.

    A sink's mark is the largest cause it has taken; what comes again at or below the mark is dropped.
    """

    partition: int
    offset: int
    n: int


class Draft(msgspec.Struct, frozen=True, kw_only=True, array_like=True, dict=True):
    """A record before the journal has given it its place.

    Attributes:
        kind: What it is.
        stream: The contract's stream for source events, the fold's name for what a fold derives.
        id: Unique within (kind, source) for the contract's dedup window.
        time: When it happened, says the producer; None for derived records, which happen when they are known.
        body: Canonical JSON, without the sealed fields.
        source: The CloudEvents source; empty for derived records.
        schema: The contract's major version that the body follows.
        subject: The random id of the person it is about, if any; never the producer's identifier.
        sealed: The personal fields, encrypted under the subject's key.
        conflict: A keyed hash of the canonical plaintext: tells a repeat from a conflict.
        principal: Who handed it in.
        trace: The W3C trace id it belongs to.
        cause: What it was derived from, for a sink's mark.
    """

    kind: Kind
    stream: str
    id: str
    body: bytes
    time: int | None = None
    source: str = ""
    schema: int = 1
    subject: str | None = None
    sealed: bytes | None = None
    conflict: bytes = b""
    principal: str = ""
    trace: str = ""
    cause: Cause | None = None


class _Parsed:
    """The body, parsed once: a cached property without the lock that Python 3.11 takes for one."""

    def __get__(self, record: "Record", _: object) -> dict[str, Any]:
        parsed: dict[str, Any] = orjson.loads(record.body)
        record.__dict__["data"] = parsed
        return parsed


class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True, dict=True):
    """A draft in its place. The fields stand in the order in which they are stored, so that bytes are read into one.

    Attributes:
        format: What it was stored as.
        at: When it became known.
        partition: Where it stands.
        offset: Where in it; stored beside the bytes, not in them.
        data: The parsed body.
    """

    format: int = FORMAT
    kind: Kind
    stream: str
    id: str
    time: int | None = None
    at: int
    source: str = ""
    schema: int = 1
    subject: str | None = None
    sealed: bytes | None = None
    conflict: bytes = b""
    principal: str = ""
    trace: str = ""
    cause: Cause | None = None
    body: bytes
    partition: int = 0
    offset: int = -1

    data = _Parsed()


def hand_on(draft: Draft, **parsed: object) -> Draft:
    """Spare readers in this process what the writer has parsed already; it must equal what the body reads back as."""
    draft.__dict__.update(parsed)
    return draft


def canonical_json(value: object) -> bytes:
    """Equal values give equal bytes: sorted keys, no spaces, shortest floats that read back the same."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
