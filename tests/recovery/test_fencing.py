"""Two writers of one fold: the older one is told so, and has changed nothing."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from journal.asking import Asking
from journal.checkpoint import FoldFile
from journal.contract import Contract
from journal.errors import Fenced
from journal.field import Field
from journal.intake import Intake
from journal.log import START, Position
from journal.owner_client import OwnerClient
from journal.owner_server import OwnerServer
from journal.privacy import KeyTable
from journal.record import Cause, Draft, Kind
from journal.sink_epochs import SinkEpochs
from journal.sqlite_log import SqliteJournal
from journal.wire import Batch

FIELD = Field(name="n", type="integer", required=True)
CONTRACT = Contract(stream="s", version="1.0.0", fields=(FIELD,), dedup_window=1, max_gap=1)
PLACE = Position("life", 0, 7)


def written(file: FoldFile, value: bytes) -> None:
    with file.transaction():
        file.put("space", [(b"key", value)])
        file.set_position("fold", 1, "f", PLACE)


def test_the_older_writer_of_a_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fold.sqlite"
    older = FoldFile(path)
    written(older, b"1")
    newer = FoldFile(path)
    assert newer.epoch == older.epoch + 1
    with pytest.raises(Fenced, match="Nothing was changed"):
        written(older, b"2")
    with pytest.raises(Fenced):
        older.clear()
    assert newer.get("space", b"key") == b"1"
    written(newer, b"3")
    reader = FoldFile(path, readonly=True)
    assert (reader.epoch, reader.get("space", b"key"), reader.position("fold")) == (0, b"3", PLACE)
    written(newer, b"4")


def test_what_is_cleared_keeps_its_writers(tmp_path: Path) -> None:
    path = tmp_path / "fold.sqlite"
    older = FoldFile(path)
    newer = FoldFile(path)
    written(newer, b"1")
    newer.clear()
    assert newer.position("fold") is None
    with pytest.raises(Fenced):
        written(older, b"2")


def test_a_writer_goes_on_under_the_epoch_that_it_was_granted(tmp_path: Path) -> None:
    path = tmp_path / "fold.sqlite"
    first = FoldFile(path)
    first.raise_epoch(9)
    written(first, b"1")
    assert first.epoch == 9
    second = FoldFile(path)
    assert second.epoch == 10
    with pytest.raises(Fenced):
        first.raise_epoch(11)
    assert second.get("space", b"key") == b"1"


def test_epochs_only_rise() -> None:
    epochs = SinkEpochs()
    assert epochs.claim({"join": 4}) == {"join": 4}
    assert epochs.claim({"join": 2, "learner": 1}) == {"join": 5, "learner": 1}
    assert epochs.refusal([Batch("join", [], 5), Batch("", [])]) is None
    assert isinstance(epochs.refusal([Batch("learner", [], 9), Batch("join", [], 4)]), Fenced)
    assert epochs.refusal([Batch("learner", [], 1)]) is None, "what was refused as a whole has claimed nothing"


def test_an_owner_that_forgot_learns_the_epochs_from_the_batches() -> None:
    epochs = SinkEpochs()
    assert epochs.refusal([Batch("join", [], 7)]) is None
    assert isinstance(epochs.refusal([Batch("join", [], 6)]), Fenced)


@contextmanager
def owner(home: Path) -> Iterator[Path]:
    """An owner on a thread of its own."""
    journal, keys, path = SqliteJournal(home / "journal", "t"), KeyTable(home / "keys.sqlite"), home / "owner.sock"
    intake = Intake(journal, {"s": CONTRACT}, keys, None)
    server = OwnerServer(journal, intake, Asking(journal, CONTRACT, keys, "n"), path)
    ready, loops = threading.Event(), list[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.create_task(server.serve())
        while not server.is_serving:
            await asyncio.sleep(0)
        ready.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield path
    finally:
        loops[0].call_soon_threadsafe(server.stop)
        thread.join()
        keys.close()
        journal.close()


def derived(n: int) -> list[tuple[str, list[Draft]]]:
    return [("join", [Draft(kind=Kind.EXAMPLE, stream="join", id=f"x{n}", body=b"{}", cause=Cause(0, n, 0))])]


def test_the_owner_refuses_what_an_older_writer_derives(tmp_path: Path) -> None:
    with owner(tmp_path) as path:
        older, newer, never = OwnerClient(path), OwnerClient(path), OwnerClient(path)
        assert older.claim({"join": 1}) == {"join": 1}
        assert older.append(derived(0)) == 0
        assert newer.claim({"join": 1}) == {"join": 2}
        for stale in (older, never):
            with pytest.raises(Fenced, match="One worker at a time"):
                stale.append(derived(1))
        assert newer.append(derived(1)) == 1
        assert older.append([("", [Draft(kind=Kind.EXAMPLE, stream="d", id="free", body=b"{}")])]) == 2
        for client in (older, newer, never):
            client.close()
    journal = SqliteJournal(tmp_path / "journal", "t")
    assert [record.id for record in journal.read(0, START, 10)] == ["x0", "x1", "free"]
    journal.close()
