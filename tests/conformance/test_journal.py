"""What every journal adapter keeps, whatever it is made of."""

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from journal.asking import Asking
from journal.clock import DAY, SECOND
from journal.contract import Contract
from journal.errors import OwnerDown
from journal.field import Field
from journal.intake import Intake
from journal.log import START, Conflict, Journal, Outcome, Repeat, Replayed
from journal.memory_log import MemoryJournal
from journal.owner_client import OwnerClient
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Cause, Draft, Kind, Record
from journal.segment import Segment
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

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


class Appended(Protocol):
    """The part of `journal.log.Journal` that there is for whoever does not own it."""

    @property
    def clock(self) -> int: ...

    def append(self, drafts: Sequence[Draft], *, sink: str = "") -> list[Outcome]: ...

    def next_at(self) -> int: ...

    def read(self, partition: int, after: int, limit: int) -> list[Record]: ...

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]: ...

    def end(self, partition: int = 0) -> int: ...

    def mark(self, sink: str) -> Cause | None: ...


class AppendConformance:
    """What holds for whoever appends, near or far."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Appended]:
        raise NotImplementedError

    def test_an_empty_journal_has_no_end(self, journal: Appended) -> None:
        assert journal.end() == START
        assert journal.read(0, START, 10) == []
        assert journal.clock == 0

    def test_what_was_appended_is_read_back_whole_and_in_order(self, journal: Appended) -> None:
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

    def test_pages_neither_miss_nor_repeat(self, journal: Appended) -> None:
        journal.append([event(str(n)) for n in range(10)])
        pages, after = [], START
        while page := journal.read(0, after, 3):
            pages += [record.id for record in page]
            after = page[-1].offset
        assert pages == [str(n) for n in range(10)]

    def test_at_rises_strictly_and_never_falls_behind_the_clock(self, journal: Appended) -> None:
        times = [NOON, NOON, NOON + 5, NOON - DAY, NOON + 5]
        records = [one(journal.append([event(str(n), time)])) for n, time in enumerate(times)]
        assert [record.at - NOON for record in records] == [0, 1, 5, 6, 7]
        assert journal.clock == NOON + 5
        assert journal.next_at() == NOON + 8

    def test_derived_records_do_not_move_the_clock(self, journal: Appended) -> None:
        journal.append([event("1")])
        assert one(journal.append([derived("e")])).at == NOON + 1
        assert journal.clock == NOON

    def test_the_same_id_twice_changes_nothing(self, journal: Appended) -> None:
        first = one(journal.append([event("1", conflict=b"a")]))
        assert journal.append([event("1", conflict=b"a")]) == [Repeat(first.offset)]
        assert journal.append([event("1", conflict=b"b")]) == [Conflict(first.offset)]
        assert journal.end() == 0

    def test_a_repeat_inside_one_batch_is_seen(self, journal: Appended) -> None:
        record, repeat = journal.append([event("1"), event("1")])
        assert isinstance(record, Record)
        assert repeat == Repeat(record.offset)

    def test_an_id_is_forgotten_after_the_dedup_window(self, journal: Appended) -> None:
        journal.append([event("1"), event("2", NOON + 15 * DAY)])
        assert isinstance(journal.append([event("1", NOON + 15 * DAY)])[0], Record)

    def test_a_late_events_id_is_remembered_since_it_became_known(self, journal: Appended) -> None:
        journal.append([event("0", NOON + 13 * DAY), event("late", NOON, conflict=b"a")])
        journal.append([event("1", NOON + 20 * DAY)])
        assert journal.append([event("late", NOON + 20 * DAY, conflict=b"b")]) == [Conflict(1)]

    def test_the_dedup_window_reaches_over_every_border(self, journal: Appended) -> None:
        """Ten ids a day apart, whatever files they fell into: those of the last fourteen days are known."""
        journal.append([event(f"d{n}", NOON + n * 2 * DAY) for n in range(10)])
        outcomes = [journal.append([event(f"d{n}", NOON + 18 * DAY)])[0] for n in range(10)]
        assert outcomes[2:] == [Repeat(n) for n in range(2, 10)]
        assert all(isinstance(outcome, Record) for outcome in outcomes[:2])

    def test_a_decision_is_never_forgotten(self, journal: Appended) -> None:
        decision = Draft(kind=Kind.DECISION, stream="c", id="release-1", body=b"{}")
        journal.append([event("1"), decision, event("2", NOON + 40 * DAY), event("3", NOON + 80 * DAY)])
        assert journal.append([decision]) == [Repeat(1)]

    def test_a_sinks_mark_drops_what_came_before(self, journal: Appended) -> None:
        journal.append([derived("a", Cause(0, 4, 0)), derived("b", Cause(0, 4, 1))], sink="join")
        assert journal.append([derived("b", Cause(0, 4, 1))], sink="join") == [Replayed()]
        assert isinstance(journal.append([derived("c", Cause(0, 4, 2))], sink="join")[0], Record)
        assert isinstance(journal.append([derived("b", Cause(0, 4, 1))], sink="other")[0], Record)
        assert journal.mark("join") == Cause(0, 4, 2)

    def test_a_repeat_moves_the_mark_too(self, journal: Appended) -> None:
        journal.append([event("1", cause=Cause(0, 0, 0)), event("1", cause=Cause(0, 1, 0))], sink="file")
        assert journal.mark("file") == Cause(0, 1, 0)

    def test_one_kind_can_be_found(self, journal: Appended) -> None:
        journal.append([event(str(n)) for n in range(3)])
        decisions = [one(journal.append([Draft(kind=Kind.DECISION, stream="c", id=i, body=b"{}")])) for i in "ab"]
        assert journal.of_kind(Kind.DECISION, START, 10) == decisions
        assert journal.of_kind(Kind.DECISION, decisions[0].offset, 10) == decisions[1:]
        assert [r.id for r in journal.of_kind(Kind.SOURCE, START, 2)] == ["0", "1"]

    def test_another_partition_is_empty(self, journal: Appended) -> None:
        journal.append([event("1")])
        assert journal.read(1, START, 10) == []
        assert journal.end(1) == START


class JournalConformance(AppendConformance):
    """What only the owner can do besides: commit several appends as one."""

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

    def test_to_foresee_ids_changes_no_outcome(self, journal: Journal) -> None:
        journal.append([event("taken", conflict=b"1")])
        drafts = [event(name, conflict=b"1") for name in ("taken", "new", "new", "other")] + [
            event("new", conflict=b"2")
        ]
        with journal.group():
            journal.foresee(drafts)
            outcomes = journal.append(drafts)
            journal.read(0, START, 99)
            again = journal.append(drafts)
        assert [type(outcome) for outcome in outcomes] == [Repeat, Record, Repeat, Record, Conflict]
        assert [type(outcome) for outcome in again] == [Repeat, Repeat, Repeat, Repeat, Conflict]
        with pytest.raises(ZeroDivisionError), journal.group():
            journal.foresee([event("lost")])
            journal.append([event("lost")])
            raise ZeroDivisionError
        assert [type(outcome) for outcome in journal.append([event("lost"), event("new", conflict=b"1")])] == [
            Record,
            Repeat,
        ]

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


class FarJournal:
    """A journal that another thread owns: appended to over the owner's socket, read from its files.

    The owner tells only that a request is durable; what became of each draft is told from what can be read then.
    """

    def __init__(self, folder: Path, client: OwnerClient) -> None:
        self._reader, self._client = SqliteReader(folder), client

    @property
    def clock(self) -> int:
        return self._reader.clock

    def append(self, drafts: Sequence[Draft], *, sink: str = "") -> list[Outcome]:
        end, mark = self.end(), self.mark(sink)
        assert self._client.append([(sink, drafts)]) == self.end()
        new = self._reader.read(0, end, 1_000)
        outcomes = [self._outcome(draft, mark if sink else None, new) for draft in drafts]
        assert new == []
        return outcomes

    def _outcome(self, draft: Draft, mark: Cause | None, new: list[Record]) -> Outcome:
        if new and (new[0].kind, new[0].source, new[0].id, new[0].cause) == (
            draft.kind,
            draft.source,
            draft.id,
            draft.cause,
        ):
            return new.pop(0)
        if mark is not None and draft.cause is not None and draft.cause <= mark:
            return Replayed()
        offset = self._reader.find(draft.kind, draft.source, draft.id)
        assert offset is not None
        (taken,) = self._reader.read(0, offset - 1, 1)
        return Repeat(offset) if taken.conflict == draft.conflict else Conflict(offset)

    def next_at(self) -> int:
        return max(self._reader.last_at + 1, self._reader.clock)

    def read(self, partition: int, after: int, limit: int) -> list[Record]:
        return self._reader.read(partition, after, limit)

    def of_kind(self, kind: Kind, after: int, limit: int) -> list[Record]:
        return self._reader.of_kind(kind, after, limit)

    def end(self, partition: int = 0) -> int:
        self._reader.refresh()
        return self._reader.end(partition)

    def mark(self, sink: str) -> Cause | None:
        return self._reader.mark(sink)

    def close(self) -> None:
        self._reader.close()


class TestFarJournal(AppendConformance):
    """The same over the owner's socket, with a new segment every other record."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Appended]:
        owned = SqliteJournal(tmp_path / "journal", "t", dedup_window=14 * DAY, records_per_segment=2)
        keys = KeyTable(tmp_path / "keys" / "keys.sqlite")
        asks = Contract(
            stream="asks",
            version="1.0.0",
            fields=(Field(name="n", type="integer", required=True),),
            dedup_window=14 * DAY,
            max_gap=DAY,
        )
        server = OwnerServer(
            owned, Intake(owned, {}, keys, None), Asking(owned, asks, keys, "n"), tmp_path / "owner.sock"
        )
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),))
        thread.start()
        client = OwnerClient(tmp_path / "owner.sock")
        while not is_up(client):
            assert thread.is_alive()
        far = FarJournal(tmp_path / "journal", client)
        yield far
        far.close()
        client.close()
        loop.call_soon_threadsafe(server.stop)
        thread.join()
        loop.close()
        owned.close()
        keys.close()


