"""A fold of another version or build is rebuilt beside the file that is read, and takes its place at a decision.

The rules:

- The file's path never changes for those who read it. A successor grows in the folder ``successors`` beside it, named
  by version and fingerprint, so an interrupted rebuild is found again and goes on from its last commit.
- It takes over when its ``cutover`` decision is in the journal: the path becomes a link to it, in one rename. Whoever
  has the old file open reads on in it, and finds the new one when opening the path again.
- SQLite keeps its side files beside what a link points to, so the two never mix.
- A crash between the echo and the rename is made up for when the fold is opened next. What no path leads to is removed
  then.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from journal.blobs import sync_folder
from journal.checkpoint import FoldFile
from journal.errors import Refused
from journal.log import START
from journal.reading import ByKind, decisions_in

CUTOVER = "cutover"
_FOLDER = "successors"


@dataclass(frozen=True, slots=True)
class Identity:
    """What wrote a fold's state: the fold's version and the fingerprint of the libraries."""

    version: int
    fingerprint: str

    @property
    def name(self) -> str:
        """Short, and good in a file's name."""
        return f"{self.version}-{hashlib.sha256(self.fingerprint.encode()).hexdigest()[:12]}"


def cutovers_in(journal: ByKind) -> dict[str, frozenset[str]]:
    """The names of the identities that were decided to take over, by fold: what the echoed decisions say."""
    decided: dict[str, frozenset[str]] = {}
    for _, decision in decisions_in(journal):
        if decision.action == CUTOVER:
            fold = str(decision.details["fold"])
            decided[fold] = decided.get(fold, frozenset()) | {str(decision.details["identity"])}
    return decided


class Succession:
    """The file that is read of one fold, and the one that is written."""

    def __init__(self, path: Path, identity: Identity) -> None:
        """Look at what is there.

        Args:
            path: The fold's file, as readers know it; its stem is the fold's name.
            identity: What today's fold is.
        """
        self.path, self.identity = path, identity
        self.successor = path.parent / _FOLDER / f"{path.stem}-{identity.name}.sqlite"

    @property
    def fold(self) -> str:
        """The fold's name."""
        return self.path.stem

    @property
    def is_beside(self) -> bool:
        """Whether the fold is rebuilt beside the file that is read."""
        return self._is_of_another() and not self._leads_to_successor()

    @property
    def writes(self) -> Path:
        """Where the fold is to be written."""
        if not self.is_beside:
            return self.path
        self.successor.parent.mkdir(exist_ok=True)
        return self.successor

    def settle(self, journal: ByKind) -> bool:
        """Take over if that was decided, and remove what no path leads to; whether the path leads elsewhere now.

        Call it while this fold's files are closed here, before `writes`.
        """
        decided = self.identity.name in cutovers_in(journal).get(self.fold, ())
        moves = decided and self.is_beside and self.successor.exists()
        if moves:
            self._link()
        self._tidy()
        return moves

    def plan(self) -> dict[str, Any]:
        """The details of the decision that lets the successor take over.

        It must have come as far as the file that is read, which nobody writes any more: from there on it is newer.

        Raises:
            Refused: There is no successor, or it is still behind.
        """
        if not (self.is_beside and self.successor.exists()):
            raise Refused(which=f"fold {self.fold!r} is not rebuilt beside its file", fix="There is nothing to do")
        stands, read = self._stands(self.successor), self._stands(self.path)
        if stands < read:
            raise Refused(
                which=f"the successor of fold {self.fold!r} stands at {stands}, the file that is read at {read}",
                fix="Let the worker catch up, then decide again",
            )
        return {"fold": self.fold, "identity": self.identity.name, "version": self.identity.version}

    def _stands(self, path: Path) -> int:
        file = FoldFile(path, readonly=True)
        try:
            position = file.position(self.fold)
        finally:
            file.close()
        return START if position is None else position.offset

    def _is_of_another(self) -> bool:
        if not self.path.exists():
            return False
        file = FoldFile(self.path, readonly=True)
        try:
            found = file.identity(self.fold)
        finally:
            file.close()
        return found is not None and found != (self.identity.version, self.identity.fingerprint)

    def _leads_to_successor(self) -> bool:
        return self.path.is_symlink() and self.path.resolve() == self.successor.resolve()

    def _link(self) -> None:
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path(_FOLDER) / self.successor.name)
        fresh.replace(self.path)
        sync_folder(self.path.parent)

    def _tidy(self) -> None:
        """Remove the side files of a plain file that a link has replaced, and successors that nothing leads to."""
        if self.path.is_symlink():
            for side in ("-wal", "-shm"):
                self.path.with_name(self.path.name + side).unlink(missing_ok=True)
        wanted = {self.path.resolve().name, self.successor.name}
        for file in self.successor.parent.glob(f"{self.path.stem}-*.sqlite*"):
            if file.name.removesuffix("-wal").removesuffix("-shm") not in wanted:
                file.unlink(missing_ok=True)
