"""The API asked by names that nobody should have: whatever an address or a body names, nothing but the home answers.

Also what a key for another pipeline gets from each route, and what decisions that cannot be carried out leave.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from features.online_table import OnlineReader
from journal.asking import Asking
from journal.event_reader import EventReader
from journal.intake import Intake
from journal.log import START
from journal.owner_client import AsyncOwnerClient
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.reading import read_one
from journal.record import Kind, Record
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from journal.stream import Stream
from rivermill.access import KeyRing
from rivermill.api import make_app
from rivermill.api_hot import PipelineService
from rivermill.desk import Desk, JobDesk
from rivermill.genesis import definition_of
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import answering_of, champion_of, open_run
from serving.live import LiveService

HERE = "http://127.0.0.1"

pytestmark = pytest.mark.slow

EVENTS = 150
PATIENCE = 30.0
PROBLEM = "application/problem+json"
ODD_NAMES = [
    "..", "../..", "../../../etc/passwd", "/etc/passwd", "\0", "a\0b", "x" * 300, "%2e%2e", "é\u202e", "a\r\nb: c",
    "'; drop table jobs; --", "phishing/../phishing", "phishing\0", "Phishing", " phishing", "*", "con:", "~",
]  # fmt: skip
READS = ["/v1/{}/status", "/v1/{}/versions", "/v1/{}/decisions", "/v1/{}/predictions/q1", "/v1/{}/versions/online",
         "/v1/phishing/versions/{}", "/v1/phishing/predictions/{}", "/v1/jobs/{}", "/v1/jobs/{}/logs",
         "/v1/jobs?pipeline={}", "/v1/phishing/predictions/q1?source={}"]  # fmt: skip
WRITES = ["/v1/{}/events", "/v1/{}/labels", "/v1/{}/predict", "/v1/{}/promote", "/v1/{}/rollback", "/v1/jobs/{}/stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A client with an admin's key, and what stands behind it."""

    http: httpx.AsyncClient
    keys: KeyRing
    home: Home

    def records(self, kind: Kind) -> list[Record]:
        with contextlib.closing(SqliteReader(self.home.journal)) as journal:
            return journal.of_kind(kind, START, 1_000_000)

    async def post(self, path: str, body: Any) -> httpx.Response:
        content = json.dumps(body).encode()
        return await self.http.post(path, content=content, headers={"Content-Type": "application/json"})


Scene = Callable[[Face], Awaitable[None]]
Play = Callable[[Scene], None]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "phishing")


@pytest.fixture(scope="module")
def played(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("played")
    assert pipeline.recorded is not None
    run = open_run(pipeline, Home(root, pipeline.name))
    run.lockstep.play(islice(pipeline.recorded(), EVENTS), "test")
    run.close()
    return root


@pytest.fixture
def play(pipeline: Pipeline, played: Path, tmp_path: Path) -> Play:
    shutil.copytree(played, tmp_path / "home")
    home = Home(tmp_path / "home", pipeline.name)

    def run(scene: Scene) -> None:
        async def whole() -> None:
            async with facing(pipeline, home) as face:
                await scene(face)

        asyncio.run(whole())

    return run


@contextlib.asynccontextmanager
async def facing(pipeline: Pipeline, home: Home) -> AsyncIterator[Face]:
    with contextlib.ExitStack() as stack:
        journal = SqliteJournal(home.journal, pipeline.name, dedup_window=pipeline.dedup_window)
        stack.callback(journal.close)
        table = stack.enter_context(contextlib.closing(KeyTable(home.keys / "subjects.sqlite")))
        reader = stack.enter_context(contextlib.closing(SqliteReader(home.journal)))
        online = stack.enter_context(contextlib.closing(OnlineReader(home.fold("features"))))
        contract = pipeline.contracts[pipeline.question.stream]
        intake = Intake(journal, pipeline.contracts, table, starts=pipeline.starts)
        server = OwnerServer(journal, intake, Asking(journal, contract, table, pipeline.question.key), home.socket)
        owner = AsyncOwnerClient(home.socket)
        champion = champion_of(pipeline, home, read_one(reader))
        answering = answering_of(pipeline, definition_of(pipeline), online, champion)
        # The deadline is the test's patience: what is slow here is the machine, and no test is about that.
        live = LiveService(answering, reader, owner, deadline=PATIENCE)
        live.follow()
        service = PipelineService(
            name="phishing",
            live=live,
            owner=owner,
            question=Stream(contract, table),
            label=pipeline.contracts[pipeline.label.stream],
            reader=EventReader(pipeline.contracts, table),
        )
        keys = KeyRing.open(home.access)
        app = make_app({"phishing": service}, keys, Desk({"phishing": (pipeline, home)}), JobDesk({"phishing": home}))
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(PATIENCE):
            while not server.is_serving:
                await asyncio.sleep(0)
        try:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url=HERE,
                headers={"Authorization": f"Bearer {keys.admin_path.read_text().strip()}"},
            ) as http:
                yield Face(http=http, keys=keys, home=home)
        finally:
            await owner.close()
            server.stop()
            await serving


