"""Errors as HTTP says them: application/problem+json (RFC 9457) with what, which and what to do."""

import logging
import re
import secrets
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from journal.errors import NoKey, NotAllowed, RivermillError
from rivermill.auditing import asker_of

MEDIA_TYPE = "application/problem+json"
_TOO_MANY, _UNAVAILABLE, _UNAUTHORIZED, _DEFECT = 429, 503, 401, 500
_RETRY_AFTER = "1"
SAFE = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))
"""What every response says, as headers: it is not to be guessed at, and nobody's to keep."""

_log = logging.getLogger("rivermill.api")


def problem_of(error: RivermillError, instance: str) -> Response:
    """One of our errors as a response."""
    headers = {}
    if error.status in (_TOO_MANY, _UNAVAILABLE):
        headers["Retry-After"] = _RETRY_AFTER
    if isinstance(error, NoKey):
        headers["WWW-Authenticate"] = "Bearer"
    title = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
    facts = {"type": _urn(type(error).__name__), "title": title, "status": error.status, "detail": error.which}
    return _response({**facts, "fix": error.fix, "instance": instance}, error.status, headers)


async def on_error(request: Request, error: Exception) -> Response:
    """The handler of our own errors."""
    assert isinstance(error, RivermillError), "registered for these alone"
    if isinstance(error, NoKey | NotAllowed):
        await _write_down(request, error)
    return problem_of(error, request.url.path)


async def _write_down(request: Request, error: RivermillError) -> None:
    """Whoever is denied leaves a row in the audit."""
    headers, state = request.headers, request.app.state
    await state.auditing.denied(
        request.path_params.get("pipeline"),
        asker=asker_of(state.keyring, headers.get("authorization"), headers.get("x-api-key")),
        route=request.url.path,
        error=error,
    )


async def on_http_error(request: Request, error: Exception) -> Response:
    """The handler of what the framework refuses: no such route, a method it does not take."""
    assert isinstance(error, HTTPException), "registered for these alone"
    facts = {
        "type": "about:blank",
        "title": error.detail,
        "status": error.status_code,
        "detail": f"{request.method} {request.url.path}",
        "fix": "/openapi.json lists what there is",
        "instance": request.url.path,
    }
    return _response(facts, error.status_code, dict(error.headers or {}))


async def on_defect(request: Request, error: Exception) -> Response:
    """The handler of what should not happen: the log has it, the answer only its number."""
    number = secrets.token_hex(8)
    _log.error("a request failed (number %s)", number, exc_info=error, extra={"action": "request_failed"})
    facts = {
        "type": "urn:rivermill:defect",
        "title": "Something here is broken",
        "status": _DEFECT,
        "detail": f"number {number}",
        "fix": "The log of the http process tells more under this number",
        "instance": request.url.path,
    }
    return _response(facts, _DEFECT, {})


def _response(facts: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    response = Response(orjson.dumps(facts), status_code=status, headers=headers, media_type=MEDIA_TYPE)
    # Some of these are sent outside of every middleware.
    response.raw_headers.extend(SAFE)
    return response


def _urn(name: str) -> str:
    return "urn:rivermill:" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
