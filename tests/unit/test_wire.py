"""The wire between the journal's owner and its clients: what is sent comes out the same, and nothing else comes in."""

import struct
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal import errors, wire
from journal.record import Cause, Draft, Kind
from journal.settlement import Release
from journal.wire import Answer, Append, Ask, Batch, Request, Settle, State, Take

DRAFT = Draft(
    kind=Kind.EXAMPLE,
    stream="join",
    id="é",
    body=b'{"a":1}',
    time=5,
    source="/s",
    schema=2,
    subject="x",
    sealed=b"\x00\xff",
    conflict=b"\xff",
    principal="p",
    trace="t",
    cause=Cause(0, 7, 1),
)
REQUESTS: list[Request] = [
    Take([b"{}", b"\xff\x00"], "gate"),
    Take([], ""),
    Take([b"{}", b"{"], "p", [DRAFT, None], "digest"),
    Ask(b"{}", b"{}", "me"),
    Append([Batch("join", [DRAFT]), Batch("", [])]),
    Settle(Release("q-1", "why", "me", True)),
    State(),
]
ANSWERS: list[Answer] = [
    wire.Fates(
        [
            wire.AcceptedFate(3),
            wire.RepeatedFate(4),
            wire.RefusedFate("malformed", "why"),
            wire.ConflictedFate("id", 5),
            wire.QuarantinedFate("q-1", "why"),
        ]
    ),
    wire.Asked(1, 2),
    wire.AskedBefore(b"{}", 9),
    wire.Done(-1),
    wire.SettledAs("released", "e", "s", 4),
    wire.OwnerState("life", 4, 5, {"refused": 1}, 0),
    wire.Failed("Violation", "which", "fix"),
]


@given(cuts=st.lists(st.integers(0, 400)), size=st.integers(0, 90))
def test_frames_come_out_whole_whatever_pieces_they_came_in(cuts: list[int], size: int) -> None:
    sent = [wire.frame(n, Take([b"x" * (n * size)], "p")) for n in range(4)]
    stream, places = b"".join(sent), [0, *sorted(cuts), None]
    frames = wire.Frames()
    pieces = (stream[begin:end] for begin, end in pairwise(places))
    assert [content for piece in pieces for content in frames.cut(piece)] == [content_of(framed) for framed in sent]


def test_frames_before_garbage_are_heard(garbage: bytes = b"\xff" * 8) -> None:
    heard = wire.Frames().cut(wire.frame(1, State()) + garbage)
    assert wire.request_in(next(heard)) == (1, State())
    with pytest.raises(errors.OwnerDown, match="more than"):
        next(heard)


def content_of(framed: bytes) -> bytes:
    assert wire.length_of(framed[: wire.HEADER]) == len(framed) - wire.HEADER
    return framed[wire.HEADER :]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_comes_out_as_it_went_in(request_: Request) -> None:
    assert wire.request_in(content_of(wire.frame(7, request_))) == (7, request_)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_comes_out_as_it_went_in(answer: Answer) -> None:
    assert wire.answer_in(content_of(wire.frame(2**40, answer))) == (2**40, answer)


def test_a_drafts_cause_keeps_its_type() -> None:
    _, request = wire.request_in(content_of(wire.frame(1, REQUESTS[4])))
    assert isinstance(request, Append)
    assert isinstance(request.batches[0].drafts[0].cause, Cause)
    assert request.batches[0].drafts[0].kind is Kind.EXAMPLE


def nested(depth: int) -> bytes:
    return b"\x92\x01" + b"\x91" * depth + b"\xc0"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"not a frame",
        b"\x92\x01\x92\xa4Tak\xff\x90",
        b"\x92\x01\x93\xa4Take\x91\xc4\x01x\xa1\xff",
        nested(100_000),
        msgspec.msgpack.encode((1, ["Take", [b"{}"]])),
        msgspec.msgpack.encode((1, ["Drop", "everything"])),
        msgspec.msgpack.encode(("one", ["State"])),
        wire.frame(1, Take([b"{}"], "x"))[wire.HEADER : -1],
    ],
    ids=["empty", "reserved", "text", "tag", "utf8", "nested", "short", "tag unknown", "number", "cut"],
)
def test_garbage_is_one_kind_of_error(content: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        wire.request_in(content)
    with pytest.raises(msgspec.MsgspecError):
        wire.answer_in(content)


def test_a_request_is_no_answer() -> None:
    with pytest.raises(msgspec.MsgspecError):
        wire.answer_in(content_of(wire.frame(1, REQUESTS[0])))


def test_what_the_other_side_would_not_read_is_not_sent() -> None:
    assert len(wire.frame(1, Take([b"x" * (wire.LARGEST_FRAME - 100)], ""))) <= wire.LARGEST_FRAME + wire.HEADER
    with pytest.raises(errors.Refused, match="Send less"):
        wire.frame(1, Take([b"x" * wire.LARGEST_FRAME], ""))


def test_a_header_may_not_promise_too_much() -> None:
    assert wire.length_of(struct.pack(">I", wire.LARGEST_FRAME)) == wire.LARGEST_FRAME
    with pytest.raises(errors.OwnerDown, match="a frame of"):
        wire.length_of(struct.pack(">I", wire.LARGEST_FRAME + 1))


def kinds(root: type[errors.RivermillError]) -> list[type[errors.RivermillError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in kinds(child))]


@pytest.mark.parametrize("kind", [kind for kind in kinds(errors.RivermillError) if kind.__module__ == errors.__name__])
def test_every_error_crosses_the_wire_whole(kind: type[errors.RivermillError]) -> None:
    error = kind(which="this one", fix="Do that")
    back = wire.error_of(wire.failed(error))
    assert (type(back), back.which, back.fix, str(back)) == (kind, "this one", "Do that", str(error))
    assert (back.status, back.exit_code) == (kind.status, kind.exit_code)


def test_an_error_of_another_release_is_an_upstream_error() -> None:
    back = wire.error_of(wire.Failed("NeverHeardOf", "x", "y"))
    assert type(back) is errors.UpstreamError


@pytest.mark.parametrize("length", [107, 108, 300])
def test_a_socket_has_an_address_however_long_its_path(tmp_path: Path, length: int) -> None:
    folder = tmp_path
    while len(str(folder)) + len("/owner.sock") < length:
        folder /= "d" * min(100, max(1, length - len(str(folder)) - len("//owner.sock")))
    path = folder / "owner.sock"
    folder.mkdir(parents=True, exist_ok=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with wire.address_of(path) as address:
        assert len(address) <= 107
        assert Path(address).parent.samefile(folder)
        assert (address == str(path)) is (len(str(path)) <= 107)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_folder_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), wire.address_of(tmp_path / ("x" * 120) / "owner.sock"):
        pass
