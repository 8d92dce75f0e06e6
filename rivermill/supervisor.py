"""Keeps processes running: each on its own, so that the death of one stops no other.

A child that dies is started again after a pause that doubles. One that dies too often is parked: it stays down, the
others go on, and the log says so. Children die with the supervisor, however it dies.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from journal.parent import send_at_parents_death

_LOOK_EVERY = 0.05
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
TOO_MANY = 8
"""Deaths within a minute after which a child is parked, unless its spec says otherwise."""
_WITHIN = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A process to keep running.

    Attributes:
        name: What the log calls it.
        command: Its arguments, the program first.
        environment: Added to this process's own.
        parts_with: Seconds it gets to stop in by itself.
        too_many: Deaths within a minute after which it is parked.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    parts_with: float = 10.0
    too_many: int = TOO_MANY


class Child:
    """One process and its history."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self.parked = False
        self._deaths: deque[float] = deque(maxlen=spec.too_many)
        self._not_before = 0.0

    def start(self) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            self.spec.command,
            env={**os.environ, **self.spec.environment},
            stdin=subprocess.DEVNULL,
            # What this process prints is its own to say; what children print belongs to its log.
            stdout=2,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - only calls prctl, and this process has no threads yet
        )

    def look(self, now: float, say: Say) -> None:
        """Note a death, and start again what may be."""
        if self.parked:
            return
        if self.process is not None and (code := self.process.poll()) is not None:
            self._note_death(now, code, say)
        if self.process is None and now >= self._not_before and not self.parked:
            self.start()

    def _note_death(self, now: float, code: int, say: Say) -> None:
        self._end_group()
        self.process = None
        self._deaths.append(now)
        recent = sum(now - death < _WITHIN for death in self._deaths)
        if recent >= self.spec.too_many:
            self.parked = True
            say(f"{self.spec.name} died {recent} times within a minute (last: {_ending(code)}); it stays down")
            return
        pause = min(_FIRST_PAUSE * 2 ** (recent - 1), _LONGEST_PAUSE)
        self._not_before = now + pause
        say(f"{self.spec.name} died ({_ending(code)}); starting it again in {pause:g} s")

    def stop(self) -> None:
        """Ask it to stop."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def wait(self) -> None:
        """Wait until it has stopped; end it when it takes too long."""
        if self.process is None:
            return
        try:
            self.process.wait(self.spec.parts_with)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._end_group()

    def _end_group(self) -> None:
        """End what the child had started and left behind: it would keep the child's port."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Runs children until it is told to stop."""

    def __init__(self, specs: Sequence[ChildSpec], say: Say) -> None:
        """Take the children in the order they are started in; they are stopped in the opposite one."""
        self.children = [Child(spec) for spec in specs]
        self._say = say
        self._stopping = False

    def run(self, ready: Callable[[], None]) -> None:
        """Start the children, call ``ready`` once, and keep them running until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        try:
            for child in self.children:
                child.start()
            ready()
            while not self._stopping:
                self.look()
                time.sleep(_LOOK_EVERY)
        finally:
            self._stop()

    def look(self) -> None:
        """Note deaths, and start again what may be."""
        now = time.monotonic()
        for child in self.children:
            child.look(now, self._say)

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stopping = True

    def _stop(self) -> None:
        for child in reversed(self.children):
            child.stop()
            child.wait()


def _die_with_parent() -> None:
    send_at_parents_death(signal.SIGKILL)
    # A terminal's Ctrl-C goes to the supervisor alone, which stops the children in order.
    os.setpgid(0, 0)


def _ending(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def say_on_stderr(sentence: str) -> None:
    """Print a line of the log."""
    sys.stderr.write(f"rivermill: {sentence}\n")
    sys.stderr.flush()
