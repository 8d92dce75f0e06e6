"""Skew where retention let go of the journal's beginning: it cannot be told any more, and says from where on."""

from pathlib import Path

import pytest

from features.replay import Rules
from features.skew import Known, Range, compare
from journal.clock import DAY, SECOND
from journal.errors import NoLongerProvable
from journal.record import Draft, Kind
from journal.retention import apply_retention, plan_retention
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

NOON = 1_357_041_600 * SECOND
RULES, KNOWN = Rules(views=(), lateness=0), Known(services=frozenset())


def test_skew_says_which_records_are_missing_and_what_to_do(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal", "t", dedup_window=DAY, records_per_segment=10)
    for n in range(35):
        body = Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n * DAY, body=b"{}")
        journal.append([body])
    assert compare(journal, RULES, KNOWN, Range()).predictions == 0
    apply_retention(journal.folder, plan_retention(journal.folder, readers={"f": 34}, keeps=DAY, remembers=DAY))
    journal.close()
    reader = SqliteReader(tmp_path / "journal")
    assert reader.begins == 30
    for since in (None, NOON + 33 * DAY):
        with pytest.raises(NoLongerProvable, match=r"first record on.*records 0 to 29 are gone.*Restore a backup"):
            compare(reader, RULES, KNOWN, Range(since))
    reader.close()
