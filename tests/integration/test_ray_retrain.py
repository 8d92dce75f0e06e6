"""Ray: the same model and the same scores as without it, and a job that goes on when it does not start."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.dataset import hash_rows
from features.dataset_store import TRAINING, Keeping, publish
from journal.clock import DAY, HOUR
from training.job_folder import Finished, write_spec
from training.job_runner import JobStopped, run_job
from training.models_file import models_file
from training.recipe import Recipe, RetrainSettings, RetrainSpec, Where

pytestmark = pytest.mark.slow

ROWS = 2000
# Each fit says where it ran: a process of its own on Ray, the job's process otherwise.
MODELS = """
import os, pathlib, stat
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

def told(line):
    with open(pathlib.Path(__file__).with_name("told"), "a") as file:
        file.write(line + "\\n")

def boosting(*, seed, categorical):
    told(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {os.nice(0)}")
    token = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token:
        told(f"token {stat.S_IMODE(os.stat(token).st_mode):o} {os.environ['RAY_AUTH_MODE']}")
    return HistGradientBoostingClassifier(
        max_iter=20, random_state=seed, categorical_features=list(categorical), early_stopping=False
    )

def logistic(*, seed, categorical):
    return LogisticRegression(random_state=seed)
"""


@pytest.fixture
def spec(tmp_path: Path) -> RetrainSpec:
    rng = np.random.default_rng(11)
    x, z = rng.normal(size=(2, ROWS))
    rows = pa.table(
        {
            "prediction": pa.array(np.arange(ROWS)),
            "at": pa.array(np.arange(ROWS) * HOUR).cast(pa.timestamp("us", "UTC")),
            "key": pa.array([f"k{n}" for n in range(ROWS)]),
            "x": pa.array(x, mask=rng.random(ROWS) < 0.05),
            "z": pa.array(z),
            "carrier": pa.array(rng.choice(["AA", "UA", "WN"], ROWS)),
            "outcome": pa.array(rng.random(ROWS) < 1 / (1 + np.exp(-3 * np.sign(x * z)))),
        }
    )
    publish(tmp_path / "data", "d", rows, b"{}", Keeping(kind=TRAINING, claimed=0))
    (tmp_path / "models.py").write_text(MODELS)
    return RetrainSpec(
        root=str(tmp_path / "data"),
        dataset="d",
        hash=hash_rows(rows),
        models=str(tmp_path / "models.py"),
        models_hash=models_file(tmp_path / "models.py").hash,
        settings=RetrainSettings(
            recipes=(
                Recipe(name="boosting", function="boosting", encoding="codes"),
                Recipe(name="logistic", function="logistic", encoding="dense"),
            ),
            folds=3,
            test=14 * DAY,
            gap=2 * DAY,
            every=7 * DAY,
            first=7 * DAY,
        ),
    )


def run(tmp_path: Path, spec: RetrainSpec, executor: Where) -> tuple[Finished, list[list[str]]]:
    """Run a job, and what its recipes told about where they were."""
    folder = tmp_path / executor
    write_spec(folder, _with(spec, executor=executor))
    told = tmp_path / "told"
    told.write_text("")
    return run_job(folder, timeout=300), [line.split() for line in told.read_text().splitlines()]


def _with(spec: RetrainSpec, **changes: Any) -> RetrainSpec:
    values = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return RetrainSpec(**{**values, **changes})


def test_ray_and_serial_give_the_same_bits(tmp_path: Path, spec: RetrainSpec) -> None:
    serial, here = run(tmp_path, spec, "serial")
    on_ray, there = run(tmp_path, spec, "ray")
    assert on_ray.facts.executor_note == ""
    assert serial.facts.winner == on_ray.facts.winner == "boosting"
    assert serial.facts.model == on_ray.facts.model
    assert serial.facts.scores == on_ray.facts.scores
    assert serial.holdout.score.tobytes() == on_ray.holdout.score.tobytes()
    assert serial.holdout.prediction.tobytes() == on_ray.holdout.prediction.tobytes()

    assert len({line[0] for line in here}) == 1, "one process fits serially"
    workers = [line for line in there if line[0] != "token"]
    assert len({line[0] for line in workers}) >= 2, "the refit runs in the job, the folds elsewhere"
    assert {(threads, nice) for _, threads, nice in (*here, *workers)} == {("1", "19")}
    assert next(line for line in there if line[0] == "token") == ["token", "600", "token"]


def test_a_stop_in_mid_fit_shuts_ray_down(tmp_path: Path, spec: RetrainSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models.py").write_text(
        MODELS.replace('told(f"{', 'import signal; told("begun"); signal.pause(); told(f"{', 1)
    )
    (tmp_path / "told").write_text("")
    scratch = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setenv("TMPDIR", str(scratch))
    folder = tmp_path / "stopped"
    write_spec(folder, _with(spec, executor="ray", models_hash=models_file(tmp_path / "models.py").hash))
    with pytest.raises(JobStopped):
        run_job(folder, stopped=lambda: "begun" in (tmp_path / "told").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt", "spec.json"]
    assert (folder / "log.txt").read_text().endswith("stopped, without a result\n")
    # Ray's folder goes after its processes have.
    assert list(scratch.iterdir()) == []
    scratch.rmdir()


def test_a_ray_that_cannot_start_leaves_the_fits_to_the_job_and_says_so(
    tmp_path: Path, spec: RetrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial, _ = run(tmp_path, spec, "serial")
    # Ray keeps sockets in its folder, and the path of a socket may have 107 characters.
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    fallen_back, told = run(tmp_path, spec, "ray")
    assert fallen_back.facts.executor_note.startswith("Ray did not start (")
    assert fallen_back.facts.executor_note in (tmp_path / "ray" / "log.txt").read_text()
    assert fallen_back.facts.model == serial.facts.model
    assert fallen_back.facts.scores == serial.facts.scores
    assert len({line[0] for line in told if line[0] != "token"}) == 1
    assert list(long.iterdir()) == [], "nothing stays behind"
