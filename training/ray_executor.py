"""Fits as Ray tasks, on a Ray of our own that lives as long as one `map`.

What keeps it small and closed: this machine only, capped workers and memory, no dashboard, a token of its own that only
this user can read, no usage reports, workers that give way to everything else. Ray's daemons die with the thread that
started them, so one thread starts Ray and then only waits until it is to leave.
"""

import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from typing import Any

from training.executor import ONE_THREAD, ResultT, SerialExecutor, SharedT, TaskT, environment

_ROOT = Path(__file__).parents[1]
_STORE_BYTES = 200_000_000
_START_SECONDS = 60.0
_RETRIES = 2


class RayExecutor:
    """Two tasks at a time, each in a process of its own; when Ray does not start, all of them here, one by one."""

    def __init__(
        self, *, workers: int = 2, store_bytes: int = _STORE_BYTES, start_seconds: float = _START_SECONDS
    ) -> None:
        """Say how large Ray may become.

        Args:
            workers: Tasks that run at a time.
            store_bytes: Cap of the object store, which holds the rows once; Ray wants 75 MiB at least.
            start_seconds: After how long Ray counts as not starting.
        """
        self.note = ""
        self._workers = workers
        self._store_bytes = store_bytes
        self._start_seconds = start_seconds

    def map(
        self, function: Callable[[SharedT, TaskT], ResultT], shared: SharedT, tasks: Sequence[TaskT]
    ) -> Generator[ResultT, None, None]:
        """See `training.executor.Executor.map`. A task whose process dies is run again, twice at most."""
        with self._ray() as ray:
            results = (
                SerialExecutor().map(function, shared, tasks) if ray is None else _run(ray, function, shared, tasks)
            )
            yield from results

    @contextmanager
    def _ray(self) -> Iterator[Any]:
        """Ray, started; or None, and the note says why not."""
        folder = Path(tempfile.mkdtemp(prefix="ray-"))
        leave, started = Event(), Future[Any]()
        with environment(_settings(folder)):
            holder = Thread(target=self._hold, args=(folder, started, leave), name="ray", daemon=True)
            holder.start()
            try:
                ray = self._wait(started)
                if ray is None:
                    leave.set()
                yield ray
            finally:
                leave.set()
                # A start that hangs is left behind: its thread is a daemon, and Ray's processes die with it.
                holder.join(None if started.done() else 0)
                shutil.rmtree(folder, ignore_errors=True)

    def _wait(self, started: "Future[Any]") -> Any:
        self.note = ""
        try:
            ray = started.result(self._start_seconds)
            _take_back_sigterm()
            return ray
        except TimeoutError:
            self.note = f"Ray did not start within {self._start_seconds:g} s; fitted serially"
        except Exception as error:  # Ray raises whatever it met; the same fits run without it
            self.note = f"Ray did not start ({type(error).__name__}: {error}); fitted serially"
        return None

    def _hold(self, folder: Path, started: "Future[Any]", leave: Event) -> None:
        """Start Ray, wait until it is to leave, and stop it, all in one thread."""
        try:
            import ray  # noqa: PLC0415 - takes most of a second

            # Only to say that a thread cannot take over SIGTERM, which is as it should be.
            logging.getLogger("ray").setLevel(logging.ERROR)
            ray.init(
                address="local",
                num_cpus=self._workers,
                object_store_memory=self._store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _temp_dir=str(folder),
                runtime_env={"env_vars": {**ONE_THREAD, "PYTHONPATH": _python_path()}},
            )
        except Exception as error:  # handed over to the thread that waits
            started.set_exception(error)
            return
        started.set_result(ray)
        leave.wait()
        ray.shutdown()


def _take_back_sigterm() -> None:
    """Install the process's own handler again: Ray's C++ side has put one there that ends the process on the spot."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and current_thread() is main_thread():
        signal.signal(signal.SIGTERM, handler)


def _run(
    ray: Any, function: Callable[[SharedT, TaskT], ResultT], shared: SharedT, tasks: Sequence[TaskT]
) -> Generator[ResultT, None, None]:
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(function)
    everything = ray.put(shared)
    running = [remote.remote(everything, task) for task in tasks]
    for reference in running:
        # Not ray.get: inside it a signal handler runs, but what it raises is lost.
        yield reference.future().result()


@cache
def _token() -> str:
    # A process that has used Ray once keeps to the first token that it read.
    return secrets.token_hex(32)


def _settings(folder: Path) -> dict[str, str]:
    """Ray's environment, with the token in a file that only this user can read."""
    token = folder / "token"
    with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_token())
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "19",
    }


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
