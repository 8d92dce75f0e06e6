"""The API over a real home and a real owner in a process of its own: every verb, and what is refused with what."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from features.online_table import OnlineReader
from journal.clock import format_time, parse_time
from journal.errors import OwnerDown
from journal.event_reader import EventReader
from journal.owner_client import AsyncOwnerClient, OwnerClient
from journal.privacy import KeyTable
from journal.reading import read_one
from journal.sqlite_reader import SqliteReader
from journal.stream import Stream
from rivermill.access import KeyRing
from rivermill.api import make_app
from rivermill.api_guard import LARGEST_BODY, PERMISSIONS, PUBLIC
from rivermill.api_hot import HANDED_IN_AT_ONCE, MOST_EVENTS, MOST_QUESTIONS, QUESTIONS_AT_ONCE, PipelineService
from rivermill.desk import Desk, JobDesk
from rivermill.genesis import definition_of
from rivermill.pipeline import load_pipeline
from rivermill.registry_wiring import lines_of, retrainer_of
from rivermill.retraining import Order
from rivermill.settings import Home, configs_folder
from rivermill.wiring import answering_of, champion_of, open_run
from serving.live import LiveService

HERE = "http://localhost"

NAME = "phishing"
FOLDER = configs_folder() / NAME
EVENTS = 1_200
PROBLEM = "application/problem+json"
CONSENT = {"why": "a test"}


def recorded() -> Iterator[bytes]:
    events = load_pipeline(FOLDER).recorded
    assert events is not None
    return iter(events(weeks=1))


VISIT = next(event for event in map(json.loads, recorded()) if event["type"] == "visits")


class Owner:
    """The process that owns the journal; it can be killed and started again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.socket = Home(root, NAME).socket
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "rivermill.owner_process", str(self._root), str(FOLDER)]
        self.process = subprocess.Popen(command)
        client = OwnerClient(self.socket)
        while not self._answers(client):
            assert self.process.poll() is None, "the owner did not start"
        client.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @staticmethod
    def _answers(client: OwnerClient) -> bool:
        try:
            client.state()
        except OwnerDown:
            return False
        return True


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with half a day of pages, an online line that answers, and a batch version that nobody decided on."""
    root: Path = tmp_path_factory.mktemp("home")
    run = open_run(load_pipeline(FOLDER), Home(root, NAME))
    run.lockstep.play(islice(recorded(), EVENTS), "recorded")
    order = Order(job="job-1", trigger=run.journal.clock, executor="serial", promote=False)
    retrainer_of(run, lines_of(run)).run(order)
    run.close()
    KeyRing.open(root / "access")
    return root


@pytest.fixture(scope="module")
def owner(root: Path) -> Iterator[Owner]:
    owner = Owner(root)
    yield owner
    owner.kill()


class Site:
    """The API in this process."""

    def __init__(self, http: httpx.AsyncClient, live: LiveService, root: Path) -> None:
        self.http, self.live, self.root = http, live, root

    async def post(self, path: str, body: Any, **asked: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **asked.pop("headers", {})}
        response = await self.http.post(f"/v1/{NAME}/{path}", content=content, headers=headers, **asked)
        self.require_balance()
        return response

    async def get(self, path: str, **asked: Any) -> httpx.Response:
        return await self.http.get(f"/v1/{NAME}/{path}", **asked)

    def require_balance(self) -> None:
        counted = self.live.counters
        assert counted.answered == counted.recorded + counted.repeated + counted.unrecorded + counted.pending

    def event(self, number: int, *, id_: str = "", stream: str = "visits", **data: Any) -> dict[str, Any]:
        """Somebody is about to open a page that nobody has seen, or says what it was."""
        page = {"page": f"page-{number:04d}"}
        body = {**VISIT["data"], **page} if stream == "visits" else {**page, "phishing": True, "ip_in_url": 0}
        return {
            "specversion": "1.0",
            "id": id_ or f"{stream}-{number}",
            "source": "/test",
            "type": stream,
            "time": format_time(self.live.now),
            "data": {**body, **data},
        }

    def question(self, id_: str, **data: Any) -> dict[str, Any]:
        return {"id": id_, "data": {**VISIT["data"], "page": "page-0003", **data}}


@asynccontextmanager
async def site(root: Path) -> AsyncIterator[Site]:
    pipeline, home = load_pipeline(FOLDER), Home(root, NAME)
    journal, reader = SqliteReader(home.journal), OnlineReader(home.fold("features"))
    answering = answering_of(pipeline, definition_of(pipeline), reader, champion_of(pipeline, home, read_one(journal)))
    client, keys = AsyncOwnerClient(home.socket), KeyTable(home.keys / "subjects.sqlite")
    live = LiveService(answering, journal, client, deadline=20)
    live.follow()
    service = PipelineService(
        name=NAME,
        live=live,
        owner=client,
        question=Stream(pipeline.contracts["visits"], keys),
        label=pipeline.contracts["reports"],
        reader=EventReader(pipeline.contracts, keys),
    )
    ring = KeyRing.open(root / "access")
    app = make_app({NAME: service}, ring, Desk({NAME: (pipeline, home)}), JobDesk({NAME: home}))
    headers = {"authorization": f"Bearer {ring.admin_path.read_text().strip()}"}
    transport = httpx.ASGITransport(app)
    recording = asyncio.create_task(live.record_enqueued())
    async with httpx.AsyncClient(transport=transport, base_url=HERE, headers=headers) as http:
        yield Site(http, live, root)
    recording.cancel()
    await asyncio.gather(recording, return_exceptions=True)
    await client.close()
    keys.close()
    reader.close()
    journal.close()


Play = Callable[[Callable[[Site], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def play(root: Path, owner: Owner) -> Play:
    """Runs what a test does at the site."""
    assert owner.process.poll() is None

    def run(scene: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with site(root) as here:
                await scene(here)

        asyncio.run(whole())

    return run


def problem(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == PROBLEM, response.text
    facts = response.json()
    assert facts["status"] == response.status_code
    return response.status_code, facts["type"].removeprefix("urn:rivermill:")


def test_every_fate_of_one_event_has_its_status(play: Play) -> None:
    async def scene(here: Site) -> None:
        visit = here.event(5001)
        accepted = await here.post("events", visit)
        assert (accepted.status_code, accepted.json()["type"]) == (202, "accepted")
        repeated = await here.post("events", visit)
        assert (repeated.status_code, repeated.json()["offset"]) == (200, accepted.json()["offset"])
        conflicted = await here.post("events", here.event(5002, id_="visits-5001"))
        assert (conflicted.status_code, conflicted.json()["type"]) == (409, "conflicted")
        broken = await here.post("events", here.event(5003, https=7))
        assert (broken.status_code, broken.json()["type"]) == (422, "quarantined")
        assert broken.json()["id"]
        assert "https" in broken.json()["reason"]

    play(scene)


@pytest.mark.parametrize(
    ("change", "status", "bucket"),
    [
        ({"type": "nothing"}, 400, "unknown_stream"),
        ({"specversion": "0.3"}, 400, "malformed"),
        ({"time": "yesterday"}, 400, "malformed"),
        ({"id": "x" * 300}, 400, "malformed"),
        ({"data": {"page": "p" * 20_000}}, 413, "too_large"),
    ],
)
def test_an_event_that_is_none_is_refused(play: Play, change: dict[str, Any], status: int, bucket: str) -> None:
    async def scene(here: Site) -> None:
        response = await here.post("events", {**here.event(5010), **change})
        assert (response.status_code, response.json()["type"]) == (status, "refused")
        assert response.json()["bucket"] == bucket

    play(scene)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"null", b"7", b"[" * 100_000, b'{"a":' * 2_000])
def test_a_body_that_is_not_json_is_refused(play: Play, body: bytes) -> None:
    async def scene(here: Site) -> None:
        for path in ("events", "labels", "predict"):
            response = await here.post(path, body)
            assert response.status_code == 400, (path, response.text)
        for path in ("promote", "rollback"):
            assert problem(await here.post(path, body))[0] == 400
        for response in [await here.http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})]:
            assert problem(response)[0] == 400

    play(scene)


def test_a_batch_tells_the_fate_of_each(play: Play) -> None:
    async def scene(here: Site) -> None:
        good = here.event(5020)
        batch = [good, good, here.event(5021, https="much"), {"no": "event"}, here.event(5022)]
        response = await here.post("events", batch, headers={"content-type": "application/cloudevents-batch+json"})
        assert response.status_code == 200
        fates = [fate["type"] for fate in response.json()["fates"]]
        assert fates == ["accepted", "repeated", "quarantined", "refused", "accepted"]
        assert (await here.post("events", [])).json() == {"fates": []}
        assert problem(await here.post("events", [0] * (MOST_EVENTS + 1))) == (413, "too-large")

    play(scene)


def test_a_batch_of_several_parts_keeps_its_order(play: Play) -> None:
    async def scene(here: Site) -> None:
        numbers = range(6000, 6000 + 2 * HANDED_IN_AT_ONCE)
        batch = [*map(here.event, numbers), here.event(6000), here.event(5021, https="much"), here.event(5999)]
        fates = (await here.post("events", batch)).json()["fates"]
        *taken, repeated, quarantined, last = fates
        begin = taken[0]["offset"]
        assert [fate["offset"] for fate in taken] == list(range(begin, begin + len(taken)))
        assert (repeated["type"], repeated["offset"]) == ("repeated", begin)
        assert (quarantined["type"], last["type"]) == ("quarantined", "accepted")
        again = (await here.post("events", batch)).json()["fates"]
        assert {fate["type"] for fate in again[: len(taken)]} == {"repeated"}

    play(scene)


def test_labels_are_outcomes_alone(play: Play) -> None:
    async def scene(here: Site) -> None:
        await here.post("events", here.event(5030))
        outcome = here.event(5030, stream="reports")
        assert (await here.post("labels", outcome)).status_code == 202
        visit = await here.post("labels", here.event(5031))
        assert (visit.status_code, visit.json()["bucket"]) == (422, "no_outcome")
        assert "reports" in visit.json()["reason"]
        batch = [here.event(5032), here.event(5032, stream="reports"), {}, outcome]
        fates = (await here.post("labels", batch)).json()["fates"]
        assert [fate["type"] for fate in fates] == ["refused", "accepted", "refused", "repeated"]
        assert [fate.get("bucket") for fate in fates] == ["no_outcome", None, "malformed", None]
        assert (await here.post("events", here.event(5031))).status_code == 202

    play(scene)


def test_a_question_is_answered_recorded_and_can_be_looked_up(play: Play) -> None:
    async def scene(here: Site) -> None:
        answer = (await here.post("predict", here.question("ask-1"))).json()
        assert 0 < answer["probability"] < 1
        assert (answer["line"], answer["degraded"]) == ("online", False)
        assert answer["receipt"]["prediction"] == answer["receipt"]["question"] + 1
        parse_time(answer["now"])
        again = (await here.post("predict", here.question("ask-1"))).json()
        assert {**again, "now": ""} == {**answer, "now": ""}
        found = (await here.get("predictions/ask-1")).json()
        assert (found["probability"], found["offset"]) == (answer["probability"], answer["receipt"]["prediction"])
        assert found["features"]["long_url"] == VISIT["data"]["long_url"]
        assert problem(await here.get("predictions/ask-1", params={"source": "other"})) == (404, "unknown-name")
        other = {**here.question("with/slash", long_url=1), "source": "/shop"}
        assert (await here.post("predict", other)).status_code == 200
        assert (await here.get("predictions/with/slash", params={"source": "/shop"})).json()["source"] == "/shop"
        assert (here.live.counters.recorded, here.live.counters.repeated) == (2, 1)

    play(scene)


def test_recorded_events_are_answers_too(play: Play) -> None:
    async def scene(here: Site) -> None:
        asked = await here.get(f"predictions/{VISIT['id']}", params={"source": VISIT["source"]})
        assert (asked.status_code, asked.json()["key"]) == (200, VISIT["data"]["page"])

    play(scene)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({"id": "bad-1", "data": {"page": "page-0003"}}, (422, "violation")),
        ({"id": "bad-2", "data": {**VISIT["data"], "https": 2}}, (422, "violation")),
        ({"id": "bad-3", "data": {**VISIT["data"], "extra": 1}}, (422, "violation")),
        ({"id": "bad-4", "data": []}, (422, "violation")),
        ({"id": 4, "data": {}}, (400, "bad-request")),
        ({"data": {}}, (400, "bad-request")),
        ({"id": "", "data": VISIT["data"]}, (400, "malformed")),
        ({"id": "a\x00b", "data": VISIT["data"]}, (400, "malformed")),
        ({"id": "bad-5", "source": "x" * 257, "data": VISIT["data"]}, (400, "malformed")),
        ({"id": "bad-6", "data": {**VISIT["data"], "page": "p" * 20_000}}, (413, "too-large")),
        ({"id": "bad-9", "type": "reports", "data": VISIT["data"]}, (400, "bad-request")),
        ({"questions": {}}, (400, "bad-request")),
        (b'{"id":"bad-7","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}", (400, "bad-request")),
        (b'{"id":"bad-8","data":{"page":"page-0003","page":"page-0004"}}', (400, "malformed")),
        (b'{"id":"\xff","data":{}}', (400, "bad-request")),
    ],
)
def test_a_question_that_does_not_hold_is_refused(play: Play, question: Any, expected: tuple[int, str]) -> None:
    async def scene(here: Site) -> None:
        assert problem(await here.post("predict", question)) == expected
        assert here.live.counters.answered == 0

    play(scene)


def test_an_id_is_one_question(play: Play) -> None:
    async def scene(here: Site) -> None:
        await here.post("predict", here.question("once"))
        assert problem(await here.post("predict", here.question("once", long_url=0.5))) == (409, "conflicting-id")
        assert here.live.counters.failed == 1

    play(scene)


def test_several_questions_are_answered_side_by_side(play: Play) -> None:
    async def scene(here: Site) -> None:
        bad = here.question("many-bad", https=9)
        asked = [here.question(f"many-{n}") for n in range(5)] + [bad]
        answers = (await here.post("predict", {"questions": asked})).json()["answers"]
        assert [answer.get("id") for answer in answers] == [*(f"many-{n}" for n in range(5)), None]
        assert answers[-1]["error"]["status"] == 422
        assert len({answer["receipt"]["question"] for answer in answers[:5]}) == 5
        assert (await here.post("predict", {"questions": []})).json() == {"answers": []}
        most: dict[str, list[Any]] = {"questions": [{}] * (MOST_QUESTIONS + 1)}
        assert problem(await here.post("predict", most)) == (413, "too-large")

    play(scene)


def test_many_questions_are_answered_in_their_order_and_each_is_recorded(play: Play) -> None:
    async def scene(here: Site) -> None:
        ids = [f"lot-{n}" for n in range(2 * QUESTIONS_AT_ONCE + 1)]
        # The last one was asked in an earlier slice, so that its answer is a recorded one.
        asked = [here.question(id_) for id_ in (*ids, ids[0])]
        answers = (await here.post("predict", {"questions": asked})).json()["answers"]
        assert [answer["id"] for answer in answers] == [*ids, ids[0]]
        places = [answer["receipt"]["question"] for answer in answers]
        assert len(set(places)) == len(ids)
        assert places[-1] == places[0]
        assert (here.live.counters.recorded, here.live.counters.repeated) == (len(ids), 1)

    play(scene)


def test_an_enqueued_answer_is_recorded_later(play: Play) -> None:
    async def scene(here: Site) -> None:
        answer = await here.post("predict", here.question("later"), params={"ack": "enqueued"})
        assert answer.json()["receipt"] == "pending"
        while here.live.counters.pending:
            await asyncio.sleep(0)
        assert (await here.get("predictions/later")).json()["probability"] == answer.json()["probability"]
        assert problem(await here.post("predict", here.question("x"), params={"ack": "maybe"}))[0] == 400

    play(scene)


def test_what_no_route_takes(play: Play) -> None:
    async def scene(here: Site) -> None:
        large = b" " * (LARGEST_BODY + 1)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(12):
                yield b" " * (1024 * 1024)

        for path in ("events", "labels", "predict", "promote"):
            assert problem(await here.post(path, large)) == (413, "too-large"), path
            zipped = await here.post(path, b"{}", headers={"content-encoding": "gzip"})
            assert problem(zipped) == (415, "unknown-encoding"), path
            strange = await here.http.post(f"/v1/nowhere/{path}", json={"line": "x", **CONSENT})
            assert problem(strange)[0] in {400, 404}, path
        assert problem(await here.http.post(f"/v1/{NAME}/events", content=pieces())) == (413, "too-large")
        assert problem(await here.http.post("/v1/nowhere/predict", json={})) == (404, "unknown-name")
        assert problem(await here.http.get(f"/v1/{NAME}/nothing"))[0] == 404
        assert problem(await here.http.put(f"/v1/{NAME}/events"))[0] == 405
        assert problem(await here.http.delete("/v1/jobs"))[0] == 405

    play(scene)


def test_only_this_machines_names_are_answered_and_nothing_is_kept(play: Play) -> None:
    async def scene(here: Site) -> None:
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            response = await here.http.get("/livez", headers={"host": host})
            assert response.status_code == 400, host
        for host in ("localhost", "localhost:8300", "127.0.0.1:1", "[::1]:8300"):
            response = await here.http.get("/livez", headers={"host": host})
            assert response.status_code == 200, host
        for response in (
            await here.http.get("/livez"),
            await here.post("predict", b"{"),
            await here.http.get("/nowhere"),
            await here.http.get("/livez", headers={"host": "evil.example"}),
        ):
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-content-type-options"] == "nosniff"

    play(scene)


def test_a_strangers_body_is_not_even_read(play: Play) -> None:
    async def scene(here: Site) -> None:
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(True)
            yield b"{}"

        del here.http.headers["authorization"]
        for path in (f"/v1/{NAME}/events", f"/v1/{NAME}/predict", "/v1/jobs", f"/v1/{NAME}/promote"):
            response = await here.http.post(path, content=body())
            assert problem(response) == (401, "no-key")
            assert response.headers["www-authenticate"] == "Bearer"
        assert read == []

    play(scene)


def test_the_pipelines_state_is_told(play: Play) -> None:
    async def scene(here: Site) -> None:
        assert (await here.http.get("/livez")).json() == {"status": "alive"}
        ready = await here.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "trouble": {}})
        await here.post("predict", here.question("counted"))
        status = (await here.get("status")).json()
        decided = (await here.get("decisions")).json()["decisions"]
        assert (status["line"], status["control"], status["trouble"]) == ("online", len(decided), "")
        assert status["answers"]["answered"] == status["answers"]["recorded"] == 1
        text = (await here.http.get("/metrics")).text
        assert 'rivermill_answers_total{fate="recorded",pipeline="phishing"} 1.0' in text
        requests = [line for line in text.splitlines() if line.startswith("rivermill_http_requests_total{")]
        assert 'rivermill_http_requests_total{route="predict",status="200"} 1.0' in requests
        assert 'rivermill_champion_info{line="online",pipeline="phishing"} 1.0' in text

    play(scene)


def test_the_document_describes_every_route(play: Play) -> None:
    async def scene(here: Site) -> None:
        document = (await here.http.get("/openapi.json")).json()
        described = {method: path for path, methods in document["paths"].items() for method in methods}
        operations = sum(len(methods) for methods in document["paths"].values())
        assert operations == len(PERMISSIONS) + len(PUBLIC)
        assert described.keys() == {"get", "post"}
        predict = document["paths"]["/v1/{pipeline}/predict"]["post"]
        assert {"200", "401", "403", "413", "422", "503"} <= predict["responses"].keys()
        assert [parameter["name"] for parameter in predict["parameters"]] == ["pipeline", "ack"]
        assert document["security"] == [{"key": []}, {"header": []}]

    play(scene)


def test_with_the_owner_killed_questions_are_answered_and_events_are_not_acknowledged(play: Play, owner: Owner) -> None:
    async def scene(here: Site) -> None:
        before = (await here.post("predict", here.question("before-the-kill"))).json()
        unsent = here.event(5050)
        owner.kill()
        try:
            answer = (await here.post("predict", here.question("meanwhile"))).json()
            assert (answer["receipt"], answer["probability"]) == ("none", before["probability"])
            assert problem(await here.post("predict", here.question("bad", https=3))) == (422, "violation")
            for path, body in (
                ("events", unsent),
                ("events", [unsent, unsent]),
                ("labels", here.event(5050, stream="reports")),
            ):
                response = await here.post(path, body)
                assert problem(response) == (503, "owner-down")
                assert response.headers["retry-after"] == "1"
            ready = await here.http.get("/readyz")
            assert ready.status_code == 503
            assert "owner" in ready.json()["trouble"][NAME]
            assert (await here.http.get("/livez")).status_code == 200
            assert (await here.get("versions")).status_code == 200
        finally:
            owner.start()
        assert (await here.post("events", unsent)).status_code == 202
        assert (await here.post("predict", here.question("meanwhile"))).json()["receipt"] != "none"
        again = (await here.post("predict", here.question("before-the-kill"))).json()
        assert again["receipt"] == before["receipt"]
        counted = here.live.counters
        assert (counted.answered, counted.recorded, counted.repeated, counted.unrecorded) == (4, 2, 1, 1)
        assert (await here.http.get("/readyz")).status_code == 200

    play(scene)


def test_jobs_are_submitted_once_per_key_looked_at_and_stopped(play: Play) -> None:
    async def scene(here: Site) -> None:
        async def submit(key: str, **order: Any) -> httpx.Response:
            body = {"pipeline": NAME, **order}
            return await here.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key} if key else {})

        first = await submit("k1", executor="serial")
        assert (first.status_code, first.json()["state"], first.json()["by"]) == (202, "queued", "admin")
        assert (await submit("k1", executor="serial")).json()["id"] == first.json()["id"]
        assert problem(await submit("k1", executor="ray")) == (409, "conflicting-id")
        unkeyed = [(await submit("")).json()["id"] for _ in range(2)]
        assert len({first.json()["id"], *unkeyed}) == 3
        for wrong in ({"executor": "magic"}, {"surprise": 1}, {"promote": "perhaps"}):
            assert problem(await submit("", **wrong)) == (400, "bad-request")
        assert problem(await submit("", pipeline="nowhere")) == (404, "unknown-name")
        listed = (await here.http.get("/v1/jobs", params={"pipeline": NAME})).json()["jobs"]
        assert {first.json()["id"], *unkeyed} <= {job["id"] for job in listed}
        path = f"/v1/jobs/{first.json()['id']}"
        assert (await here.http.get(path)).json() == first.json()
        assert (await here.http.get(f"{path}/logs")).text == ""
        assert (await here.http.post(f"{path}/stop")).json()["state"] == "stopped"
        for method, missing in (("GET", ""), ("GET", "/logs"), ("POST", "/stop")):
            assert problem(await here.http.request(method, f"/v1/jobs/none{missing}")) == (404, "unknown-name")

    play(scene)


def test_a_key_for_other_pipelines_reaches_no_job_of_this_one(play: Play) -> None:
    async def scene(here: Site) -> None:
        job = (await here.http.post("/v1/jobs", json={"pipeline": NAME})).json()["id"]
        secret = KeyRing.open(here.root / "access").add("elsewhere", ["admin"], ["flights"])
        key = {"authorization": f"Bearer {secret}"}
        assert (await here.http.get("/v1/jobs", headers=key)).json() == {"jobs": []}
        for method, tail in (("GET", ""), ("GET", "/logs"), ("POST", "/stop")):
            assert problem(await here.http.request(method, f"/v1/jobs/{job}{tail}", headers=key))[0] == 404
        assert problem(await here.http.get("/v1/jobs", params={"pipeline": NAME}, headers=key))[0] == 403
        assert problem(await here.http.post("/v1/jobs", json={"pipeline": NAME}, headers=key))[0] == 403
        assert problem(await here.http.get("/metrics", headers=key))[0] == 403
        assert problem(await here.get("status", headers=key))[0] == 403
        assert (await here.http.get(f"/v1/jobs/{job}")).json()["state"] == "queued"

    play(scene)


def test_a_version_is_promoted_through_the_gate_and_rolled_back(play: Play) -> None:
    """Its answers change with each decision, and what was answered before stays what it was."""

    async def scene(here: Site) -> None:
        rows = (await here.get("versions")).json()["lines"]
        line = next(row["line"] for row in rows if row["line"] != "online")
        assert {row["line"]: row["state"] for row in rows} == {"online": "champion", line: "candidate"}
        before = (await here.post("predict", here.question("online-says"))).json()

        assert problem(await here.post("promote", {"line": line})) == (400, "bad-request")
        assert problem(await here.post("promote", {"line": "none", **CONSENT})) == (404, "unknown-name")
        assert problem(await here.post("promote", {"line": "online", **CONSENT})) == (409, "refused")
        assert problem(await here.post("rollback", CONSENT)) == (409, "refused")
        late = {"line": line, **CONSENT, "expected": 7}
        assert problem(await here.post("promote", late)) == (409, "lost-race")
        explained = await here.post("promote", {"line": line, **CONSENT}, params={"explain": "true"})
        assert line in explained.json()["explained"]
        assert [entry["action"] for entry in (await here.get("decisions")).json()["decisions"]] == ["bootstrap"]

        promoted = await here.post("promote", {"line": line, **CONSENT}, headers={"Idempotency-Key": "p1"})
        assert promoted.status_code == 200, promoted.text
        again = await here.post("promote", {"line": line, **CONSENT}, headers={"Idempotency-Key": "p1"})
        assert again.json() == promoted.json()
        here.live.follow()
        after = (await here.post("predict", here.question("batch-says"))).json()
        assert (after["line"], after["control"]) == (line, promoted.json()["sequence"])
        assert after["probability"] != before["probability"]
        kept = (await here.post("predict", here.question("online-says"))).json()
        assert (kept["line"], kept["probability"]) == ("online", before["probability"])

        back = await here.post("rollback", {"why": "try it", "expected": promoted.json()["sequence"]})
        here.live.follow()
        assert (await here.post("predict", here.question("online-again"))).json()["line"] == "online"
        history = (await here.get("decisions")).json()["decisions"]
        assert [entry["action"] for entry in history] == ["bootstrap", "promote", "roll_back"]
        assert back.json()["sequence"] == 3
        shown = (await here.get(f"versions/{line}")).json()
        assert shown["passed"] is True
        assert problem(await here.get("versions/none")) == (404, "unknown-name")

    play(scene)
