import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from features.history import MARK, History, open_dataset
from features.outbox import Outbox, arrow_schema, arrow_table
from features.rows import Row, ViewSchema, encode_key
from journal.errors import Corrupt, Misconfigured, UnknownName
from journal.sqlite import open_database

BASE = 1_365_000_000_000_000
VIEW = ViewSchema(
    "flights",
    (("carrier", "string"), ("number", "int64")),
    (("delay", "float64"), ("count", "int64"), ("gate", "string"), ("late", "bool")),
)
OTHER = ViewSchema("other", (("k", "string"),), (("x", "int64"),))


def flight(n: int, values: list[Any] | None = None, known: int | None = None) -> Row:
    return Row(
        encode_key([f"c{n % 3}", n % 5]),
        BASE + n,
        BASE + (n if known is None else known),
        values or [n / 2, n, "g", True],
    )


def delivered(root: Path, view: str = "flights") -> list[int]:
    """The known times in a view's table, in order."""
    known = open_dataset(root / view).to_table(columns=["known_timestamp"])["known_timestamp"].cast(pa.int64())
    return sorted(value - BASE for value in known.to_pylist())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "history"


@pytest.fixture
def db(tmp_path: Path) -> apsw.Connection:
    return open_database(tmp_path / "fold.sqlite")


@pytest.fixture
def history(root: Path) -> History:
    return History(root, [VIEW, OTHER])


@pytest.fixture
def outbox(db: apsw.Connection) -> Outbox:
    return Outbox(db, [VIEW, OTHER])


def save(outbox: Outbox, db: apsw.Connection, *rows: Row, view: str = "flights") -> None:
    with db:
        outbox.add(view, rows)
        outbox.save()


def test_rows_arrive_with_keys_stamps_fields_and_deletes(history: History, outbox: Outbox, db: apsw.Connection) -> None:
    gone = Row(encode_key(["AA", 7]), BASE + 3, BASE + 4, None)
    save(outbox, db, flight(1, [0.5, 2**53 + 1, None, False]), gone)
    assert history.flush(outbox) == 2
    table = history.read("flights")
    assert table.schema.equals(arrow_schema(VIEW))
    assert [list(row.values()) for row in table.cast(_plain(table.schema)).to_pylist()] == [
        ["c1", 1, BASE + 1, BASE + 1, 0.5, 2**53 + 1, None, False, False],
        ["AA", 7, BASE + 3, BASE + 4, None, None, None, None, True],
    ]


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in schema])


def test_rows_exist_only_with_the_transaction_that_caused_them(outbox: Outbox, db: apsw.Connection) -> None:
    with pytest.raises(ZeroDivisionError), db:
        outbox.add("flights", [flight(1)])
        outbox.save()
        raise ZeroDivisionError
    assert Outbox(db, [VIEW]).pending_rows() == 0


def test_a_flush_waits_for_enough_rows_unless_it_is_a_barrier(
    history: History, outbox: Outbox, db: apsw.Connection, root: Path
) -> None:
    save(outbox, db, flight(1), flight(2))
    save(outbox, db, Row(encode_key(["a"]), BASE, BASE, [1]), view="other")
    assert outbox.pending_rows() == 3
    assert history.flush(outbox, at_least=4) == 0
    assert history.flush(outbox, at_least=3) == 3
    assert (delivered(root), delivered(root, "other"), outbox.pending_rows()) == ([1, 2], [0], 0)
    assert history.flush(outbox) == 0


def test_rows_that_share_a_known_time_all_arrive(
    history: History, outbox: Outbox, db: apsw.Connection, root: Path
) -> None:
    save(outbox, db, *(flight(n, known=9) for n in range(4)))
    save(outbox, db, *(flight(n, known=10) for n in range(4)))
    history.flush(outbox)
    assert delivered(root) == [9] * 4 + [10] * 4


def test_a_crash_between_append_and_confirm_loses_and_repeats_nothing(
    history: History, outbox: Outbox, db: apsw.Connection, root: Path
) -> None:
    save(outbox, db, flight(1), flight(2))
    rows, through, _ = outbox.read("flights")
    assert history.append("flights", rows, through, 0) == 2
    save(outbox, db, flight(3))
    assert History(root, [VIEW]).flush(Outbox(db, [VIEW])) == 1
    assert delivered(root) == [1, 2, 3]
    assert Outbox(db, [VIEW]).pending_rows() == 0


def test_a_fold_rebuilt_from_nothing_delivers_only_what_is_new(
    history: History, outbox: Outbox, db: apsw.Connection, root: Path, tmp_path: Path
) -> None:
    save(outbox, db, *(flight(n) for n in range(1, 6)))
    history.flush(outbox)
    fresh = open_database(tmp_path / "rebuilt.sqlite")
    again = Outbox(fresh, [VIEW])
    save(again, fresh, *(flight(n) for n in range(1, 9)))
    assert history.flush(again) == 3
    assert delivered(root) == list(range(1, 9))


