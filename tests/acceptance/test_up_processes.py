"""All that `rivermill up` runs, MLflow's server included: killed one by one, kept down, stopped, and what is left."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from journal.body import Example, decode
from journal.log import START
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run
from training.jobs import LEASE

pytestmark = pytest.mark.slow
RIVERMILL = [sys.executable, "-m", "rivermill"]
ROLES = ("owner", "worker", "http", "registrar", "mlflow")
GIVEN_UP_AFTER = 300.0
"""Seconds: only so that something which hangs fails the test."""
STOPS_WITHIN = 60.0
ACCEPTED = 202
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
NUMBERS = count(5_000)
"""Of pages: their names have nine characters at most."""


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def until(what: str, holds: Callable[[], Any]) -> Any:
    """Look again and again until it holds."""
    give_up = time.monotonic() + GIVEN_UP_AFTER
    while time.monotonic() < give_up:
        try:
            if found := holds():
                return found
        except httpx.TransportError:
            continue
    pytest.fail(f"not seen: {what}")


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, parent = (
                (entry / "stat").read_text().rpartition(")")[2].split()[:2] if entry.name.isdigit() else "Z0"
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.name))
    return found


def descendants_of(pid: int) -> set[int]:
    children = children_of(pid)
    return set(children).union(*(descendants_of(child) for child in children))


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Service:
    """A running service over a home, and a client of it."""

    def __init__(self, root: Path) -> None:
        self.home, self.ports = Home(root, "phishing"), free_ports()
        self.log = root.parent / "up.log"
        api, mlflow = map(str, self.ports)
        command = [*RIVERMILL, "--home", str(root), "up", "--port", api, "--mlflow-port", mlflow]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.said = self._read_until("SIGTERM")
        key = (root / "access" / "admin.key").read_text().strip()
        self.api = httpx.Client(
            base_url=f"http://127.0.0.1:{api}", headers={"Authorization": f"Bearer {key}"}, timeout=30.0
        )
        self.acked: list[str] = []

    def _read_until(self, word: str) -> str:
        assert self.process.stdout is not None
        watchdog = threading.Timer(GIVEN_UP_AFTER, self.process.kill)
        watchdog.start()
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if word in line:
                break
        watchdog.cancel()
        assert word in "".join(lines), self.log.read_text()
        return "".join(lines)

    def get(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    def ask(self, page: str) -> Any:
        answer = self.api.post("/v1/phishing/predict", json={"id": f"ask {page}", "data": {"page": page, **TRAITS}})
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json()

    def tell(self, page: str) -> httpx.Response:
        """Send a page's outcome; what is acknowledged is noted."""
        now = self.get("/v1/phishing/status")["now"]
        event = {"specversion": "1.0", "id": f"outcome {page}", "source": "t", "type": "reports", "time": now}
        data = {"page": page, "phishing": True, "ip_in_url": 0}
        answer = self.api.post("/v1/phishing/labels", json={**event, "data": data})
        if answer.status_code in (httpx.codes.ACCEPTED, httpx.codes.OK):
            self.acked.append(event["id"])
        return answer

    def submit(self, executor: str = "serial") -> str:
        order = {"pipeline": "phishing", "executor": executor}
        answer = self.api.post("/v1/jobs", json=order)
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return str(answer.json()["id"])

    def state_of(self, job: str) -> str:
        return str(self.get(f"/v1/jobs/{job}")["state"])

    def pids(self) -> dict[str, int]:
        """The supervisor's children by role."""
        found = {}
        for pid in children_of(self.process.pid):
            words = Path(f"/proc/{pid}/cmdline").read_text()
            for role in re.findall(r"rivermill\.(\w+)_process", words):
                found[role] = pid
        return found

    def records(self, kind: Kind) -> list[Record]:
        journal = SqliteReader(self.home.journal)
        records = journal.of_kind(kind, START, 1_000_000)
        journal.close()
        return records


