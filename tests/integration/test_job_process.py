"""Training jobs as processes: done once, stopped cleanly, refused when the data or the recipes are not as submitted."""

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.dataset import hash_rows
from features.dataset_store import TRAINING, Keeping, publish
from journal.clock import DAY, HOUR
from journal.errors import JobFailed, Misconfigured
from registry.flavors import batch
from training.job_folder import read_result, write_spec
from training.job_process import PARENT_VARIABLE, STOPPED
from training.job_runner import JobStopped, run_job
from training.models_file import models_file
from training.recipe import Recipe, RetrainSettings, RetrainSpec

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = 800

PLAIN = """
from sklearn.linear_model import LogisticRegression

def logistic(*, seed, categorical):
    return LogisticRegression(random_state=seed)
"""
ENDLESS = """
import pathlib, signal
from sklearn.linear_model import LogisticRegression

class Endless(LogisticRegression):
    def fit(self, x, y):
        pathlib.Path(__file__).with_name("begun").touch()
        try:
            signal.pause()
        except Exception:
            pass

def logistic(*, seed, categorical):
    return Endless()
"""
BROKEN = """
def logistic(*, seed, categorical):
    raise ValueError("no such solver")
"""
NOSY = """
import os
from sklearn.linear_model import LogisticRegression

def logistic(*, seed, categorical):
    print({name: os.environ.get(name) for name in ("AWS_SECRET", "OMP_NUM_THREADS", "DO_NOT_TRACK")}, os.nice(0))
    return LogisticRegression(random_state=seed)
"""


def submitted(tmp_path: Path, models: str = PLAIN, **changes: Any) -> Path:
    """A job's folder beside a dataset and a models.py."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=ROWS)
    rows = pa.table(
        {
            "prediction": pa.array(np.arange(ROWS)),
            "at": pa.array(np.arange(ROWS) * HOUR).cast(pa.timestamp("us", "UTC")),
            "key": pa.array([f"k{n}" for n in range(ROWS)]),
            "x": pa.array(x),
            "carrier": pa.array(rng.choice(["AA", "UA"], ROWS)),
            "outcome": pa.array(rng.random(ROWS) < 1 / (1 + np.exp(-2 * x))),
        }
    )
    publish(tmp_path / "data", "d", rows, b"{}", Keeping(kind=TRAINING, claimed=0))
    (tmp_path / "models.py").write_text(textwrap.dedent(models))
    spec: dict[str, Any] = {
        "root": str(tmp_path / "data"),
        "dataset": "d",
        "hash": hash_rows(rows),
        "models": str(tmp_path / "models.py"),
        "models_hash": models_file(tmp_path / "models.py").hash,
        "settings": RetrainSettings(
            recipes=(Recipe(name="logistic", function="logistic", encoding="dense"),),
            folds=2,
            test=3 * DAY,
            gap=DAY,
            every=7 * DAY,
            first=7 * DAY,
        ),
    }
    folder = tmp_path / "job-0123"
    write_spec(folder, RetrainSpec(**{**spec, **changes}))
    return folder


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_a_job_leaves_a_model_its_figures_and_its_log(tmp_path: Path) -> None:
    folder = submitted(tmp_path)
    done = run_job(folder)
    assert (done.facts.winner, done.facts.rows, done.facts.executor_note) == ("logistic", ROWS, "")
    model = batch.load(done.model)
    assert batch.digest(model) == done.facts.model
    assert 0 < batch.predict_one(model, batch.inputs(["x", "carrier"], [1.5, "AA"])) < 1
    assert [len(done.facts.scores["logistic"]), len(done.holdout.score)] == [2, 144]
    assert done.facts.scores["logistic"][-1].rows == 72
    assert "dataset d: 800 rows" in log_of(folder)
    assert "logistic, fold 1: log loss 0." in log_of(folder)


def test_a_finished_job_is_not_run_again(tmp_path: Path) -> None:
    folder = submitted(tmp_path)
    first = run_job(folder)
    log = log_of(folder)
    again = run_job(folder)
    assert (again.facts, again.model) == (first.facts, first.model)
    assert again.holdout.score.tobytes() == first.holdout.score.tobytes()
    assert log_of(folder) == log


@pytest.mark.parametrize("damaged", ["model.bin", "holdout.parquet", "result.json"])
def test_a_torn_result_counts_as_none_and_is_made_again(tmp_path: Path, damaged: str) -> None:
    folder = submitted(tmp_path)
    first = run_job(folder)
    (folder / damaged).write_bytes(b"torn")
    assert read_result(folder) is None
    again = run_job(folder)
    assert (again.facts.model, again.facts.scores) == (first.facts.model, first.facts.scores)
    assert log_of(folder).count("done: logistic") == 2


def test_a_stop_in_mid_fit_leaves_no_result(tmp_path: Path) -> None:
    folder = submitted(tmp_path, ENDLESS)
    with pytest.raises(JobStopped, match="job-0123"):
        run_job(folder, stopped=(tmp_path / "begun").exists)
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt", "spec.json"]
    assert log_of(folder).endswith("stopped, without a result\n")


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    folder = submitted(tmp_path, ENDLESS)
    with pytest.raises(JobFailed, match=r"took longer than 0 s"):
        run_job(folder, timeout=0)
    assert read_result(folder) is None


def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    folder = submitted(tmp_path, ENDLESS)
    # The parent tells the job's id, waits until the fit has begun, and dies without another word.
    parent = f"""
