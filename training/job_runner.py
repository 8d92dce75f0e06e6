"""Running a job's process from outside: start it, watch it, stop it, and take its result."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from journal.errors import JobFailed
from training.executor import ONE_THREAD
from training.job_folder import Finished, read_result, read_spec
from training.job_process import PARENT_VARIABLE

_ROOT = Path(__file__).parents[1]
# What a process needs to run at all; keys and addresses that happen to be in ours are none of a recipe's business.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHASHSEED")
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 20.0
_LAST_LINES = 8


class JobStopped(JobFailed):
    """This training job was stopped."""

    status = 409


def run_job(folder: Path, timeout: float | None = None, stopped: Callable[[], bool] = lambda: False) -> Finished:
    """Carry out the job of a folder, or give what it came to before.

    Args:
        folder: With its ``spec.json``; the log is appended to ``log.txt``.
        timeout: Seconds after which it is stopped.
        stopped: Asked several times a second whether it is to stop.

    Raises:
        Misconfigured: The spec cannot be read.
        JobStopped: It was stopped, and there is no result.
        JobFailed: It took too long or failed; the message ends with the log's last lines.
    """
    read_spec(folder)
    known = read_result(folder)
    if known is not None:
        return known
    (folder / "result.json").unlink(missing_ok=True)
    with (folder / "log.txt").open("ab") as log:
        process = _start(folder, log.fileno())
        try:
            why = _watch(process, timeout, stopped)
        finally:
            _end(process)
    result = read_result(folder)
    if result is None:
        raise _failure(folder, process.returncode, why)
    return result


def _start(folder: Path, log: int) -> "subprocess.Popen[bytes]":
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "training.job_process", str(folder.resolve())],
        env={**kept, **ONE_THREAD, **_QUIET, "PYTHONPATH": path, PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _watch(process: "subprocess.Popen[bytes]", timeout: float | None, stopped: Callable[[], bool]) -> str:
    """Wait for the end, or for a reason to bring it about; the reason, or nothing."""
    begun = time.monotonic()
    while True:
        try:
            process.wait(_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            if stopped():
                return "stopped"
            if timeout is not None and time.monotonic() - begun > timeout:
                return f"it took longer than {timeout:g} s"
        else:
            return ""


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop the process if it still runs, politely first; nothing that it started outlives it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(folder: Path, code: int, why: str) -> JobFailed:
    if why == "stopped":
        return JobStopped(which=f"{folder.name}", fix="Submit it again under another key to run it after all")
    lines = (folder / "log.txt").read_text(errors="replace").splitlines()[-_LAST_LINES:]
    what = why or f"its process ended with {code}"
    return JobFailed(which=f"{folder.name}: {what}; its log ends:\n" + "\n".join(lines), fix="Its log.txt has the rest")
