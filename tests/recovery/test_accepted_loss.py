"""Going on without acknowledged records that are gone is a decision, and every interrupted one goes on where it was."""

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from journal.acked import forget_acked, read_acked
from journal.backup import CONTROL
from journal.body import Decision, decode
from journal.control import ControlLog, Entry, echo_of, missing_echoes
from journal.errors import Corrupt, OwnedElsewhere, Refused
from journal.log import START
from journal.loss import AcceptedLoss, accept_loss
from journal.record import Draft, Kind, Record
from journal.restore import Deciding, begin_new_life
from journal.segment import Segment, segment_path
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from registry.signing import Signer, Verifier, public_path

NOON = 1_357_041_600_000_000


def event(n: int) -> Draft:
    return Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=b'{"n":%d}' % n)


class Shop:
    """A home whose journal lost its end.

    Records 0 to 2 are events, 3 is the echo of the first decision, 4 to 6 are events, 7 echoes the second decision.
    What is there is ``end``; 7 was acknowledged.
    """

    def __init__(self, folder: Path, end: int, per_segment: int = 100) -> None:
        self.signer = Signer.open(folder / "signing")
        self.deciding = Deciding(signer=self.signer, principal="carla", why="the disk lied")
        self.folder = folder / "journal"
        self.place = folder / CONTROL
        self.control = ControlLog(f"sqlite:///{self.place}")
        self._live = folder / "live"
        drafts = [*map(event, range(3)), echo_of(self.decide(0)), *map(event, range(3, 6)), echo_of(self.decide(1))]
        with closing(SqliteJournal(self._live, "shop", records_per_segment=per_segment)) as journal:
            self.life = journal.incarnation
            sizes = {START: 0}
            for offset, draft in enumerate(drafts):
                journal.append([draft])
                sizes[offset] = self._log(self._live, per_segment, offset).stat().st_size
            # The files as they lie while the owner lives: what is newest stands in the write-ahead log alone.
            shutil.copytree(self._live, self.folder)
        os.truncate(self._log(self.folder, per_segment, len(drafts) - 1), sizes[end])

    @staticmethod
    def _log(folder: Path, per_segment: int, offset: int) -> Path:
        first = segment_path(folder, offset // per_segment * per_segment)
        return first.with_name(f"{first.name}-wal")

    def decide(self, expected: int) -> Entry:
        return self.control.append(
            "shop", expected=expected, action="promote", subject="line", why="better", details={}, at=NOON,
            principal="bert", key=f"promote-{expected}", signer=self.signer,
        )  # fmt: skip

    def accept(self) -> AcceptedLoss:
        return accept_loss(self.folder, "shop", control=self.place, deciding=self.deciding)

    def records(self, after: int = START) -> Sequence[Record]:
        with closing(SqliteJournal(self.folder, "shop")) as journal:
            return journal.read(0, after, 1_000)

    def echoed(self, after: int) -> list[tuple[int, str]]:
        decisions = [decode(record.body, Decision) for record in self.records(after)]
        return [(decision.sequence, decision.action) for decision in decisions]

    def accepted(self) -> list[Entry]:
        return [entry for entry in self.control.entries("shop") if entry.action == "accept_loss"]


def test_no_owner_starts_before_the_loss_is_accepted(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=4)
    with pytest.raises(Corrupt, match="records 5 to 7 were acknowledged"):
        SqliteJournal(shop.folder, "shop")


def test_the_decision_names_what_is_given_up_and_the_new_life_says_it_first(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=4)
    loss = shop.accept()
    assert loss == AcceptedLoss(
        incarnation=loss.incarnation, was=shop.life, end=4, acknowledged=7, segment="segment-000000000000.sqlite",
        damage=[],
    )  # fmt: skip
    (entry,) = shop.accepted()
    assert entry.details == msgspec.to_builtins(loss)
    assert (entry.subject, entry.principal, entry.why) == (loss.incarnation, "carla", "the disk lied")
    assert shop.control.verify("shop", Verifier.open(public_path(tmp_path / "signing"))) == 3
    assert shop.echoed(4) == [(2, "promote"), (3, "accept_loss")]
    with closing(SqliteJournal(shop.folder, "shop")) as journal:
        assert journal.incarnation == loss.incarnation != shop.life
        (again,) = journal.append([event(5)])
        assert isinstance(again, Record), "what was lost is taken in again"


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_an_acceptance_that_stopped_goes_on_with_its_own_decision(tmp_path: Path, steps: int) -> None:
    shop = Shop(tmp_path, end=4)
    untouched = shutil.copytree(shop.folder, tmp_path / "untouched")
    first = shop.accept()
    shutil.rmtree(shop.folder)
    untouched.rename(shop.folder)
    if steps > 1:
        begin_new_life(shop.folder, first.incarnation)
    if steps > 2:
        forget_acked(shop.folder)
    assert shop.accept() == first
    assert len(shop.accepted()) == 1
    assert shop.echoed(4) == [(2, "promote"), (3, "accept_loss")]


def test_an_owner_that_comes_before_the_echo_finds_it_missing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=4)
    untouched = shutil.copytree(shop.folder, tmp_path / "untouched")
    first = shop.accept()
    begin_new_life(untouched, first.incarnation)
    forget_acked(untouched)
    with closing(SqliteJournal(untouched, "shop")) as journal:
        assert [entry.action for entry in missing_echoes(shop.control, "shop", journal)] == ["promote", "accept_loss"]


