"""What becomes of answers over HTTP: each is handed to the journal's owner, waited for until a deadline, and counted.

- Answered = recorded + repeated + unrecorded + pending, at any moment.
- An enqueued answer is pending: with the owner slow, away or full it is handed over again until the owner says what
  became of it, which its id makes harmless.
- One that was waited for is handed over once, since its receipt says what became of it. An answer that is unrecorded
  will never join an outcome.
- What is pending is bounded; beyond the bound an answer is unrecorded at once.
- Whoever stops drains first: what is enqueued is recorded for a little while, and what is left counts as unrecorded.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

from journal.body import Prediction, decode
from journal.errors import Busy, CallerError, DurabilityLost, OwnerDown, UpstreamError
from journal.wire import Asked, AskedBefore
from serving.upstream import Recorder

DEADLINE = 0.25
"""Seconds that an answer waits for its record."""

PATIENCE = 10.0
"""Seconds after which an owner that says nothing is believed to have recorded nothing."""

DRAIN = 5.0
"""Seconds that a service which stops goes on recording what it has answered."""

MOST_QUEUED = 2_000
_RECORDED_AT_ONCE = 16
_PAUSE = 0.1
"""Seconds between two tries of one answer."""

_PASSING = (OwnerDown, Busy, DurabilityLost)
"""What ends by itself or by a hand at the disk: the same answer can be recorded then."""


@dataclass(slots=True)
class Counters:
    """What became of the answers given so far."""

    answered: int = 0
    recorded: int = 0
    repeated: int = 0
    unrecorded: int = 0
    pending: int = 0
    degraded: int = 0
    failed: int = 0
    """Questions that got an error and no answer."""

    def count(self, prediction: Prediction, fate: str) -> None:
        """An answer goes out."""
        self.answered += 1
        self.degraded += prediction.degraded
        setattr(self, fate, getattr(self, fate) + 1)

    def settle(self, fate: str) -> None:
        """It has become known what became of a pending one."""
        self.pending -= 1
        setattr(self, fate, getattr(self, fate) + 1)


class Unsent(NamedTuple):
    """An answer that is yet to be recorded: its question as a CloudEvent, who asked, and the answer."""

    event: bytes
    principal: str
    prediction: Prediction


class Recorded(NamedTuple):
    """What the journal holds: the answer, which is the first one where it was asked before, and both offsets."""

    prediction: Prediction
    question: int
    offset: int


class Recording:
    """Hands answers to the journal's owner."""

    def __init__(self, recorder: Recorder, *, deadline: float = DEADLINE, most_queued: int = MOST_QUEUED) -> None:
        """Begin with nothing on the way.

        Args:
            recorder: Where questions and answers are recorded.
            deadline: Seconds that an answer waits for its record.
            most_queued: Enqueued answers that may wait, and answers whose record is late; no more are waited for.
        """
        self._recorder, self._deadline, self._most_queued = recorder, deadline, most_queued
        self._late: set[asyncio.Task[None]] = set()
        self._queue: asyncio.Queue[Unsent] = asyncio.Queue(most_queued)
        self.counters = Counters()

    async def record(self, answer: Unsent) -> Recorded | None:
        """Record an answer, and wait for that until the deadline.

        Returns:
            None where nobody knows yet, or the owner is down.

        Raises:
            CallerError: The question breaks its contract after all, or its id is another question's.
        """
        asking = asyncio.create_task(self._hand_over(answer))
        await asyncio.wait((asking,), timeout=self._deadline)
        if not asking.done():
            self.counters.count(answer.prediction, "pending")
            self._wait_behind(asking)
            return None
        try:
            outcome = asking.result()
        except UpstreamError:
            self.counters.count(answer.prediction, "unrecorded")
            return None
        return self._received(answer.prediction, outcome)

    def enqueue(self, answer: Unsent) -> bool:
        """Record it later; whether there was room for it."""
        try:
            self._queue.put_nowait(answer)
        except asyncio.QueueFull:
            self.counters.count(answer.prediction, "unrecorded")
            return False
        self.counters.count(answer.prediction, "pending")
        return True

    async def record_enqueued(self) -> None:
        """Record what was enqueued, for as long as this task lives: several at a time, so that they share commits."""
        await asyncio.gather(*(self._record_next() for _ in range(_RECORDED_AT_ONCE)))

    async def drain(self, deadline: float = DRAIN) -> int:
        """Wait until every answer's fate is known, while `record_enqueued` runs; then give up those that still wait.

        Args:
            deadline: Seconds to wait at most.

        Returns:
            How many answers are out that nobody knows to be recorded.
        """
        before = self.counters.unrecorded
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._queue.join()
                # One that no longer is waited for ends as cancelled, and must not end this.
                await asyncio.gather(*self._late, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()
            self.counters.settle("unrecorded")
        return self.counters.unrecorded - before + self.counters.pending

    async def _record_next(self) -> None:
        while True:
            answer = await self._queue.get()
            try:
                await self._settle(self._insist(answer))
            finally:
                self._queue.task_done()

    async def _insist(self, answer: Unsent) -> Asked | AskedBefore:
        while True:
            try:
                return await self._hand_over(answer)
            except _PASSING:
                await asyncio.sleep(_PAUSE)

    def _hand_over(self, answer: Unsent) -> Coroutine[Any, Any, Asked | AskedBefore]:
        return self._recorder.ask(answer.event, answer.prediction, answer.principal, PATIENCE)

    def _wait_behind(self, asking: asyncio.Task[Asked | AskedBefore]) -> None:
        if len(self._late) >= self._most_queued:
            asking.cancel()
        settling = asyncio.create_task(self._settle(asking))
        self._late.add(settling)
        settling.add_done_callback(self._late.discard)

    async def _settle(self, asking: Awaitable[Asked | AskedBefore]) -> None:
        """Count what becomes of an answer that is out already."""
        fate = "unrecorded"
        try:
            with contextlib.suppress(UpstreamError, CallerError):
                fate = "recorded" if isinstance(await asking, Asked) else "repeated"
        finally:
            self.counters.settle(fate)

    def _received(self, prediction: Prediction, outcome: Asked | AskedBefore) -> Recorded:
        if isinstance(outcome, AskedBefore):
            first = decode(outcome.prediction, Prediction)
            self.counters.count(first, "repeated")
            return Recorded(first, first.question, outcome.offset)
        self.counters.count(prediction, "recorded")
        return Recorded(prediction, outcome.question, outcome.prediction)
