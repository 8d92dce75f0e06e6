"""A fold of another version or build is rebuilt beside the file that is read, and takes its place at a decision.

The rules:

- The file's path never changes for those who read it. A successor grows in a folder below ``successors``, named
  by version and fingerprint, so an interrupted rebuild is found again and goes on from its last commit.
- It takes over when its ``cutover`` is the last one of its fold in the journal: the path becomes a link to it, in one
  rename. Whoever has the old file open reads on in it, and finds the new one when opening the path again.
- SQLite keeps its side files beside what a link points to, so the two never mix.
- A crash between the echo and the rename is made up for when the fold is opened next. What no path leads to is removed
  then.
- Rows of another life of the journal are read by nobody: such a file is no predecessor, and is rebuilt in place.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from journal.archive import remove_database
from journal.blobs import sync_folder
from journal.checkpoint import SUCCESSORS, Place, place_in
from journal.errors import Refused
from journal.log import Life
from journal.reading import ByKind, decisions_in

CUTOVER = "cutover"


@dataclass(frozen=True, slots=True)
class Identity:
    """What wrote a fold's state: the fold's version and the fingerprint of the libraries."""

    version: int
    fingerprint: str

    @property
    def name(self) -> str:
        """Short, and good in a file's name."""
        return f"{self.version}-{hashlib.sha256(self.fingerprint.encode()).hexdigest()[:12]}"


class Followed(Life, ByKind, Protocol):
    """A journal whose decisions say what took over."""


def cutovers_in(journal: ByKind, fold: str) -> list[str]:
    """The names of the identities that took over, the last one last: what the echoed decisions say."""
    decided = (decision for _, decision in decisions_in(journal) if decision.action == CUTOVER)
    return [str(decision.details["identity"]) for decision in decided if decision.details["fold"] == fold]


def remove_fold(path: Path) -> None:
    """Remove a fold's file, wherever its path leads to."""
    remove_database(path.resolve())
    remove_database(path)


class Succession:
    """The file that is read of one fold, and the one that is written."""

    def __init__(self, path: Path, identity: Identity, journal: Followed) -> None:
        """Look at what is there.

        Args:
            path: The fold's file, as readers know it; its stem is the fold's name.
            identity: What today's fold is.
            journal: What it reads.
        """
        self.path, self.identity, self._journal = path, identity, journal
        self.successor = path.parent / SUCCESSORS / path.stem / f"{path.stem}-{identity.name}.sqlite"

    @property
    def fold(self) -> str:
        """The fold's name."""
        return self.path.stem

    @property
    def is_read(self) -> bool:
        """Whether the path leads to something of this life of the journal."""
        return self._place() is not None

    @property
    def is_beside(self) -> bool:
        """Whether the fold is rebuilt beside the file that is read."""
        place = self._place()
        is_of_another = place is not None and place[:2] != (self.identity.version, self.identity.fingerprint)
        return is_of_another and not self._leads_to_successor()

    @property
    def writes(self) -> Path:
        """Where the fold is to be written."""
        if not self.is_beside:
            return self.path
        self.successor.parent.mkdir(parents=True, exist_ok=True)
        return self.successor

    def settle(self) -> bool:
        """Take over if that was decided, and remove what no path leads to; whether the path leads elsewhere now.

        Call it while this fold's files are closed here, before `writes`.
        """
        decided = cutovers_in(self._journal, self.fold)[-1:] == [self.identity.name]
        moves = decided and self.is_beside and self.successor.exists()
        if moves:
            self._link()
        self._tidy()
        return moves

    def plan(self) -> dict[str, Any]:
        """The details of the decision that lets the successor take over, once it has come to the journal's end.

        The file that is read has stood still meanwhile: from then on the successor is newer.

        Raises:
            Refused: There is no successor.
        """
        if not (self.is_beside and self.successor.exists()):
            raise Refused(which=f"fold {self.fold!r} is not rebuilt beside its file", fix="There is nothing to do")
        count = len(cutovers_in(self._journal, self.fold)) + 1
        return {"fold": self.fold, "identity": self.identity.name, "version": self.identity.version, "count": count}

    def _place(self) -> Place | None:
        place = place_in(self.path, self.fold)
        return place if place is not None and place.position.lies_in(self._journal) else None

    def _leads_to_successor(self) -> bool:
        return self.path.is_symlink() and self.path.resolve() == self.successor.resolve()

    def _link(self) -> None:
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self.successor.relative_to(self.path.parent))
        fresh.replace(self.path)
        sync_folder(self.path.parent)

    def _tidy(self) -> None:
        """Remove the side files of a plain file that a link has replaced, and successors that nothing leads to."""
        if self.path.is_symlink():
            for side in ("-wal", "-shm"):
                self.path.with_name(self.path.name + side).unlink(missing_ok=True)
        wanted = {self.path.resolve().name} | ({self.successor.name} if self.is_beside else set())
        for file in self.successor.parent.glob("*.sqlite*"):
            if file.name.removesuffix("-wal").removesuffix("-shm") not in wanted:
                file.unlink(missing_ok=True)
