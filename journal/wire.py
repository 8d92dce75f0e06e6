"""What the journal's owner and its clients say to each other over a Unix socket.

A frame is four bytes of length and a MessagePack array (number, message). The number is the caller's own: several
requests may be under way on one connection, and the answers carry their numbers. Whatever the owner acknowledged is
durable.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from journal import errors
from journal.errors import OwnerDown, Refused, RivermillError, UpstreamError
from journal.record import Cause, Draft
from journal.settlement import Discard, Fix, Release

LARGEST_FRAME = 16 * 1024 * 1024
"""Bytes. Whoever sends more is no client of ours."""

_LENGTH = struct.Struct(">I")
HEADER = _LENGTH.size

_LONGEST_ADDRESS = 107
"""Bytes of a Unix socket's path that Linux takes."""


class Take(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Events to take in, each a CloudEvent in JSON.

    ``read`` has what the caller has read of them by the contracts of this digest, one for each event, or none at all.
    """

    events: list[bytes]
    principal: str
    read: list[Draft | None] = []
    contracts: str = ""


class Ask(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """A question (a CloudEvent in JSON) with its answer: the body of a prediction, its question and key left open."""

    question: bytes
    prediction: bytes
    principal: str


class Batch(msgspec.Struct, array_like=True, frozen=True):
    """Drafts for the journal. With a sink each carries its cause: what the sink's mark has passed is dropped.

    ``epoch`` is the one that the owner granted for the sink; 0 for whoever never claimed one.
    """

    sink: str
    drafts: list[Draft]
    epoch: int = 0


class Claim(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Whoever writes for these sinks from now on, with the epochs of their files: older writers are refused."""

    epochs: dict[str, int]


class Append(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """What folds derived, and what a decision or a job brings."""

    batches: list[Batch]


class Settle(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """An order that ends a quarantined event's wait."""

    order: Release | Fix | Discard


class State(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """How the owner is."""


Request = Take | Ask | Append | Claim | Settle | State


class AcceptedFate(msgspec.Struct, tag="accepted", frozen=True):
    """The event is in the journal at this offset."""

    offset: int


class RepeatedFate(msgspec.Struct, tag="repeated", frozen=True):
    """It was there already."""

    offset: int


class RefusedFate(msgspec.Struct, tag="refused", frozen=True):
    """It was counted and not kept."""

    bucket: str
    reason: str


class ConflictedFate(msgspec.Struct, tag="conflicted", frozen=True):
    """Its id is taken by an event that says something else."""

    id: str
    offset: int


class QuarantinedFate(msgspec.Struct, tag="quarantined", frozen=True):
    """It waits in quarantine under this id."""

    id: str
    reason: str


Fate = AcceptedFate | RepeatedFate | RefusedFate | ConflictedFate | QuarantinedFate


class Fates(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """What became of each event of a `Take`, in order."""

    fates: list[Fate]


class Asked(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """Question and prediction are in the journal, at these offsets."""

    question: int
    prediction: int


class AskedBefore(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """This question was asked before: the answer that was recorded then, and where it stands."""

    prediction: bytes
    offset: int


class Done(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """It is durable; ``end`` is the journal's last offset."""

    end: int


class Claimed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The epochs that the owner granted, by sink; none lower than was claimed."""

    epochs: dict[str, int]


class SettledAs(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """The wait has ended: where the event stands, and its record; of a discarded one, the decision's."""

    state: str
    id: str
    stream: str
    offset: int


class OwnerState(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """How the owner is: the journal's life, end and clock, its tallies, how many requests wait, every sink's mark."""

    incarnation: str
    end: int
    clock: int
    tallies: dict[str, int]
    waiting: int
    marks: dict[str, Cause] = {}


class Failed(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """One of our errors: its class by name, and what it says."""

    error: str
    which: str
    fix: str


Answer = Fates | Asked | AskedBefore | Done | Claimed | SettledAs | OwnerState | Failed

_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(tuple[int, Request]).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[int, Answer]).decode


def frame(number: int, message: Request | Answer) -> bytes:
    """A message as it goes over the wire; raises `Refused` when it is longer than the other side would read."""
    content = _encode((number, message))
    if len(content) > LARGEST_FRAME:
        raise Refused(which=f"a message of {len(content)} bytes, more than {LARGEST_FRAME}", fix="Send less at a time")
    return _LENGTH.pack(len(content)) + content


class Frames:
    """Cuts what arrives into frames, whatever pieces it arrives in."""

    __slots__ = ("_rest", "_wanted")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = 0

    def cut(self, piece: bytes) -> Iterator[bytes]:
        """The contents of the frames that this piece completes; raises `OwnerDown` at what is no frame of ours."""
        if self._rest:
            self._rest += piece
            if len(self._rest) < self._wanted:
                return
            piece = bytes(self._rest)
        begin, end = 0, len(piece)
        self._wanted = HEADER
        while end - begin >= HEADER:
            behind = begin + HEADER + length_of(piece[begin : begin + HEADER])
            if behind > end:
                self._wanted = behind - begin
                break
            yield piece[begin + HEADER : behind]
            begin = behind
        self._rest = bytearray(piece[begin:])


def length_of(header: bytes) -> int:
    """How long the frame behind a header is; raises `OwnerDown` when it is no frame of ours."""
    (length,) = _LENGTH.unpack(header)
    if length > LARGEST_FRAME:
        raise OwnerDown(which=f"a frame of {length} bytes, more than {LARGEST_FRAME}", fix="Send less at a time")
    return int(length)


def request_in(content: bytes) -> tuple[int, Request]:
    """Read a request; raises `msgspec.MsgspecError`."""
    try:
        return _decode_request(content)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def answer_in(content: bytes) -> tuple[int, Answer]:
    """Read an answer; raises `msgspec.MsgspecError`."""
    try:
        return _decode_answer(content)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def failed(error: RivermillError) -> Failed:
    """An error as an answer."""
    return Failed(type(error).__name__, error.which, error.fix)


def error_of(answer: Failed) -> RivermillError:
    """The error that an answer carries."""
    kind = getattr(errors, answer.error, UpstreamError)
    error: RivermillError = kind(which=answer.which, fix=answer.fix)
    return error


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A name to bind or connect a socket by, good while this is open, however long its path is."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
