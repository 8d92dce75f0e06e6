import random
import threading
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.online_table import PAIRS_PER_SELECT, OnlineReader, OnlineTable
from features.rows import Row, decode_key, encode_key
from journal.errors import Corrupt, UnknownName
from journal.sqlite import open_database

STAMPS = st.tuples(st.integers(0, 5), st.integers(0, 5))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fold.sqlite"


@pytest.fixture
def db(path: Path) -> apsw.Connection:
    return open_database(path)


def row(key: str, event: int, known: int, *values: float | str | bool | None) -> Row:
    return Row(encode_key([key]), event, known, values)


def flushed(db: apsw.Connection, *rows: Row) -> OnlineTable:
    table = OnlineTable(db)
    for each in rows:
        table.put("v", each)
    with db:
        table.flush()
    return table


def test_only_a_larger_stamp_is_taken(db: apsw.Connection) -> None:
    table = flushed(db, row("a", 10, 10, 1.0))
    offers = [(9, 99), (10, 10), (10, 9), (10, 11), (11, 0), (10, 12)]
    assert [table.put("v", row("a", *stamp, 2.0)) for stamp in offers] == [False, False, False, True, True, False]
    assert table.get_many([("v", encode_key(["a"]))]) == [row("a", 11, 0, 2.0)]


def test_views_do_not_share_keys(db: apsw.Connection) -> None:
    table = OnlineTable(db)
    assert table.put("v", row("a", 5, 5, 1.0))
    assert table.put("w", row("a", 1, 1, 2.0))
    found = table.get_many([("w", encode_key(["a"])), ("v", encode_key(["a"])), ("x", encode_key(["a"]))])
    assert [each.values if each else None for each in found] == [(2.0,), (1.0,), None]


def test_nothing_is_in_the_file_before_the_flush(db: apsw.Connection, path: Path) -> None:
    table = OnlineTable(db)
    table.put("v", row("a", 1, 1, 1.0))
    reader = OnlineReader(path)
    assert reader.get_many([("v", encode_key(["a"]))]) == [None]
    with db:
        table.flush()
    assert reader.get_many([("v", encode_key(["a"]))]) == [Row(encode_key(["a"]), 1, 1, [1.0])]


def test_a_reopened_table_guards_against_what_is_stored(db: apsw.Connection) -> None:
    flushed(db, row("a", 10, 10, 1.0))
    again = OnlineTable(db)
    assert not again.put("v", row("a", 10, 10, 2.0))
    assert again.put("v", row("a", 10, 11, 3.0))


def test_a_stale_memory_cannot_overwrite_the_file(db: apsw.Connection, path: Path) -> None:
    first = flushed(db, row("a", 1, 1, 1.0))
    flushed(db, row("a", 9, 9, 9.0))
    assert first.put("v", row("a", 5, 5, 5.0))
    with db:
        first.flush()
    assert OnlineReader(path).get_many([("v", encode_key(["a"]))]) == [Row(encode_key(["a"]), 9, 9, [9.0])]


def test_a_delete_reads_as_missing_and_still_guards(db: apsw.Connection, path: Path) -> None:
    table = flushed(db, row("a", 1, 1, 1.0))
    assert table.delete("v", encode_key(["a"]), 2, 2)
    with db:
        table.flush()
    wanted = [("v", encode_key(["a"]))]
    assert table.get_many(wanted) == OnlineReader(path).get_many(wanted) == OnlineTable(db).get_many(wanted) == [None]
    assert not OnlineTable(db).put("v", row("a", 1, 5, 1.0))
    assert list(OnlineTable(db).rows("v")) == [Row(encode_key(["a"]), 2, 2, None)]


def test_rows_come_in_key_order_from_file_and_memory(db: apsw.Connection) -> None:
    names = [f"k{n}" for n in range(20)]
    random.Random(7).shuffle(names)
    flushed(db, *(row(name, 1, 1, 1.0) for name in names[:10]))
    table = OnlineTable(db)
    for name in names[5:]:
        table.put("v", row(name, 2, 2, 2.0))
    rows = list(table.rows("v"))
    assert [each.key for each in rows] == sorted(encode_key([name]) for name in names)
    assert {decode_key(each.key)[0] for each in rows if each.event == 1} == set(names[:5])


