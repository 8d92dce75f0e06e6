"""The demo as a new user runs it: the real command in a process of its own, killed, repeated, refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
A_GROUPS_RECORDS = 5_000
SAME = ("seconds", "events_per_second")


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rivermill", "--home", str(home), *arguments]


def demo(home: Path, seed: str = "0", *more: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "America/New_York"}
    done = subprocess.run(
        command(home, "demo", "--weeks", "1", "--json", *more), capture_output=True, env=environment, check=True
    )
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("undisturbed")
    return home, demo(home)


def meaning(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in SAME}


def test_it_prints_one_object_whose_counts_reconcile(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, figures = undisturbed
    assert figures["questions"] == figures["predictions"] > 5_000
    assert figures["predictions"] == figures["joined"] + figures["expired"] + figures["pending"]
    made = figures["dataset"]
    assert made["rows_out"] == made["rows_in"] == made["considered"] - sum(made["excluded"].values())
    assert figures["quarantined"] == figures["repeated"] == figures["refused"] == 0
    assert 0.5 < figures["auc_online"] < 0.9
    assert figures["degraded"] < figures["predictions"]


def test_killed_three_times_it_ends_the_same(tmp_path: Path, undisturbed: tuple[Path, dict[str, Any]]) -> None:
    """Under another hash seed, too. Each kill waits for the journal to have grown, so it lands in mid-run."""
    for kills in range(1, 4):
        process = subprocess.Popen(
            command(tmp_path, "demo", "--weeks", "1", "--json"),
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": str(kills)},
        )
        journal = tmp_path / "flights" / "journal"
        before = written(journal)
        while process.poll() is None and written(journal) <= before + A_GROUPS_RECORDS:
            pass
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert meaning(demo(tmp_path, seed="7")) == meaning(undisturbed[1])


def written(journal: Path) -> int:
    """Records committed so far, asked of SQLite as any reader may."""
    import apsw  # noqa: PLC0415

    try:
        (path,) = journal.glob("segment-*.sqlite")
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        db.set_busy_timeout(1_000)
        last: int | None = db.execute("SELECT max(offset) FROM record").get
        db.close()
    except (ValueError, apsw.Error):
        return 0
    return last or 0


def test_a_finished_demo_is_not_played_again(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, figures = undisturbed
    assert demo(home) == figures


def test_other_arguments_are_refused_and_fresh_is_named(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    home, _ = undisturbed
    done = subprocess.run(command(home, "demo", "--weeks", "2"), capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "holds a demo of 1 weeks, not of 2" in done.stderr
    assert "--fresh" in done.stderr
    assert done.stdout == ""
