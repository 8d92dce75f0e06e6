"""MLflow, quietly and within bounds: no telemetry, no pickles, one error, and an answer in seconds when it is down.

Everything that reads or writes the store goes through `reaching`. MLflow itself would try a database that it cannot
open again for an hour, so the store is probed first.
"""

import logging
import os
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from journal.errors import RegistryDown

LOCK_SECONDS = 2.0
"""How long a locked database is waited for."""

_SQLITE = "sqlite:///"
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
_QUIRKS = (
    # MLflow 3.17 asks SQLAlchemy 2.1 for something that this is going to drop.
    "The ``noload`` loader strategy is deprecated",
    # It warns about its own type hints, once, when it is imported.
    ".*Any type hint is inferred as AnyType",
)
"""What MLflow warns about in its own code: nobody who uses it can mend that."""

_SERVER_SETTINGS = {**_SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextmanager
def reaching(tracking_uri: str) -> Iterator[Any]:
    """An ``MlflowClient`` of a store that answers.

    MLflow resolves ``models:/`` addresses by the process's own tracking URI, so this sets it: a process has one store.

    Raises:
        RegistryDown: The store is locked, damaged, out of reach, or refuses; decisions hold without it.
    """
    os.environ.update(_SETTINGS)
    try:
        _probe(tracking_uri)
    except (sqlite3.Error, OSError) as error:
        raise _down(tracking_uri, error) from error
    import mlflow  # noqa: PLC0415 - takes seconds, and needs the settings first
    from alembic.util import CommandError  # noqa: PLC0415
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _QUIRKS:
                warnings.filterwarnings("ignore", message=message)
            mlflow.set_tracking_uri(tracking_uri)
            yield mlflow.MlflowClient(tracking_uri)
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
        raise _down(tracking_uri, error) from error


def server_command(tracking_uri: str, artifacts: Path, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment of an MLflow server for people: a UI and a REST API over the same store.

    One worker and no job execution: 0.5 GB instead of 2.5, two processes instead of ten. It answers only requests that
    name this very host and port.
    """
    arguments = {
        "--backend-store-uri": tracking_uri,
        "--artifacts-destination": str(artifacts),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--allowed-hosts": f"{host}:{port},localhost:{port}",
        "--cors-allowed-origins": f"http://{host}:{port},http://localhost:{port}",
        "--x-frame-options": "DENY",
    }
    flat = [part for pair in arguments.items() for part in pair]
    return [sys.executable, "-m", "mlflow", "server", *flat], {**os.environ, **_SERVER_SETTINGS}


def absent(error: Any) -> bool:
    """Whether an ``MlflowException`` says that there is no such thing (an alias that is not there is `invalid`)."""
    return error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") and "not found" in str(error)


def _probe(tracking_uri: str) -> None:
    """Take and release the database's write lock. Readers and the one writer then no longer wait for each other."""
    if not tracking_uri.startswith(_SQLITE):
        return
    path = Path(tracking_uri.removeprefix(_SQLITE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")


def _down(tracking_uri: str, error: Exception) -> RegistryDown:
    said = " ".join(str(error).split())[:300]
    return RegistryDown(
        which=f"{tracking_uri} ({said or type(error).__name__})",
        fix="Nothing else depends on it: it is brought up to date when it answers again",
    )
