"""A copy in Redis under faults: killed, emptied, set back, stopped, slow. Answers are right or absent, never wrong."""

import gc
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import apsw
import pytest

from features.breaker import Breaker
from features.online_table import OnlineTable
from features.redis_copy import RedisCopy, RedisSource
from features.redis_line import Declined, RedisLine
from features.redis_table import RedisTable
from features.rows import Row, encode_key
from journal.errors import StoreDown
from journal.sqlite import open_database

pytestmark = pytest.mark.slow

VIEWS = ("orders", "visits")
LIFE = "life-1"
ENTITIES = 300
WANTED = [(view, encode_key([n])) for view in VIEWS for n in range(ENTITIES)]
PATIENCE = 30.0
"""Seconds, where a test waits for an answer that must come."""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """A real redis-server on a port of its own, which it keeps over its restarts."""

    def __init__(self, folder: Path) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as probe:
            self.port = int(probe.getsockname()[1])
        self._folder = folder
        self.start()

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
        )
        with closing(RedisLine(self.address, PATIENCE)) as line:
            while self.process.poll() is None:
                with suppress(StoreDown):
                    line.ask("PING")
                    return
        message = "redis-server ended"
        raise AssertionError(message)

    def ask(self, *command: str) -> object:
        with closing(RedisLine(self.address, PATIENCE)) as line:
            return line.ask(*command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    server = Server(tmp_path)
    yield server
    server.kill()


class Bench:
    """A fold's table with its copy, and a reader of the copy; their clocks stand still."""

    def __init__(self, db: apsw.Connection, address: str, read_from: str = "", deadline: float = PATIENCE) -> None:
        self.db, self.clock, self.written = db, Clock(), 0
        rests = Breaker(failures=1, rest=2, clock=self.clock)
        self.copy = RedisCopy(RedisTable(RedisLine(address, PATIENCE), "p"), LIFE, VIEWS, rests, self.clock)
        self.table = OnlineTable(db, self.copy)
        self.breaker = Breaker(failures=3, rest=1, clock=self.clock)
        self.source = RedisSource(
            RedisTable(RedisLine(read_from or address, deadline), "p"), LIFE, deadline, self.breaker
        )

    def write(self, entities: Sequence[int]) -> None:
        """One commit of the fold: a newer row for each entity in each view."""
        for n in entities:
            self.written += 1
            for view in VIEWS:
                self.table.put(view, Row(encode_key([n]), self.written, self.written, [view, self.written]))
        with self.db:
            self.table.flush()

    def catch_up(self) -> None:
        """The worker's idle turns, with time enough between two for the breaker's rest."""
        for _ in range(100):
            self.clock.now += 2
            self.table.tend()
            if not self.copy.is_behind:
                return
        message = "the copy never caught up"
        raise AssertionError(message)

    def read(self) -> list[Row | None]:
        return self.source.get_many(WANTED)

    def is_right(self) -> bool:
        return self.read() == self.table.get_many(WANTED)

    def close(self) -> None:
        self.copy.close()
        self.source.close()


@pytest.fixture
def bench(server: Server, tmp_path: Path) -> Iterator[Bench]:
    with closing(open_database(tmp_path / "fold.sqlite")) as db, closing(Bench(db, server.address)) as bench:
        bench.write(range(ENTITIES))
        bench.catch_up()
        assert bench.is_right()
        yield bench


def test_while_redis_is_dead_the_fold_goes_on_and_readers_stop_asking(bench: Bench, server: Server) -> None:
    server.kill()
    for n in range(3):
        assert bench.breaker.state == "closed"
        with pytest.raises(StoreDown, match="127"):
            bench.read()
        bench.write([n])
    assert (bench.breaker.state, bench.breaker.opened) == ("open", 1)
    with pytest.raises(StoreDown, match="left alone for a while"):
        bench.read()
    server.start()
    with pytest.raises(StoreDown, match="left alone for a while"):
        bench.read()
    bench.clock.now += 1
    with pytest.raises(StoreDown, match="nothing of this journal's life"):
        bench.read()
    assert bench.breaker.state == "closed"
    bench.catch_up()
    assert bench.is_right()


def test_a_probe_that_fails_leaves_the_circuit_open(bench: Bench, server: Server) -> None:
    server.kill()
    for _ in range(3):
        with pytest.raises(StoreDown):
            bench.read()
    bench.clock.now += 1
    with pytest.raises(StoreDown, match="127"):
        bench.read()
    with pytest.raises(StoreDown, match="left alone for a while"):
        bench.read()
    assert bench.breaker.opened == 1


def test_a_server_that_was_emptied_is_filled_again_with_every_row(bench: Bench, server: Server) -> None:
    server.ask("FLUSHALL")
    with pytest.raises(StoreDown, match="nothing of this journal's life"):
        bench.read()
    bench.write([0])
    bench.catch_up()
    assert bench.is_right()
    found = bench.read()
    assert sum(row is not None for row in found) == len(WANTED)


def test_a_server_that_is_set_back_is_not_believed_for_long(bench: Bench, server: Server) -> None:
    server.ask("SAVE")
    bench.write(range(50))
    bench.catch_up()
    server.kill()
    server.start()
    assert eventually(lambda: not bench.is_right()), "it came back with what it held before"
    bench.catch_up()
    bench.catch_up()
    assert bench.is_right()


@pytest.mark.usefixtures("bench")
def test_rows_of_another_life_are_no_answers(server: Server) -> None:
    other = RedisSource(RedisTable(RedisLine(server.address, PATIENCE), "p"), "life-2")
    with closing(other), pytest.raises(StoreDown, match="nothing of this journal's life"):
        other.get_many(WANTED)


def test_a_stopped_server_costs_a_reader_its_deadline_and_the_fold_nothing_that_is_lost(
    server: Server, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        db = stack.enter_context(closing(open_database(tmp_path / "fold.sqlite")))
        bench = stack.enter_context(closing(Bench(db, server.address, deadline=0.05)))
        bench.write(range(ENTITIES))
        bench.catch_up()
        quick = RedisCopy(
            RedisTable(RedisLine(server.address, 0.05), "p"),
            LIFE,
            VIEWS,
            Breaker(failures=1, rest=2, clock=bench.clock),
        )
        bench.table._copy = bench.copy = stack.enter_context(closing(quick))
        bench.catch_up()
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreDown, match=r"no answer in time|timed out"):
                bench.read()
            bench.write(range(20))
            assert bench.copy.is_behind
        finally:
            server.process.send_signal(signal.SIGCONT)
        server.ask("PING")
        bench.catch_up()
        bench.clock.now += 2
        assert eventually(bench.is_right)


def eventually(holds: Callable[[], bool]) -> bool:
    """A loaded machine may miss a short deadline even when nothing is wrong."""
    for _ in range(200):
        with suppress(StoreDown):
            return holds()
    return False


class SlowProxy:
    """Stands before a server and holds some of its answers back for longer than anybody waits."""

    def __init__(self, port: int, late: Callable[[], bool]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port, self._late = port, late
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.held_back = 0
        self._serve(self._welcome)

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def close(self) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _serve(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()

    def _welcome(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                self._serve(lambda caller=caller: self._talk(caller))  # type: ignore[misc]

    def _talk(self, caller: socket.socket) -> None:
        with caller, socket.create_connection(("127.0.0.1", self._port)) as server, suppress(OSError):
            caller.settimeout(0.05)
            while not self._over.is_set():
                with suppress(TimeoutError):
                    if not (asked := caller.recv(1 << 20)):
                        return
                    server.sendall(asked)
                    answer = server.recv(1 << 20)
                    if self._late():
                        self.held_back += 1
                        self._over.wait(0.2)
                    caller.sendall(answer)


def test_behind_a_slow_network_an_answer_is_in_time_and_right_or_it_is_none(server: Server, tmp_path: Path) -> None:
    """One in ten is late. A late answer is of a question that nobody asks any more: it must not answer the next."""
    seeded = random.Random(10)
    with ExitStack() as stack:
        proxy = stack.enter_context(closing(SlowProxy(server.port, lambda: seeded.random() < 0.1)))
        db = stack.enter_context(closing(open_database(tmp_path / "fold.sqlite")))
        bench = stack.enter_context(closing(Bench(db, server.address, proxy.address, deadline=0.1)))
        bench.write(range(ENTITIES))
        bench.catch_up()
        told = missing = 0
        for n in range(150):
            bench.clock.now += 1
            asked = [(view, encode_key([n])) for view in VIEWS]
            try:
                found = bench.source.get_many(asked)
            except StoreDown:
                missing += 1
                continue
            assert found == bench.table.get_many(asked)
            told += 1
        assert told > missing >= proxy.held_back > 0


def test_a_server_that_never_answers_in_time_is_asked_less_and_less(server: Server, tmp_path: Path) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(closing(SlowProxy(server.port, lambda: True)))
        db = stack.enter_context(closing(open_database(tmp_path / "fold.sqlite")))
        bench = stack.enter_context(closing(Bench(db, server.address, proxy.address, deadline=0.05)))
        bench.write(range(10))
        bench.catch_up()
        for n in range(200):
            bench.clock.now += 0.01
            with pytest.raises(StoreDown):
                bench.source.get_many([(VIEWS[0], encode_key([n]))])
        assert proxy.held_back <= 3 + 2, "three failures open the circuit, then one probe a second"


def test_a_connection_that_redis_let_go_of_is_made_anew_before_anything_is_asked_on_it(server: Server) -> None:
    with closing(RedisLine(server.address, PATIENCE)) as line:
        line.ask("SET", "a", "1")
        server.ask("CLIENT", "KILL", "TYPE", "normal")
        assert line.ask("GET", "a") == b"1"
        server.kill()
        server.start()
        assert (line.ask("PING"), line.ask("GET", "a")) == (b"PONG", None)


def test_a_server_that_speaks_no_tls_is_named_and_leaves_no_connection_open(server: Server) -> None:
    # It waits for the rest of what it takes for a command, so the deadline ends this.
    with closing(RedisLine(server.address.replace("redis://", "rediss://"), 0.1)) as line:
        for _ in range(2):
            with pytest.raises(StoreDown, match=f"127.0.0.1:{server.port}"):
                line.ask("PING")
    gc.collect()


def test_what_redis_declines_says_what_to_do(server: Server) -> None:
    def declined(address: str, *command: str) -> str:
        with closing(RedisLine(address, PATIENCE)) as line, pytest.raises(Declined) as error:
            line.ask(*command)
        return str(error.value)

    server.ask("CONFIG", "SET", "maxmemory", "1")
    assert "more memory" in declined(server.address, "SET", "a", "1")
    server.ask("CONFIG", "SET", "maxmemory", "0")
    server.ask("REPLICAOF", "127.0.0.1", "1")
    assert "primary" in declined(server.address, "SET", "a", "1")
    server.ask("REPLICAOF", "NO", "ONE")
    server.ask("CONFIG", "SET", "requirepass", "right")
    assert "its password" in declined(server.address, "GET", "a")
    assert "Correct" in (told := declined(server.address.replace("//", "//:wrong@"), "GET", "a"))
    assert "wrong" not in told
    with closing(RedisLine(server.address.replace("//", "//:right@"), PATIENCE)) as line:
        assert line.ask("PING") == b"PONG"