def test_the_mark_survives_a_checkpoint_of_the_log(
    history: History, outbox: Outbox, db: apsw.Connection, root: Path
) -> None:
    for n in range(1, 4):
        save(outbox, db, flight(n))
        history.flush(outbox)
    table = DeltaTable(str(root / "flights"))
    table.create_checkpoint()
    for log in sorted((root / "flights" / "_delta_log").glob("*.json"))[:-1]:
        log.unlink()
    assert DeltaTable(str(root / "flights")).transaction_version(MARK) == BASE + 3
    rows, through, _ = outbox.read("flights")
    assert (len(rows), through) == (0, 0)
    again = arrow_table(VIEW, arrow_schema(VIEW), [flight(3), flight(4)])
    assert history.append("flights", again, BASE + 4, BASE + 3) == 1
    assert delivered(root) == [1, 2, 3, 4]


CHILD = """
import os, signal, sys
from pathlib import Path
from features.history import History
from features.outbox import Outbox
from features.rows import Row, ViewSchema, encode_key
from journal.sqlite import open_database

home, step, when, last = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
view = ViewSchema("other", (("k", "string"),), (("x", "int64"),))
db = open_database(home / "fold.sqlite")
outbox, history = Outbox(db, [view]), History(home / "history", [view])
reached = "SELECT max(k) FROM (SELECT max(through_known) k FROM outbox UNION SELECT max(through_known) FROM flushed)"
n = db.execute(reached).get or 0

def dying(real):
    def call(*args):
        if when == "before" and n == last:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args)
        if when == "after" and n == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

owner = history if step == "append" else outbox
setattr(owner, step, dying(getattr(owner, step)))
while n < 12:
    n += 1
    with db:
        outbox.add("other", [Row(encode_key([key]), n, n, [n]) for key in "ab"])
        outbox.save()
    history.flush(outbox)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["save", "append", "confirm"])
def test_kill_minus_nine_around_each_step(tmp_path: Path, root: Path, step: str, when: str) -> None:
    def run(last: int) -> int:
        command = [sys.executable, "-c", CHILD, str(tmp_path), step, when, str(last)]
        return subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(Path.cwd())}).returncode

    assert [run(4), run(9), run(99)] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    History(root, [OTHER]).flush(Outbox(open_database(tmp_path / "fold.sqlite"), [OTHER]))
    assert delivered(root, "other") == [n - BASE for n in range(1, 13) for _ in "ab"]


def test_history_of_one_entity_is_its_newest_rows_oldest_first(
    history: History, outbox: Outbox, db: apsw.Connection
) -> None:
    save(outbox, db, *(flight(n) for n in range(1, 40)))
    history.flush(outbox)
    one = history.read("flights", key=["c1", 2], limit=2)
    assert one["count"].to_pylist() == [22, 37]
    assert history.read("flights", limit=3)["count"].to_pylist() == [37, 38, 39]
    assert len(history.read("flights", limit=100)) == 39
    assert len(history.read("flights", key=["nobody", 0])) == 0
    with pytest.raises(UnknownName, match="flights, other"):
        history.read("nothing")


def _tear(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


def _empty(log: Path) -> None:
    log.write_bytes(b"")


def _remove(log: Path) -> None:
    log.unlink()


@pytest.mark.parametrize("damage", [_tear, _empty, _remove])
def test_a_damaged_log_is_an_error_and_the_outbox_keeps_its_rows(
    history: History, outbox: Outbox, db: apsw.Connection, root: Path, damage: Any
) -> None:
    save(outbox, db, flight(1))
    history.flush(outbox)
    save(outbox, db, flight(2))
    damage(max((root / "flights" / "_delta_log").glob("*.json")))
    with pytest.raises(Corrupt, match="flights"):
        history.flush(outbox)
    assert outbox.pending_rows() == 1


def test_a_flipped_byte_in_the_outbox_is_an_error(history: History, outbox: Outbox, db: apsw.Connection) -> None:
    save(outbox, db, flight(1))
    db.execute("UPDATE outbox SET rows = CAST(substr(rows, 1, 100) || x'07' || substr(rows, 102) AS BLOB)")
    with pytest.raises(Corrupt, match="outbox 1 of view 'flights'"):
        history.flush(outbox)


def test_a_missing_table_is_named(root: Path) -> None:
    with pytest.raises(UnknownName, match="nothing holds no Delta table"):
        open_dataset(root / "nothing")


@pytest.mark.parametrize(
    ("keys", "fields", "complaint"),
    [
        ((("k", "string"),), (("x", "decimal"),), "x is 'decimal'"),
        ((("b", "string"), ("a", "string")), (), "not sorted"),
    ],
)
def test_a_schema_with_mistakes_is_refused(keys: Any, fields: Any, complaint: str) -> None:
    with pytest.raises(Misconfigured, match=complaint):
        ViewSchema("v", keys, fields)
