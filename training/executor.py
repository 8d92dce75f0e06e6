"""Where fits run: one after the other in this process, or elsewhere. The results are the same, bit for bit."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

SharedT = TypeVar("SharedT")
TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment of a process whose sums must not depend on how many cores it found."""


class Executor(Protocol):
    """Runs tasks."""

    @property
    def note(self) -> str:
        """What there is to say about the last `map`; empty when all went as planned."""
        ...

    def map(
        self, function: Callable[[SharedT, TaskT], ResultT], shared: SharedT, tasks: Sequence[TaskT]
    ) -> Generator[ResultT, None, None]:
        """Call ``function(shared, task)`` for each task; results come in the order of the tasks.

        An error of a task is raised in its turn. Whatever runs elsewhere ends when the iterator is closed.
        """
        ...


class SerialExecutor:
    """One task after the other, in this process."""

    note = ""

    def map(
        self, function: Callable[[SharedT, TaskT], ResultT], shared: SharedT, tasks: Sequence[TaskT]
    ) -> Generator[ResultT, None, None]:
        """See `Executor.map`."""
        return (function(shared, task) for task in tasks)


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold every library that computes to one thread, libraries that are loaded already included."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # noqa: PLC0415 - only a fit needs it

    with threadpool_limits(limits=1):
        yield


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
