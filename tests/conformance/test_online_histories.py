"""Every online table holds the row with the largest stamp of each key: 10,000 random histories, and eight writers."""

import random
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from features.online_table import OnlineTable
from features.redis_line import RedisLine
from features.redis_shelf import RedisShelf
from features.redis_table import RedisTable
from features.rows import Row, encode_key
from features.sqlite_shelf import SqliteShelf
from features.stored_row import living
from journal.errors import StoreDown
from journal.sqlite import open_database

pytestmark = pytest.mark.slow

FIELDS = ["a:Float64", "b:String"]
HISTORIES, ROUNDS = 10_000, 5
WRITERS, KEYS, BATCHES, ROWS = 8, 60, 30, 25
WRITER = textwrap.dedent("""
    import random, sys
    from pathlib import Path
    from features.redis_line import RedisLine
    from features.redis_shelf import RedisShelf
    from features.redis_table import RedisTable
    from features.rows import Row, encode_key
    from features.sqlite_shelf import SqliteShelf
    where, seed, keys, batches, rows = sys.argv[1], *map(int, sys.argv[2:])
    redis = where.startswith("redis")
    shelf = RedisShelf(RedisTable(RedisLine(where, 30), "eight")) if redis else SqliteShelf(Path(where), owned=False)
    rng = random.Random(seed)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(batches):
        batch = [
            Row(encode_key([key]), rng.randrange(50), rng.randrange(50) * 8 + seed, [rng.random(), str(seed)])
            for key in rng.sample(range(keys), rows)
        ]
        shelf.write("v", ["a:Float64", "b:String"], batch, None)
    shelf.close()
""")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server of this module's own, on loopback."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(home)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    line = RedisLine(f"redis://127.0.0.1:{port}/0", 30)
    while server.poll() is None:
        with suppress(StoreDown):
            line.ask("PING")
            break
    line.close()
    yield f"redis://127.0.0.1:{port}/0"
    server.kill()
    server.wait()


class FoldsFile:
    """A fold's table that is flushed after each batch, and read as the plugin reads an owned file."""

    def __init__(self, path: Path) -> None:
        self._db = open_database(path)
        self._table = OnlineTable(self._db)
        self._reader = SqliteShelf(path, owned=True)

    def write(self, view: str, fields: Sequence[str], rows: Sequence[Row], keep: int | None) -> None:
        for row in rows:
            self._table.put(view, row)
        with self._db:
            self._table.flush()

    def read(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        assert self._table.get_many(wanted) == [living(row) for row in self._reader.read(wanted)]
        return self._reader.read(wanted)


def random_row(rng: random.Random, key: bytes) -> Row:
    """Stamps collide often, one in eight is a delete; lists, since that is what is read back."""
    values: list[Any] | None = None if rng.random() < 0.125 else [rng.random(), rng.choice("xyz")]
    return Row(key, rng.randrange(4) - 1, rng.randrange(4), values)


def chunks(rng: random.Random, rows: list[Row]) -> Iterator[list[Row]]:
    """The same rows in another order, cut into pieces of some size."""
    rows = rng.sample(rows, len(rows))
    size = rng.choice([700, 2_500, 6_000])
    return (rows[start : start + size] for start in range(0, len(rows), size))


def test_ten_thousand_histories_of_writes_and_reads_agree(tmp_path: Path, address: str) -> None:
    rng = random.Random(2013)
    stores: dict[str, Any] = {
        "own file": SqliteShelf(tmp_path / "own.sqlite", owned=False),
        "fold's file": FoldsFile(tmp_path / "fold.sqlite"),
        "Redis": RedisShelf(RedisTable(RedisLine(address, 30), "histories")),
    }
    keys = [encode_key([n, "ü"]) for n in range(HISTORIES)]
    oracle: dict[bytes, Row] = {}
    refused = 0
    for _ in range(ROUNDS):
        rows = [random_row(rng, key) for key in keys if rng.random() < 0.9]
        for row in rows:
            held = oracle.get(row.key)
            if held is None or (row.event, row.known) > (held.event, held.known):
                oracle[row.key] = row
            else:
                refused += 1
        for store in stores.values():
            for chunk in chunks(rng, rows):
                store.write("v", FIELDS, chunk, None)
        wanted = [("v", key) for key in rng.sample(keys, len(keys))]
        expected = [oracle.get(key) for _, key in wanted]
        for name, store in stores.items():
            assert store.read(wanted) == expected, name
    assert refused > HISTORIES
    stores["own file"].close()
    stores["Redis"].close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_eight_processes_leave_the_largest_stamp_of_each_key(tmp_path: Path, address: str, kind: str) -> None:
    where = address if kind == "redis" else str(tmp_path / "own.sqlite")
    numbers = [str(number) for number in (KEYS, BATCHES, ROWS)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, where, str(seed), *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(WRITERS)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.communicate("go\n")
        assert [writer.returncode for writer in writers] == [0] * WRITERS
    finally:
        for writer in writers:
            if writer.poll() is None:
                writer.kill()
                writer.communicate()
    redis = RedisShelf(RedisTable(RedisLine(where, 30), "eight")) if kind == "redis" else None
    shelf = redis or SqliteShelf(Path(where), owned=False)
    wanted = [("v", encode_key([key])) for key in range(KEYS)]
    assert {row.key: row for row in shelf.read(wanted) if row is not None} == largest()
    shelf.close()


def largest() -> dict[bytes, Row]:
    """What every writer says, generated again, and of each key the row with the largest stamp."""
    best: dict[bytes, Row] = {}
    for seed in range(WRITERS):
        rng = random.Random(seed)
        for _ in range(BATCHES):
            for key in rng.sample(range(KEYS), ROWS):
                event, known = rng.randrange(50), rng.randrange(50) * 8 + seed
                row = Row(encode_key([key]), event, known, [rng.random(), str(seed)])
                held = best.get(row.key)
                if held is None or (event, known) > (held.event, held.known):
                    best[row.key] = row
    return best
