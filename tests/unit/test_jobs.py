"""The job table: one key is one job, one lease at a time, and a lifecycle that has no other steps."""

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from journal.errors import ConflictingId, LostRace, Refused, UnknownName
from training.jobs import ATTEMPTS, LEASE, TRANSITIONS, Event, Job, JobTable, State, advance, job_id

SPEC = {"dataset": "flights-0123", "folds": 3}
NOW = 1_700_000_000_000_000


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'control.sqlite'}")
    yield engine
    engine.dispose()


@pytest.fixture
def table(engine: sa.Engine) -> JobTable:
    return JobTable(engine)


def submit(table: JobTable, key: str = "k", at: int = NOW) -> Job:
    return table.submit("flights", key, SPEC, at, "ann")


def claimed(table: JobTable, owner: str = "one", now: int = NOW) -> Job:
    job = table.claim(owner, now)
    assert job is not None
    return job


def test_a_submitted_job_is_queued_and_can_be_found(table: JobTable) -> None:
    job = submit(table)
    assert (job.state, job.spec, job.principal, job.submitted, job.epoch) == ("queued", SPEC, "ann", NOW, 0)
    assert job.id == job_id("flights", "k")
    assert table.get(job.id) == job
    assert table.list("flights") == [job]
    assert table.list("phishing") == []


def test_one_key_is_one_job_whoever_repeats_it(table: JobTable) -> None:
    first = submit(table)
    again = table.submit("flights", "k", dict(reversed(SPEC.items())), NOW + 5, "bob")
    assert again == first
    assert len(table.list("flights")) == 1


def test_one_key_with_another_spec_is_a_conflict_and_changes_nothing(table: JobTable) -> None:
    first = submit(table)
    with pytest.raises(ConflictingId, match="'k', with another spec"):
        table.submit("flights", "k", {**SPEC, "folds": 4}, NOW, "ann")
    assert table.list("flights") == [first]


def test_keys_of_two_pipelines_are_two_jobs(table: JobTable) -> None:
    assert submit(table).id != table.submit("phishing", "k", SPEC, NOW, "ann").id


def test_an_unknown_job_is_named(table: JobTable) -> None:
    with pytest.raises(UnknownName, match="job-nothing"):
        table.get("job-nothing")


def test_the_oldest_is_claimed_first(table: JobTable) -> None:
    later, earlier = submit(table, "later", NOW + 1), submit(table, "earlier", NOW)
    assert [claimed(table).id, claimed(table).id] == [earlier.id, later.id]
    assert table.claim("one", NOW) is None


def test_of_many_claimers_one_wins(table: JobTable, engine: sa.Engine) -> None:
    job = submit(table)
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda n: JobTable(engine).claim(f"owner-{n}", NOW), range(8)))
    winners = [each for each in won if each is not None]
    assert len(winners) == 1
    assert (table.get(job.id).owner, table.get(job.id).epoch) == (winners[0].owner, 1)


