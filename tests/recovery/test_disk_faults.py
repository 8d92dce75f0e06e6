"""R5, R6, R7: the journal on a disk that loses, reorders and refuses writes, under a file system layer of its own."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import pytest

from journal import sqlite_log
from journal.acked import Acked
from journal.clock import SECOND
from journal.errors import DurabilityLost
from journal.log import START, Repeat
from journal.record import Cause, Draft, Kind, Record
from journal.sqlite_log import SqliteJournal
from journal.verify import verify

pytestmark = pytest.mark.slow
NOON = 1_357_041_600 * SECOND
SIZES = (1, 3, 1, 2, 4, 1, 1, 3, 2, 1, 4, 2)


def event(n: int) -> Draft:
    # Every fourth one fills pages of its own, so that commits are of different shapes.
    body = b'{"n":"%s"}' % (b"x" * (9_000 if n % 4 == 3 else 20))
    return Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=body, cause=Cause(0, n, 0))


@dataclass(frozen=True)
class Op:
    """One thing that was done to one file; ``what`` is write, truncate, sync, delete or ack."""

    what: str
    file: str = ""
    at: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """What is done is written down; what is told to fail fails."""

    ops: list[Op] = field(default_factory=list)
    fails: Callable[[Op], Exception | None] = lambda _: None

    def do(self, op: Op) -> None:
        error = self.fails(op)
        if error is not None:
            raise error
        self.ops.append(op)


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str, filename: object, flags: list[int]) -> None:
        self.disk, self.name = disk, name
        super().__init__("unix", filename, flags)  # type: ignore[arg-type]

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self.disk.do(Op("write", self.name, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self.disk.do(Op("truncate", self.name, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.disk.do(Op("sync", self.name))
        # Not passed on: no test here depends on a real sync, and there are thousands.

    def excepthook(self, etype: object, evalue: object, etraceback: object) -> bool:
        """Failures are meant; SQLite is told of each, and what it keeps to itself is what the tests look at."""
        return True


class DiskVFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        super().__init__("watched", "unix")

    def xOpen(self, name: object, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        return DiskFile(self.disk, Path(path).name, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        self.disk.do(Op("delete", Path(filename).name))
        super().xDelete(filename, syncdir)


@pytest.fixture
def ram() -> Iterator[Path]:
    """A folder in memory, where there is one: what is watched here is what SQLite asks for, thousands of times."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@contextmanager
def unwatched() -> Iterator[None]:
    """The plain file system: read-only files refuse a lock at close, which only a layer in Python makes heard."""
    apsw.set_default_vfs("unix")
    yield
    apsw.set_default_vfs("watched")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    vfs = DiskVFS(disk)
    apsw.set_default_vfs("watched")
    monkeypatch.setattr(sqlite_log, "PAGES_PER_CHECKPOINT", 9)
    yield disk
    apsw.set_default_vfs("unix")
    vfs.unregister()


def opened(folder: Path) -> SqliteJournal:
    return SqliteJournal(folder, "t", records_per_segment=11)


def ids(journal: SqliteJournal) -> list[str]:
    return [record.id for record in journal.read(0, START, 10_000)]


def write_all(folder: Path, disk: Disk) -> list[int]:
    """Groups of several sizes over several segments, and a restart in the middle; where each group ended."""
    ends = [0]
    journal = opened(folder)
    for number, size in enumerate(SIZES):
        journal.append([event(n) for n in range(ends[-1], ends[-1] + size)], sink="file")
        ends.append(ends[-1] + size)
        disk.ops.append(Op("ack", at=ends[-1]))
        if number == len(SIZES) // 2:
            journal.close()
            journal = opened(folder)
    journal.close()
    return ends


def apply(content: bytearray, op: Op) -> None:
    if op.what == "truncate":
        del content[op.at :]
    else:
        content.extend(bytes(max(0, op.at + len(op.data) - len(content))))
        content[op.at : op.at + len(op.data)] = op.data


def keep_none(_: Sequence[Op], __: random.Random) -> list[Op]:
    return []


def keep_all(pending: Sequence[Op], _: random.Random) -> list[Op]:
    return list(pending)