def test_a_second_loss_that_takes_the_first_ones_echo_is_another_decision(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=4)
    first = shop.accept()
    with closing(SqliteJournal(shop.folder, "shop")) as journal:
        journal.append([event(5)])
        shutil.copytree(shop.folder, tmp_path / "again")
    shutil.rmtree(shop.folder)
    (tmp_path / "again").rename(shop.folder)
    # The new life's echoes and the event go again; what the first acceptance left is in the file itself.
    os.truncate(segment_path(shop.folder, 0).with_name("segment-000000000000.sqlite-wal"), 0)
    lost = read_acked(shop.folder)
    assert lost.incarnation == first.incarnation
    second = shop.accept()
    assert (second.was, second.acknowledged) == (first.incarnation, lost.end)
    assert second.incarnation != first.incarnation
    assert len(shop.accepted()) == 2


def test_a_last_file_that_lost_even_its_birth_does_not_bring_the_old_life_back(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=START, per_segment=4)
    loss = shop.accept()
    assert (loss.end, loss.acknowledged, loss.segment) == (3, 7, "segment-000000000000.sqlite")
    with closing(SqliteReader(shop.folder)) as reader:
        assert reader.incarnation == loss.incarnation
    assert shop.echoed(3) == [(2, "promote"), (3, "accept_loss")]
    assert (shop.folder / "damaged" / "segment-000000000004.sqlite").exists()


def test_nothing_is_decided_about_a_journal_that_lost_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=7)
    before = [record.offset for record in shop.records()]
    with pytest.raises(Refused, match="no acknowledged record is gone from its end, which is 7"):
        shop.accept()
    assert shop.accepted() == []
    assert [record.offset for record in shop.records()] == before


def test_a_journal_without_a_record_is_not_gone_on_with(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=START)
    os.truncate(segment_path(shop.folder, 0), 0)
    with pytest.raises(Refused, match="every record is gone"):
        shop.accept()
    assert shop.accepted() == []


def test_a_control_log_that_is_not_this_journals_decides_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=4)
    with pytest.raises(Corrupt, match="decision 1"):
        accept_loss(shop.folder, "shop", control=tmp_path / "other.sqlite", deciding=shop.deciding)
    assert read_acked(shop.folder).end == 7


def test_a_decision_that_is_not_ours_is_not_echoed_and_nothing_is_decided_behind_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=4)
    with closing(sqlite3.connect(shop.place)) as db, db:
        db.execute("UPDATE decisions SET subject = 'another line' WHERE sequence = 2")
    with pytest.raises(Corrupt, match="decision 2"):
        shop.accept()
    assert shop.accepted() == []
    assert read_acked(shop.folder).end == 7


def test_an_owner_is_stopped_first(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=7)
    with closing(SqliteJournal(shop.folder, "shop")), pytest.raises(OwnedElsewhere, match="belongs to process"):
        shop.accept()


def test_damage_elsewhere_is_named_in_the_decision_and_left_alone(tmp_path: Path) -> None:
    shop = Shop(tmp_path, end=START, per_segment=4)
    path = segment_path(shop.folder, 0)
    with closing(Segment(path)) as segment:
        segment.checkpoint(wholly=True)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'{"n":1}', b'{"n":9}'))
    loss = shop.accept()
    assert [which for which in loss.damage if "record 1" in which] == loss.damage != []
    with pytest.raises(Corrupt, match="record 1"):
        shop.records()
