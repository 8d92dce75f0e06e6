"""The audit log: every request in order, and a chain that shows what was changed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from journal import errors
from journal.audit import Audit, AuditLog
from journal.control import ControlLog

NOON = 1_357_041_600_000_000


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'control.sqlite'}"


@pytest.fixture
def log(url: str) -> AuditLog:
    return AuditLog(url)


@pytest.fixture
def chain(log: AuditLog) -> list[Audit]:
    return [note(log, n) for n in range(5)]


def note(log: AuditLog, n: int, **changes: Any) -> Audit:
    facts: dict[str, Any] = {
        "at": NOON + n,
        "principal": "key-1",
        "action": "promote",
        "subject": f"line-{n}",
        "outcome": "done",
        "details": {"sequence": n, "note": "é"},
    }
    return log.audit(**(facts | changes))


def change(url: str, statement: str, **bindings: Any) -> None:
    with sa.create_engine(url).begin() as connection:
        assert connection.execute(sa.text(statement), bindings).rowcount > 0


def test_an_empty_log_holds(log: AuditLog) -> None:
    assert log.audits() == []
    assert log.verify() == 0


def test_entries_are_read_back_in_order_and_in_pages(chain: list[Audit], log: AuditLog) -> None:
    assert log.audits() == chain
    assert [entry.sequence for entry in chain] == [1, 2, 3, 4, 5]
    assert log.audits(after=1, limit=2) == chain[1:3]
    assert log.audits(after=5) == []
    assert log.verify() == 5


def test_refusals_are_kept_like_everything_else(log: AuditLog) -> None:
    refused = note(log, 0, outcome="NotAllowed", details=None)
    assert (refused.outcome, refused.details) == ("NotAllowed", {})
    assert log.audits() == [refused]


def test_it_outlives_its_process_and_goes_on(chain: list[Audit], url: str) -> None:
    again = AuditLog(url)
    assert again.audits() == chain
    assert note(again, 5).previous == chain[-1].hash
    assert again.verify() == 6


def test_it_may_share_the_control_logs_file(chain: list[Audit], url: str) -> None:
    control = ControlLog(url)
    assert control.head("flights") is None
    assert AuditLog(url).audits() == chain


def test_writers_at_once_make_one_chain(url: str) -> None:
    logs = [AuditLog(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: note(logs[n % 4], n), range(40)))
    assert sorted(entry.sequence for entry in made) == list(range(1, 41))
    assert logs[0].verify() == 40


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", 1),
        ("principal", "nobody"),
        ("action", "reject"),
        ("subject", "other"),
        ("outcome", "NotAllowed"),
        ("details", b"{}"),
        ("details", b"\xff"),
        ("previous", "0" * 64),
        ("hash", "0" * 64),
        ("sequence", 99),
    ],
)
def test_an_edited_entry_is_found_and_named(log: AuditLog, url: str, column: str, value: object) -> None:
    change(url, f"UPDATE audits SET {column} = :value WHERE sequence = 3", value=value)
    with pytest.raises(errors.Corrupt, match="audit entry 3 is not"):
        log.verify()


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize("sequence", [1, 4])
def test_a_removed_entry_is_found(log: AuditLog, url: str, sequence: int) -> None:
    change(url, "DELETE FROM audits WHERE sequence = :n", n=sequence)
    with pytest.raises(errors.Corrupt, match=f"audit entry {sequence} is not"):
        log.verify()


@pytest.mark.usefixtures("chain")
def test_entries_that_changed_places_are_found(log: AuditLog, url: str) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        change(url, "UPDATE audits SET sequence = :new WHERE sequence = :old", old=old, new=new)
    with pytest.raises(errors.Corrupt, match="audit entry 2 is not"):
        log.verify()


@pytest.mark.usefixtures("chain")
def test_a_chain_longer_than_a_page_is_checked_to_its_end(
    log: AuditLog, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("journal.audit._PAGE", 2)
    assert log.verify() == 5
    change(url, "UPDATE audits SET outcome = 'other' WHERE sequence = 5")
    with pytest.raises(errors.Corrupt, match="audit entry 5 is not"):
        log.verify()


def test_details_that_are_not_json_leave_nothing(log: AuditLog) -> None:
    with pytest.raises(TypeError):
        note(log, 0, details={"model": object()})
    assert log.audits() == []


def test_it_is_written_through_to_the_disk(url: str, log: AuditLog) -> None:
    """Nothing waits in a file beside it: the database alone holds every entry."""
    note(log, 0)
    path = Path(sa.make_url(url).database or "")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