def wrong(response: httpx.Response, *statuses: int) -> None:
    """A problem that says what, and leaves out where this machine keeps things."""
    asked = f"{response.request.method} {response.request.url}"
    assert response.status_code in statuses, (asked, response.status_code, response.text)
    assert response.headers["content-type"] == PROBLEM, asked
    assert response.json()["status"] == response.status_code
    assert "root:x:0" not in response.text
    assert "Traceback" not in response.text


def standing(root: Path) -> dict[str, bytes | None]:
    """Every file under a folder with its content, but for what databases and locks write beside themselves."""
    found: dict[str, bytes | None] = {}
    for folder, _, names in os.walk(root):
        found[folder] = None
        for name in names:
            path = Path(folder) / name
            if path.suffix not in (".sqlite-wal", ".sqlite-shm") and ".sqlite" not in name and path.is_file():
                found[str(path)] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_an_odd_name_in_an_address_is_a_problem_and_touches_nothing(play: Play, name: str) -> None:
    async def scene(face: Face) -> None:
        await face.http.get("/v1/jobs")
        before = standing(face.home.root.parent)
        odd = quote(name, safe="")
        for path in READS:
            wrong(await face.http.get(path.format(odd)), 400, 404, 405)
        for path in WRITES:
            wrong(await face.post(path.format(odd), {"line": "online", "why": "a test"}), 400, 404, 405)
        assert standing(face.home.root.parent) == before

    play(scene)


def test_an_odd_name_in_a_body_is_a_problem_and_touches_nothing(play: Play) -> None:
    async def scene(face: Face) -> None:
        await face.http.get("/v1/jobs")
        before = standing(face.home.root.parent)
        for name in ODD_NAMES:
            wrong(await face.post("/v1/phishing/promote", {"line": name, "why": "a test"}), 404)
            wrong(await face.post("/v1/phishing/rollback", {"to": name, "why": "a test"}), 404, 409)
            wrong(await face.post("/v1/jobs", {"pipeline": name}), 404)
        assert standing(face.home.root.parent) == before
        assert (await face.http.get("/v1/jobs")).json() == {"jobs": []}

    play(scene)


