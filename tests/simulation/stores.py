"""What outlives a simulated process: a journal, the folds' files and blobs, each of which can fail at any step.

The folds' files are the real `FoldFile` on SQLite's own memory file system. The journal is the memory adapter with the
semantics of the SQLite one: a group that was not committed never happened, and after a failed commit nothing is written
before a restart.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from journal.checkpoint import FoldFile
from journal.errors import DurabilityLost, UnknownName
from journal.log import Outcome
from journal.memory_log import MemoryJournal
from journal.record import Draft, Record
from tests.simulation.faults import Faults


class SimulatedJournal(MemoryJournal):
    """A journal whose owner can die, or fail to write, at any append or commit."""

    def __init__(self, pipeline: str, faults: Faults) -> None:
        super().__init__(pipeline)
        self._faults = faults
        self._in_group = False
        self.failed = False

    def append(self, drafts: Sequence[Draft], *, sink: str = "", derived_from: Record | None = None) -> list[Outcome]:
        """See `journal.log.Journal.append`: outside a group it is one of its own."""
        if not self._in_group:
            with self.group():
                return self.append(drafts, sink=sink, derived_from=derived_from)
        outcomes = super().append(drafts, sink=sink, derived_from=derived_from)
        self._faults.reach("journal append")
        return outcomes

    @contextmanager
    def group(self) -> Iterator[None]:
        """See `journal.log.Journal.group`."""
        if self.failed:
            raise DurabilityLost(which="the simulated journal failed before", fix="Start the owner again")
        try:
            with super().group():
                self._in_group = True
                yield
                self._commit()
        finally:
            self._in_group = False
        self._faults.reach("journal committed")

    def _commit(self) -> None:
        try:
            self._faults.reach("journal commit", write=True)
        except DurabilityLost:
            self.failed = True
            raise

    def restart(self) -> None:
        """Another process owns it now: what was committed is read from its bytes again."""
        self.failed = False
        self._records = [msgspec.structs.replace(record) for record in self._records]

    def contents(self) -> list[Record]:
        """Every record."""
        return list(self._records)


class SimulatedFoldFile(FoldFile):
    """A fold's file whose process can die, or fail to write, around every transaction."""

    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path)
        self._faults = faults
        self._name = path.stem

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """See `FoldFile.transaction`."""
        self._faults.reach(f"{self._name} begins")
        with super().transaction():
            yield
            self._faults.reach(f"{self._name} commit", write=True)
        self._faults.reach(f"{self._name} committed")


class SimulatedBlobs:
    """Blobs whose process can die before and after one is stored."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._stored: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """See `journal.blobs.Blobs.put`."""
        self._faults.reach("blob put", write=True)
        address = hashlib.sha256(data).hexdigest()
        self._stored[address] = data
        self._faults.reach("blob stored")
        return address

    def get(self, address: str) -> bytes:
        """See `journal.blobs.Blobs.get`."""
        if address not in self._stored:
            raise UnknownName(which=f"blob {address[:16]}", fix="It was never stored")
        return self._stored[address]

    def remove(self, address: str) -> None:
        """See `journal.blobs.Blobs.remove`."""
        self._faults.reach("blob remove", write=True)
        self._stored.pop(address, None)


@contextmanager
def memory_files() -> Iterator[None]:
    """Every SQLite file that is opened inside lives in memory, shared by name among this process's connections."""
    usual = next(name for name in apsw.vfs_names() if name != "memdb")
    apsw.set_default_vfs("memdb")
    try:
        yield
    finally:
        apsw.set_default_vfs(usual)
