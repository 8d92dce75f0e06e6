"""What `rivermill up` refuses, before anything was started; and MLflow's trouble, which it does not refuse for."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from rivermill.settings import configs_folder

pytestmark = pytest.mark.slow
RIVERMILL = [sys.executable, "-m", "rivermill"]
GIVEN_UP_AFTER = 200.0
"""Seconds: only so that something which hangs fails the test."""
MISCONFIGURED, REFUSED, OWNED_ELSEWHERE = 4, 5, 8


def free_ports() -> tuple[str, str]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1]), str(other.getsockname()[1])


def rivermill(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*RIVERMILL, "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=GIVEN_UP_AFTER, check=False)


def processes_of(home: Path) -> list[str]:
    """Command lines of the processes that work on a home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(home).encode() in words and any(word.startswith(b"rivermill.") for word in words):
            found.append(b" ".join(words).decode())
    return found


@contextmanager
def up(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A service that is ready, with what it printed; stopped at the end."""
    api, mlflow = free_ports()
    command = [*RIVERMILL, "--home", str(home), "up", "--port", api, "--mlflow-port", mlflow, "--json", *arguments]
    with (home.parent / "up.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    watchdog = threading.Timer(GIVEN_UP_AFTER, process.kill)
    watchdog.start()
    with process:
        assert process.stdout is not None
        try:
            yield process, orjson.loads(process.stdout.readline())
        finally:
            watchdog.cancel()
            process.terminate()
            assert process.wait(GIVEN_UP_AFTER) == 0


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which phishing has begun: a journal without events."""
    home = tmp_path_factory.mktemp("begun") / "h"
    nothing = home.parent / "nothing.jsonl"
    nothing.write_text("")
    played = rivermill(home, "play", "phishing", str(nothing))
    assert played.returncode == 0, played.stderr
    return home


@pytest.mark.parametrize(("option", "place"), [("--port", 0), ("--mlflow-port", 1)])
def test_a_port_in_use_is_named_with_its_option_and_nothing_starts(begun: Path, option: str, place: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = list(free_ports())
        ports[place] = str(taken.getsockname()[1])
        refused = rivermill(begun, "up", "--port", ports[0], "--mlflow-port", ports[1])
    assert refused.returncode == REFUSED
    assert f"port {ports[place]} (Address already in use)" in refused.stderr
    assert f"Choose another one with {option}" in refused.stderr
    assert refused.stdout == ""
    assert processes_of(begun) == []


def test_the_same_port_for_both_is_refused(begun: Path) -> None:
    port, _ = free_ports()
    refused = rivermill(begun, "up", "--port", port, "--mlflow-port", port)
    assert refused.returncode == REFUSED
    assert "--mlflow-port" in refused.stderr
    assert processes_of(begun) == []


def test_a_home_in_which_nothing_has_run_is_told_what_to_do(tmp_path: Path) -> None:
    api, mlflow = free_ports()
    refused = rivermill(tmp_path, "up", "--port", api, "--mlflow-port", mlflow)
    assert refused.returncode == MISCONFIGURED
    assert f"none has run in {tmp_path}" in refused.stderr
    assert "rivermill demo" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_mistake_of_a_pipeline_is_named_and_nothing_starts(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(configs_folder() / "phishing", folder)
    rules = (folder / "pipeline.yaml").read_text()
    (folder / "pipeline.yaml").write_text(f"{rules}\nunheard_of: 1\nunheard_of_too: 2\n")
    home = tmp_path / "h"
    api, mlflow = free_ports()
    refused = rivermill(home, "up", str(folder), "--port", api, "--mlflow-port", mlflow)
    assert refused.returncode == MISCONFIGURED
    assert "unheard_of" in refused.stderr
    assert "unheard_of_too" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (home / "broken").exists()
    assert processes_of(home) == []


def test_one_broken_pipeline_of_two_keeps_the_other_one_down(begun: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(configs_folder() / "phishing", folder)
    (folder / "pipeline.yaml").write_text("[not a mapping")
    api, mlflow = free_ports()
    refused = rivermill(begun, "up", "phishing", str(folder), "--port", api, "--mlflow-port", mlflow)
    assert refused.returncode == MISCONFIGURED
    assert "pipeline.yaml" in refused.stderr
    assert processes_of(begun) == []


def test_a_home_that_is_up_belongs_to_that_service(begun: Path) -> None:
    with up(begun, "--no-mlflow") as (process, _):
        before = sorted(processes_of(begun))
        api, mlflow = free_ports()
        again = rivermill(begun, "up", "--port", api, "--mlflow-port", mlflow)
        assert again.returncode == OWNED_ELSEWHERE
        assert f"belongs to process {process.pid}" in again.stderr
        for command in (["demo", "--pipeline", "phishing"], ["demo", "--pipeline", "phishing", "--fresh"]):
            demo = rivermill(begun, *command)
            assert demo.returncode in (OWNED_ELSEWHERE, REFUSED), demo.stderr
            assert "Traceback" not in demo.stderr
        assert demo.returncode == OWNED_ELSEWHERE
        assert "belongs to process" in demo.stderr
        assert sorted(processes_of(begun)) == before
    assert processes_of(begun) == []


def test_mlflow_s_database_unreadable_at_start_costs_only_mlflow(begun: Path) -> None:
    database = begun / "mlflow" / "mlflow.db"
    database.parent.mkdir(exist_ok=True)
    kept = database.with_suffix(".kept")
    if database.exists():
        database.rename(kept)
    database.write_bytes(b"this is no database, and never was one\n" * 100)
    try:
        with up(begun) as (_, said):
            assert said["mlflow"] == ""
            assert not any("mlflow" in line and "server" in line for line in processes_of(begun))
        log = (begun.parent / "up.log").read_text()
        assert "MLflow is behind" in log
        assert "died" not in log
    finally:
        database.unlink()
        if kept.exists():
            kept.rename(database)


def test_ctrl_c_ends_everything(begun: Path) -> None:
    with up(begun, "--no-mlflow") as (process, _):
        assert processes_of(begun)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(GIVEN_UP_AFTER) == 0
        assert processes_of(begun) == []
        assert not list(begun.glob("*/owner.sock"))
