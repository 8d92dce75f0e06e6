"""docs/new-pipeline.md, done as it says: its files written as they stand there, its commands run in order."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "new-pipeline.md").read_text()
RIVERMILL = ".venv/bin/rivermill"
GIVEN_UP_AFTER = 300
"""Seconds: only so that a command which hangs fails the test."""


def files() -> dict[str, str]:
    """Name to content of every file that the page shows."""
    return dict(re.findall(r"^`(shop/[^`]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Desk:
    """A folder with the page's files, where its commands are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, content in files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)

    def run(self, command: str) -> str:
        here = command.replace(".venv/bin/rivermill", ".venv/bin/python -m rivermill").replace(
            ".venv/bin/python", sys.executable
        )
        environment = {**os.environ, "RIVERMILL_HOME": str(self.folder / "home")}
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=GIVEN_UP_AFTER,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def told(self, *verb: str) -> Any:
        return json.loads(self.run(f"{RIVERMILL} {' '.join(verb)} --json"))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, dict[str, str]]:
    """The folder after every command of the page, and what each of them printed."""
    desk = Desk(tmp_path_factory.mktemp("page"))
    return desk, {command: desk.run(command) for command in commands()}


def test_the_page_shows_every_file_of_a_pipeline() -> None:
    assert {Path(name).name for name in files()} >= {"pipeline.yaml", "views.py", "models.py", "make_events.py"}
    assert sum(name.startswith("shop/contracts/") for name in files()) == 2
    assert len(commands()) >= 8


def test_its_files_have_no_mistakes_and_its_events_are_taken(printed: tuple[Desk, dict[str, str]]) -> None:
    desk, texts = printed
    found = texts[".venv/bin/rivermill doctor --pipeline shop"]
    assert "its files: 2 contracts, 1 views" in found
    (standing,) = desk.told("status")
    assert standing["quarantined"] == 0
    assert not standing["left no record"]


def test_it_retrains_and_the_gate_decides(printed: tuple[Desk, dict[str, str]]) -> None:
    desk, _ = printed
    decisions = desk.told("registry", "history", "shop")
    assert decisions[0]["action"] == "bootstrap"
    assert len(decisions) == 3, "each of the two retrains ends in a decision"
    assert {decision["by"] for decision in decisions[1:]} == {"schedule"}
    batch = [line for line in desk.told("registry", "list", "shop") if line["kind"] == "batch"]
    assert batch
    assert all(line["dataset"].startswith("shop-") for line in batch)
    assert {decision["action"] for decision in decisions[1:]} <= {"promote", "reject"}
    assert "The gate is" in desk.told("registry", "show", "shop", batch[0]["line"])["report"]


def test_the_answers_come_from_what_the_page_declared(printed: tuple[Desk, dict[str, str]]) -> None:
    desk, texts = printed
    last = texts[".venv/bin/rivermill journal tail shop --kind prediction -n 1"]
    assert "prediction" in last
    (champion,) = [line for line in desk.told("registry", "list", "shop") if line["state"] == "champion"]
    (standing,) = desk.told("status")
    assert standing["serving"]["line"] == champion["line"]
    row = texts[".venv/bin/rivermill features get shop category_outcomes category=shoes"]
    assert 0.2 < float(re.search(r"returned_1d\s+(\S+)", row)[1]) < 1  # type: ignore[index]


def test_the_same_file_again_changes_nothing(printed: tuple[Desk, dict[str, str]]) -> None:
    desk, _ = printed
    (before,) = desk.told("status")
    desk.run(f"{RIVERMILL} play shop orders.jsonl")
    (after,) = desk.told("status")
    assert after["records"] == before["records"]
    assert desk.told("registry", "history", "shop")[-1]["sequence"] == 3
