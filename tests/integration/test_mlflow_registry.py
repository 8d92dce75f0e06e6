"""MLflow as a mirror: versions logged once, an alias that follows, and a store that is down."""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from river import linear_model

from journal.errors import ConflictingId, LostRace, Misconfigured, RegistryDown, UnknownName
from registry import mlflow_alias, mlflow_versions
from registry.flavors import river
from registry.flavors.river_parts import Categories, SquashedScaler
from registry.mlflow_client import reaching
from registry.mlflow_registry import MlflowRegistry
from registry.mlflow_versions import DatasetFacts, VersionFacts
from registry.pyfunc.portable import portable_of

pytestmark = pytest.mark.slow

AT = 1_357_000_000_123_456
DATASET = DatasetFacts(name="flights-0123456789ab", hash="0123456789ab" + "c" * 52, path="datasets/flights", rows=4321)


def state(examples: int = 30) -> bytes:
    model = (SquashedScaler() + Categories("origin")) | linear_model.LogisticRegression()
    for n in range(examples):
        model.learn_one({"delay": float(n % 7), "origin": "EWR"}, n % 3 == 0)
    return river.dump(model)


STATE = state()
FACTS = VersionFacts(
    pipeline="flights",
    line="boosting-aaaaaaaaaaaa",
    family="river",
    model_digest="a" * 64,
    model_bytes=STATE,
    columns=["delay", "stops", "origin", "distance"],
    types=["float64", "int64", "string", "int64"],
    required=frozenset({"distance", "origin"}),
    metrics={"auc": 0.75, "log_loss": 0.5, "broken": float("nan")},
    gate_report_markdown="# Passed\n",
    verdict={"passed": True, "checks": ["floor"]},
    dataset=DATASET,
    job="job-1",
    offset=901,
    build="fedcba",
    at=AT,
)


def facts(pipeline: str, line: str = FACTS.line, **other: Any) -> VersionFacts:
    return dataclasses.replace(FACTS, pipeline=pipeline, line=line, **other)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> MlflowRegistry:
    home = tmp_path_factory.mktemp("mlflow home")
    made = MlflowRegistry(f"sqlite:///{home}/mlflow.db", home / "artifacts", "http://127.0.0.1:5000/")
    made.prepare()
    return made


@pytest.fixture
def client(registry: MlflowRegistry) -> Iterator[Any]:
    with reaching(registry.tracking_uri) as reached:
        yield reached


def contents(client: Any, pipeline: str) -> dict[str, Any]:
    """How much there is of everything that a version is made of."""
    experiment = client.get_experiment_by_name(pipeline).experiment_id
    runs, models = client.search_runs([experiment]), client.search_logged_models([experiment])
    return {
        "runs": [(run.info.run_name, run.info.status) for run in runs],
        "inputs": [len(run.inputs.dataset_inputs) for run in runs],
        "outputs": [len(run.outputs.model_outputs) for run in runs],
        "metrics": [run.data.metrics for run in runs],
        "history": [len(client.get_metric_history(run.info.run_id, "auc")) for run in runs],
        "report": [sorted(file.path for file in client.list_artifacts(run.info.run_id, "gate")) for run in runs],
        "models": [(model.name, str(model.status)) for model in models],
        "files": [sorted(file.path for file in client.list_logged_model_artifacts(m.model_id)) for m in models],
        "model_metrics": [sorted(metric.key for metric in model.metrics) for model in models],
        "versions": [version.version for version in client.search_model_versions(f"name = '{pipeline}'")],
    }


def folder_of(client: Any, source: str) -> Path:
    location = client.get_logged_model(source.removeprefix("models:/")).artifact_location
    return Path(urllib.request.url2pathname(location.removeprefix("file://")))