def new_page() -> str:
    """A page that nobody has asked about."""
    return f"page-{next(NUMBERS)}"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Over what a demo of phishing leaves."""
    root = tmp_path_factory.mktemp("up") / "h"
    demo = [*RIVERMILL, "--home", str(root), "demo", "--pipeline", "phishing", "--json"]
    subprocess.run(demo, stdout=subprocess.DEVNULL, check=True, timeout=GIVEN_UP_AFTER)
    service = Service(root)
    yield service
    service.api.close()
    if service.process.poll() is None:
        service.process.terminate()
    with service.process:
        service.process.wait(GIVEN_UP_AFTER)


def test_it_prints_its_addresses_and_where_the_key_lies(service: Service) -> None:
    api, mlflow = service.ports
    assert f"http://127.0.0.1:{api}  " in service.said
    assert f"http://127.0.0.1:{mlflow}\n" in service.said
    key = service.home.root / "access" / "admin.key"
    assert f"admin key {key}\n" in service.said
    assert key.stat().st_mode & 0o777 == 0o600
    assert service.home.socket.stat().st_mode & 0o777 == 0o600


def test_mlflow_names_the_champion_and_follows_a_rollback(service: Service) -> None:
    champion = service.get("/v1/phishing/status")["line"]
    until(f"{champion} in MLflow", lambda: champion in named_by_mlflow(service))
    back = service.api.post("/v1/phishing/rollback", json={"why": "to see MLflow follow"})
    assert back.status_code == httpx.codes.OK, back.text
    before = back.json()["line"]
    assert before != champion
    until(f"{before} in MLflow", lambda: before in named_by_mlflow(service))
    until("the swap", lambda: service.ask(new_page())["line"] == before)


def named_by_mlflow(service: Service) -> list[str]:
    """The values of the tags of the version that MLflow's REST API gives for the alias."""
    answer = httpx.get(
        f"http://127.0.0.1:{service.ports[1]}/api/2.0/mlflow/registered-models/alias",
        params={"name": "phishing", "alias": "champion"},
        timeout=30.0,
    )
    if answer.status_code != httpx.codes.OK:
        return []
    return [tag["value"] for tag in answer.json()["model_version"].get("tags", ())]


def test_an_outcome_becomes_an_example_of_this_very_answer(service: Service) -> None:
    page = new_page()
    answer = service.ask(page)
    label = service.tell(page)
    assert label.status_code == ACCEPTED, label.text
    wanted = (answer["receipt"]["prediction"], label.json()["offset"])

    def pairs() -> set[tuple[int, int]]:
        examples = [decode(record.body, Example) for record in service.records(Kind.EXAMPLE)]
        return {(example.prediction, example.label) for example in examples}

    until("the example", lambda: wanted in pairs())


def test_a_job_that_is_stopped_in_mid_fit_makes_no_version(service: Service) -> None:
    before = len(service.records(Kind.VERSION))
    job = service.submit("ray")
    until("its first line", lambda: service.api.get(f"/v1/jobs/{job}/logs").text)
    assert service.api.post(f"/v1/jobs/{job}/stop").status_code == httpx.codes.OK
    until("its end", lambda: service.state_of(job) not in ("queued", "running"))
    assert service.state_of(job) == "stopped"
    assert len(service.records(Kind.VERSION)) == before
    assert not any(job in Path(f"/proc/{pid}/cmdline").read_text() for pid in descendants_of(service.process.pid))


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_process_comes_back_and_the_others_stay(service: Service, role: str) -> None:
    before = service.pids()
    assert set(before) == set(ROLES)
    below = descendants_of(before[role])
    os.kill(before[role], signal.SIGKILL)
    if role != "http":
        assert 0 < service.ask(new_page())["probability"] < 1
    after = until(f"another {role}", lambda: (now := service.pids()).get(role, before[role]) != before[role] and now)
    assert {name: after[name] for name in ROLES if name != role} == {n: before[n] for n in ROLES if n != role}
    until("what it had started gone", lambda: not any(lives(pid) for pid in below))
    until("readiness", lambda: service.api.get("/readyz").status_code == httpx.codes.OK)
    page = new_page()
    until("a receipt", lambda: isinstance(service.ask(page)["receipt"], dict))
    assert service.tell(page).status_code == ACCEPTED
    if role == "mlflow":
        champion = service.get("/v1/phishing/status")["line"]
        until(f"{champion} in MLflow", lambda: champion in named_by_mlflow(service))


def test_a_job_whose_registrar_is_killed_is_done_once_all_the_same(service: Service) -> None:
    before = len(service.records(Kind.VERSION))
    job = service.submit("ray")
    until("its first line", lambda: service.api.get(f"/v1/jobs/{job}/logs").text)
    os.kill(service.pids()["registrar"], signal.SIGKILL)
    until("its end", lambda: service.state_of(job) not in ("queued", "running"))
    done = service.get(f"/v1/jobs/{job}")
    assert (done["state"], done["attempts"]) == ("succeeded", 2), done
    lines = [record.id for record in service.records(Kind.VERSION)]
    assert done["result"]["line"] in lines
    assert len(lines) == len(set(lines)) <= before + 1