def test_numbers_that_no_database_holds_and_text_that_is_none_are_problems(play: Play) -> None:
    async def scene(face: Face) -> None:
        for expected in (2**63, -(2**63) - 1, 10**400, 1.5, "x", [1]):
            for verb, line in (("promote", {"line": "nowhere"}), ("rollback", dict[str, str]())):
                wrong(
                    await face.post(f"/v1/phishing/{verb}", {"why": "x", "expected": expected, **line}), 400, 404, 409
                )
        for text in ("\ud800", "a\udfffb"):
            wrong(await face.post("/v1/phishing/promote", {"line": text, "why": "x"}), 400, 404)
            wrong(await face.post("/v1/phishing/rollback", {"to": text, "why": "x"}), 400, 404, 409)
            wrong(await face.post("/v1/jobs", {"pipeline": text}), 400, 404)
            wrong(await face.post("/v1/phishing/predict", {"id": text, "data": {}}), 400)
            event = {"specversion": "1.0", "id": text, "source": "/t", "type": "visits", "time": "2020-01-01T04:00:00Z"}
            assert (await face.post("/v1/phishing/events", event | {"data": {}})).status_code == 400
        assert len(face.records(Kind.DECISION)) == 1

    play(scene)


def test_an_odd_idempotency_key_is_a_name_or_a_problem(play: Play) -> None:
    async def scene(face: Face) -> None:
        order = json.dumps({"pipeline": "phishing"}).encode()
        ids = set()
        for key in (b"../../x", b"'; drop table jobs; --", b"\xe9\xff", b" ", b"a\tb", b"%00"):
            headers = {b"Idempotency-Key": key, b"Content-Type": b"application/json"}
            job = await face.http.post("/v1/jobs", content=order, headers=headers)
            assert job.status_code == 202, job.text
            ids.add(job.json()["id"])
            assert (await face.http.get(f"/v1/jobs/{job.json()['id']}/logs")).text == ""
        listed = (await face.http.get("/v1/jobs")).json()["jobs"]
        assert {job["id"] for job in listed} == ids
        assert all(job["id"].startswith("job-") and len(job["id"]) == 16 for job in listed)
        wrong(await face.http.post("/v1/jobs", content=order, headers={"Idempotency-Key": "k" * 201}), 400)

    play(scene)


def test_a_key_for_another_pipeline_opens_no_route_of_this_one(play: Play) -> None:
    async def scene(face: Face) -> None:
        secret = face.keys.add("flyer", ["admin"], ["flights"])
        face.http.headers["Authorization"] = f"Bearer {secret}"
        for path in ("status", "versions", "versions/online", "decisions", "predictions/q1"):
            wrong(await face.http.get(f"/v1/phishing/{path}"), 403)
        for path in ("events", "labels", "predict", "promote", "rollback"):
            wrong(await face.post(f"/v1/phishing/{path}", {"line": "online", "why": "x"}), 403)
        assert (await face.http.get("/openapi.json")).status_code == 200
        wrong(await face.http.get("/v1/flights/status"), 404)
        assert len(face.records(Kind.DECISION)) == 1

    play(scene)


def test_a_decision_that_cannot_be_carried_out_leaves_the_log_as_it_was(play: Play) -> None:
    async def scene(face: Face) -> None:
        before = (await face.http.get("/v1/phishing/decisions")).json()
        for query in ("", "?explain=true"):
            wrong(await face.post(f"/v1/phishing/promote{query}", {"line": "nowhere", "why": "x"}), 404)
            wrong(await face.post(f"/v1/phishing/promote{query}", {"line": "online", "why": "x"}), 409)
        wrong(await face.post("/v1/phishing/promote?explain=perhaps", {"line": "online", "why": "x"}), 400)
        for to in ("", "online", "nowhere"):
            wrong(await face.post("/v1/phishing/rollback", {"why": "x", "to": to}), 404, 409)
        unreadable: list[Any] = [{"why": ""}, {}, {"why": "x", "to": 7}, {"why": "x", "more": 1}, 7, []]
        for asked in unreadable:
            wrong(await face.post("/v1/phishing/rollback", asked), 400)
        assert (await face.http.get("/v1/phishing/decisions")).json() == before
        assert [each["action"] for each in before["decisions"]] == ["bootstrap"]
        (line,) = (await face.http.get("/v1/phishing/versions")).json()["lines"]
        assert (line["line"], line["state"]) == ("online", "champion")

    play(scene)