def keep_the_later(pending: Sequence[Op], _: random.Random) -> list[Op]:
    return list(pending[len(pending) // 2 :])


def keep_the_earlier_and_half_of_one(pending: Sequence[Op], _: random.Random) -> list[Op]:
    *earlier, last = pending[: len(pending) // 2 + 1]
    return [*earlier, Op(last.what, last.file, last.at, last.data[: len(last.data) // 2])]


def keep_some_sectors(pending: Sequence[Op], chance: random.Random) -> list[Op]:
    sectors = [
        Op(op.what, op.file, op.at + start, op.data[start : start + 512])
        for op in pending
        for start in range(0, max(len(op.data), 1), 512)
    ]
    return [sector for sector in sectors if chance.random() < 0.5]


KEEPERS = (
    keep_none,
    keep_all,
    keep_the_later,
    keep_the_earlier_and_half_of_one,
    keep_some_sectors,
    keep_some_sectors,
    keep_some_sectors,
)


class Platter:
    """What lies on the disk for sure, and what was written since each file's last sync."""

    def __init__(self) -> None:
        self.durable: dict[str, bytearray] = {}
        self.pending: dict[str, list[Op]] = {}
        self.deleted: dict[str, bytearray] = {}

    def take(self, op: Op) -> None:
        match op.what:
            case "sync":
                content = self.durable.setdefault(op.file, bytearray())
                for each in self.pending.pop(op.file, []):
                    apply(content, each)
                self.deleted.clear()
            case "delete":
                self.pending.pop(op.file, None)
                if op.file in self.durable:
                    self.deleted[op.file] = self.durable.pop(op.file)
            case _:
                self.pending.setdefault(op.file, []).append(op)

    def image(self, folder: Path, keeper: Callable[[Sequence[Op], random.Random], list[Op]], seed: int) -> None:
        chance = random.Random(seed)
        folder.mkdir()
        undeleted = self.deleted if keeper is keep_none else {}
        for name in sorted({*self.durable, *self.pending, *undeleted}):
            content = bytearray(self.durable.get(name, undeleted.get(name, b"")))
            for op in keeper(self.pending[name], chance) if self.pending.get(name) else []:
                apply(content, op)
            if content or name in self.durable:
                (folder / name).write_bytes(content)


def check_image(folder: Path, acked: int, ends: Sequence[int]) -> None:
    journal = opened(folder)
    found = ids(journal)
    assert found == [f"e{n}" for n in range(len(found))]
    assert len(found) >= acked
    assert len(found) in ends
    assert journal.mark("file") == (Cause(0, len(found) - 1, 0) if found else None)
    outcomes = journal.append([event(n) for n in range(ends[-1])])
    assert outcomes[: len(found)] == [Repeat(n) for n in range(len(found))]
    assert [outcome.offset for outcome in outcomes if isinstance(outcome, Record)] == list(range(len(found), ends[-1]))
    journal.close()
    assert verify(folder).damage == []


def test_every_crash_image_holds_what_was_acknowledged(disk: Disk, ram: Path) -> None:
    ends = write_all(ram / "live", disk)
    ops, disk.ops = disk.ops, []
    platter, acked, images = Platter(), 0, 0
    apsw.set_default_vfs("unix")
    for number, op in enumerate(ops):
        for variant, keeper in enumerate(KEEPERS if op.what in {"sync", "ack", "delete"} else ()):
            folder = ram / "image"
            platter.image(folder, keeper, seed=1_000 * number + variant)
            if variant % 2 and acked:
                Acked(folder, "of this life 16 ", acked - 1).close()
            check_image(folder, acked, ends)
            shutil.rmtree(folder)
            images += 1
        if op.what == "ack":
            acked = op.at
        else:
            platter.take(op)
    print(f"{images} crash images at {images // len(KEEPERS)} points")
    assert images >= 400


def test_an_acknowledgement_without_a_sync_would_be_seen(disk: Disk, ram: Path) -> None:
    """The images can tell: with the syncs of the log left out, some image misses what was acknowledged."""
    ends = write_all(ram / "live", disk)
    ops, disk.ops = disk.ops, []
    platter, acked, lost = Platter(), 0, 0
    for op in ops[: len(ops) // 2]:
        if op.what == "ack":
            acked = op.at
            platter.image(ram / "image", keep_none, seed=0)
            journal = opened(ram / "image")
            lost += len(ids(journal)) < acked <= ends[-1]
            journal.close()
            shutil.rmtree(ram / "image")
        elif not (op.what == "sync" and op.file.endswith("-wal")):
            platter.take(op)
    assert lost > 0


def count_ops(disk: Disk, folder: Path, what: str) -> int:
    write_all(folder, disk)
    number = sum(op.what == what for op in disk.ops)
    disk.ops.clear()
    shutil.rmtree(folder)
    return number


class From:
    """Fails the n-th operation of a kind and all after it, until it is mended."""

    def __init__(self, what: str, n: int, error: Exception, only: bool = False) -> None:
        self.what, self.n, self.error, self.only = what, n, error, only
        self.seen, self.hit = 0, False

    def __call__(self, op: Op) -> Exception | None:
        if op.what != self.what:
            return None
        self.seen += 1
        if self.seen == self.n or (self.seen > self.n and not self.only):
            self.hit = True
            return self.error
        return None


def test_a_full_disk_acknowledges_nothing_and_heals_without_a_restart(disk: Disk, ram: Path) -> None:
    """At every write of the run in turn: in the log, in the file while the log is emptied, while a segment begins."""
    refused = 0
    for n in range(1, count_ops(disk, ram / "x", "write") + 1, 2):
        folder, acked, full = ram / f"{n}", 0, From("write", n, apsw.FullError("full"))
        journal = opened(folder)
        disk.fails = full
        for size in SIZES:
            drafts = [event(e) for e in range(acked, acked + size)]
            try:
                outcomes = journal.append(drafts, sink="file")
            except DurabilityLost as error:
                assert "Make room" in error.fix
                assert journal.end() == acked - 1
                refused += 1
                disk.fails = lambda _: None
                outcomes = journal.append(drafts, sink="file")
            acked += size
            assert [outcome.offset for outcome in outcomes if isinstance(outcome, Record)][-1] == acked - 1
            assert ids(journal) == [f"e{e}" for e in range(acked)]
        disk.fails = lambda _: None
        journal.close()
        with unwatched():
            assert verify(folder).damage == []
        shutil.rmtree(folder)
    assert refused > 20


def test_after_a_failed_sync_nothing_is_acknowledged(disk: Disk, ram: Path) -> None:
    """At every sync of the run in turn, which works again right after: to try again would be to hope."""
    stopped = 0
    for n in range(1, count_ops(disk, ram / "x", "sync") + 1):
        folder, acked, error = ram / f"{n}", 0, apsw.IOError("sync")
        journal = opened(folder)
        disk.fails = From("sync", n, error, only=True)
        for size in SIZES:
            try:
                journal.append([event(e) for e in range(acked, acked + size)], sink="file")
            except DurabilityLost as lost:
                assert "owner stops" in lost.fix
                stopped += 1
                break
            acked += size
        if journal.failed:
            before = [op for op in disk.ops if op.what == "write"]
            with pytest.raises(DurabilityLost, match="failed before"):
                journal.append([event(999)])
            journal.close()
            assert [op for op in disk.ops if op.what == "write"] == before
        else:
            journal.close()
        disk.fails, disk.ops = lambda _: None, []
        again = opened(folder)
        assert ids(again)[:acked] == [f"e{e}" for e in range(acked)]
        assert len(ids(again)) <= acked + max(SIZES)
        again.close()
        shutil.rmtree(folder)
    assert stopped > 10


SCRIPT = textwrap.dedent("""
    import sys
    from pathlib import Path
    from journal.errors import DurabilityLost
    from journal.record import Draft, Kind
    from journal.sqlite_log import SqliteJournal
    journal = SqliteJournal(Path(sys.argv[1]), "t")
    n = 0
    while n < int(sys.argv[2]):
        draft = Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=1 + n, body=b"x" * 30_000)
        try:
            journal.append([draft])
        except DurabilityLost as error:
            print("lost", error, flush=True)
            if journal.failed or input() == "stop":
                break
            continue
        print("acked", n, flush=True)
        n += 1
""")


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_sync_that_fails_in_the_kernel_stops_the_owner(tmp_path: Path) -> None:
    inject = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]
    inject += ["-e", "inject=fdatasync,fsync:error=EIO:when=30+"]
    run = [*inject, sys.executable, "-c", SCRIPT, str(tmp_path / "j"), "50"]
    done = subprocess.run(run, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    *acks, last = done.stdout.splitlines()
    if not acks and not last.startswith("lost"):
        pytest.skip(f"strace may not trace here: {done.stderr[-200:]}")
    assert last.startswith("lost")
    assert "owner stops" in last
    assert 3 <= len(acks) < 30
    journal = SqliteJournal(tmp_path / "j", "t")
    assert len(acks) <= journal.end() + 1 <= len(acks) + 1
    journal.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here; the test above fails every write in turn")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_heals(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_500_000)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(small_disk / "j"), "14"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = next(line for line in iter(process.stdout.readline, "") if not line.startswith("acked"))
    assert said.startswith("lost")
    assert "Make room" in said
    ballast.unlink()
    process.stdin.write("go on\n")
    process.stdin.flush()
    rest = process.stdout.readline()
    assert rest.startswith("acked")
    process.stdin.write("stop\n")
    process.stdin.close()
    acked = int(rest.split()[1])
    for line in process.stdout:
        acked = int(line.split()[1]) if line.startswith("acked") else acked
    process.wait()
    process.stdout.close()
    journal = SqliteJournal(small_disk / "j", "t")
    assert ids(journal) == [f"e{n}" for n in range(acked + 1)]
    journal.close()
