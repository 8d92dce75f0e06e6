"""Putting damaged records back from a backup, each file checked to be of the same life and the same prefix."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import msgspec

from journal.acked import read_acked
from journal.archive import load_archive, remove_database
from journal.backup import BackupManifest, load_backup
from journal.blobs import copy_durably, sync_folder
from journal.errors import Corrupt, Refused
from journal.owner import OwnerLock
from journal.record import Cause
from journal.segment import Segment, StoredRow, checksum_of, first_of, segment_path, segment_paths
from journal.verify import verify

_PAGE = 1_000
_OR_ACCEPT = ". Without one, `rivermill journal repair --accept-loss` gives up what is gone from the end"


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair did to one segment.

    Attributes:
        segment: The file's name.
        put_back: How many records came from the backup.
        kept: How many newer ones came from the damaged file, each with its checksum.
        aside: Where the damaged file lies now.
    """

    segment: str
    put_back: int
    kept: int
    aside: str


def repair(folder: Path, source: Path) -> list[Repaired]:
    """Put back every damaged segment that a backup holds. Nobody may own the journal meanwhile.

    Raises:
        OwnedElsewhere: Stop the owner first.
        Refused: The backup is of another life, or of another history.
        Corrupt: A damaged record is newer than the backup. Nothing was changed in that segment.
    """
    manifest = load_backup(source)
    lock = OwnerLock(folder)
    try:
        _require_same_life(folder, manifest)
        return [_repair_one(folder, source, first) for first in _damaged(folder, source)]
    finally:
        lock.release()


def _require_same_life(folder: Path, manifest: BackupManifest) -> None:
    lives = {read_acked(folder).incarnation} - {""}
    for path in segment_paths(folder)[-1:]:
        try:
            with closing(Segment(path, readonly=True)) as segment:
                lives.add(str(segment.meta("incarnation")))
        except Corrupt:
            continue
    if lives != {manifest.incarnation}:
        raise Refused(
            which=f"the backup is of life {manifest.incarnation}, this journal of {', '.join(lives) or 'one unknown'}",
            fix="Use a backup of this very journal, or `rivermill journal restore` into an empty home",
        )


def _damaged(folder: Path, source: Path) -> list[int]:
    """First offsets of the segments that do not hold, those that are gone included."""
    archive = load_archive(folder)
    found = [first_of(path) for path in segment_paths(folder) if _is_damaged(path)]
    saved = {first_of(path) for path in segment_paths(source) if not archive.left(first_of(path))}
    gone = saved - {first_of(path) for path in segment_paths(folder)}
    if not found and segment_paths(folder) and read_acked(folder).end > verify(folder).end:
        found = [first_of(segment_paths(folder)[-1])]
    return sorted({*found, *gone})


def _is_damaged(path: Path) -> bool:
    try:
        with closing(Segment(path, readonly=True)) as segment:
            return any(True for _ in segment.damage())
    except Corrupt:
        return True


def _repair_one(folder: Path, source: Path, first: int) -> Repaired:
    path, saved = segment_path(folder, first), segment_path(source, first)
    if not saved.exists():
        raise Corrupt(which=f"{path.name} is not in {source}", fix="Use a newer backup")
    made = path.with_name(f"{path.name}.repairing")
    damaged = path
    if made.exists() and not path.exists():
        # An earlier repair died while the damaged file went aside: what only that file holds lies there by now.
        damaged = _aside(path)
        _move(path)
    copy_durably(saved, made)
    try:
        put_back, kept = _merge(made, damaged, folder)
        return Repaired(segment=path.name, put_back=put_back, kept=kept, aside=_replace(made, path))
    finally:
        remove_database(made)


