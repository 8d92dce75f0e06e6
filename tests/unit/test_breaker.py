"""The circuit breaker, with a clock that passes when told."""

import threading

import pytest

from features.breaker import Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def broken(clock: Clock) -> Breaker:
    breaker = Breaker(failures=2, rest=5, clock=clock)
    breaker.note_failure()
    breaker.note_failure()
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before(clock: Clock) -> None:
    breaker = Breaker(failures=2, rest=5, clock=clock)
    for _ in range(3):
        breaker.note_failure()
        assert (breaker.state, breaker.admits()) == ("closed", True)
        breaker.note_success()
    breaker.note_failure()
    breaker.note_failure()
    assert (breaker.state, breaker.admits(), breaker.opened) == ("open", False, 1)


def test_when_its_rest_is_over_one_may_probe(clock: Clock) -> None:
    breaker = broken(clock)
    clock.now = 4.9
    assert not breaker.admits()
    clock.now = 5
    admitted = [breaker.admits() for _ in range(3)]
    assert admitted == [True, False, False]
    assert breaker.state == "half-open"


def test_a_probe_closes_it_or_lets_it_rest_again(clock: Clock) -> None:
    breaker = broken(clock)
    clock.now = 5
    assert breaker.admits()
    breaker.note_failure()
    assert (breaker.state, breaker.admits()) == ("open", False)
    clock.now = 10
    assert breaker.admits()
    breaker.note_success()
    assert (breaker.state, breaker.admits()) == ("closed", True)
    breaker.note_failure()
    assert breaker.state == "closed", "the count begins anew"
    assert breaker.opened == 1


def test_of_many_threads_one_probes(clock: Clock) -> None:
    breaker = broken(clock)
    clock.now = 5
    admitted: list[bool] = []
    gate = threading.Barrier(8)

    def come() -> None:
        gate.wait()
        admitted.append(breaker.admits())

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == [False] * 7 + [True]
