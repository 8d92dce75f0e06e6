"""R23: intake over a SQLite journal against a plain model, through reopenings and abandoned owners."""

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from journal.clock import DAY, HOUR, format_time
from journal.contract import Contract
from journal.field import Field
from journal.intake import Accepted, Conflicted, Intake, Quarantined, Refused, Repeated
from journal.log import START
from journal.privacy import KeyTable
from journal.record import Cause, Kind
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

pytestmark = pytest.mark.slow
NOON = 15_000 * DAY
CONTRACT = Contract(
    stream="s",
    version="1.0.0",
    fields=(Field(name="n", type="integer", required=True, limits={"ge": 0, "le": 2}),),
    dedup_window=1_000 * DAY,
    max_gap=DAY,
)
IDS = st.sampled_from("abcdefghij")
VALUES = st.integers(0, 3)


class Abandoned(Exception):
    """The owner dies before its group is committed."""


class JournalMachine(RuleBasedStateMachine):
    """The model: which id says what and where, in order; what waits; what was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.keys = KeyTable(self.folder / "keys.sqlite")
        self.order: list[tuple[Kind, str]] = []
        self.taken: dict[str, tuple[int, int]] = {}
        self.waiting: set[tuple[str, int]] = set()
        self.counts = {"repeated": 0, "conflicts": 0, "quarantined_again": 0, "refused": 0}
        self.line = 0
        self.open()

    def open(self) -> None:
        self.journal = SqliteJournal(
            self.folder / "journal", "t", dedup_window=CONTRACT.dedup_window, records_per_segment=7
        )
        self.intake = Intake(self.journal, {"s": CONTRACT}, self.keys, None)

    def event(self, id_: str, n: int) -> bytes:
        event = {"specversion": "1.0", "id": id_, "source": "/t", "type": "s", "time": format_time(NOON + n * HOUR)}
        return json.dumps(event | {"data": {"n": n}}).encode()

    @rule(id_=IDS, n=VALUES)
    def take(self, id_: str, n: int) -> None:
        with self.journal.group():
            taken = self.intake.take(self.event(id_, n))
        if n == 3:
            assert isinstance(taken, Quarantined)
            assert (taken.record is None) == ((id_, n) in self.waiting)
            if taken.record is None:
                self.counts["quarantined_again"] += 1
            else:
                self.order.append((Kind.QUARANTINE, taken.id))
            self.waiting.add((id_, n))
        elif id_ not in self.taken:
            assert isinstance(taken, Accepted)
            self.taken[id_] = (n, len(self.order))
            self.order.append((Kind.SOURCE, id_))
        elif self.taken[id_][0] == n:
            assert taken == Repeated(self.taken[id_][1])
            self.counts["repeated"] += 1
        else:
            assert taken == Conflicted(id_, self.taken[id_][1])
            self.counts["conflicts"] += 1

    @rule()
    def refuse(self) -> None:
        with self.journal.group():
            assert isinstance(self.intake.take(b"{", sink="file", cause=Cause(0, self.line, 0)), Refused)
        self.counts["refused"] += 1
        self.line += 1

    @rule(ids=st.lists(IDS, max_size=4), n=st.integers(0, 2))
    def die_before_the_commit(self, ids: list[str], n: int) -> None:
        with suppress(Abandoned), self.journal.group():
            for id_ in ids:
                self.intake.take(self.event(id_, n))
            raise Abandoned
        self.reopen()

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.open()

    @precondition(lambda self: self.order)
    @rule()
    def die_without_a_word(self) -> None:
        """What a killed owner leaves: its files as they stand, log and all, taken up elsewhere."""
        shutil.copytree(self.folder / "journal", self.folder / "left")
        self.journal.close()
        shutil.rmtree(self.folder / "journal")
        (self.folder / "left").rename(self.folder / "journal")
        self.open()

    @invariant()
    def readers_see_the_model(self) -> None:
        reader = SqliteReader(self.folder / "journal")
        found = [(record.kind, record.id) for record in reader.read(0, START, 1_000)]
        reader.close()
        assert found == self.order
        tallies = self.journal.tallies()
        assert {name: tallies.get(name, 0) for name in self.counts} == self.counts
        mark = self.journal.mark("file")
        assert (mark.offset + 1 if mark else 0) == self.line

    def teardown(self) -> None:
        self.journal.close()
        self.keys.close()
        shutil.rmtree(self.folder)


TestR23JournalAgainstItsModel = JournalMachine.TestCase
TestR23JournalAgainstItsModel.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True
)
