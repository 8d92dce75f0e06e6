"""Who may use which route: the table, and the routes that look it up before they read anything of a request's body.

What counts is the route that was matched, never the text of the address. What is not in the table is nobody's.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from journal.errors import Busy, CallerError, NotAllowed
from rivermill.access import KeyRing, Principal

LARGEST_BODY = 10 * 1024 * 1024
"""Bytes."""

MOST_UNDER_WAY = 16 * 1024 * 1024
"""Bytes of one pipeline's events."""

PUBLIC = frozenset({"livez", "readyz"})
"""Routes that need no key."""

PERMISSIONS: dict[str, frozenset[str]] = {
    "events": frozenset({"producer"}),
    "labels": frozenset({"labeler", "producer"}),
    "predict": frozenset({"predictor"}),
    "prediction": frozenset({"predictor", "auditor"}),
    "submit_job": frozenset({"trainer"}),
    "jobs": frozenset({"trainer", "auditor"}),
    "job": frozenset({"trainer", "auditor"}),
    "job_logs": frozenset({"trainer", "auditor"}),
    "stop_job": frozenset({"trainer"}),
    "versions": frozenset({"trainer", "promoter", "auditor"}),
    "version": frozenset({"trainer", "promoter", "auditor"}),
    "decisions": frozenset({"promoter", "auditor"}),
    "promote": frozenset({"promoter"}),
    "rollback": frozenset({"promoter"}),
    "status": frozenset({"producer", "predictor", "labeler", "trainer", "promoter", "auditor"}),
    "metrics": frozenset({"auditor"}),
    "openapi": frozenset({"producer", "predictor", "labeler", "trainer", "promoter", "auditor"}),
}
"""Route name to the roles that may use it, admin beside them. A route that is not here is nobody's."""


_PRINCIPAL = "rivermill.principal"
_HEADERS = "rivermill.headers"
_ANYONE = Principal("anyone", frozenset(), frozenset())


class BadRequest(CallerError):
    """This request is not what its route takes."""


class TooLarge(CallerError):
    """This request is too large."""

    status = 413


class UnknownEncoding(CallerError):
    """The body's encoding is not taken."""

    status = 415


def authorize(request: Request, route: str) -> Principal:
    """Let a request through to the route of this name.

    Raises:
        NoKey: It carries none that holds.
        NotAllowed: Its key may not do this, or not in this pipeline.
    """
    if route in PUBLIC:
        return _ANYONE
    ring: KeyRing = request.app.state.keyring
    principal = ring.principal_of(header_of(request, b"authorization"), header_of(request, b"x-api-key"))
    if route not in PERMISSIONS:
        raise NotAllowed(which=f"route {route!r} is nobody's", fix="Give it roles in rivermill/api_guard.py")
    principal.require(PERMISSIONS[route], request.path_params.get("pipeline"))
    return principal


def headers_of(request: Request) -> Mapping[bytes, bytes]:
    """The headers by name in lower case, the first of each: they are looked at several times for every request."""
    found: Mapping[bytes, bytes] | None = request.scope.get(_HEADERS)
    if found is None:
        found = request.scope[_HEADERS] = dict(reversed(request.scope["headers"]))
    return found


def header_of(request: Request, name: bytes) -> str | None:
    """One header's text, by its name in lower case; None where it is missing."""
    value = headers_of(request).get(name)
    return None if value is None else value.decode("latin-1")


async def read_body(request: Request) -> bytes:
    """A request's whole body.

    Raises:
        TooLarge: It has more than `LARGEST_BODY` bytes.
        UnknownEncoding: It is compressed.
        BadRequest: It breaks off.
    """
    encoding = header_of(request, b"content-encoding")
    if encoding not in (None, "identity"):
        raise UnknownEncoding(which=encoding[:40], fix="Send it as it is")
    parts: list[bytes] = []
    size, has_more = 0, True
    while has_more:
        message = await request.receive()
        if message["type"] != "http.request":
            raise BadRequest(which="The body breaks off", fix="Send all of it")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY:
            raise TooLarge(which=f"more than {LARGEST_BODY} bytes", fix="Send less at a time")
        has_more = message.get("more_body", False)
    return b"".join(parts)


class Room:
    """How many bytes of bodies may be under way at a time: who comes when it is full is turned away unread."""

    def __init__(self, most: int = MOST_UNDER_WAY) -> None:
        self._left = most

    def hold(self, request: Request) -> "_Held":
        """Keep room for a request's body as long as it takes; one that does not say its length may be the largest.

        Raises:
            Busy: There is not enough.
        """
        size = min(int(headers_of(request).get(b"content-length", LARGEST_BODY)), LARGEST_BODY)
        if size > self._left:
            raise Busy(which="the bodies that are under way fill their room", fix="Send it again in a second")
        self._left -= size
        return _Held(self, size)

    def give_back(self, size: int) -> None:
        """What was held is free again."""
        self._left += size


class _Held:
    """Room that is given back in the end; a generator's context would cost as much as the headers."""

    __slots__ = ("_room", "_size")

    def __init__(self, room: Room, size: int) -> None:
        self._room, self._size = room, size

    def __enter__(self) -> None:
        """Held already."""

    def __exit__(self, *_: object) -> None:
        self._room.give_back(self._size)


class GuardedRoute(APIRoute):
    """A route that FastAPI answers, once we know who asks: on its own it would parse a stranger's body first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `fastapi.routing.APIRoute`."""
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.scope[_PRINCIPAL] = authorize(request, self.name)
            body = await read_body(request)

            async def again() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await answer(Request(request.scope, again))

        return guarded


def caller_of(request: Request) -> Principal:
    """Whom the guard let through; raises NotAllowed where no guard stood."""
    principal = request.scope.get(_PRINCIPAL)
    if not isinstance(principal, Principal):
        raise NotAllowed(which="this route has no guard", fix="Make it a `GuardedRoute`")
    return principal


Caller = Annotated[Principal, Depends(caller_of)]