def test_one_read_takes_more_pairs_than_one_statement(db: apsw.Connection, path: Path) -> None:
    flushed(db, row("0", 1, 1, 0), row(str(PAIRS_PER_SELECT), 1, 1, 1))
    wanted = [("v", encode_key([str(n)])) for n in range(PAIRS_PER_SELECT + 1)]
    found = OnlineReader(path).get_many(wanted)
    assert [n for n, each in enumerate(found) if each] == [0, PAIRS_PER_SELECT]


def test_values_keep_their_types(db: apsw.Connection, path: Path) -> None:
    values = (2**53 + 1, -(2**63), 0.1, -0.0, True, None, "ünïcode", "")
    flushed(db, row("a", 1, 1, *values))
    (found,) = OnlineReader(path).get_many([("v", encode_key(["a"]))])
    assert found is not None and found.values is not None
    assert [(type(value), repr(value)) for value in found.values] == [(type(value), repr(value)) for value in values]


@pytest.mark.parametrize("place", [0, 4, 11, 12, 19, 20, -1], ids=lambda place: f"byte {place}")
def test_a_changed_byte_is_an_error_that_names_file_view_and_key(db: apsw.Connection, path: Path, place: int) -> None:
    flushed(db, row("a", 1, 1, 2))
    stored = bytearray(db.execute("SELECT row FROM online").get)
    stored[place] ^= 1
    db.execute("UPDATE online SET row = ?", (bytes(stored),))
    key = encode_key(["a"])
    with pytest.raises(Corrupt) as error:
        OnlineReader(path).get_many([("v", key)])
    assert all(part in error.value.which for part in ("fold.sqlite", "'v'", key.hex()))
    with pytest.raises(Corrupt):
        list(OnlineTable(db).rows("v"))


def test_a_file_without_the_table_says_so(db: apsw.Connection, path: Path) -> None:
    db.execute("CREATE TABLE other (x)")
    with pytest.raises(UnknownName, match="no online table"):
        OnlineReader(path)


def test_threads_read_while_one_writes(db: apsw.Connection, path: Path) -> None:
    table = flushed(db, *(row(str(n), 0, 0, 0) for n in range(10)))
    reader, rounds = OnlineReader(path), 60
    wanted = [("v", encode_key([str(n)])) for n in range(10)]
    torn: list[list[int]] = []

    def read() -> None:
        last = 0
        while last < rounds:
            events = [each.event for each in reader.get_many(wanted) if each]
            if len(set(events)) != 1 or events[0] < last:
                torn.append(events)
                return
            last = events[0]

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for step in range(1, rounds + 1):
        with db:
            for n in range(10):
                table.put("v", row(str(n), step, step, step))
            table.flush()
    for thread in threads:
        thread.join()
    assert torn == []


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(st.tuples(st.sampled_from("ab"), STAMPS, st.booleans())),
    flushes=st.sets(st.integers(0, 20)),
    reopens=st.sets(st.integers(0, 20)),
)
def test_any_order_of_writes_leaves_the_largest_stamp(
    writes: list[tuple[str, tuple[int, int], bool]], flushes: set[int], reopens: set[int]
) -> None:
    db = apsw.Connection(":memory:")
    table = OnlineTable(db)
    best: dict[str, tuple[tuple[int, int], int | None]] = {}
    for n, (key, stamp, deleted) in enumerate(writes):
        taken = table.put("v", Row(encode_key([key]), *stamp, None if deleted else (n,)))
        assert taken == (key not in best or stamp > best[key][0])
        if taken:
            best[key] = (stamp, None if deleted else n)
        if n in flushes or n in reopens:
            table.flush()
        if n in reopens:
            table = OnlineTable(db)
    table.flush()
    stored = {str(decode_key(each.key)[0]): each for each in OnlineTable(db).rows("v")}
    found = {key: ((each.event, each.known), each.values and each.values[0]) for key, each in stored.items()}
    assert found == best
