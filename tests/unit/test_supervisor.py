"""The supervisor, with real processes: what it starts again, what it gives up on, and how everything ends."""

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from rivermill.supervisor import Child, ChildSpec, Supervisor

PATIENCE = 30.0
DIES = (sys.executable, "-I", "-S", "-c", "raise SystemExit(3)")
LIVES = "import os, signal\nprint('{0} is', os.getpid(), flush=True)\nsignal.pause()"
TELLS = """
import os, signal
def end(*_):
    os.write(1, b'{0} stops\\n')  # no print: the signal may come in the middle of one
    os._exit(0)
signal.signal(signal.SIGTERM, end)
print('{0} is', os.getpid(), flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'{0} goes on\\n'))
print('{0} is', os.getpid(), flush=True)
while True:
    signal.pause()
"""
WITH_A_CHILD = """
import os, signal
if os.fork() == 0:
    print('{0}-child is', os.getpid(), flush=True)
    signal.pause()
print('{0} is', os.getpid(), flush=True)
signal.pause()
"""
SUPERVISOR = """
import json, sys
from rivermill.supervisor import ChildSpec, Supervisor, say_on_stderr
python = [sys.executable, '-I', '-S', '-c']
mlflow = [sys.executable, '-m', 'rivermill.mlflow_process', *python]
commands = [(n, [*(mlflow if n == 'mlflow' else python), c], s) for n, c, s in json.loads(sys.argv[1])]
specs = [ChildSpec(name=n, command=command, parts_with=s) for n, command, s in commands]
Supervisor(specs, say_on_stderr).run(lambda: say_on_stderr('ready'))
"""

Given = tuple[str, str, float]


