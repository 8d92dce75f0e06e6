"""Errors over HTTP: each says what, which and what to do, none says what is nobody's business."""

import asyncio
import inspect
import logging
from typing import Any

import orjson
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from journal import errors
from journal.errors import Busy, ConflictingId, NoKey, OwnerDown, RivermillError
from rivermill.problem import MEDIA_TYPE, on_defect, on_error, on_http_error, problem_of

KINDS = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RivermillError)),
    key=lambda kind: kind.__name__,
)


def request(path: str = "/v1/flights/predict", method: str = "POST") -> Request:
    return Request({"type": "http", "method": method, "path": path, "headers": [], "query_string": b""})


def facts(response: Response) -> dict[str, Any]:
    assert response.media_type == MEDIA_TYPE == "application/problem+json"
    found: dict[str, Any] = orjson.loads(response.body)
    assert found["status"] == response.status_code
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_says_what_which_and_what_to_do(kind: type[RivermillError]) -> None:
    response = problem_of(kind(which="the facts", fix="Do this"), "/here")
    said = facts(response)
    assert 400 <= response.status_code < 600
    assert response.status_code == kind.status
    assert said["title"] and not said["title"].endswith(".")
    assert (said["detail"], said["fix"], said["instance"]) == ("the facts", "Do this", "/here")


def test_no_two_errors_have_the_same_type() -> None:
    types = {facts(problem_of(kind(which="x"), "/"))["type"] for kind in KINDS}
    assert len(types) == len(KINDS)
    assert "urn:rivermill:conflicting-id" in types


@pytest.mark.parametrize(("kind", "after"), [(Busy, "1"), (OwnerDown, "1"), (ConflictingId, None), (NoKey, None)])
def test_who_should_come_back_is_told_when(kind: type[RivermillError], after: str | None) -> None:
    assert problem_of(kind(which="x"), "/").headers.get("retry-after") == after


def test_who_has_no_key_is_told_how_to_carry_one() -> None:
    assert problem_of(NoKey(which="x"), "/").headers["www-authenticate"] == "Bearer"
    assert "www-authenticate" not in problem_of(ConflictingId(which="x"), "/").headers


def test_what_a_caller_named_stays_data() -> None:
    said = facts(problem_of(ConflictingId(which='"}\r\nX: <b>\0\ud7ff'), "/a\r\nSet-Cookie: b"))
    assert said["detail"] == '"}\r\nX: <b>\0\ud7ff'
    assert said["instance"] == "/a\r\nSet-Cookie: b"


def test_an_error_is_about_the_path_that_was_asked() -> None:
    response = asyncio.run(on_error(request("/v1/x"), ConflictingId(which="x")))
    assert (response.status_code, facts(response)["instance"]) == (409, "/v1/x")


def test_what_the_framework_refuses_is_a_problem_with_the_headers_it_came_with() -> None:
    error = HTTPException(405, headers={"Allow": "POST"})
    response = asyncio.run(on_http_error(request(), error))
    said = facts(response)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert (said["title"], said["detail"]) == ("Method Not Allowed", "POST /v1/flights/predict")


def test_of_a_defect_the_answer_says_a_number_and_the_log_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "rivermill.api"):
        response = asyncio.run(on_defect(request(), ZeroDivisionError("secret of the house")))
    number = facts(response)["detail"].removeprefix("number ")
    assert response.status_code == 500
    assert b"secret" not in response.body and b"ZeroDivision" not in response.body
    assert number in caplog.text and "secret of the house" in caplog.text
    again = asyncio.run(on_defect(request(), ZeroDivisionError()))
    assert facts(again)["detail"] != f"number {number}"
