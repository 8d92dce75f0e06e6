"""Which offsets a moment and a window come to, against a scan of every record."""

import pytest

from features.dataset_range import EVER, first_known, resolve
from journal.errors import NoLongerProvable, Refused
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record


@pytest.fixture(scope="module")
def journal() -> MemoryJournal:
    """Records known at 10, 20, 21, 22, 50 and 60."""
    journal = MemoryJournal("t")
    for number, time in enumerate((10, 20, 20, 20, 50, 60)):
        journal.append([Draft(kind=Kind.SOURCE, stream="s", id=str(number), time=time, body=b"{}")])
    assert [record.at for record in journal.read(0, -1, 10)] == [10, 20, 21, 22, 50, 60]
    return journal


@pytest.mark.parametrize("as_of", range(10, 61))
@pytest.mark.parametrize("window", [1, 5, 30, 100])
def test_a_range_is_what_a_scan_finds(journal: MemoryJournal, as_of: int, window: int) -> None:
    known = [record for record in journal.read(0, -1, 10) if record.at <= as_of]
    inside = [record.offset for record in known if record.at > as_of - window]
    if not inside:
        with pytest.raises(Refused, match="nothing that can still be read"):
            resolve(journal, 5, as_of, window)
        return
    found = resolve(journal, 5, as_of, window)
    assert (found.first, found.through) == (inside[0], known[-1].offset)
    assert (found.as_of, found.window) == (as_of, window)


def test_by_default_it_is_everything(journal: MemoryJournal) -> None:
    found = resolve(journal, 5)
    assert (found.first, found.through, found.as_of, found.window) == (0, 5, 60, None)


@pytest.mark.parametrize(("as_of", "words"), [(61, "the journal's time is"), (9, "nothing that can still be read")])
def test_moments_outside_the_journal_are_refused(journal: MemoryJournal, as_of: int, words: str) -> None:
    with pytest.raises(Refused, match=words):
        resolve(journal, 5, as_of)


def test_an_empty_journal_is_refused() -> None:
    with pytest.raises(Refused, match="is empty"):
        resolve(MemoryJournal("t"), -1)


class Retained:
    """A journal whose first records retention let go."""

    def __init__(self, journal: MemoryJournal, begins: int) -> None:
        self.journal, self.begins = journal, begins

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        if after + 1 < self.begins:
            raise NoLongerProvable(which=f"records {after + 1} to {self.begins - 1}")
        return self.journal.read(partition, after, limit)


def test_a_range_begins_with_what_can_still_be_read(journal: MemoryJournal) -> None:
    for begins in range(6):
        assert first_known(Retained(journal, begins), EVER, 6) == begins
        assert resolve(Retained(journal, begins), 5).first == begins