def _merge(made: Path, damaged: Path, folder: Path) -> tuple[int, int]:
    """Make the backup's copy equal to what the damaged file was; return how many records came from where."""
    with closing(Segment(made)) as copy:
        end = copy.last_offset()
        last = copy.first - 1 if end is None else end
        found = dict[int, StoredRow]()
        for row in _salvage(damaged, copy.first):
            found[row[0]] = row
        _require_same_history(copy, found, damaged)
        newer = [found[offset] for offset in sorted(found) if offset > last]
        behind = [first_of(path) for path in segment_paths(folder) if first_of(path) > copy.first]
        needed = behind[0] - 1 if behind else max(read_acked(folder).end, max(found, default=last))
        if [row[0] for row in newer] != list(range(last + 1, needed + 1)):
            have = {row[0] for row in newer}
            lost = [offset for offset in range(last + 1, needed + 1) if offset not in have]
            raise Corrupt(
                which=f"{damaged.name}: record {lost[0]} and {len(lost) - 1} more are newer than the backup",
                fix="Use a newer backup; the file is as it was" + ("" if behind else _OR_ACCEPT),
            )
        if newer:
            _go_on(copy, newer, damaged)
        copy.checkpoint(wholly=True)
        held = sum(1 for offset in found if offset <= last)
        return last + 1 - copy.first - held, len(newer)


def _salvage(path: Path, first: int) -> Iterator[StoredRow]:
    """Every record of a damaged file that can be read and has its checksum."""
    if not path.exists():
        return
    try:
        segment = Segment(path, readonly=True)
    except Corrupt:
        return
    with closing(segment):
        try:
            last = segment.last_offset()
        except Corrupt:
            last = None
        after = first - 1
        while last is not None and after < last:
            rows = _readable(segment, after)
            yield from (row for row in rows if checksum_of(row[0], row[3]) == row[2])
            after += _PAGE


def _readable(segment: Segment, after: int) -> list[StoredRow]:
    try:
        return [row for row in segment.rows(after, _PAGE) if row[0] <= after + _PAGE]
    except Corrupt:
        return [row for offset in range(after, after + _PAGE) for row in _readable_one(segment, offset)]


def _readable_one(segment: Segment, after: int) -> list[StoredRow]:
    try:
        return [row for row in segment.rows(after, 1) if row[0] == after + 1]
    except Corrupt:
        return []


def _require_same_history(copy: Segment, found: dict[int, StoredRow], damaged: Path) -> None:
    after = copy.first - 1
    while rows := copy.rows(after, _PAGE):
        for row in rows:
            if row[0] in found and found[row[0]] != row:
                raise Refused(
                    which=f"record {row[0]} of {damaged.name} is not the backup's, and both hold",
                    fix="The backup is of another history; use one of this very journal",
                )
        after = rows[-1][0]


def _go_on(copy: Segment, newer: list[StoredRow], damaged: Path) -> None:
    """Take over what the backup is too old for, with the ends that the damaged file's last commit wrote."""
    try:
        with closing(Segment(damaged, readonly=True)) as segment:
            segment.check_ends()
            marks: dict[str, Cause] = segment.marks()
            tallies = segment.tallies()
            last_at, clock = int(segment.meta("last_at")), int(segment.meta("clock"))
    except (Corrupt, apsw.Error) as error:
        raise Corrupt(
            which=f"{damaged.name}: its marks cannot be read, and the backup's are older than its records",
            fix="Use a newer backup; without one, `rivermill journal repair --accept-loss` gives the newer records up",
        ) from error
    with copy.db:
        copy.take_rows(newer)
        copy.set_meta(last_at=last_at, clock=clock)
        copy.set_marks(marks)
        copy.set_tallies(tallies)
        copy.seal_ends(marks, tallies, last_at, clock)


def _replace(made: Path, path: Path) -> str:
    """Put the made file in place of the damaged one."""
    aside = put_aside(path)
    made.rename(path)
    sync_folder(path.parent)
    return aside


def put_aside(path: Path) -> str:
    """Move a damaged segment away, its log included, so that no log of it is replayed; return where it lies now."""
    if path.exists():
        # What an earlier repair put there has another log.
        remove_database(_aside(path))
        _move(path)
    return f"{_aside(path).parent.name}/{path.name}"


def _aside(path: Path) -> Path:
    return path.parent / "damaged" / path.name


def _move(path: Path) -> None:
    """The file itself first: while it stands in its place its log does too."""
    _aside(path).parent.mkdir(exist_ok=True)
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.rename(_aside(file))
    sync_folder(path.parent)
