"""A version in MLflow: one run with the model, its numbers, dataset and gate report, and a registered version.

Every step looks for what it would make and makes what is missing, so that a crash between any two of them is mended by
logging the same version again.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from journal.errors import ConflictingId, Misconfigured
from registry.mlflow_client import absent
from registry.pyfunc.package import Columns, save
from registry.pyfunc.portable import Portable

LINE = "rivermill.line"
NAME = "rivermill.name"
OFFSET = "rivermill.offset"
_MODEL = "rivermill.model"
_GATE = "rivermill.gate"
_REPORT = "gate/report.md"
_DIGEST_CHARACTERS = 36
_MILLISECOND = 1_000
_PLAIN = re.compile(r"[A-Za-z0-9_.@-]{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """The dataset version behind a model: its name, the SHA-256 of its rows, where it lies and how many rows it has."""

    name: str
    hash: str
    path: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFacts:
    """What MLflow is told about a version.

    Attributes:
        pipeline: Whose it is: the experiment and the registered model.
        line: What a decision names.
        family: The flavor that reads ``model_bytes``.
        model_digest: Canonical digest of the model.
        model_bytes: The model as it is stored; its signature has been checked.
        columns: Every feature column, in order.
        types: One per column: ``int64``, ``float64``, ``string`` or ``bool``.
        required: Columns that are never missing: the request's.
        metrics: The evidence, by name; numbers that are not finite are left out.
        gate_report_markdown: The gate's report, for people.
        verdict: The gate's verdict; ``passed`` (bool) becomes a tag.
        dataset: What it was fitted on; None for an online line, which learned from the journal.
        job: The training job; empty for an online line.
        offset: Of the version's or the snapshot's record in the journal.
        build: Fingerprint of the code and libraries.
        at: Journal time of that record, in microseconds.
    """

    pipeline: str
    line: str
    family: str
    model_digest: str
    model_bytes: bytes
    columns: Sequence[str]
    types: Sequence[str]
    metrics: Mapping[str, float]
    gate_report_markdown: str
    verdict: Mapping[str, Any]
    dataset: DatasetFacts | None
    job: str
    offset: int
    build: str
    at: int
    required: frozenset[str] = frozenset()


def log(client: Any, facts: VersionFacts, name: str, portable: Portable, artifacts: Path) -> int:
    """Log a version, or what an earlier attempt left out of it.

    Args:
        client: An ``MlflowClient`` of a store that answers.
        facts: What to log.
        name: Unique within the pipeline: the line, and for an online line the snapshot.
        portable: The model in the form that it travels in.
        artifacts: The folder that holds every pipeline's artifacts.

    Returns:
        MLflow's number of the version.

    Raises:
        ConflictingId: The name is taken by another model.
        Misconfigured: A name that MLflow's filters could misread.
    """
    _refuse_odd_names(facts.pipeline, name)
    experiment = _experiment(client, facts.pipeline, artifacts)
    run = _run(client, experiment, facts, name)
    model = _model(client, experiment, run.info.run_id, facts, name, portable)
    _record(client, run.info.run_id, model.model_id, facts)
    version = find(client, facts.pipeline, NAME, name) or _register(client, facts, run.info.run_id, model, name)
    if version.tags.get(_GATE) != _gate(facts.verdict):
        client.set_model_version_tag(facts.pipeline, version.version, _GATE, _gate(facts.verdict))
    if run.info.status != "FINISHED":
        client.set_terminated(run.info.run_id, "FINISHED", end_time=facts.at // _MILLISECOND)
    return int(version.version)


def find(client: Any, pipeline: str, tag: str, value: str) -> Any:
    """The newest registered version with this tag, or None."""
    _refuse_odd_names(pipeline, value)
    found = client.search_model_versions(f"name = '{pipeline}' and tags.`{tag}` = '{value}'")
    return max(found, key=lambda version: int(version.version), default=None)


def _refuse_odd_names(*names: str) -> None:
    odd = [name for name in names if not _PLAIN.fullmatch(name)]
    if odd:
        raise Misconfigured(which=f"{odd[0]!r} names nothing in MLflow", fix="Use letters, digits and . _ - @")


def _experiment(client: Any, pipeline: str, artifacts: Path) -> str:
    found = client.get_experiment_by_name(pipeline)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(pipeline, artifact_location=(artifacts / pipeline).resolve().as_uri()))


def _run(client: Any, experiment: str, facts: VersionFacts, name: str) -> Any:
    found = client.search_runs([experiment], filter_string=f"tags.`{NAME}` = '{name}'")
    run = found[0] if found else client.create_run(experiment, facts.at // _MILLISECOND, _tags(facts, name), name)
    known = run.data.tags.get(_MODEL)
    if known != facts.model_digest:
        raise ConflictingId(
            which=f"version {name} of {facts.pipeline} is model {known}, not {facts.model_digest}",
            fix="A line's name comes from its model's digest: log this model under its own",
        )
    return run


def _model(client: Any, experiment: str, run: str, facts: VersionFacts, name: str, portable: Portable) -> Any:
    found = client.search_logged_models([experiment], filter_string=f"tags.`{NAME}` = '{name}'")
    tags = {NAME: name, LINE: facts.line}
    model = (
        found[0]
        if found
        else client.create_logged_model(experiment, name, source_run_id=run, tags=tags, model_type=facts.family)
    )
    if model.status == "READY" and _whole(client, model.model_id):
        return model
    with tempfile.TemporaryDirectory() as beside:
        columns = Columns(names=facts.columns, types=facts.types, required=facts.required)
        save(Path(beside) / "model", name, portable, columns, run_id=run, model_id=model.model_id)
        client.log_model_artifacts(model.model_id, str(Path(beside) / "model"))
    return client.finalize_logged_model(model.model_id, "READY")


def _whole(client: Any, model: str) -> bool:
    folders = ("", "data/model")
    found = {file.path for folder in folders for file in client.list_logged_model_artifacts(model, folder or None)}
    return found >= {"MLmodel", "data/model/model.bin"}


def _record(client: Any, run: str, model: str, facts: VersionFacts) -> None:
    from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput  # noqa: PLC0415

    client.log_batch(run, metrics=list(_metrics(run, model, facts)))
    if facts.dataset:
        client.log_inputs(run, [DatasetInput(_dataset(facts.dataset), [InputTag("mlflow.data.context", "training")])])
    made = client.get_run(run).outputs.model_outputs
    if model not in {output.model_id for output in made}:
        client.log_outputs(run, [LoggedModelOutput(model, step=0)])
    client.log_text(run, facts.gate_report_markdown, _REPORT)
    client.log_text(run, json.dumps(dict(facts.verdict), indent=2, sort_keys=True), "gate/verdict.json")


def _metrics(run: str, model: str, facts: VersionFacts) -> Iterator[Any]:
    from mlflow.entities import Metric  # noqa: PLC0415

    known = {"model_id": model, "run_id": run}
    if facts.dataset:
        known |= {"dataset_name": facts.dataset.name, "dataset_digest": facts.dataset.hash[:_DIGEST_CHARACTERS]}
    for name, value in sorted(facts.metrics.items()):
        if math.isfinite(value):
            yield Metric(name, value, facts.at // _MILLISECOND, 0, **known)


def _dataset(facts: DatasetFacts) -> Any:
    """MLflow's digest has 36 characters; the whole hash is in the run's tags."""
    from mlflow.entities import Dataset  # noqa: PLC0415

    source, profile = json.dumps({"uri": facts.path}), json.dumps({"num_rows": facts.rows, "sha256": facts.hash})
    return Dataset(facts.name, facts.hash[:_DIGEST_CHARACTERS], "local", source, profile=profile)


def _register(client: Any, facts: VersionFacts, run: str, model: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.get_registered_model(facts.pipeline)
    except MlflowException as error:
        if not absent(error):
            raise
        client.create_registered_model(facts.pipeline)
    return client.create_model_version(
        facts.pipeline,
        source=f"models:/{model.model_id}",
        run_id=run,
        model_id=model.model_id,
        tags=_tags(facts, name),
        description=f"Line {facts.line}, record {facts.offset} of the journal. The gate's report: the run's {_REPORT}.",
    )


def _tags(facts: VersionFacts, name: str) -> dict[str, str]:
    tags = {
        NAME: name,
        LINE: facts.line,
        OFFSET: str(facts.offset),
        _MODEL: facts.model_digest,
        "rivermill.family": facts.family,
        "rivermill.job": facts.job,
        "rivermill.build": facts.build,
        _GATE: _gate(facts.verdict),
    }
    if facts.dataset:
        tags |= {"rivermill.dataset": facts.dataset.name, "rivermill.dataset_sha256": facts.dataset.hash}
    return tags


def _gate(verdict: Mapping[str, Any]) -> str:
    passed = verdict.get("passed")
    return "none" if passed is None else "passed" if passed else "failed"
