"""The demo as a new user runs it: the real command in a process of its own, killed, repeated, refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.mlflow_client import reaching
from rivermill.pipeline import load_pipeline
from rivermill.registry_wiring import projection_of
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow
A_GROUPS_RECORDS = 5_000
DIFFERENT = ("seconds", "events_per_second")


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


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo that its schedule stops for three retrains, the first of them on Ray."""
    home = tmp_path_factory.mktemp("retrained")
    return home, demo(home, "0", "--pipeline", "phishing")


def meaning(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if name not in DIFFERENT}


def test_it_prints_one_object_whose_counts_reconcile(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, figures = undisturbed
    assert figures["questions"] == figures["predictions"] > 5_000
    assert figures["predictions"] == figures["joined"] + figures["expired"] + figures["pending"]
    made = figures["dataset"]
    assert made["rows_out"] == made["rows_in"] == made["considered"] - sum(made["excluded"].values())
    assert figures["quarantined"] == figures["repeated"] == figures["refused"] == 0
    assert 0.5 < figures["auc_online"] < 0.9
    assert figures["degraded"] < figures["predictions"]
    assert figures["versions"] == figures["promotions"] == []
    assert figures["rollback"] is None
    assert 0.5 < figures["auc_champion"] < 0.9


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


def test_retrains_their_versions_and_promotions_are_told(retrained: tuple[Path, dict[str, Any]]) -> None:
    home, figures = retrained
    states = {version["line"]: version["state"] for version in figures["versions"]}
    assert len(states) == 3
    assert all(promotion["verdict"] == "passed" for promotion in figures["promotions"])
    answering = "online"
    for promotion in figures["promotions"]:
        assert promotion["from"] == answering
        answering = promotion["to"]
        states.setdefault(answering, "champion")
    assert states[answering] == "champion"
    assert figures["questions"] == figures["predictions"]
    assert 0.85 < figures["auc_champion"] < 1
    assert figures["auc_champion"] != figures["auc_online"], "a version answered for a while"
    (first, *_) = sorted((home / "phishing" / "jobs").glob("*/spec.json"), key=lambda path: path.stat().st_mtime_ns)
    assert json.loads(first.read_bytes())["executor"] == "ray"


def test_killed_in_mid_job_and_under_another_hash_seed_it_ends_the_same(
    tmp_path: Path, retrained: tuple[Path, dict[str, Any]]
) -> None:
    process = subprocess.Popen(
        command(tmp_path, "demo", "--weeks", "1", "--json", "--pipeline", "phishing"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "41"},
    )
    jobs = tmp_path / "phishing" / "jobs"
    while process.poll() is None and not any(log.stat().st_size for log in jobs.glob("*/log.txt")):
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(jobs.glob("*/spec.json"))) == 1
    assert not list(jobs.glob("*/result.json")), "it was killed in the middle of the job"
    assert meaning(demo(tmp_path, "42", "--pipeline", "phishing")) == meaning(retrained[1])


def test_a_demo_with_retrains_is_not_played_again_either(retrained: tuple[Path, dict[str, Any]]) -> None:
    home, figures = retrained
    assert demo(home, "0", "--pipeline", "phishing") == figures


def test_its_mirror_in_mlflow_is_whole_and_a_second_one_adds_nothing(retrained: tuple[Path, dict[str, Any]]) -> None:
    home, figures = retrained
    before = mirrored(home)
    names = {version["tags"]["rivermill.line"] for version in before}
    assert names >= {version["line"] for version in figures["versions"]}
    assert project(home) == []
    assert mirrored(home) == before


def test_an_alias_that_was_edited_by_hand_is_put_back_and_told(retrained: tuple[Path, dict[str, Any]]) -> None:
    home, _ = retrained
    before = mirrored(home)
    (answering,) = (version for version in before if "champion" in version["aliases"])
    other = next(version["version"] for version in before if version is not answering)
    with reaching(uri(home)) as client:
        client.set_registered_model_alias("phishing", "champion", other)
    assert mirrored(home) != before
    (said,) = project(home)
    assert f"moved to version {other} behind our back" in said
    assert mirrored(home) == before
    assert project(home) == []


def uri(home: Path) -> str:
    return f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


def mirrored(home: Path) -> list[dict[str, Any]]:
    """What MLflow shows of the pipeline's versions."""
    with reaching(uri(home)) as client:
        found = [
            client.get_model_version("phishing", version.version)
            for version in client.search_model_versions("name='phishing'")
        ]
    return [{"version": each.version, "aliases": each.aliases, "tags": each.tags, "run": each.run_id} for each in found]


def project(home: Path) -> list[str]:
    """Bring MLflow up to date once more; what was said about it."""
    said: list[str] = []
    run = open_run(load_pipeline(configs_folder() / "phishing"), Home(home, "phishing"))
    projection_of(run, said.append).run()
    run.close()
    return said