class Running:
    """A supervisor in a process of its own, and what it and its children say."""

    def __init__(self, children: list[Given]) -> None:
        given = [(name, code.format(name), seconds) for name, code, seconds in children]
        command = [sys.executable, "-c", SUPERVISOR, orjson.dumps(given).decode()]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert self.process.stderr is not None
        self._pipe = self.process.stderr.fileno()
        self._unread = b""
        self.said: list[str] = []

    def hears(self, pattern: str) -> re.Match[str]:
        """The first line from now on in which the pattern is found."""
        while (line := self._line()) is not None:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"never said {pattern!r}, but: {self.said}")

    def pids(self, *names: str) -> dict[str, int]:
        """The processes of children that say who they are, in whichever order they do."""
        return {name: int(pid) for name, pid in (self.hears(r"^(\S+) is (\d+)$").groups() for _ in names)}

    def silence(self) -> list[str]:
        """Every other line, until no process holds the pipe any more: none of them lives."""
        rest = []
        while (line := self._line()) is not None:
            rest.append(line)
        return rest

    def _line(self) -> str | None:
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._pipe], [], [], PATIENCE)
            assert ready, f"nothing for {PATIENCE} s after {self.said}"
            if not (more := os.read(self._pipe, 4096)):
                return None
            self._unread += more
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()

    def end(self) -> None:
        """Leave nothing behind, whatever failed."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


Begin = Callable[..., Running]


@pytest.fixture
def begin() -> Iterator[Begin]:
    running: list[Running] = []

    def begin_with(*children: Given) -> Running:
        running.append(Running(list(children)))
        return running[-1]

    yield begin_with
    for each in running:
        each.end()


def dead(child: Child) -> Child:
    """The child, when its process has ended but nobody looked yet."""
    assert child.process is not None
    child.process.wait()
    return child


def test_a_dead_child_is_started_again_after_its_pause_and_not_before() -> None:
    said: list[str] = []
    child = Child(ChildSpec(name="a", command=DIES))
    child.look(100.0, said.append)
    dead(child).look(100.0, said.append)
    assert child.process is None
    child.look(100.09, said.append)
    assert child.process is None
    child.look(100.11, said.append)
    assert dead(child).process is not None
    assert said == ["a died (exit code 3); starting it again in 0.1 s"]


def test_the_pause_doubles_up_to_a_limit_and_then_the_child_is_parked() -> None:
    said: list[str] = []
    child, now = Child(ChildSpec(name="a", command=DIES)), 0.0
    while not child.parked:
        child.look(now, said.append)
        dead(child).look(now, said.append)
        now += 5.0
    pauses = [float(pause) for line in said for pause in re.findall(r"again in (\S+) s", line)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert said[-1] == "a died 8 times within a minute (last: exit code 3); it stays down"
    child.look(now + 1_000.0, said.append)
    assert child.process is None


def test_deaths_of_more_than_a_minute_ago_do_not_count() -> None:
    said: list[str] = []
    child = Child(ChildSpec(name="a", command=DIES))
    for death in range(20):
        child.look(death * 61.0, said.append)
        dead(child).look(death * 61.0, said.append)
    assert not child.parked
    assert set(said) == {"a died (exit code 3); starting it again in 0.1 s"}


def test_a_parked_child_leaves_the_others_alone() -> None:
    said: list[str] = []
    lives = (sys.executable, "-I", "-S", "-c", LIVES.format("b"))
    supervisor = Supervisor([ChildSpec(name="a", command=DIES), ChildSpec(name="b", command=lives)], said.append)
    parked, lasting = supervisor.children
    supervisor.look()
    while not parked.parked:
        dead(parked).look(0.0, said.append)
        parked.look(5.0, said.append)
    process = lasting.process
    supervisor.look()
    assert lasting.process is process
    assert process is not None
    assert process.poll() is None
    lasting.stop()
    lasting.wait()
    assert process.returncode == -signal.SIGTERM


def test_a_killed_child_comes_back_as_another_process_and_the_other_stays(begin: Begin) -> None:
    running = begin(("a", LIVES, 5.0), ("b", LIVES, 5.0))
    first = running.pids("a", "b")
    os.kill(first["a"], signal.SIGKILL)
    running.hears(r"a died \(by signal SIGKILL\); starting it again in 0.1 s")
    again = running.pids("a")
    assert again["a"] != first["a"]
    os.kill(first["b"], 0)


def test_what_a_dead_child_had_started_dies_with_it(begin: Begin) -> None:
    running = begin(("a", WITH_A_CHILD, 5.0))
    first = running.pids("a", "a-child")
    os.kill(first["a"], signal.SIGKILL)
    again = running.pids("a", "a-child")
    assert again.keys() == first.keys()
    running.process.terminate()
    assert not any(re.search(r" is \d+$", line) for line in running.silence())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_stops_the_last_first(begin: Begin, number: signal.Signals) -> None:
    running = begin(("a", TELLS, 5.0), ("b", TELLS, 5.0), ("c", TELLS, 5.0))
    running.pids("a", "b", "c")
    running.process.send_signal(number)
    assert [line for line in running.silence() if "ready" not in line] == ["c stops", "b stops", "a stops"]
    assert running.process.wait() == 0


def test_ctrl_c_of_a_terminal_reaches_the_supervisor_alone(begin: Begin) -> None:
    running = begin(("a", LIVES, 5.0))
    (pid,) = running.pids("a").values()
    assert os.getpgid(pid) == pid
    assert os.getpgid(running.process.pid) != pid


def test_a_child_that_does_not_stop_is_ended_after_its_time(begin: Begin) -> None:
    running = begin(("a", TELLS, 5.0), ("b", STUBBORN, 0.3))
    running.pids("a", "b")
    running.process.terminate()
    assert [line for line in running.silence() if "ready" not in line] == ["b goes on", "a stops"]
    assert running.process.wait() == 0


def test_children_do_not_outlive_a_killed_supervisor(begin: Begin) -> None:
    running = begin(("a", STUBBORN, 5.0), ("b", TELLS, 5.0))
    running.pids("a", "b")
    running.process.kill()
    assert [line for line in running.silence() if "ready" not in line] == []


def test_what_mlflow_s_server_had_started_does_not_outlive_a_killed_supervisor(begin: Begin) -> None:
    running = begin(("mlflow", WITH_A_CHILD, 5.0))
    running.pids("mlflow", "mlflow-child")
    running.process.kill()
    assert not any(re.search(r" is \d+$", line) for line in running.silence())


def test_mlflow_s_server_is_told_to_stop_through_the_process_around_it(begin: Begin) -> None:
    running = begin(("mlflow", TELLS, 5.0))
    running.pids("mlflow")
    running.process.terminate()
    assert "mlflow stops" in running.silence()


def test_what_a_child_had_started_does_not_outlive_its_stop(begin: Begin) -> None:
    running = begin(("a", WITH_A_CHILD, 5.0))
    running.pids("a", "a-child")
    running.process.terminate()
    assert [line for line in running.silence() if "ready" not in line] == []


def test_a_program_that_does_not_exist_stops_what_was_started() -> None:
    said: list[str] = []
    lives = (sys.executable, "-I", "-S", "-c", LIVES.format("a"))
    supervisor = Supervisor(
        [ChildSpec(name="a", command=lives), ChildSpec(name="b", command=("no-such-program",))], said.append
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(FileNotFoundError):
            supervisor.run(lambda: None)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    started = supervisor.children[0].process
    assert started is not None
    assert started.returncode == -signal.SIGTERM
