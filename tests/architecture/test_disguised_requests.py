"""Requests that pretend: another host, another method, another address. None gets around the guard of any route."""

import asyncio
from collections.abc import Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from rivermill.access import ADMIN, ROLES, KeyRing
from rivermill.api import make_app
from rivermill.api_guard import PUBLIC
from rivermill.desk import Desk, JobDesk

HERE = "http://127.0.0.1"

UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing.open(tmp_path_factory.mktemp("home") / "access")


@pytest.fixture(scope="module")
def secrets(keyring: KeyRing) -> dict[str, str]:
    return {role: keyring.add(f"the-{role}", [role]) for role in ROLES}


@pytest.fixture(scope="module")
def app(keyring: KeyRing) -> FastAPI:
    """Over no pipeline: who gets past the guard finds nothing behind it."""
    return make_app({}, keyring, Desk({}), JobDesk({}))


def routes(app: FastAPI) -> Iterator[tuple[str, str, str]]:
    """Name, method and an address of every route there is."""
    for route in app.routes:
        assert isinstance(route, Route), f"{route!r} is no plain route: nothing here looks at it"
        for method in sorted((route.methods or set()) - {"HEAD"}):
            address = route.path.replace("{id:path}", "q1")
            for parameter in ("pipeline", "job", "line"):
                address = address.replace(f"{{{parameter}}}", f"a-{parameter}")
            assert "{" not in address, f"an address for {route.path}"
            yield route.name, method, address


def asking(app: FastAPI, *asked: tuple[str, str, dict[str, str]]) -> list[httpx.Response]:
    """What the app answers to each (method, path as it goes over the wire, headers)."""

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
            return [
                await http.request(method, "http://127.0.0.1" + path, headers=headers, content=b"{}")
                for method, path, headers in asked
            ]

    return asyncio.run(ask())


def key(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_a_query_carries_no_key(app: FastAPI, secrets: dict[str, str]) -> None:
    for name in ("api_key", "X-API-Key", "access_token", "authorization"):
        (response,) = asking(app, ("GET", f"/v1/jobs?{name}={secrets[ADMIN]}", {}))
        assert response.status_code == UNAUTHORIZED


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "169.254.169.254"])
def test_another_host_is_answered_nothing_even_with_a_key(app: FastAPI, secrets: dict[str, str], host: str) -> None:
    known = [(method, path) for _, method, path in routes(app)]
    responses = asking(app, *((method, path, key(secrets[ADMIN]) | {"Host": host}) for method, path in known))
    assert {response.status_code for response in responses} == {400}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost", "localhost:8000", "[::1]", "[::1]:8000"])
def test_this_machine_by_its_own_names_is_answered(app: FastAPI, host: str) -> None:
    (response,) = asking(app, ("GET", "/livez", {"Host": host}))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "bend",
    [
        lambda path: "/" + path,
        lambda path: path.replace("/v1/", "//v1//", 1) if "/v1/" in path else path + "//",
        lambda path: "/livez/.." + path,
        lambda path: "/livez/%2e%2e" + path,
        lambda path: "/livez%2f.." + path,
        lambda path: "/%2e" + path,
        lambda path: path + "/",
        lambda path: path + "/../livez",
        lambda path: path + "%2flivez",
        lambda path: path + ";/livez",
        lambda path: path + "?/livez",
        lambda path: path + "%00",
        lambda path: path.upper(),
    ],
    ids=[
        "//", "inner //", "/..", "%2e%2e", "%2f..", "%2e", "trailing /", "back", "%2f", ";", "?", "nul", "upper",
    ],
)  # fmt: skip
def test_no_way_to_write_an_address_gets_around_the_guard(app: FastAPI, bend: Callable[[str], str]) -> None:
    known = [(method, bend(path)) for name, method, path in routes(app) if name not in PUBLIC]
    responses = asking(app, *((method, path, {}) for method, path in known))
    for (method, path), response in zip(known, responses, strict=True):
        reached = response.request.url.path
        # A client that resolves `..` by itself asks for /livez and may have it.
        if reached != "/livez":
            assert response.status_code in (UNAUTHORIZED, NOT_FOUND, 405, 307), (method, path, response.text)
            assert response.status_code != 307 or "127.0.0.1" in response.headers["location"]
            # There is no such address; a pipeline that is not found would mean that somebody looked for it.
            assert response.status_code != NOT_FOUND or response.json()["type"] == "about:blank", (method, path)


def test_a_header_does_not_change_the_method_or_the_address(app: FastAPI, secrets: dict[str, str]) -> None:
    auditor = key(secrets["auditor"])
    for header in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        (response,) = asking(app, ("GET", "/v1/jobs", auditor | {header: "POST"}))
        assert (response.status_code, response.json()) == (200, {"jobs": []})
        (response,) = asking(app, ("POST", "/v1/jobs", auditor | {header: "GET"}))
        assert response.status_code == FORBIDDEN
    for header in ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Path", "X-Forwarded-Prefix"):
        (response,) = asking(app, ("GET", "/v1/jobs", {header: "/livez"}))
        assert response.status_code == UNAUTHORIZED
        (response,) = asking(app, ("GET", "/livez", {header: "/v1/jobs"}))
        assert response.json() == {"status": "alive"}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "HEAD", "BREW"])
def test_a_method_that_no_route_takes_does_nothing(app: FastAPI, method: str) -> None:
    paths = {path for name, _, path in routes(app) if name not in PUBLIC}
    responses = asking(app, *((method, path, {}) for path in sorted(paths)))
    assert {response.status_code for response in responses} <= {405, UNAUTHORIZED}


def test_a_wrong_key_does_not_learn_which_pipelines_there_are(app: FastAPI) -> None:
    (there, nowhere) = asking(app, ("GET", "/v1/phishing/status", {}), ("GET", "/v1/nowhere/status", {}))
    assert there.json() | {"instance": ""} == nowhere.json() | {"instance": ""}
