"""What every journal adapter keeps, whatever it is made of."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from journal.clock import DAY, SECOND
from journal.log import START, Conflict, Journal, Repeat, Replayed
from journal.memory_log import MemoryJournal
from journal.record import Cause, Draft, Kind, Record
from journal.sqlite_log import SqliteJournal

NOON = 1_357_041_600 * SECOND


def event(id_: str, time: int = NOON, body: bytes = b"{}", conflict: bytes = b"", cause: Cause | None = None) -> Draft:
    return Draft(
        kind=Kind.SOURCE, stream="s", source="/t", id=id_, time=time, body=body, conflict=conflict, cause=cause
    )


def derived(id_: str, cause: Cause | None = None) -> Draft:
    return Draft(kind=Kind.EXAMPLE, stream="examples", id=id_, body=b"{}", cause=cause)


def one(outcomes: Sequence[object]) -> Record:
    (record,) = outcomes
    assert isinstance(record, Record)
    return record


class JournalConformance:
    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Journal]:
        raise NotImplementedError

    def test_an_empty_journal_has_no_end(self, journal: Journal) -> None:
        assert journal.end() == START
        assert journal.read(0, START, 10) == []
        assert journal.clock == 0

    def test_what_was_appended_is_read_back_whole_and_in_order(self, journal: Journal) -> None:
        draft = Draft(
            kind=Kind.SOURCE,
            stream="s",
            source="/t",
            id="1",
            time=NOON,
            body=b'{"a":1}',
            schema=3,
            subject="x",
            sealed=b"\x00\x01",
            conflict=b"c",
            principal="p",
            trace="t",
            cause=Cause(0, 7, 1),
        )
        first = one(journal.append([draft]))
        second = one(journal.append([derived("e")]))
        assert journal.read(0, START, 10) == [first, second]
        assert (first.offset, second.offset) == (0, 1)
        assert first.data == {"a": 1}
        assert all(getattr(first, name) == getattr(draft, name) for name in Draft.__struct_fields__)

    def test_pages_neither_miss_nor_repeat(self, journal: Journal) -> None:
        journal.append([event(str(n)) for n in range(10)])
        pages, after = [], START
        while page := journal.read(0, after, 3):
            pages += [record.id for record in page]
            after = page[-1].offset
        assert pages == [str(n) for n in range(10)]

    def test_at_rises_strictly_and_never_falls_behind_the_clock(self, journal: Journal) -> None:
        times = [NOON, NOON, NOON + 5, NOON - DAY, NOON + 5]
        records = [one(journal.append([event(str(n), time)])) for n, time in enumerate(times)]
        assert [record.at - NOON for record in records] == [0, 1, 5, 6, 7]
        assert journal.clock == NOON + 5
        assert journal.next_at() == NOON + 8

    def test_derived_records_do_not_move_the_clock(self, journal: Journal) -> None:
        journal.append([event("1")])
        assert one(journal.append([derived("e")])).at == NOON + 1
        assert journal.clock == NOON

    def test_the_same_id_twice_changes_nothing(self, journal: Journal) -> None:
        first = one(journal.append([event("1", conflict=b"a")]))
        assert journal.append([event("1", conflict=b"a")]) == [Repeat(first.offset)]
        assert journal.append([event("1", conflict=b"b")]) == [Conflict(first.offset)]
        assert journal.end() == 0

    def test_a_repeat_inside_one_batch_is_seen(self, journal: Journal) -> None:
        record, repeat = journal.append([event("1"), event("1")])
        assert isinstance(record, Record)
        assert repeat == Repeat(record.offset)

    def test_an_id_is_forgotten_after_the_dedup_window(self, journal: Journal) -> None:
        journal.append([event("1"), event("2", NOON + 15 * DAY)])
        assert isinstance(journal.append([event("1", NOON + 15 * DAY)])[0], Record)

    def test_a_late_events_id_is_remembered_since_it_became_known(self, journal: Journal) -> None:
        journal.append([event("0", NOON + 13 * DAY), event("late", NOON, conflict=b"a")])
        journal.append([event("1", NOON + 20 * DAY)])
        assert journal.append([event("late", NOON + 20 * DAY, conflict=b"b")]) == [Conflict(1)]

    def test_a_decision_is_never_forgotten(self, journal: Journal) -> None:
        decision = Draft(kind=Kind.DECISION, stream="c", id="release-1", body=b"{}")
        journal.append([event("1"), decision, event("2", NOON + 40 * DAY), event("3", NOON + 80 * DAY)])
        assert journal.append([decision]) == [Repeat(1)]

    def test_a_sinks_mark_drops_what_came_before(self, journal: Journal) -> None:
        journal.append([derived("a", Cause(0, 4, 0)), derived("b", Cause(0, 4, 1))], sink="join")
        assert journal.append([derived("b", Cause(0, 4, 1))], sink="join") == [Replayed()]
        assert isinstance(journal.append([derived("c", Cause(0, 4, 2))], sink="join")[0], Record)
        assert isinstance(journal.append([derived("b", Cause(0, 4, 1))], sink="other")[0], Record)
        assert journal.mark("join") == Cause(0, 4, 2)

    def test_a_repeat_moves_the_mark_too(self, journal: Journal) -> None:
        journal.append([event("1", cause=Cause(0, 0, 0)), event("1", cause=Cause(0, 1, 0))], sink="file")
        assert journal.mark("file") == Cause(0, 1, 0)

    def test_a_failed_group_never_happened(self, journal: Journal) -> None:
        journal.append([event("1", cause=Cause(0, 0, 0))], sink="file")
        with pytest.raises(ZeroDivisionError), journal.group():
            journal.append([event("2", NOON + 9, cause=Cause(0, 1, 0))], sink="file")
            journal.tally("refused")
            raise ZeroDivisionError
        assert journal.end() == 0
        assert journal.clock == NOON
        assert journal.mark("file") == Cause(0, 0, 0)
        assert journal.tallies() == {}
        assert one(journal.append([event("2", NOON + 9, cause=Cause(0, 1, 0))], sink="file")).offset == 1

    def test_a_group_is_seen_by_its_own_reader(self, journal: Journal) -> None:
        with journal.group():
            record = one(journal.append([event("1")]))
            assert journal.read(0, START, 1) == [record]
            assert journal.append([event("1")]) == [Repeat(0)]

    def test_tallies_add_up(self, journal: Journal) -> None:
        with journal.group():
            journal.tally("refused")
            journal.tally("refused", 2)
            journal.tally("conflicts")
        assert journal.tallies() == {"refused": 3, "conflicts": 1}

    def test_one_kind_can_be_found(self, journal: Journal) -> None:
        journal.append([event(str(n)) for n in range(3)])
        decisions = [one(journal.append([Draft(kind=Kind.DECISION, stream="c", id=i, body=b"{}")])) for i in "ab"]
        assert journal.of_kind(Kind.DECISION, START, 10) == decisions
        assert journal.of_kind(Kind.DECISION, decisions[0].offset, 10) == decisions[1:]
        assert [r.id for r in journal.of_kind(Kind.SOURCE, START, 2)] == ["0", "1"]

    def test_another_partition_is_empty(self, journal: Journal) -> None:
        journal.append([event("1")])
        assert journal.read(1, START, 10) == []
        assert journal.end(1) == START


class TestMemoryJournal(JournalConformance):
    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Journal]:
        yield MemoryJournal("t", dedup_window=14 * DAY)


class TestSqliteJournal(JournalConformance):
    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Journal]:
        journal = SqliteJournal(tmp_path / "journal", "t", dedup_window=14 * DAY)
        yield journal
        journal.close()


class TestSegmentedJournal(JournalConformance):
    """The same with a new segment every other record: every rule must hold across files."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Journal]:
        journal = SqliteJournal(tmp_path / "journal", "t", dedup_window=14 * DAY, records_per_segment=2)
        yield journal
        journal.close()
