"""docs/quickstart.md, done as it says, in its order, over the smaller of the shipped pipelines and on free ports."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journal.contract import load_contracts
from journal.envelope import read_envelope
from rivermill.settings import configs_folder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
RIVERMILL = [sys.executable, "-m", "rivermill"]
GIVEN_UP_AFTER = 400.0
"""Seconds: only so that something which hangs fails the test."""
GATE_CLOSED = 13


def blocks(page: str) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def bodies(page: str) -> list[str]:
    return re.findall(r"--json '(\{.*\})'$", page, re.MULTILINE)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def wait_until_ready(process: subprocess.Popen[str]) -> dict[str, str]:
    """What `up --json` prints once everything answers; the line is not alone, since MLflow's server prints, too."""
    assert process.stdout is not None
    watchdog = threading.Timer(GIVEN_UP_AFTER, process.kill)
    watchdog.start()
    line = next((line for line in process.stdout if line.startswith("{")), "")
    watchdog.cancel()
    assert line, "it ended before it was ready, or was not ready in time"
    said: dict[str, str] = json.loads(line)
    return said


class Newcomer:
    """Somebody with a shell, who runs the page's blocks one after the other in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ports = free_ports()
        api, mlflow = map(str, self.ports)
        self.environment = {
            **os.environ,
            "RIVERMILL_HOME": str(home),
            "RIVERMILL_PORT": api,
            "RIVERMILL_MLFLOW_PORT": mlflow,
        }
        self.example: dict[str, str] = {}

    def demo(self) -> dict[str, Any]:
        """What stands for `make demo` here."""
        command = [*RIVERMILL, "demo", "--pipeline", "phishing", "--json"]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, check=True, timeout=GIVEN_UP_AFTER)
        figures: dict[str, Any] = json.loads(done.stdout)
        self.example = figures["example"]
        return figures

    def script(self, chosen: list[str]) -> str:
        """The blocks as one script, a line of dashes before each; where the page says to wait, it waits."""
        text = "\n".join(f"echo ----\n{block}" for block in chosen)
        question, outcome = bodies(PAGE)
        for shown, own in ((question, self.example["question"]), (outcome, self.example["outcome"])):
            assert shown in text
            text = text.replace(shown, own)
        text = re.sub(r"\bflights\b", "phishing", text).replace(".rivermill/", f"{self.home}/")
        for port, own_port in zip(("8300", "8301"), self.ports, strict=True):
            text = text.replace(f":{port}/", f":{own_port}/")
        text = text.replace(".venv/bin/rivermill", ".venv/bin/python -m rivermill")
        text = text.replace(".venv/bin/python", sys.executable)
        lines = [self._patiently(line) for line in text.splitlines()]
        return "set -eu -o pipefail\n" + "\n".join(lines)

    def _patiently(self, line: str) -> str:
        if "--kind example" in line:
            key = json.loads(self.example["question"])["id"].removeprefix("ask ")
            return f'until {line} | grep -q \'"key":"{key}"\'; do :; done\n{line}'
        if "model-versions/search" in line:
            return f"until {line} 2>/dev/null; do :; done"
        if "registry promote" in line and "--explain" not in line:
            return f"{line} || test $? -eq {GATE_CLOSED}"
        return line


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Newcomer, list[str]]]:
    """What each block printed, from the one behind `make up` on."""
    newcomer = Newcomer(tmp_path_factory.mktemp("quickstart"))
    newcomer.demo()
    up = subprocess.Popen([*RIVERMILL, "up", "--json"], env=newcomer.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert wait_until_ready(up)["api"].endswith(newcomer.environment["RIVERMILL_PORT"])
        done = subprocess.run(
            ["bash", "-c", newcomer.script(blocks(PAGE)[2:])],
            env=newcomer.environment,
            capture_output=True,
            text=True,
            timeout=GIVEN_UP_AFTER,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        yield newcomer, done.stdout.split("----\n")[1:]
    finally:
        up.terminate()
        with up:
            assert up.wait(GIVEN_UP_AFTER) == 0


def test_the_page_begins_with_two_commands_and_goes_the_whole_way() -> None:
    found = blocks(PAGE)
    assert found[:2] == ["make demo\n", "make up\n"]
    words = ("/predict", "/labels", "--kind example", "train submit", "registry show", "promote", "rollback", "dataset")
    places = [next(place for place, block in enumerate(found) if word in block) for word in words]
    assert places == sorted(places)


def test_the_question_and_the_outcome_on_the_page_are_ones_that_the_flights_take() -> None:
    contracts = load_contracts(configs_folder() / "flights" / "contracts")
    question, outcome = (json.loads(body) for body in bodies(PAGE))
    assert set(question["data"]) == contracts["schedule"].field_names
    assert question["data"]["trip"] == outcome["data"]["trip"]
    assert read_envelope(json.dumps(outcome).encode()).type == "arrivals"
    assert set(outcome["data"]) <= contracts["arrivals"].field_names
    readme = (ROOT / "README.md").read_text()
    assert bodies(readme) == bodies(PAGE)


def test_a_question_is_answered_and_recorded(printed: tuple[Newcomer, list[str]]) -> None:
    newcomer, texts = printed
    answer = json.loads(texts[1])
    assert answer["id"] == json.loads(newcomer.example["question"])["id"]
    assert 0 < answer["probability"] < 1
    assert answer["receipt"]["prediction"] == answer["receipt"]["question"] + 1
    assert str(answer["receipt"]["question"]) in texts[2]
    assert str(answer["receipt"]["prediction"]) in texts[2]


def test_its_outcome_is_joined_with_it(printed: tuple[Newcomer, list[str]]) -> None:
    _, texts = printed
    answer, taken = json.loads(texts[1]), json.loads(texts[3])
    assert taken["type"] == "accepted"
    assert f'"prediction":{answer["receipt"]["prediction"]},"label":{taken["offset"]}' in texts[4]


def test_a_retrain_makes_a_line_that_the_gate_reports_on(printed: tuple[Newcomer, list[str]]) -> None:
    _, texts = printed
    assert "succeeded" in texts[5]
    assert "What it would say now" in texts[6]
    assert "| log_loss_behind_champion |" in texts[6]
    assert "The gate is" in texts[7]


def test_it_is_decided_on_and_rolled_back(printed: tuple[Newcomer, list[str]]) -> None:
    _, texts = printed
    history, _, status = texts[8].rpartition("\n{")
    last = next(line for line in reversed(history.splitlines()) if "roll_back" in line)
    assert "to see that it works" in last
    served = json.loads("{" + status)
    assert f"  {served['line']}  " in last
    assert served["answers"]["failed"] == served["answers"]["unrecorded"] == 0


def test_mlflow_names_the_dataset_and_it_is_rebuilt(printed: tuple[Newcomer, list[str]]) -> None:
    newcomer, texts = printed
    (dataset,) = set(re.findall(r"phishing-[0-9a-f]{12}", texts[9]))
    assert (newcomer.home / "phishing" / "datasets" / dataset / "manifest.json").exists()
    rows = re.search(r"rows_out\s+(\d+)", texts[9])
    assert rows is not None
    assert int(rows[1]) > 1_100
