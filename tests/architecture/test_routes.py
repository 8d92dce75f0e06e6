"""Who may do what over HTTP: the app's own routes against the table, with a key of every role and with none."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from features.online_table import OnlineReader
from journal.event_reader import EventReader
from journal.owner_client import AsyncOwnerClient
from journal.privacy import KeyTable
from journal.reading import read_one
from journal.sqlite_reader import SqliteReader
from journal.stream import Stream
from rivermill.access import ADMIN, ROLES, KeyRing
from rivermill.api import make_app
from rivermill.api_guard import PERMISSIONS, PUBLIC, GuardedRoute
from rivermill.api_hot import HOT, PipelineService
from rivermill.desk import Desk, JobDesk
from rivermill.genesis import definition_of
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import answering_of, champion_of, open_run
from serving.live import LiveService

HERE = "http://localhost"

NAME = "phishing"
Asked = tuple[str, str, dict[str, str]]
"""Method, path, headers."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which nothing has happened yet, and nobody owns the journal."""
    root: Path = tmp_path_factory.mktemp("home")
    open_run(load_pipeline(configs_folder() / NAME), Home(root, NAME)).close()
    return root


@pytest.fixture(scope="module")
def keys(root: Path) -> dict[str, str]:
    """Role to the key of somebody who has this role alone; `elsewhere` is an admin of another pipeline."""
    ring = KeyRing.open(root / "access")
    made = {role: ring.add(f"one-{role}", [role]) for role in ROLES}
    return {**made, "elsewhere": ring.add("elsewhere", [ADMIN], ["flights"])}


def make(root: Path) -> tuple[FastAPI, Callable[[], None]]:
    """The app over the home, and what lets go of it."""
    pipeline, home = load_pipeline(configs_folder() / NAME), Home(root, NAME)
    journal, reader = SqliteReader(home.journal), OnlineReader(home.fold("features"))
    champion = champion_of(pipeline, home, read_one(journal))
    client, table = AsyncOwnerClient(home.socket), KeyTable(home.keys / "subjects.sqlite")
    service = PipelineService(
        name=NAME,
        live=LiveService(answering_of(pipeline, definition_of(pipeline), reader, champion), journal, client),
        owner=client,
        question=Stream(pipeline.contracts[pipeline.question.stream], table),
        label=pipeline.contracts[pipeline.label.stream],
        reader=EventReader(pipeline.contracts, table),
    )
    desk, jobs = Desk({NAME: (pipeline, home)}), JobDesk({NAME: home})
    app = make_app({NAME: service}, KeyRing.open(root / "access"), desk, jobs)

    def close() -> None:
        table.close()
        reader.close()
        journal.close()

    return app, close


def ask(root: Path, asked: Sequence[Asked], extra: Callable[[FastAPI], None] = lambda _: None) -> list[int]:
    """The status of each request, bodies being no JSON: whoever is let through gets as far as that."""
    app, close = make(root)
    extra(app)

    async def run() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as http:
            content = {"GET": None, "POST": b"{"}
            return [
                (await http.request(method, path, headers=headers, content=content[method])).status_code
                for method, path, headers in asked
            ]

    try:
        return asyncio.run(run())
    finally:
        close()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def routes(root: Path) -> list[Route]:
    app, close = make(root)
    close()
    assert all(isinstance(route, Route) for route in app.routes), "a mount or a socket has no place in the table"
    return [route for route in app.routes if isinstance(route, Route)]


def method_of(route: Route) -> str:
    (method,) = (route.methods or set()) - {"HEAD"}
    return method


def path_of(route: Route) -> str:
    """An address that the route matches."""
    return route.path.replace(":path", "").format(pipeline=NAME, id="x", job="x", line="x")


def test_the_table_and_the_routes_are_the_same(routes: list[Route]) -> None:
    names = [route.name for route in routes]
    assert len(set(names)) == len(names)
    assert set(names) == set(PERMISSIONS) | PUBLIC
    assert not set(PERMISSIONS) & PUBLIC
    assert {"livez", "readyz"} == PUBLIC


