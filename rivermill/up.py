"""`rivermill up`: the live service, as processes that fail apart.

Per pipeline an owner (the journal, its intake) and a worker (the folds); for all of them one HTTP process, one
registrar (jobs, schedules, MLflow's alias) and an MLflow server that only people look at. Whatever can be wrong is
found before the first of them starts.
"""

import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from journal.errors import Misconfigured, Refused, RegistryDown
from journal.owner import OwnerLock
from rivermill.access import KeyRing
from rivermill.pipeline import load_pipeline
from rivermill.registry_wiring import mlflow_of
from rivermill.settings import Home, pipelines_in
from rivermill.supervisor import ChildSpec, Supervisor, say_on_stderr
from rivermill.wiring import make_ready

LOOPBACK = "127.0.0.1"
_READY_WITHIN = 120.0
_ASK_EVERY = 0.2
_DEATHS_OF_A_WORKER = 24
"""It halves its batch at each, from a thousand records to one, and then dies three times more before it stays there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What to bring up.

    Attributes:
        root: The home.
        folders: The pipelines' folders.
        port: Of the HTTP process, on loopback.
        mlflow_port: Of MLflow's server, on loopback; None starts none.
    """

    root: Path
    folders: Sequence[Path]
    port: int
    mlflow_port: int | None

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def mlflow_url(self) -> str:
        """Where MLflow's UI answers; empty without one."""
        return "" if self.mlflow_port is None else f"http://{LOOPBACK}:{self.mlflow_port}"


def run_service(service: Service, *, as_json: bool) -> None:
    """Bring the service up and keep it up until SIGTERM.

    Raises:
        Misconfigured: A pipeline's folder has mistakes, or no pipeline was named and none has run here.
        OwnedElsewhere: Another service, or a demo, works on this home.
        Refused: A port is in use.
    """
    _check_ports(service)
    service.root.mkdir(parents=True, exist_ok=True)
    lock = OwnerLock(service.root / "up")
    keys = KeyRing.open(service.root / "access")
    for folder in service.folders:
        _prepare(service.root, folder)
    service = _without_broken_mlflow(service)
    supervisor = Supervisor(_children(service), say_on_stderr)
    try:
        supervisor.run(lambda: _announce(service, keys, supervisor, as_json=as_json))
    finally:
        lock.release()


def folders_of(root: Path, names: Sequence[str], folder_of: Callable[[str], Path]) -> list[Path]:
    """The folders of the named pipelines; of all that have run in this home when none is named.

    Raises:
        Misconfigured: There is none.
    """
    chosen = list(names) or pipelines_in(root)
    if not chosen:
        raise Misconfigured(
            which=f"no pipeline is named, and none has run in {root}",
            fix="Run `rivermill demo` first, or name one: rivermill up flights",
        )
    return [folder_of(name).resolve() for name in chosen]


def _check_ports(service: Service) -> None:
    if service.port == service.mlflow_port:
        raise Refused(which=f"port {service.port} for both the API and MLflow", fix="Choose another --mlflow-port")
    for port, option in ((service.port, "--port"), (service.mlflow_port, "--mlflow-port")):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                raise Refused(
                    which=f"port {port} ({error.strerror})", fix=f"Choose another one with {option}"
                ) from error


def _prepare(root: Path, folder: Path) -> None:
    pipeline = load_pipeline(folder)
    make_ready(pipeline, Home(root, pipeline.name))


def _without_broken_mlflow(service: Service) -> Service:
    """The same service, less MLflow's server when its store does not answer: it would only die again and again."""
    if service.mlflow_port is None:
        return service
    try:
        mlflow_of(service.root).prepare()
    except RegistryDown as error:
        say_on_stderr(f"MLflow is behind, and its server is left out until the next start: {error}")
        return replace(service, mlflow_port=None)
    return service


def _children(service: Service) -> list[ChildSpec]:
    root = str(service.root.absolute())
    folders = [str(folder) for folder in service.folders]
    children = [_child("owner", folder.name, [root, str(folder)]) for folder in service.folders]
    children += [
        replace(_child("worker", folder.name, [root, str(folder)]), too_many=_DEATHS_OF_A_WORKER)
        for folder in service.folders
    ]
    children.append(_child("http", "", [root, str(service.port), service.mlflow_url, *folders]))
    children.append(_child("registrar", "", [root, service.mlflow_url, *folders]))
    if service.mlflow_port is not None:
        command, environment = mlflow_of(service.root).server_command(LOOPBACK, service.mlflow_port)
        command = [sys.executable, "-m", "rivermill.mlflow_process", *command]
        children.append(ChildSpec(name="mlflow", command=command, environment=environment))
    return children


def _child(role: str, pipeline: str, arguments: Sequence[str]) -> ChildSpec:
    name = f"{role} of {pipeline}" if pipeline else role
    command = [sys.executable, "-m", f"rivermill.{role}_process", *arguments]
    return ChildSpec(name=name, command=command, environment={"OMP_NUM_THREADS": "1"}, parts_with=30.0)


def _announce(service: Service, keys: KeyRing, supervisor: Supervisor, *, as_json: bool) -> None:
    """Wait until the API answers, then say where everything is."""
    until = time.monotonic() + _READY_WITHIN
    while not supervisor.stopping and not _answers(f"{service.url}/readyz"):
        supervisor.look()
        if time.monotonic() > until:
            say_on_stderr("the API is not ready yet; the lines above say what keeps it")
            break
        time.sleep(_ASK_EVERY)
    else:
        _show(service, keys, as_json=as_json)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)  # noqa: PLR2004 - HTTP's own number
    except (urllib.error.URLError, OSError):
        return False


def _show(service: Service, keys: KeyRing, *, as_json: bool) -> None:
    if as_json:
        facts = {"api": service.url, "mlflow": service.mlflow_url, "admin_key": str(keys.admin_path)}
        sys.stdout.write(orjson.dumps(facts).decode() + "\n")
        sys.stdout.flush()
        return
    sys.stdout.write(
        f"API       {service.url}  (OpenAPI: {service.url}/openapi.json)\n"
        f"MLflow    {service.mlflow_url or 'not started'}\n"
        f"admin key {keys.admin_path}\n"
        "Ctrl-C, or SIGTERM to this process, stops everything in order.\n"
    )
    sys.stdout.flush()
