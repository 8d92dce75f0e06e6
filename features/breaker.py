"""A circuit breaker: whoever waits for something that does not answer stops waiting for a while.

::

    closed --(N failures in a row)--> open --(rest is over: one caller probes)--> half-open --(it answers)--> closed
                                       ^                                              |
                                       +----------------(it fails)--------------------+
"""

import threading
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Counts failures in a row. Threads may share one."""

    def __init__(self, failures: int = 3, rest: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin closed.

        Args:
            failures: After how many in a row it opens.
            rest: Seconds that it stays open before somebody may probe.
            clock: Seconds that never go back.
        """
        self._limit, self._rest, self._clock = failures, rest, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._probe_at: float | None = None
        self._probing = False
        self.opened = 0
        """How often it has opened."""

    @property
    def state(self) -> State:
        """Where it stands."""
        if self._probe_at is None:
            return "closed"
        return "half-open" if self._probing else "open"

    def admits(self) -> bool:
        """Whether this caller may try; of those that come when the rest is over, one."""
        if self._probe_at is None:
            return True
        with self._lock:
            probe_at: float | None = self._probe_at
            if probe_at is not None:
                if self._probing or self._clock() < probe_at:
                    return False
                self._probing = True
            return True

    def note_success(self) -> None:
        """A try was answered: close."""
        if self._failures or self._probe_at is not None:
            with self._lock:
                self._failures, self._probe_at, self._probing = 0, None, False

    def note_failure(self) -> None:
        """A try failed: open after the last one that is let go, and again after a probe."""
        with self._lock:
            self._failures += 1
            if self._probing or self._failures >= self._limit:
                if self._probe_at is None:
                    self.opened += 1
                self._probe_at, self._probing = self._clock() + self._rest, False
