"""Isolates a record that makes a fold raise, or its process die.

The rules:

- A process that stops cleanly leaves no attempt file. One that finds such a file knows that its predecessor died.
- While all goes well the file is written once per process, so a healthy batch costs no fsync beyond its commit, and
  one commit may stand behind several batches. After a death each batch is marked before it begins and committed by
  itself, until the suspect stretch is behind: all that the process may have taken since its last commit.
- A death inside a marked batch halves the next one. Only a batch of one names a record, and the mark before each fold
  names the fold. A mark is taken once: a process that dies before its first batch accuses nobody.
- An exception names fold and record by itself. Everything is restored from the last commit, what stands before the
  record is committed, and the record is tried again alone.
- After `MOST_DEATHS` at one record the process stays before it. Another build tries again; an echoed decision ``skip``
  leads past it, in every replay as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from journal.blobs import write_durably
from journal.errors import Corrupt, Refused
from journal.log import START
from journal.reading import ByKind, decisions_in
from journal.record import Record

SKIP = "skip"
MOST_DEATHS = 3


def skips_in(journal: ByKind) -> dict[str, frozenset[int]]:
    """The offsets that each fold passes over, by fold: what the echoed decisions say."""
    skips: dict[str, frozenset[int]] = {}
    for _, decision in decisions_in(journal):
        if decision.action == SKIP:
            fold, offset = str(decision.details["fold"]), int(decision.details["offset"])
            skips[fold] = skips.get(fold, frozenset()) | {offset}
    return skips


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A record at which a fold died alone.

    Attributes:
        fold: Which fold.
        offset: The record's.
        deaths: How often, in a row.
        error: What the fold raised; empty when its process died.
    """

    fold: str
    offset: int
    deaths: int
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether the fold stops here until it is decided what to do."""
        return self.deaths >= MOST_DEATHS


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What the attempt file says.

    Attributes:
        build: Whose folds they are: another build is accused of nothing.
        limit: How many records the next batch may hold.
        until: The last offset of the suspect stretch; `START` when nothing is suspect yet.
        first: First offset of the batch under way; `START` when none is.
        last: Its last offset.
        size: How many records it holds.
        fold: Which fold it is at, in a batch of one.
        suspect: The record that was found.
        clean: Whether the process stopped by itself.
    """

    build: str
    limit: int
    until: int = START
    first: int = START
    last: int = START
    size: int = 0
    fold: str = ""
    suspect: Suspect | None = None
    clean: bool = False


def stopped_at(path: Path) -> Suspect | None:
    """The record that a worker stays before, as its attempt file says; None when it goes on."""
    attempt = _read(path)
    suspect = attempt.suspect if attempt else None
    return suspect if suspect is not None and suspect.holds else None


def skip_plan(path: Path, fold: str, offset: int) -> dict[str, Any]:
    """The details of a decision to skip the record that a fold stays before.

    Args:
        path: The attempt file of the worker.
        fold: Which fold is to pass over the record.
        offset: The record's.

    Raises:
        Refused: The fold does not stay before this record: skipping it would change what is derived already.
    """
    suspect = stopped_at(path)
    if suspect is None or (suspect.fold, suspect.offset) != (fold, offset):
        where = "no fold is stopped" if suspect is None else f"{suspect.fold} is stopped at {suspect.offset}"
        raise Refused(
            which=f"fold {fold!r} does not stay before offset {offset} ({where})",
            fix="Skip only the record that readiness names",
        )
    return {"fold": fold, "offset": offset}