def age_lease(service: Service, job: str) -> None:
    """As if the holder had given no sign of life for longer than a lease lasts."""
    with closing(sqlite3.connect(service.home.folder / "control.sqlite")) as db, db:
        aged = db.execute("UPDATE jobs SET heartbeat = heartbeat - ? WHERE id = ?", (2 * LEASE, job)).rowcount
    assert aged == 1


def test_r18_of_two_registrars_the_one_that_lost_its_lease_changes_nothing(service: Service) -> None:
    """The first stands still in mid-fit until the second has done its job, and goes on then."""
    before = len(service.records(Kind.VERSION))
    job, first = service.submit("ray"), service.pids()["registrar"]
    until("its first line", lambda: service.api.get(f"/v1/jobs/{job}/logs").text)
    os.kill(first, signal.SIGSTOP)
    with service.log.open("ab") as log:
        folder = configs_folder() / "phishing"
        command = [sys.executable, "-m", "rivermill.registrar_process", str(service.home.root), "", str(folder)]
        second = subprocess.Popen(command, stderr=log)
    try:
        age_lease(service, job)
        until("its end", lambda: service.state_of(job) not in ("queued", "running"))
        done = service.get(f"/v1/jobs/{job}")
        assert (done["state"], done["attempts"]) == ("succeeded", 2), done
        os.kill(first, signal.SIGCONT)
        until("that it is told", lambda: f"job {job} is another registrar's by now" in service.log.read_text())
        assert service.get(f"/v1/jobs/{job}") == done
        lines = [record.id for record in service.records(Kind.VERSION)]
        assert len(lines) == len(set(lines)) <= before + 1
        assert done["result"]["line"] in lines
        assert service.pids()["registrar"] == first
    finally:
        os.kill(first, signal.SIGCONT)
        second.terminate()
        with second:
            ended = second.wait(STOPS_WITHIN)
    assert ended == 0


def test_while_the_owner_is_dead_answers_go_on_and_nothing_acked_is_lost(service: Service) -> None:
    pages = [new_page() for _ in range(20)]
    # Nobody starts it again while the supervisor stands still.
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        os.kill(service.pids()["owner"], signal.SIGKILL)
        for page in pages:
            assert service.ask(page)["receipt"] == "none"
            refused = service.tell(page)
            assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE, refused.text
            assert int(refused.headers["Retry-After"]) >= 1
        assert service.api.get("/readyz").status_code == httpx.codes.SERVICE_UNAVAILABLE
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    until("its return", lambda: service.api.get("/readyz").status_code == httpx.codes.OK)
    for page in pages:
        assert service.tell(page).status_code == ACCEPTED


def test_what_was_answered_and_acked_reconciles(service: Service) -> None:
    until("no answer under way", lambda: not service.get("/v1/phishing/status")["answers"]["pending"])
    answers = service.get("/v1/phishing/status")["answers"]
    assert answers["unrecorded"] >= 20
    assert answers["answered"] == answers["recorded"] + answers["repeated"] + answers["unrecorded"]
    taken = [record.id for record in service.records(Kind.SOURCE) if record.source == "t"]
    assert sorted(taken) == sorted(set(service.acked))


def test_sigterm_ends_every_process_and_the_folds_agree_with_the_journal(service: Service) -> None:
    family = descendants_of(service.process.pid)
    assert len(family) > len(ROLES)
    service.process.terminate()
    assert service.process.wait(STOPS_WITHIN) == 0
    assert not any(lives(pid) for pid in family)
    assert not service.home.socket.exists()
    until("its ports free", lambda: all(is_free(port) for port in service.ports))
    run = open_run(load_pipeline(configs_folder() / "phishing"), service.home)
    try:
        joined, learned = run.folds.join.counts(), run.folds.learner.counts()
        predictions = len(service.records(Kind.PREDICTION))
        assert predictions == joined["joined"] + joined["expired"] + joined["pending"]
        assert learned["questions"] == predictions
        assert learned["examples"] == joined["joined"] == len(service.records(Kind.EXAMPLE))
    finally:
        run.close()


def test_nothing_outlives_a_supervisor_that_is_killed(service: Service) -> None:
    assert service.process.poll() is not None, "the one before is stopped"
    again = Service(service.home.root)
    family = descendants_of(again.process.pid)
    try:
        again.process.kill()
        again.process.wait()
        until("none of its processes", lambda: not any(lives(pid) for pid in family))
        # A process counts as dead when its first thread is; its sockets close with its last one.
        until("its ports free", lambda: all(is_free(port) for port in again.ports))
    finally:
        again.api.close()
        with again.process:
            pass