import os, pathlib, signal, sys
from training import job_runner
def died():
    if pathlib.Path({str(tmp_path / "begun")!r}).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return False
start = job_runner._start
def tell(*arguments):
    process = start(*arguments)
    print(process.pid, flush=True)
    return process
job_runner._start = tell
job_runner.run_job(pathlib.Path({str(folder)!r}), stopped=died)
"""
    run = subprocess.run(
        [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120, check=False
    )
    assert run.returncode == -signal.SIGKILL
    job = int(run.stdout)
    _wait_for_end(job)
    assert log_of(folder).endswith("stopped, without a result\n")
    assert read_result(folder) is None


def _wait_for_end(process: int) -> None:
    """Block until a process that is not our child is gone."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return
    with os.fdopen(handle) as file:
        assert select.select([file], [], [], 60)[0], "the job outlived its parent"


def test_a_job_whose_parent_died_first_does_nothing(tmp_path: Path) -> None:
    folder = submitted(tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "training.job_process", str(folder)],
        cwd=ROOT,
        env={**os.environ, PARENT_VARIABLE: "1"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout) == (STOPPED, b"stopped, without a result\n")
    assert read_result(folder) is None


def rewrite_rows(tmp_path: Path) -> None:
    path = tmp_path / "data" / "d" / "rows.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(3, "x", pa.array(np.zeros(ROWS))), path)


def rewrite_models(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(PLAIN + "\n# another state\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite_rows, r"ended with 7; .*dataset d hashes to \w{12}, and the job was submitted for"),
        (rewrite_models, r"ended with 5; .*models.py has changed since the job was submitted"),
        (lambda path: (path / "models.py").unlink(), r"ended with 3; .*models.py: there is no such file"),
        (lambda path: (path / "data" / "d" / "rows.parquet").unlink(), r"ended with 7; .*dataset d"),
    ],
)
def test_what_is_not_as_submitted_is_not_fitted(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    folder = submitted(tmp_path)
    change(tmp_path)
    with pytest.raises(JobFailed, match=f"(?s){message}"):
        run_job(folder)
    assert read_result(folder) is None


def test_a_recipe_that_fails_is_in_the_message(tmp_path: Path) -> None:
    folder = submitted(tmp_path, BROKEN)
    with pytest.raises(JobFailed, match=r"(?s)ended with 1; .*models.py\", line 3.*ValueError: no such solver"):
        run_job(folder)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = submitted(tmp_path, "x = 1")
    with pytest.raises(JobFailed, match=r"(?s)ended with 3; .*recipe function 'logistic' in models.py"):
        run_job(folder)


def test_folds_that_the_rows_do_not_make_are_refused(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(
        msgspec.json.decode((submitted(tmp_path) / "spec.json").read_bytes(), type=RetrainSpec).settings, folds=30
    )
    folder = submitted(tmp_path / "other", settings=settings)
    with pytest.raises(JobFailed, match=r"(?s)ended with 5; .*fold 0: training rows"):
        run_job(folder)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"executor": "cloud"}'])
def test_a_spec_that_cannot_be_read_starts_nothing(tmp_path: Path, content: bytes) -> None:
    folder = submitted(tmp_path)
    (folder / "spec.json").write_bytes(content)
    with pytest.raises(Misconfigured, match=r"job-0123: spec\.json"):
        run_job(folder)
    assert not (folder / "log.txt").exists()


def test_a_job_sees_no_secrets_and_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "hush")
    folder = submitted(tmp_path, NOSY)
    run_job(folder)
    assert "{'AWS_SECRET': None, 'OMP_NUM_THREADS': '1', 'DO_NOT_TRACK': 'true'} 19" in log_of(folder)