class Attempts:
    """What one worker knows about the batches that it may not survive."""

    def __init__(self, path: Path, build: str, most: int, stretch: int = 0) -> None:
        """Read what the last process left, take its mark, and note that this one runs.

        Args:
            path: The attempt file.
            build: Fingerprint of the code and the libraries.
            most: Records in a healthy batch.
            stretch: Records that a healthy process may take between two commits; a batch when that is more.
        """
        self._path, self._most, self._stretch = path, most, stretch
        left = _read(path)
        fresh = Attempt(build=build, limit=most)
        self._is_careful = left is not None and left.build == build and not (left.clean and left.suspect is None)
        self._now = _accused(left, most) if left is not None and self._is_careful else fresh
        self._write()

    @property
    def stopped(self) -> Suspect | None:
        """The record that this worker stays before."""
        suspect = self._now.suspect
        return suspect if suspect is not None and suspect.holds else None

    @property
    def is_careful(self) -> bool:
        """Whether batches are marked."""
        return self._is_careful

    @property
    def limit(self) -> int:
        """How many records the next batch may hold."""
        return self._now.limit

    def cut(self, page: Sequence[Record]) -> Sequence[Record]:
        """The batch that may be tried of the records that come next: a suspect is tried alone."""
        suspect = self._now.suspect
        if suspect is None:
            return page[: self._now.limit]
        before = [record for record in page[: self._now.limit] if record.offset < suspect.offset]
        return before or page[:1]

    def begin(self, batch: Sequence[Record]) -> None:
        """Mark a batch, if this worker is careful. Batches of one are marked fold by fold, by `enter`."""
        if self._is_careful:
            first, last = batch[0].offset, batch[-1].offset
            until = self._now.until
            if until == START:
                # A batch that is not full ends where the journal does: nobody can have come further.
                until = last if len(batch) < self._now.limit else max(last, first + self._stretch)
            self._set(first=first, last=last, size=len(batch), until=until, fold="")
            if len(batch) > 1:
                self._write()

    def enter(self, fold: str) -> None:
        """Mark that a batch of one enters a fold."""
        if self._is_careful and self._now.size == 1:
            self._set(fold=fold)
            self._write()

    def passed(self, last: int) -> None:
        """Note a batch as committed; behind the suspect stretch all is well again."""
        if not self._is_careful:
            return
        self._set(first=START, last=START, size=0, fold="")
        if last >= self._now.until:
            self._is_careful = False
            self._now = Attempt(build=self._now.build, limit=self._most)
        self._write()

    def raised(self, fold: str, offset: int, error: Exception) -> Suspect:
        """Count an exception as a death at one record."""
        said = f"{type(error).__name__}: {error}"
        suspect = _again(self._now.suspect, fold, offset, said)
        self._set(first=START, last=START, size=0, fold="", suspect=suspect, until=max(offset, self._now.until))
        self._is_careful = True
        self._write()
        return suspect

    def skipped(self) -> None:
        """The record that this worker stayed before is decided about."""
        self._is_careful = False
        self._now = Attempt(build=self._now.build, limit=self._most)
        self._write()

    def leave(self) -> None:
        """Note a clean stop."""
        if self._now.suspect is None and not self._is_careful:
            self._path.unlink(missing_ok=True)
        else:
            self._set(first=START, last=START, size=0, fold="", clean=True)
            self._write()

    def _set(self, **changes: Any) -> None:
        self._now = msgspec.structs.replace(self._now, **changes)

    def _write(self) -> None:
        write_durably(self._path, msgspec.json.encode(self._now))


def _read(path: Path) -> Attempt | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Attempt)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise Corrupt(which=f"{path.name} ({error})", fix="Delete this file: it only remembers deaths") from error


def _accused(left: Attempt, most: int) -> Attempt:
    """What follows from the mark that a process left; the mark itself is taken."""
    rest = Attempt(build=left.build, limit=left.limit, until=left.until, suspect=left.suspect)
    if left.size == 0:
        return rest
    if left.size > 1:
        return msgspec.structs.replace(rest, limit=min(left.size, most) // 2)
    if not left.fold:
        return msgspec.structs.replace(rest, limit=1)
    return msgspec.structs.replace(rest, limit=1, suspect=_again(left.suspect, left.fold, left.first, ""))


def _again(before: Suspect | None, fold: str, offset: int, error: str) -> Suspect:
    same = before is not None and (before.fold, before.offset) == (fold, offset)
    return Suspect(fold=fold, offset=offset, deaths=before.deaths + 1 if same and before else 1, error=error)
