"""The live service as its users meet it: over a small home, asked, taught, decided about and killed."""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks.live import Load
from journal.checkpoint import FoldFile
from journal.control import ControlLog
from journal.log import START
from journal.rebuild import cutovers_in
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.demo import run_file
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import FOLDS, open_run
from tests.aged import age

pytestmark = pytest.mark.slow

PATIENCE = 120.0
FOLDER = configs_folder() / "phishing"
TRAITS = {
    "empty_server_form_handler": 0.0,
    "popup_window": 0.0,
    "https": 1.0,
    "request_from_other_domain": 0.0,
    "anchor_from_other_domain": 0.0,
    "is_popular": 0.5,
    "long_url": 1.0,
    "age_of_domain": 1,
    "ip_in_url": 0,
}


_PAGES = count(9_100)


def new_page() -> str:
    """A page that nobody has asked about."""
    return f"page-{next(_PAGES)}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, holds: Callable[[], Any]) -> Any:
    """Look again and again until it holds; what it was about is in the error."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        if found := holds():
            return found
        time.sleep(0.1)
    pytest.fail(f"in {PATIENCE:g} s not seen: {what}")


class Service:
    """A running service and a client of it."""

    def __init__(self, root: Path) -> None:
        self.home, self.port = Home(root, "phishing"), free_port()
        self.errors = root / "up.log"
        with self.errors.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "rivermill", "--home", str(root), "up", "--no-mlflow", "--json"),
                    *("--port", str(self.port)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        self.announced = json.loads(line)
        self.key = Path(self.announced["admin_key"]).read_text().strip()

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Status, parsed body and headers of one request."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.announced['api']}{path}", data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"null"), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null"), error.headers

    def ask(self, page: str) -> Any:
        status, answer, _ = self.call("POST", "/v1/phishing/predict", {"id": page, "data": {"page": page, **TRAITS}})
        assert status == 200, answer
        return answer

    def now(self) -> str:
        return str(self.call("GET", "/v1/phishing/status")[1]["now"])

    def tell(self, page: str, phishing: bool, now: str = "") -> tuple[int, Any, Any]:
        """Send an outcome; the same one again is one that says the same time."""
        now = now or self.now()
        event = {"specversion": "1.0", "id": f"r/{page}", "source": "t", "type": "reports", "time": now}
        return self.call(
            "POST", "/v1/phishing/labels", {**event, "data": {"page": page, "phishing": phishing, "ip_in_url": 0}}
        )

    def pids(self, role: str) -> list[int]:
        found = subprocess.run(
            ["pgrep", "-f", f"rivermill.{role}_process {self.home.root.absolute()}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in found.stdout.split()]

    def kill(self, role: str) -> None:
        for pid in self.pids(role):
            os.kill(pid, signal.SIGKILL)

    def journal(self) -> SqliteReader:
        return SqliteReader(self.home.journal)

    def counts(self) -> dict[str, int]:
        """Records by kind, and the questions that still wait."""
        journal, after, counts = self.journal(), START, dict.fromkeys((kind.value for kind in Kind), 0)
        while page := journal.read(0, after, 2_000):
            for record in page:
                counts[record.kind.value] += 1
            after = page[-1].offset
        journal.close()
        file = FoldFile(self.home.fold("join"), readonly=True)
        counts["pending"] = sum(1 for _ in file.scan("pending"))
        file.close()
        return counts

    def caught_up(self) -> bool:
        journal = self.journal()
        end = journal.end()
        journal.close()
        file = FoldFile(self.home.fold("join"), readonly=True)
        position = file.position("join")
        file.close()
        return position is not None and position.offset == end

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("up")
    recorded = load_pipeline(FOLDER).recorded
    assert recorded is not None
    events = root / "events.jsonl"
    # Up to shortly before the first retrain, so that the only jobs are those that the tests submit.
    events.write_bytes(b"".join(line + b"\n" for line in list(recorded(weeks=1))[:1_300]))
    run_file(FOLDER, Home(root, "phishing"), events, quiet=True)
    service = Service(root)
    yield service
    if service.process.poll() is None:
        service.stop()


def test_it_says_where_everything_is(service: Service) -> None:
    assert service.announced["api"] == f"http://127.0.0.1:{service.port}"
    assert Path(service.announced["admin_key"]).stat().st_mode & 0o777 == 0o600
    assert service.call("GET", "/readyz")[:2] == (200, {"ready": True, "trouble": {}})
    assert service.call("GET", "/v1/phishing/status", Authorization="Bearer rm_x")[0] == 401


def test_a_question_is_answered_recorded_joined_and_learned(service: Service) -> None:
    answer = service.ask("page-9001")
    assert answer["line"] == "online"
    assert 0 < answer["probability"] < 1
    assert service.ask("page-9001")["receipt"] == answer["receipt"]
    before = service.counts()["example"]
    assert service.tell("page-9001", True)[0] == 202
    until("the example", lambda: service.counts()["example"] == before + 1)
    found = service.call("GET", "/v1/phishing/predictions/page-9001")[1]
    assert found["probability"] == answer["probability"]
    assert found["offset"] == answer["receipt"]["prediction"]
    assert found["judged_at"] == answer["now"]


def test_a_job_is_submitted_staged_judged_promoted_and_rolled_back(service: Service) -> None:
    order = {"pipeline": "phishing", "executor": "serial"}
    status, job, _ = service.call("POST", "/v1/jobs", order, **{"Idempotency-Key": "k1"})
    assert status == 202
    assert service.call("POST", "/v1/jobs", order, **{"Idempotency-Key": "k1"})[1]["id"] == job["id"]
    assert service.call("POST", "/v1/jobs", {**order, "promote": True}, **{"Idempotency-Key": "k1"})[0] == 409

    def ended() -> Any:
        found = service.call("GET", f"/v1/jobs/{job['id']}")[1]
        return found if found["state"] not in ("queued", "running") else None

    done = until("the end of the job", ended)
    assert done["state"] == "succeeded", done
    line = done["result"]["line"]
    control = ControlLog(service.home.control)
    run = load_pipeline(FOLDER)
    assert run.gate is not None
    shown = until("serving's evidence", lambda: _measured(service, line))
    assert "| parity |" not in shown["now"] or "holds" in shown["now"]
    status, promoted, _ = service.call("POST", "/v1/phishing/promote", {"line": line, "why": "a test"})
    assert status == 200, promoted
    until("the swap", lambda: service.ask(new_page())["line"] == line)
    status, back, _ = service.call("POST", "/v1/phishing/rollback", {"why": "a test"})
    assert (status, back["line"]) == (200, "online")
    until("the swap back", lambda: service.ask(new_page())["line"] == "online")
    assert [entry.action for entry in control.entries("phishing")][-2:] == ["promote", "roll_back"]
    status, lost, _ = service.call("POST", "/v1/phishing/promote", {"line": line, "why": "late", "expected": 1})
    assert (status, lost["type"]) == (409, "urn:rivermill:lost-race")


def _measured(service: Service, line: str) -> Any:
    shown = service.call("GET", f"/v1/phishing/versions/{line}")[1]
    return shown if "The gate is open" in shown["now"] else None


def test_under_load_with_a_kill_in_the_middle_nothing_fails_and_everything_reconciles(service: Service) -> None:
    """The short form of benchmarks/live.py: what it shows over twenty minutes holds over fifteen seconds."""
    given = argparse.Namespace(
        url=service.announced["api"], seconds=15, events=40, questions=10, retrain_at=3_600, kill_owner_at=5
    )
    (before,) = service.pids("owner")
    figures = asyncio.run(Load(given, service.home).run())
    assert service.pids("owner") not in ([], [before])
    assert figures["failed_requests"] == {}
    assert (figures["acked_and_missing"], figures["twice_in_the_journal"], figures["difference"]) == (0, 0, 0)
    # What was recorded as the owner died, and not acknowledged, comes back as repeated.
    assert set(figures["event_fates"]) <= {"accepted", "repeated"}
    assert sum(figures["event_fates"].values()) == 15 * 40
    assert sum(figures["receipts"].values()) > 100


@pytest.mark.parametrize("role", ["worker", "http", "registrar", "owner"])
def test_one_process_that_is_killed_stops_no_other(service: Service, role: str) -> None:
    (before,) = service.pids(role)
    service.kill(role)
    if role != "http":
        service.ask(new_page())
    until(f"another {role}", lambda: service.pids(role) not in ([], [before]))
    until("readiness", lambda: _ready(service))
    page = new_page()
    until("a recorded answer", lambda: isinstance(service.ask(page)["receipt"], dict))
    assert until("an acknowledged outcome", lambda: service.tell(page, False)[0] in (200, 202))


def _ready(service: Service) -> bool:
    try:
        return service.call("GET", "/readyz")[0] == 200
    except OSError:
        return False


def test_with_its_owner_away_answers_go_on_and_events_wait(service: Service) -> None:
    (owner,) = service.pids("owner")
    os.kill(owner, signal.SIGSTOP)
    try:
        before = service.call("GET", "/v1/phishing/status")[1]["answers"]
        page = new_page()
        answer = service.ask(page)
        assert answer["receipt"] == "none"
        now = service.now()
        status, problem, headers = service.tell(page, True, now)
        assert (status, headers["Retry-After"]) == (503, "1"), problem
    finally:
        os.kill(owner, signal.SIGCONT)
    assert before["answered"] + 1 == service.call("GET", "/v1/phishing/status")[1]["answers"]["answered"]
    until("the owner's return", lambda: service.tell(page, True, now)[0] in (200, 202))


def test_everything_reconciles_and_ends_in_order(service: Service) -> None:
    until("no answer under way", lambda: not service.call("GET", "/v1/phishing/status")[1]["answers"]["pending"])
    answers = service.call("GET", "/v1/phishing/status")[1]["answers"]
    assert answers["answered"] == answers["recorded"] + answers["repeated"] + answers["unrecorded"]
    until("the folds at the journal's end", service.caught_up)
    counts = service.counts()
    assert counts["prediction"] == counts["example"] + counts["expired"] + counts["pending"]
    assert service.stop() == 0
    assert not any(service.pids(role) for role in ("owner", "worker", "http", "registrar"))
    assert not service.home.socket.exists()


def test_the_state_that_it_left_follows_from_its_journal(service: Service, tmp_path: Path) -> None:
    """What killed and restarted processes folded live, one uninterrupted replay of that very journal folds again."""
    if service.process.poll() is None:
        service.stop()
    pipeline = load_pipeline(FOLDER)
    copy = Home(tmp_path, "phishing")
    shutil.copytree(service.home.folder, copy.folder)
    live = open_run(pipeline, service.home)
    shutil.rmtree(copy.folder / "folds")
    shutil.rmtree(copy.folder / "history", ignore_errors=True)
    replayed = open_run(pipeline, copy)
    try:
        digests = [
            {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners} for run in (live, replayed)
        ]
        assert digests[0] == digests[1]
        assert live.journal.end() == replayed.journal.end()
    finally:
        live.close()
        replayed.close()


def test_what_other_libraries_computed_is_read_until_the_rebuilt_folds_take_over(service: Service) -> None:
    age(service.home)
    upgraded = Service(service.home.root)

    def features() -> list[Any]:
        page = new_page()
        upgraded.ask(page)
        found: dict[str, Any] = upgraded.call("GET", f"/v1/phishing/predictions/{page}")[1]
        return list(found["features"].values())

    try:
        until("features of the rebuilt fold", lambda: None not in features())
        with contextlib.closing(upgraded.journal()) as journal:
            until("every fold's cutover", lambda: all(len(cutovers_in(journal, name)) == 1 for name in FOLDS))
    finally:
        assert upgraded.stop() == 0
