"""Starts Rivermill's own processes by forking one that has imported everything: a start costs no imports.

Run as a program it reads one JSON command a line and answers each with one line::

    ["owner", root, folder]               fork `rivermill.owner_process.main`; answers its pid
    ["worker", root, folder]              fork `rivermill.worker_process.main`; answers its pid
    ["registrar", root, folder]           fork `rivermill.registrar_process.main`; answers its pid
    ["http", root, folder, port]          fork `rivermill.http_process.main`; answers its pid
    ["play", root, folder, events, calls] fork a lock-step run that kills itself after so many calls (0: never)
    ["wait", pid]                         wait for a child; answers its exit code, negative for a signal
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from journal.digest import digest_journal, digest_parts

if TYPE_CHECKING:
    from rivermill.wiring import Run

EVENTS_PER_GROUP = 60


class Zygote:
    """The harness's end: forks processes, and waits for those that it killed."""

    def __init__(self, *folders: Path, log: Path) -> None:
        """Start the program and let it load the pipelines in these folders; standard error goes to ``log``."""
        self.log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.zygote", *map(str, folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        self._children: set[int] = set()

    def start(self, role: str, *arguments: object) -> int:
        """Fork a process; return its pid."""
        pid = self._ask([role, *(str(one) if isinstance(one, Path) else one for one in arguments)])
        self._children.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for a child's end; return its exit code, negative for the signal that ended it."""
        self._children.discard(pid)
        return self._ask(["wait", pid])

    def kill(self, pid: int) -> None:
        """``kill -9``, and wait until it is dead."""
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == -signal.SIGKILL, self.log.read_text()[-2_000:]

    def close(self) -> None:
        """Kill every child that was not waited for, and end."""
        for pid in sorted(self._children):
            os.kill(pid, signal.SIGKILL)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, command: list[Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.log.read_text()[-2_000:]
        return int(answer)


def kill_after(calls: int) -> None:
    """Kill this process at its n-th call of a function, whichever that is: Python's own, or one in C."""
    left = calls

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        del frame, event, argument
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def calls_of(work: Callable[[], object]) -> int:
    """How many calls a piece of work makes, as `kill_after` counts them."""
    made = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        del frame, event, argument
        made += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


def play(root: str, folder: str, events: int, calls: int) -> None:
    """Play the recorded events in lock-step, from where the last life stopped; write down how many calls that took."""
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415
    from rivermill.settings import Home  # noqa: PLC0415
    from rivermill.wiring import open_run  # noqa: PLC0415

    pipeline = load_pipeline(Path(folder))
    assert pipeline.recorded is not None
    lines = list(islice(pipeline.recorded(), events))

    def whole() -> None:
        run = open_run(pipeline, Home(Path(root), pipeline.name))
        run.lockstep.play(lines, "recorded", group=EVENTS_PER_GROUP)
        run.close()

    if calls:
        kill_after(calls)
        whole()
        sys.setprofile(None)
    else:
        made = calls_of(whole)
        (Path(root) / "calls").write_text(str(made))
    (Path(root) / "digest").write_text(_digest(open_run(pipeline, Home(Path(root), pipeline.name))))


def _digest(run: "Run") -> str:
    folds = {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners}
    found = digest_parts({"journal": digest_journal(run.journal)[0], **folds})
    run.close()
    return found


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        _live(work)
    return pid


def _live(work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def http(root: str, folder: str, port: int) -> None:
    """Answer over HTTP."""
    from rivermill import http_process  # noqa: PLC0415

    http_process.main(Path(root), port, [Path(folder)])


def registrar(root: str, folder: str) -> None:
    """Run a registrar without MLflow's user interface."""
    from rivermill import registrar_process  # noqa: PLC0415

    assert registrar_process.main(Path(root), "", [Path(folder)]) == 0


def _do(command: list[Any]) -> int:
    from rivermill import owner_process, worker_process  # noqa: PLC0415

    match command:
        case ["wait", pid]:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        case ["owner", root, folder]:
            return _fork(lambda: owner_process.main(Path(root), Path(folder)))
        case ["worker", root, folder]:
            return _fork(lambda: worker_process.main(Path(root), Path(folder)))
        case ["registrar", root, folder]:
            return _fork(lambda: registrar(root, folder))
        case ["http", root, folder, port]:
            return _fork(lambda: http(root, folder, port))
        case ["play", root, folder, events, calls]:
            return _fork(lambda: play(root, folder, events, calls))
        case _:
            raise AssertionError(command)


def main() -> None:
    """Load the pipelines, then do what standard input says."""
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415

    for folder in sys.argv[1:]:
        load_pipeline(Path(folder))
    for line in sys.stdin:
        sys.stdout.write(f"{_do(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