WRITING = """
import sys
from pathlib import Path
from journal.owner_client import OwnerClient
from journal.record import Cause, Draft, Kind
client, name = OwnerClient(Path(sys.argv[1])), sys.argv[2]
for n in range(40):
    draft = Draft(kind=Kind.EXAMPLE, stream=name, id=f"{name}-{n}", body=b"{}", cause=Cause(0, n, 0))
    print(client.append([(name, [draft])]), flush=True)
"""


@pytest.mark.slow
class TestManyCallers(TestFarJournal):
    """Group commit for threads and for processes: each one's records are there once, in its own order."""

    def test_threads_and_processes_share_the_commits(self, journal: FarJournal, tmp_path: Path) -> None:
        socket, names = tmp_path / "owner.sock", ["p0", "p1", "p2"]
        command = [sys.executable, "-c", WRITING, str(socket)]
        processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in names]
        threads = [threading.Thread(target=write_from_a_thread, args=(socket, f"t{n}")) for n in range(3)]
        for thread in threads:
            thread.start()
        acked = [int(process.communicate()[0].split()[-1]) for process in processes]
        for thread in threads:
            thread.join()
        assert journal.end() == 6 * 40 - 1 >= max(acked)
        records = journal.read(0, START, 1_000)
        for name in [*names, "t0", "t1", "t2"]:
            assert [record.id for record in records if record.stream == name] == [f"{name}-{n}" for n in range(40)]
        assert all(earlier.at < later.at for earlier, later in itertools.pairwise(records))