def test_a_version_has_its_model_its_numbers_its_dataset_and_its_report(registry: MlflowRegistry, client: Any) -> None:
    assert registry.log_version(facts("whole")) == 1
    found = client.get_model_version("whole", "1")
    run = client.get_run(found.run_id)
    expected = {
        "rivermill.name": FACTS.line,
        "rivermill.line": FACTS.line,
        "rivermill.offset": "901",
        "rivermill.model": "a" * 64,
        "rivermill.family": "river",
        "rivermill.job": "job-1",
        "rivermill.build": "fedcba",
        "rivermill.gate": "passed",
        "rivermill.dataset": DATASET.name,
        "rivermill.dataset_sha256": DATASET.hash,
    }
    assert found.tags == expected
    assert {name: run.data.tags[name] for name in expected} == expected
    assert (run.info.start_time, run.info.status) == (AT // 1000, "FINISHED")
    assert run.data.metrics == {"auc": 0.75, "log_loss": 0.5}
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == (DATASET.name, DATASET.hash[:36])
    assert json.loads(used.dataset.source) == {"uri": "datasets/flights"}
    assert json.loads(used.dataset.profile) == {"num_rows": 4321, "sha256": DATASET.hash}
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    artifacts = Path(client.download_artifacts(found.run_id, "gate"))
    assert (artifacts / "report.md").read_text() == "# Passed\n"
    assert json.loads((artifacts / "verdict.json").read_text()) == {"passed": True, "checks": ["floor"]}
    model = client.get_logged_model(found.source.removeprefix("models:/"))
    assert {(metric.key, metric.dataset_name) for metric in model.metrics} == {
        ("auc", DATASET.name),
        ("log_loss", DATASET.name),
    }


def test_mlflow_reads_the_dataset_back(registry: MlflowRegistry, client: Any) -> None:
    version = registry.log_version(facts("lineage"))
    run = client.get_run(client.get_model_version("lineage", str(version)).run_id)
    source = importlib.import_module("mlflow.data").get_source(run.inputs.dataset_inputs[0].dataset)
    assert source.uri == "datasets/flights"
    experiment = run.info.experiment_id
    by_digest = client.search_runs([experiment], filter_string=f"dataset.digest = '{DATASET.hash[:36]}'")
    assert [found.info.run_id for found in by_digest] == [run.info.run_id]


def test_the_artifact_declares_exact_requirements_and_no_path_of_this_machine(
    registry: MlflowRegistry, client: Any
) -> None:
    version = registry.log_version(facts("portable"))
    source = client.get_model_version("portable", str(version)).source
    folder = folder_of(client, source)
    required = (folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in required] == ["mlflow", "numpy", "pandas"]
    assert all("==" in line for line in required)
    places = (str(registry.artifacts.parent), str(Path(__file__).parents[2]), str(Path.home()), os.uname().nodename)
    for file in filter(Path.is_file, folder.rglob("*")):
        written = file.read_bytes()
        assert [place for place in places if place.encode() in written] == [], file
    declared = json.loads((folder / "MLmodel").read_text().split("inputs: '")[1].split("'")[0].replace("\n", " "))
    assert [column["type"] for column in declared] == ["double", "any", "string", "long"]


def test_logged_again_a_version_is_the_same(registry: MlflowRegistry, client: Any) -> None:
    first = registry.log_version(facts("again"))
    before = contents(client, "again")
    assert registry.log_version(facts("again")) == first
    assert contents(client, "again") == before
    assert registry.log_version(facts("again", "logistic-bbbbbbbbbbbb", model_digest="b" * 64)) == first + 1


@pytest.mark.parametrize("deleted", ["MLmodel", "data/model/model.bin"])
def test_what_was_deleted_is_made_again(deleted: str, registry: MlflowRegistry, client: Any) -> None:
    pipeline = f"mended-{Path(deleted).suffix.lstrip('.')}"
    first = registry.log_version(facts(pipeline))
    before = contents(client, pipeline)
    (folder_of(client, client.get_model_version(pipeline, str(first)).source) / deleted).unlink()
    client.delete_model_version(pipeline, str(first))
    again = registry.log_version(facts(pipeline))
    assert again == first + 1
    assert contents(client, pipeline) == {**before, "versions": [again]}
    assert (folder_of(client, client.get_model_version(pipeline, str(again)).source) / deleted).exists()


class Died(Exception):
    """The process ends here."""


class Dying:
    """A client that dies instead of making its n-th call."""

    def __init__(self, client: Any, calls: int) -> None:
        self._client, self._left = client, calls

    def __getattr__(self, verb: str) -> Any:
        if self._left == 0:
            raise Died
        self._left -= 1
        return getattr(self._client, verb)


def calls_of(pipeline: str, client: Any, registry: MlflowRegistry) -> int:
    counting = Dying(client, 1_000)
    mlflow_versions.log(counting, facts(pipeline), FACTS.line, portable_of("river", STATE), registry.artifacts)
    return 1_000 - counting._left


def test_a_crash_between_any_two_steps_is_mended(registry: MlflowRegistry, client: Any) -> None:
    calls = calls_of("uninterrupted", client, registry)
    whole = contents(client, "uninterrupted")
    carried = portable_of("river", STATE)
    assert calls > 12
    for survived in range(calls):
        pipeline = f"crashed-{survived}"
        with pytest.raises(Died):
            mlflow_versions.log(Dying(client, survived), facts(pipeline), FACTS.line, carried, registry.artifacts)
        assert registry.log_version(facts(pipeline)) == 1
        assert contents(client, pipeline) == whole


def test_a_line_is_one_model(registry: MlflowRegistry, client: Any) -> None:
    registry.log_version(facts("taken"))
    before = contents(client, "taken")
    with pytest.raises(ConflictingId, match="is model aaaa"):
        registry.log_version(facts("taken", model_digest="f" * 64))
    assert contents(client, "taken") == before


def test_names_that_a_filter_could_misread_are_refused(registry: MlflowRegistry) -> None:
    for pipeline, line in (("a' or name != '", "x"), ("flights", "x' or 1"), ("../up", "x"), ("a/b", "x"), ("p", "")):
        with pytest.raises(Misconfigured, match="names nothing in MLflow"):
            registry.log_version(facts(pipeline, line))


def test_snapshots_of_an_online_line_are_versions_of_it(registry: MlflowRegistry) -> None:
    assert registry.log_online(facts("live", "online", offset=100, dataset=None, job="")) == 1
    later = facts("live", "online", offset=200, dataset=None, job="", model_digest="2" * 64, model_bytes=state(60))
    assert registry.log_online(later) == 2
    assert registry.log_online(later) == 2
    champion = registry.project_champion("live", "online", 1)
    assert champion.version == 2
    assert registry.read_champion("live").offset == 200


def two_lines(registry: MlflowRegistry, pipeline: str) -> None:
    registry.log_version(facts(pipeline, "one"))
    registry.log_version(facts(pipeline, "two", model_digest="b" * 64))


def aliased(client: Any, pipeline: str) -> dict[str, int]:
    return {alias: int(version) for alias, version in client.get_registered_model(pipeline).aliases.items()}


def test_the_alias_follows_decisions(registry: MlflowRegistry, client: Any) -> None:
    two_lines(registry, "followed")
    first = registry.project_champion("followed", "one", 1)
    assert (first.version, first.moved, first.edited, first.before.version) == (1, True, False, None)
    second = registry.project_champion("followed", "two", 2)
    assert (second.version, second.moved, second.edited, second.before.line) == (2, True, False, "one")
    back = registry.project_champion("followed", "one", 3)
    assert (back.version, back.moved, back.before.sequence) == (1, True, 2)
    same = registry.project_champion("followed", "one", 3)
    assert (same.moved, same.edited) == (False, False)
    assert aliased(client, "followed") == {"champion": 1}
    assert client.get_model_version("followed", "1").tags["rivermill.control_sequence"] == "3"
    champion = registry.read_champion("followed")
    assert (champion.version, champion.line, champion.sequence, champion.edited) == (1, "one", 3, False)
    assert registry.url("followed", 1) == "http://127.0.0.1:5000/#/models/followed/versions/1"


def test_an_edited_alias_is_found_reported_and_put_back(registry: MlflowRegistry, client: Any) -> None:
    two_lines(registry, "edited")
    client.set_registered_model_alias("edited", "champion", "2")
    assert registry.read_champion("edited").edited
    assert registry.project_champion("edited", "one", 1).edited
    for verb, arguments in (("set", ("edited", "champion", "2")), ("delete", ("edited", "champion"))):
        getattr(client, f"{verb}_registered_model_alias")(*arguments)
        seen = registry.read_champion("edited")
        assert seen.edited
        put_back = registry.project_champion("edited", "one", 1)
        assert (put_back.edited, put_back.moved, put_back.before) == (True, True, seen)
        assert aliased(client, "edited") == {"champion": 1}
        assert not registry.read_champion("edited").edited


def test_a_projection_that_died_is_not_taken_for_an_edit(registry: MlflowRegistry, client: Any) -> None:
    two_lines(registry, "halfway")
    registry.project_champion("halfway", "one", 1)
    counting = Dying(client, 1_000)
    mlflow_alias.project(counting, "halfway", "two", 2)
    for survived in range(1_000 - counting._left):
        registry.project_champion("halfway", "one", 2)
        with pytest.raises(Died):
            mlflow_alias.project(Dying(client, survived), "halfway", "two", 2)
        after = registry.project_champion("halfway", "two", 2)
        assert (after.version, after.edited) == (2, False)


def test_what_was_about_to_be_projected_does_not_hide_an_edit(registry: MlflowRegistry, client: Any) -> None:
    two_lines(registry, "overtaken")
    registry.project_champion("overtaken", "one", 1)
    client.set_registered_model_tag("overtaken", "rivermill.champion_next", "2")
    assert not registry.project_champion("overtaken", "one", 1).moved
    client.set_registered_model_alias("overtaken", "champion", "2")
    assert registry.read_champion("overtaken").edited


def test_an_older_decision_does_not_move_the_alias(registry: MlflowRegistry) -> None:
    two_lines(registry, "stale")
    registry.project_champion("stale", "two", 7)
    with pytest.raises(LostRace, match="decision 7 is projected already"):
        registry.project_champion("stale", "one", 6)
    assert registry.read_champion("stale").version == 2


def test_what_is_not_there_has_a_name(registry: MlflowRegistry) -> None:
    registry.log_version(facts("sparse"))
    with pytest.raises(UnknownName, match="line 'missing' has no version of sparse"):
        registry.project_champion("sparse", "missing", 1)
    for call in (lambda: registry.read_champion("empty"), lambda: registry.project_champion("empty", "x", 1)):
        with pytest.raises(UnknownName, match="pipeline 'empty' has no version"):
            call()
    assert registry.read_champion("sparse").version is None


def test_a_locked_store_is_down_and_up_again(registry: MlflowRegistry) -> None:
    registry.log_version(facts("locked"))
    blocker = sqlite3.connect(registry.tracking_uri.removeprefix("sqlite:///"), isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    for call in (lambda: registry.log_version(facts("locked")), lambda: registry.read_champion("locked")):
        with pytest.raises(RegistryDown, match="database is locked"):
            call()
    blocker.execute("ROLLBACK")
    blocker.close()
    assert registry.log_version(facts("locked")) == 1


def test_a_store_that_is_garbage_or_out_of_reach_is_down(tmp_path: Path) -> None:
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    (tmp_path / "file").write_text("in the way")
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for uri in (f"sqlite:///{tmp_path}/garbage.db", f"sqlite:///{tmp_path}/file/mlflow.db", nobody):
        with pytest.raises(RegistryDown, match=r"mlflow|garbage|127\.0\.0\.1"):
            MlflowRegistry(uri, tmp_path / "artifacts").read_champion("flights")
    free.close()
    assert (tmp_path / "garbage.db").read_bytes() == b"this is no database" * 100


def get(url: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def server(registry: MlflowRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's URL, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments, environment = registry.server_command("127.0.0.1", port)
    log = (tmp_path_factory.mktemp("server") / "log.txt").open("wb")
    running = subprocess.Popen(
        arguments, env=environment, stdout=log, stderr=log, cwd=Path(log.name).parent, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        answers(url, running, time.monotonic() + 120)
        yield url
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(30)
        log.close()


def answers(url: str, running: "subprocess.Popen[bytes]", until: float) -> None:
    while time.monotonic() < until:
        assert running.poll() is None, "the server ended"
        try:
            if get(f"{url}/health")[0] == 200:
                return
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(0.2)
    pytest.fail("the server does not answer")


ASK = """
import json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/served@champion")
frame = pandas.DataFrame(json.loads(sys.argv[1]))
print(json.dumps([answer.hex() for answer in model.predict(frame).tolist()]))
"""


def test_the_server_shows_and_hands_out_what_was_logged_beside_it(registry: MlflowRegistry, server: str) -> None:
    version = registry.log_version(facts("served"))
    registry.project_champion("served", FACTS.line, 1)
    status, shown = get(f"{server}/api/2.0/mlflow/registered-models/alias?name=served&alias=champion")
    assert status == 200
    told = json.loads(shown)["model_version"]
    assert (int(told["version"]), {"key": "rivermill.line", "value": FACTS.line} in told["tags"]) == (version, True)
    status, report = get(f"{server}/get-artifact?path=gate/report.md&run_uuid={told['run_id']}")
    assert (status, report) == (200, b"# Passed\n")
    rows: list[dict[str, Any]] = [
        {"delay": 3.5, "stops": 1, "origin": "EWR", "distance": 10},
        {"delay": None, "stops": None, "origin": "X", "distance": 2},
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    asked = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(rows)], env=environment, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    model = river.load(STATE)
    inputs = [river.inputs(FACTS.columns, [row[name] for name in FACTS.columns]) for row in rows]
    assert json.loads(asked.stdout) == [river.predict_one(model, x).hex() for x in inputs]


def test_a_server_writes_to_the_store_we_write_to(registry: MlflowRegistry, server: str) -> None:
    over_http = MlflowRegistry(server, registry.artifacts)
    assert over_http.log_version(facts("shared")) == 1
    assert registry.log_version(facts("shared")) == 1
    assert over_http.project_champion("shared", FACTS.line, 1).version == 1
    assert registry.read_champion("shared") == over_http.read_champion("shared")


def test_the_server_answers_only_to_its_own_name(server: str) -> None:
    address = f"{server}/api/2.0/mlflow/registered-models/search"
    assert get(address)[0] == 200
    assert get(address, Host="evil.example")[0] == 403
    assert get(address, Host="192.168.0.1:5000")[0] == 403


def test_the_server_runs_no_jobs_and_says_nothing_home(registry: MlflowRegistry) -> None:
    arguments, environment = registry.server_command("127.0.0.1", 5001)
    assert arguments[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert arguments[arguments.index("--workers") + 1] == "1"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
