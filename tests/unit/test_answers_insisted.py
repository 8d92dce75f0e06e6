"""Answers that the owner could not take at once: each is handed over again, and none is dropped while there is room."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from journal.body import Prediction
from journal.errors import Busy, DurabilityLost, Malformed, OwnerDown, RivermillError
from journal.wire import Asked, AskedBefore
from serving import recording
from serving.recording import Recording, Unsent

PASSING = (Busy, OwnerDown, DurabilityLost)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_PAUSE", 0.0)


class Owner:
    """Refuses each answer a number of times, then records it once."""

    def __init__(self, refusals: int, error: Callable[..., RivermillError]) -> None:
        self._left: Counter[bytes] = Counter()
        self._refusals, self._error = refusals, error
        self.recorded: list[bytes] = []

    async def ask(self, question: bytes, prediction: Prediction, principal: str, timeout: float) -> Asked | AskedBefore:
        del prediction, principal, timeout
        self._left[question] += 1
        if self._left[question] <= self._refusals:
            raise self._error(which="the owner", fix="Again")
        self.recorded.append(question)
        return Asked(0, 1)


def answer(number: int) -> Unsent:
    prediction = Prediction(
        key=f"{number}",
        question=0,
        service="s@1",
        values=[],
        stamps=[],
        score=0.5,
        line="l",
        model="",
        snapshot=-1,
        control=0,
        degraded=False,
        build="b",
    )
    return Unsent(f"{number}".encode(), "p", prediction)


@contextlib.asynccontextmanager
async def working(handed: Recording) -> AsyncIterator[None]:
    """While its queue is worked off."""
    task = asyncio.create_task(handed.record_enqueued())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("error", PASSING)
def test_what_was_enqueued_is_recorded_once_however_often_the_owner_was_full(error: type[RivermillError]) -> None:
    async def play() -> None:
        owner = Owner(3, error)
        handed = Recording(owner)
        assert all(handed.enqueue(answer(number)) for number in range(100))
        async with working(handed):
            assert await handed.drain(30.0) == 0
        assert sorted(owner.recorded) == sorted(f"{number}".encode() for number in range(100))
        assert (handed.counters.recorded, handed.counters.unrecorded, handed.counters.pending) == (100, 0, 0)

    asyncio.run(play())


@pytest.mark.parametrize("error", PASSING)
def test_what_was_turned_down_within_the_deadline_stays_unrecorded(error: type[RivermillError]) -> None:
    async def play() -> None:
        owner = Owner(1, error)
        handed = Recording(owner, deadline=30.0)
        assert await handed.record(answer(1)) is None
        async with working(handed):
            assert await handed.drain(30.0) == 0
        assert owner.recorded == []
        assert (handed.counters.answered, handed.counters.unrecorded, handed.counters.pending) == (1, 1, 0)

    asyncio.run(play())


def test_what_is_wrong_with_the_question_itself_is_not_tried_again() -> None:
    async def play() -> None:
        owner = Owner(1, Malformed)
        handed = Recording(owner)
        handed.enqueue(answer(1))
        async with working(handed):
            assert await handed.drain(30.0) == 1
        assert owner.recorded == []
        assert (handed.counters.unrecorded, handed.counters.pending) == (1, 0)

    asyncio.run(play())


def test_beyond_the_bound_an_answer_is_unrecorded_at_once_and_the_sum_holds() -> None:
    async def play() -> None:
        handed = Recording(Owner(0, Busy), most_queued=2)
        assert [handed.enqueue(answer(number)) for number in range(3)] == [True, True, False]
        counters = handed.counters
        assert (counters.answered, counters.pending, counters.unrecorded) == (3, 2, 1)
        async with working(handed):
            assert await handed.drain(30.0) == 0
        assert (counters.recorded, counters.unrecorded) == (2, 1)

    asyncio.run(play())


def test_a_drain_ends_while_the_owner_stays_away_and_says_how_many_are_left() -> None:
    async def play() -> None:
        owner = Owner(10**9, OwnerDown)
        handed = Recording(owner)
        for number in range(40):
            handed.enqueue(answer(number))
        async with working(handed):
            assert await handed.drain(0.05) == 40
        assert owner.recorded == []
        assert handed.counters.unrecorded + handed.counters.pending == 40

    asyncio.run(play())


def test_a_late_answer_that_is_given_up_does_not_end_the_drain() -> None:
    class Silent(Owner):
        async def ask(
            self, question: bytes, prediction: Prediction, principal: str, timeout: float
        ) -> Asked | AskedBefore:
            await asyncio.Event().wait()
            raise AssertionError

    async def play() -> None:
        handed = Recording(Silent(0, Busy), deadline=0.0, most_queued=1)
        for number in range(3):
            assert await handed.record(answer(number)) is None
        await handed.drain(0.05)
        counters = handed.counters
        assert counters.answered == counters.unrecorded + counters.pending == 3

    asyncio.run(play())