def write_from_a_thread(socket: Path, name: str) -> None:
    client = OwnerClient(socket)
    for n in range(40):
        client.append(
            [(name, [Draft(kind=Kind.EXAMPLE, stream=name, id=f"{name}-{n}", body=b"{}", cause=Cause(0, n, 0))])]
        )
    client.close()


def is_up(client: OwnerClient) -> bool:
    try:
        return client.state().end == START
    except OwnerDown:
        return False


class TestReader:
    """What a process that does not own the journal sees while its owner writes on, two records to a file."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[SqliteJournal]:
        journal = SqliteJournal(tmp_path / "journal", "t", dedup_window=14 * DAY, records_per_segment=2)
        yield journal
        journal.close()

    @pytest.fixture
    def reader(self, journal: SqliteJournal) -> Iterator[SqliteReader]:
        reader = SqliteReader(journal.folder)
        yield reader
        reader.close()

    def test_it_agrees_with_the_owner_after_every_append(self, journal: SqliteJournal, reader: SqliteReader) -> None:
        for n in range(9):
            record = one(journal.append([event(str(n), NOON + n, cause=Cause(0, n, 0))], sink="file"))
            reader.refresh()
            assert reader.read(0, n - 1, 9) == [record]
            assert (reader.end(), reader.clock, reader.last_at) == (n, NOON + n, record.at)
            assert (reader.mark("file"), reader.mark("other")) == (Cause(0, n, 0), None)
            assert reader.find(Kind.SOURCE, "/t", str(n)) == n
        assert [reader.find(Kind.SOURCE, "/t", str(n)) for n in range(9)] == list(range(9))
        assert reader.read(0, START, 99) == journal.read(0, START, 99)
        assert reader.incarnation == journal.incarnation

    def test_an_empty_folder_is_an_empty_journal(self, tmp_path: Path) -> None:
        reader = SqliteReader(tmp_path / "nothing")
        assert (reader.end(), reader.clock, reader.last_at, reader.mark("x")) == (START, 0, 0, None)
        assert (reader.read(0, START, 9), reader.find(Kind.SOURCE, "/t", "1"), reader.tallies()) == ([], None, {})
        journal = SqliteJournal(tmp_path / "nothing", "t")
        journal.append([event("1")])
        reader.refresh()
        assert reader.find(Kind.SOURCE, "/t", "1") == 0
        reader.close()
        journal.close()

    def test_an_id_is_found_under_its_kind_and_source_alone(self, journal: SqliteJournal, reader: SqliteReader) -> None:
        journal.append([event("1")])
        assert reader.find(Kind.SOURCE, "/other", "1") is None
        assert reader.find(Kind.QUESTION, "/t", "1") is None
        assert reader.find(Kind.SOURCE, "/t", "2") is None
        with pytest.raises(AssertionError, match="not identified"):
            reader.find(Kind.EXAMPLE, "", "1")

    def test_the_newest_of_an_id_is_found(self, journal: SqliteJournal, reader: SqliteReader) -> None:
        for draft in (event("1"), event("2"), event("3", NOON + 15 * DAY), event("1", NOON + 15 * DAY)):
            journal.append([draft])
        reader.refresh()
        assert reader.find(Kind.SOURCE, "/t", "1") == 3

    @pytest.mark.parametrize("made", ["nothing", "tables", "facts"])
    def test_a_file_that_is_still_being_made_hides_nothing(
        self, journal: SqliteJournal, reader: SqliteReader, made: str
    ) -> None:
        """Taken up too early it would have no first record yet, and those before it would be skipped."""
        records = [one(journal.append([event(str(n), cause=Cause(0, n, 0))], sink="file")) for n in range(2)]
        path = journal.folder / "segment-000000000002.sqlite"
        if made == "nothing":
            path.touch()
        else:
            segment = Segment(path)
            if made == "facts":
                segment.set_meta(first=2, pipeline="t", format=1, incarnation=journal.incarnation)
            segment.close()
        reader.refresh()
        assert reader.read(0, START, 9) == records
        assert (reader.end(), reader.clock, reader.mark("file")) == (1, NOON, Cause(0, 1, 0))
        late = SqliteReader(journal.folder)
        assert late.read(0, 0, 9) == records[1:]
        late.close()
        records.append(one(journal.append([event("2")])))
        reader.refresh()
        assert reader.read(0, START, 9) == records

    def test_an_open_group_is_not_seen(self, journal: SqliteJournal, reader: SqliteReader) -> None:
        journal.append([event("0")])
        with journal.group():
            journal.append([event("1", NOON + DAY, cause=Cause(0, 5, 0))], sink="file")
            assert (reader.end(), reader.clock, reader.last_at, reader.mark("file")) == (0, NOON, NOON, None)
            assert reader.find(Kind.SOURCE, "/t", "1") is None
        assert (reader.end(), reader.clock, reader.mark("file")) == (1, NOON + DAY, Cause(0, 5, 0))
