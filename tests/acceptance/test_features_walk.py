"""docs/features.md, done as it says: its files written as they stand there, its commands run in order."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rivermill.cli import rivermill as cli
from rivermill.feature_commands import features
from rivermill.place import Place
from rivermill.settings import configs_folder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text()
GIVEN_UP_AFTER = 300
"""Seconds: only so that a command which hangs fails the test."""


def files() -> dict[str, str]:
    """Name to content of every file that the page shows."""
    return dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def run(program: str, words: list[str], folder: Path) -> str:
    """What a command prints: Feast's scripts in processes of their own, Rivermill's verbs in this one."""
    if program == ".venv/bin/python":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=GIVEN_UP_AFTER,
            check=True,
        ).stdout
    assert program == ".venv/bin/rivermill"
    place = Place(folder / "home", configs_folder())
    command, rest = (features, words[1:]) if words[0] == "features" else (cli.commands[words[0]], words[1:])
    done = CliRunner().invoke(command, rest, obj=place, catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.output}"
    return done.stdout


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command printed, by the command without its program."""
    folder = tmp_path_factory.mktemp("walk")
    for name, content in files().items():
        (folder / name).write_text(content)
    found = {}
    with contextlib.chdir(folder):
        for line in commands():
            program, *words = shlex.split(line)
            found[" ".join(words)] = run(program, words, folder)
    return found


def test_the_walk_goes_the_whole_way() -> None:
    assert list(files()) == ["feature_store.yaml", "shop.py", "ask.py", "replay_a_day.py", "ask_a_pipeline.py"]
    verbs = [shlex.split(command)[2] for command in commands() if "rivermill features" in command]
    assert verbs == [
        *("list", "search", "show", "get", "history", "freshness"),
        *("plan", "apply", "backfill", "skew", "drift"),
    ]


def test_a_project_of_ones_own_gets_every_row_and_nothing_from_the_future(printed: dict[str, str]) -> None:
    text = printed["ask.py"]
    rows = [shlex.split(line) for line in text.splitlines() if re.match(r"\d +\w+ +2026", line)]
    assert [(row[1], row[-2], row[-1]) for row in rows] == [
        ("a", "21.0", "2.25"),
        ("a", "NaN", "NaN"),
        ("nowhere", "NaN", "NaN"),
    ]
    online = next(line for line in text.splitlines() if line.startswith("{"))
    # Feast gives the columns in an order of its own each time.
    assert all(part in online for part in ("'shop': ['a']", "'sales': [None]", "'mean_price': [None]")), "stale by now"
    assert "values=[91, 9.25]" in text


def test_a_pipelines_features_are_read_by_feasts_own_sdk(printed: dict[str, str]) -> None:
    online, *rows = printed["ask_a_pipeline.py"].splitlines()
    newest = dict(line.split(maxsplit=1) for line in printed[GET].splitlines())
    assert f"'reports_1d': [{newest['reports_1d']}]" in online
    assert [row.split()[-3:] for row in rows[1:]] == [["310", "0.441935", "0.441935"], ["42", "0.333333", "0.333333"]]


GET = "features get phishing reports_by_ip ip_in_url=1"


def test_the_catalog_finds_and_shows_the_view(printed: dict[str, str]) -> None:
    found = printed["features list phishing"]
    assert "phishing@example.org" in found
    assert printed["features search phishing reports phishing"] == found
    shown = printed["features show phishing reports_by_ip"]
    assert "part of reports.phishing at or above 1 over the last 7d, in tiles of 6h" in shown
    assert "champion" in shown


def test_history_ends_with_the_newest_row(printed: dict[str, str]) -> None:
    header, *rows = printed["features history phishing reports_by_ip ip_in_url=1 -n 5"].splitlines()
    assert len(rows) == 5
    newest = dict(line.split(maxsplit=1) for line in printed[GET].splitlines())
    last = dict(zip(header.split(), rows[-1].split(), strict=True))
    assert (last["known_at"], last["reports_1d"]) == (newest["known_at"], newest["reports_1d"])


def test_nothing_is_skewed_and_nothing_has_drifted(printed: dict[str, str]) -> None:
    assert re.search(r"^mismatches +0$", printed["features skew phishing"], re.MULTILINE)
    assert re.search(r"^verdict +ok$", printed["features drift phishing"], re.MULTILINE)