def test_every_route_is_guarded(routes: list[Route]) -> None:
    bare = {route.name for route in routes if not isinstance(route, GuardedRoute)}
    assert bare == set(HOT)
    assert all(len((route.methods or set()) - {"HEAD"}) == 1 for route in routes)


def test_the_table_names_roles_that_there_are_and_no_admin() -> None:
    named = {role for roles in PERMISSIONS.values() for role in roles}
    assert named == set(ROLES) - {ADMIN}
    assert all(PERMISSIONS.values())


def test_who_only_reads_changes_nothing(routes: list[Route]) -> None:
    changing = {route.name for route in routes if method_of(route) == "POST"}
    assert not any("auditor" in PERMISSIONS[name] for name in changing)
    assert [name for name in changing if "promoter" in PERMISSIONS[name]] != []
    assert all(PERMISSIONS[name] == {"promoter"} for name in ("promote", "rollback"))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_gets_through_where_the_table_says(
    root: Path, keys: dict[str, str], routes: list[Route], role: str
) -> None:
    for headers in (bearer(keys[role]), {"x-api-key": keys[role]}):
        statuses = ask(root, [(method_of(route), path_of(route), headers) for route in routes])
        through = {route.name for route, status in zip(routes, statuses, strict=True) if status not in {401, 403}}
        expected = {name for name, roles in PERMISSIONS.items() if role == ADMIN or role in roles}
        assert through == expected | PUBLIC
        assert 401 not in statuses
        assert 500 not in statuses


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("rm_" + "x" * 43), {"x-api-key": ""}, {"authorization": "Basic YWRtaW46YWRtaW4="}],
    ids=["none", "unknown", "empty", "basic"],
)
def test_without_a_key_there_is_only_health(root: Path, routes: list[Route], headers: dict[str, str]) -> None:
    statuses = ask(root, [(method_of(route), path_of(route), headers) for route in routes])
    for route, status in zip(routes, statuses, strict=True):
        assert (status == 401) == (route.name not in PUBLIC), route.name


def test_a_key_for_another_pipeline_opens_nothing_of_this_one(
    root: Path, keys: dict[str, str], routes: list[Route]
) -> None:
    here = [route for route in routes if "{pipeline}" in route.path]
    assert len(here) >= 9
    statuses = ask(root, [(method_of(route), path_of(route), bearer(keys["elsewhere"])) for route in here])
    assert set(statuses) == {403}


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/{NAME}/%70romote",
        f"/v1/{NAME}/labels/../promote",
        f"/v1/{NAME}/labels/%2e%2e/promote",
        f"/v1/{NAME}/labels;/promote",
        f"/v1/{NAME}//promote",
        f"//v1/{NAME}/promote",
        f"/v1/{NAME}/promote/",
        f"/v1/{NAME}/promote?route=labels",
        f"/v1/{NAME}/promote%00",
        f"/v1/{NAME}/PROMOTE",
        f"/v1/x%2f..%2f{NAME}/promote",
        "/v1/labels/promote",
    ],
)
def test_spelling_an_address_otherwise_opens_nothing(root: Path, keys: dict[str, str], path: str) -> None:
    """Beside 403 these may be unknown (404, 405) or sent to where 403 waits (307)."""
    asked = [("POST", path, bearer(keys["labeler"])), ("GET", path, bearer(keys["labeler"]))]
    assert set(ask(root, asked)) <= {403, 404, 405, 307}


def test_a_route_that_is_not_in_the_table_is_nobodys(root: Path, keys: dict[str, str]) -> None:
    async def forgotten(_: Request) -> Response:
        return PlainTextResponse("open")

    def add(app: FastAPI) -> None:
        app.get("/forgotten", name="forgotten", response_class=PlainTextResponse)(forgotten)
        app.router.add_api_route("/unguarded", forgotten, name="livez", route_class_override=APIRoute)

    paths = ("/forgotten", "/unguarded")
    asked = [("GET", path, headers) for path in paths for headers in ({}, bearer(keys[ADMIN]))]
    assert ask(root, asked, add) == [401, 403, 403, 403]


def test_the_framework_tells_nobody_about_requests(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    app, close = make(root)
    close()
    assert not any(app._telemetry[name] for name in ("tracing", "metrics", "logs", "operation_spans", "auto_configure"))
