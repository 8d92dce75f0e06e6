"""The files of one training job: what it is asked, the model it made, and last of all its result.

``spec.json`` is there first. ``model.bin`` and ``holdout.parquet`` follow, and ``result.json``, written in one step,
names both by their hashes: with it the job is done, without it nothing counts. A result of another spec, or one whose
files do not match, counts as none.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from journal.blobs import write_durably
from journal.errors import Misconfigured
from training.recipe import RetrainSpec
from training.retrain import FoldScore, Holdout, Probe, Retrained


class RetrainFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a finished retrain. All but the last two follow from the spec alone.

    Attributes:
        winner: The recipe that won.
        scores: Each candidate's figures by fold, in the order of the recipes.
        model: Canonical digest of the exported model.
        runtime: What runs it.
        parity: How far the export strays from the estimator.
        probe: Predictions with what the estimator itself says to them.
        rows: How many rows it was fitted on.
        width: Columns of its matrix.
        spec_hash: SHA-256 of the spec that asked for it.
        model_hash: SHA-256 of ``model.bin``.
        holdout_hash: SHA-256 of ``holdout.parquet``.
        fit_seconds: Wall time by recipe, and of the refit.
        executor_note: Why the fits ran otherwise than asked for.
    """

    winner: str
    scores: dict[str, tuple[FoldScore, ...]]
    model: str
    runtime: str
    parity: dict[str, Any]
    probe: Probe
    rows: int
    width: int
    spec_hash: str
    model_hash: str
    holdout_hash: str
    fit_seconds: dict[str, float]
    executor_note: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished job: the facts, the portable model and the rows that the winner was tested on last."""

    facts: RetrainFacts
    model: bytes
    holdout: Holdout


def write_spec(folder: Path, spec: RetrainSpec) -> None:
    """Make the job's folder, with what it is asked."""
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "spec.json", msgspec.json.format(msgspec.json.encode(spec)))


def read_spec(folder: Path) -> RetrainSpec:
    """What the job is asked; raises Misconfigured when it cannot be read."""
    try:
        return msgspec.json.decode((folder / "spec.json").read_bytes(), type=RetrainSpec)
    except (OSError, msgspec.MsgspecError) as error:
        raise Misconfigured(which=f"job {folder.name}: spec.json: {error}", fix="Submit the job again") from error


def write_result(folder: Path, retrained: Retrained) -> None:
    """Store what came of the job; it is done when this returns."""
    exported, holdout = retrained.exported, _parquet(retrained.holdout)
    facts = RetrainFacts(
        winner=retrained.winner,
        scores=retrained.scores,
        model=exported.digest,
        runtime=exported.runtime,
        parity=exported.parity,
        probe=retrained.probe,
        rows=retrained.rows,
        width=retrained.width,
        spec_hash=_hash_file(folder / "spec.json"),
        model_hash=hashlib.sha256(exported.data).hexdigest(),
        holdout_hash=hashlib.sha256(holdout).hexdigest(),
        fit_seconds=retrained.fit_seconds,
        executor_note=retrained.executor_note,
    )
    write_durably(folder / "model.bin", exported.data)
    write_durably(folder / "holdout.parquet", holdout)
    write_durably(folder / "result.json", msgspec.json.format(msgspec.json.encode(facts)))


def read_result(folder: Path) -> Finished | None:
    """What came of the job; None while nothing that counts is there."""
    try:
        facts = msgspec.json.decode((folder / "result.json").read_bytes(), type=RetrainFacts)
        model, holdout = (folder / "model.bin").read_bytes(), (folder / "holdout.parquet").read_bytes()
        spec_hash = _hash_file(folder / "spec.json")
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    found = (spec_hash, hashlib.sha256(model).hexdigest(), hashlib.sha256(holdout).hexdigest())
    if found != (facts.spec_hash, facts.model_hash, facts.holdout_hash):
        return None
    return Finished(facts, model, _holdout(holdout))


def _parquet(holdout: Holdout) -> bytes:
    columns = {
        "prediction": pa.array(holdout.prediction),
        "at": pa.array(holdout.at).cast(pa.timestamp("us", "UTC")),
        "outcome": pa.array(holdout.outcome),
        "score": pa.array(holdout.score),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _holdout(data: bytes) -> Holdout:
    table = pq.read_table(io.BytesIO(data))
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    return Holdout(
        prediction=np.asarray(columns["prediction"]),
        at=np.asarray(columns["at"].cast(pa.int64())),
        outcome=np.asarray(columns["outcome"], np.bool_),
        score=np.asarray(columns["score"]),
    )


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
