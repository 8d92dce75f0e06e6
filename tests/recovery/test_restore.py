"""A restore is a decision: signed, in the control log, and the first that the new life of the journal says."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from journal.backup import CONTROL, back_up, load_backup
from journal.body import Decision, decode
from journal.control import ControlLog, Entry, echo_of, missing_echoes
from journal.errors import Corrupt, Refused
from journal.log import START
from journal.record import Draft, Kind, Record
from journal.restore import Deciding, Restored, restore
from journal.sqlite_log import SqliteJournal
from registry.signing import Signer, Verifier, public_path

NOON = 1_357_041_600_000_000


class Shop:
    """A home with a journal of five events, and a control log whose first decision the journal has echoed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer = Signer.open(folder / "signing")
        self.verifier = Verifier.open(public_path(folder / "signing"))
        self.deciding = Deciding(signer=self.signer, principal="carla", why="the disk died")
        self.home, self.backup = folder / "home", folder / "backup"
        self.home.mkdir()
        self.control = ControlLog(f"sqlite:///{self.home / CONTROL}")
        first = self.decide(0)
        with closing(SqliteJournal(self.home / "journal", "shop")) as journal:
            journal.append(
                [
                    Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=b"{}")
                    for n in range(5)
                ]
            )
            journal.append([echo_of(first)])
            self.clock = journal.clock

    def decide(self, expected: int, action: str = "promote") -> Entry:
        return self.control.append(
            "shop",
            expected=expected,
            action=action,
            subject="line",
            why="better",
            details={},
            at=NOON,
            principal="bert",
            key=f"{action}-{expected}",
            signer=self.signer,
        )

    def back_up(self) -> Path:
        back_up(self.home / "journal", self.backup, control=self.home / CONTROL)
        return self.backup

    def put_back(self, home: Path, control: Path | None = None) -> Restored:
        place = control or home / CONTROL
        return restore(self.backup, home / "journal", control=place, deciding=self.deciding)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def behind(home: Path, end: int) -> Sequence[Record]:
    with closing(SqliteJournal(home / "journal", "shop")) as journal:
        return journal.read(0, end, 1_000)


def echoed(home: Path, end: int) -> list[tuple[int, str]]:
    decisions = [decode(record.body, Decision) for record in behind(home, end)]
    return [(decision.sequence, decision.action) for decision in decisions]


def test_the_first_new_record_says_what_was_put_back_and_by_whom(shop: Shop, tmp_path: Path) -> None:
    shop.back_up()
    new = tmp_path / "new"
    restored = shop.put_back(new)
    control = ControlLog(f"sqlite:///{new / CONTROL}")
    entry = control.head("shop")
    assert entry is not None
    assert (entry.sequence, entry.action, entry.subject) == (2, "restore", restored.incarnation)
    assert (entry.principal, entry.why, entry.at) == ("carla", "the disk died", shop.clock)
    was = load_backup(shop.backup)
    assert entry.details == {"incarnation": restored.incarnation, "was": was.incarnation, "end": 5, "files": 2}
    (echo,) = behind(new, was.end)
    assert decode(echo.body, Decision) == decode(echo_of(entry).body, Decision)
    assert (echo.offset, echo.kind, echo.id) == (6, Kind.DECISION, "decision-2")
    assert control.verify("shop", shop.verifier) == 2
    with closing(SqliteJournal(new / "journal", "shop")) as journal:
        assert journal.incarnation == restored.incarnation
        assert missing_echoes(control, "shop", journal) == []


def test_what_the_backup_decided_behind_its_journal_is_echoed_before(shop: Shop, tmp_path: Path) -> None:
    shop.decide(1)
    shop.back_up()
    shop.put_back(tmp_path / "new")
    assert echoed(tmp_path / "new", 5) == [(2, "promote"), (3, "restore")]


def test_a_restore_that_stopped_behind_its_decision_is_made_again(shop: Shop, tmp_path: Path) -> None:
    """The control log of the second is the one that the first has decided in; its journal lies elsewhere."""
    shop.back_up()
    new = tmp_path / "new"
    first = shop.put_back(tmp_path / "cut short", control=new / CONTROL)
    second = shop.put_back(new)
    assert echoed(new, 5) == [(2, "restore"), (3, "restore")]
    lives = [decode(record.body, Decision).details["incarnation"] for record in behind(new, 5)]
    assert lives == [first.incarnation, second.incarnation]
    assert load_backup(shop.backup).end == 5
    assert {path.name for path in new.iterdir()} == {"journal", CONTROL}


def test_a_control_log_that_went_another_way_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    shop.back_up()
    shop.decide(1, "reject")
    before = (shop.home / CONTROL).read_bytes()
    with pytest.raises(Refused, match="is there already"):
        shop.put_back(tmp_path / "new", control=shop.home / CONTROL)
    assert (shop.home / CONTROL).read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_a_backup_whose_decisions_are_gone_is_not_put_in_place(shop: Shop, tmp_path: Path) -> None:
    back_up(shop.home / "journal", shop.backup)
    with pytest.raises(Corrupt, match="decision 1"):
        shop.put_back(tmp_path / "new")
    assert not (tmp_path / "new" / "journal").exists()


def test_a_decision_that_is_not_ours_is_not_echoed(shop: Shop, tmp_path: Path) -> None:
    shop.decide(1)
    with closing(sqlite3.connect(shop.home / CONTROL)) as db, db:
        db.execute("UPDATE decisions SET subject = 'another line' WHERE sequence = 2")
    shop.back_up()
    with pytest.raises(Corrupt, match="decision 2"):
        shop.put_back(tmp_path / "new")
    assert not (tmp_path / "new" / "journal").exists()


def test_nobody_decides_about_an_empty_journal(tmp_path: Path, shop: Shop) -> None:
    SqliteJournal(tmp_path / "empty", "shop").close()
    back_up(tmp_path / "empty", shop.backup)
    assert shop.put_back(tmp_path / "new").end == START
    assert behind(tmp_path / "new", START) == []
    assert ControlLog(f"sqlite:///{tmp_path / 'new' / CONTROL}").entries("shop") == []