def test_a_claimer_that_looked_before_another_won_gets_nothing(
    table: JobTable, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood = [submit(table)]
    claimed(table, "first")
    late = JobTable(engine)
    monkeypatch.setattr(late, "_select", lambda _: stood)
    assert late.claim("late", NOW) is None
    assert table.get(stood[0].id).owner == "first"


def test_a_stale_lease_is_claimed_again_and_its_holder_fenced_off(table: JobTable) -> None:
    submit(table)
    old = claimed(table, "old")
    assert table.claim("new", NOW + LEASE) is None, "a lease holds for its whole length"
    new = claimed(table, "new", NOW + LEASE + 1)
    assert (new.id, new.epoch, new.owner) == (old.id, 2, "new")
    with pytest.raises(LostRace, match="lease 1 no longer holds; it is running, 2 of new"):
        table.heartbeat(old.id, old.epoch, NOW + LEASE + 2)
    with pytest.raises(LostRace):
        table.finish(old.id, old.epoch, "succeeded", {"from": "old"})
    assert table.get(old.id) == new
    assert table.finish(new.id, new.epoch, "succeeded", {"from": "new"}).result == {"from": "new"}


def test_a_heartbeat_keeps_the_lease(table: JobTable) -> None:
    submit(table)
    job = claimed(table)
    assert table.heartbeat(job.id, job.epoch, NOW + LEASE) == (False,)
    assert table.claim("other", NOW + LEASE + 1) is None
    assert table.claim("other", NOW + 2 * LEASE + 1) is not None


def test_a_job_that_kills_whoever_claims_it_is_given_up(table: JobTable) -> None:
    job, now = submit(table), NOW
    for _ in range(ATTEMPTS):
        claimed(table, now=now)
        now += LEASE + 1
    assert table.claim("one more", now) is None
    assert table.get(job.id).state == "failed"
    assert "given up after 3 attempts" in table.get(job.id).result["reason"]


def test_a_queued_job_stops_at_once(table: JobTable) -> None:
    job = submit(table)
    assert table.request_stop(job.id).state == "stopped"
    assert table.claim("one", NOW) is None


def test_the_holder_of_a_running_job_learns_of_the_stop(table: JobTable) -> None:
    submit(table)
    job = claimed(table)
    assert table.request_stop(job.id).state == "running"
    assert table.heartbeat(job.id, job.epoch, NOW + 1).stop
    assert table.finish(job.id, job.epoch, "stopped", {}).state == "stopped"


def test_a_stopped_job_whose_holder_died_is_not_started_again(table: JobTable) -> None:
    submit(table)
    job = claimed(table)
    table.request_stop(job.id)
    assert table.claim("other", NOW + LEASE + 1) is None
    assert table.get(job.id).state == "stopped"


@pytest.mark.parametrize("end", ["succeeded", "failed", "stopped"])
def test_what_has_ended_stays_as_it_is(table: JobTable, end: State) -> None:
    submit(table)
    job = claimed(table)
    ended = table.finish(job.id, job.epoch, end, {"n": 1})
    with pytest.raises(Refused, match="it has ended"):
        table.finish(job.id, job.epoch, "failed", {"n": 2})
    with pytest.raises(Refused, match=f"a job that is {end}"):
        table.request_stop(job.id)
    with pytest.raises(LostRace):
        table.heartbeat(job.id, job.epoch, NOW)
    assert table.get(job.id) == ended


def test_a_job_nobody_holds_cannot_be_finished(table: JobTable) -> None:
    job = submit(table)
    with pytest.raises(Refused, match="'succeed' on a job that is queued"):
        table.finish(job.id, 0, "succeeded", {})
    assert table.get(job.id) == job


def test_only_an_end_ends_a_job(table: JobTable) -> None:
    submit(table)
    job = claimed(table)
    with pytest.raises(Refused, match="'queued' as the end"):
        table.finish(job.id, job.epoch, "queued", {})
    assert table.get(job.id) == job


@pytest.mark.parametrize("state", TRANSITIONS)
@pytest.mark.parametrize("event", ["claim", "succeed", "fail", "stop"])
def test_every_step_is_in_the_table_or_refused(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert advance(state, event) in TRANSITIONS
    else:
        with pytest.raises(Refused, match=f"'{event}' on a job that is {state}"):
            advance(state, event)


def test_the_table_outlives_its_process(table: JobTable, tmp_path: Path) -> None:
    submit(table)
    job = claimed(table)
    other = sa.create_engine(f"sqlite:///{tmp_path / 'control.sqlite'}")
    assert JobTable(other).get(job.id) == job
    other.dispose()
    with sqlite3.connect(tmp_path / "control.sqlite") as raw:
        assert raw.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    raw.close()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_row_fails_and_the_jobs_behind_it_go_on(table: JobTable, engine: sa.Engine, damage: bytes) -> None:
    broken = table.submit("flights", "first", {}, 1, "t")
    whole = table.submit("flights", "second", {}, 2, "t")
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE jobs SET spec = :spec WHERE id = :id"), {"spec": damage, "id": broken.id})
    assert claimed(table).id == whole.id
    failed = table.get(broken.id)
    assert failed.state == "failed"
    assert "cannot be read" in failed.result["reason"]
    assert [job.state for job in table.list("flights")] == ["failed", "running"]
