"""What became of sealed segments: moved into blobs, or let go by retention; and what is kept of both for ever.

::

    archive.json     which segments lie in which blob, and the first record that can still be read
    kept.sqlite      what outlives its segment (`KEPT`) of every one that left the folder, with its ids
    fetched/         copies of segments in blobs, for whoever reads them

The manifest is replaced first and the files go afterwards, so a crash between leaves files that nobody looks at.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from journal.blobs import Blobs, DirectoryBlobs, write_durably
from journal.errors import Corrupt, LostRace
from journal.record import Kind
from journal.segment import Segment, first_of, segment_path, segment_paths
from journal.sqlite import copy_database

KEPT = frozenset({Kind.GENESIS, Kind.DEFINITION, Kind.VERSION, Kind.SNAPSHOT, Kind.DECISION, Kind.ALERT})
"""The kinds that outlive their segments: what was defined and decided explains what came after, what a line published
may still answer, and an alert stands until it is lifted, however long ago it was raised."""

_PAGE = 1_000
_FETCHED_AT_MOST = 4


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed segment that lies in a blob.

    Attributes:
        first: Its first offset.
        last: Its last offset.
        begins_after: The ``at`` of the last record before it.
        last_at: The ``at`` of its last record.
        blob: Its address.
        size: In bytes.
    """

    first: int
    last: int
    begins_after: int
    last_at: int
    blob: str
    size: int


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest.

    Attributes:
        store: The folder of blobs, from the journal's own.
        begins: The first offset that can still be read; what lies before is no longer provable.
        segments: What lies in blobs, oldest first.
        going: What retention let go of, while its blobs are being removed.
    """

    store: str = ""
    begins: int = 0
    segments: tuple[Archived, ...] = ()
    going: tuple[Archived, ...] = ()

    def left(self, first: int) -> bool:
        """Whether the segment that begins at an offset has left the folder."""
        return first < self.begins or any(segment.first == first for segment in self.segments)


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    archive: Archive
    checksum: str


def load_archive(folder: Path) -> Archive:
    """The manifest of a journal's folder; an empty one when nothing ever left it.

    Raises:
        Corrupt: It is damaged.
    """
    path = _manifest(folder)
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
    except FileNotFoundError:
        return Archive()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path) from error
    if _checksum(sealed.archive) != sealed.checksum:
        raise _damaged(path)
    return sealed.archive


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold every other process off from changing the manifest: each would write it without what the other wrote.

    Raises:
        LostRace: Another process changes it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise LostRace(
            which=f"another process archives segments of {folder}, or lets go of them", fix="Try again when it is done"
        ) from error


def save_archive(folder: Path, archive: Archive) -> None:
    """Replace the manifest, durably, then remove the files that it says have left."""
    sealed = _Sealed(archive=archive, checksum=_checksum(archive))
    write_durably(_manifest(folder), msgspec.json.format(msgspec.json.encode(sealed)))
    sweep(folder, archive)


def sweep(folder: Path, archive: Archive) -> None:
    """Remove the files of segments that have left."""
    for path in segment_paths(folder):
        if archive.left(first_of(path)):
            remove_database(path)


def remove_database(path: Path) -> None:
    """Remove a database with what SQLite keeps beside it."""
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        file.unlink(missing_ok=True)


def seal_to_blobs(folder: Path, blobs: Blobs, *, store: str = "../blobs", before: int | None = None) -> list[Archived]:
    """Move sealed segments into blobs, each checked record by record first.

    Args:
        folder: The journal's.
        blobs: Where to.
        store: How a reader that is given no blobs finds them: their folder, from the journal's.
        before: Only segments that end before this moment (microseconds of ``at``). Those whose ids a new event's id
            is looked up in had better stay.

    Raises:
        Corrupt: A segment is damaged; it and all after it stay where they are.
        LostRace: Another process archives, or lets go of segments.
    """
    moved: list[Archived] = []
    with changing(folder):
        for left in folder.glob("segment-*.sqlite.[0-9]*.partial"):
            left.unlink()
        for path in _sealed_here(folder):
            archived = _archive_one(path, folder, blobs, before)
            if archived is None:
                break
            archive = load_archive(folder)
            save_archive(folder, msgspec.structs.replace(archive, store=store, segments=(*archive.segments, archived)))
            moved.append(archived)
    return moved


def blobs_of(folder: Path, archive: Archive) -> Blobs:
    """Where an archive says that its blobs are, for a reader that was given none."""
    return DirectoryBlobs(folder / archive.store)


def _sealed_here(folder: Path) -> list[Path]:
    """All files but the one that is written: every one behind it is sealed."""
    archive = load_archive(folder)
    return [path for path in segment_paths(folder)[:-1] if not archive.left(first_of(path))]


def _archive_one(path: Path, folder: Path, blobs: Blobs, before: int | None) -> Archived | None:
    copy = folder / f"{path.name}.{os.getpid()}.partial"
    try:
        copy_database(path, copy)
        segment = Segment(copy, readonly=True)
        try:
            return _put(segment, first_of(path), folder, blobs, before)
        finally:
            segment.close()
    finally:
        copy.unlink(missing_ok=True)


def _put(segment: Segment, first: int, folder: Path, blobs: Blobs, before: int | None) -> Archived | None:
    segment.first = first
    last_at = int(segment.meta("last_at") or 0)
    if before is not None and last_at >= before:
        return None
    for damage in segment.damage():
        raise damage
    keep(folder, segment)
    last = segment.last_offset()
    return Archived(
        first=first,
        last=first - 1 if last is None else last,
        begins_after=segment.begins_after,
        last_at=last_at,
        blob=blobs.put_file(segment.path),
        size=segment.path.stat().st_size,
    )


def keep(folder: Path, segment: Segment) -> None:
    """Copy what outlives a segment into the file of what is kept."""
    kept = Segment(kept_path(folder))
    with kept.db:
        kept.set_meta(born=1)
        for kind in KEPT:
            after = segment.first - 1
            while rows := segment.rows_of(kind, after, _PAGE):
                kept.take_rows(rows)
                after = rows[-1][0]
    kept.checkpoint()
    kept.close()


def kept_path(folder: Path) -> Path:
    """Where the kept records are."""
    return folder / "kept.sqlite"


def fetch(folder: Path, archive: Archive, archived: Archived, blobs: Blobs | None) -> Segment:
    """Open a segment that lies in a blob, from a local copy, made and checked when there is none.

    Raises:
        Corrupt, UnknownName: The blob is damaged, or gone.
    """
    path = segment_path(folder / "fetched", archived.first)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _make_room(path.parent)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        (blobs or blobs_of(folder, archive)).get_file(archived.blob, partial)
        partial.replace(path)
    return Segment(path, readonly=True)


def check_blob(folder: Path, archive: Archive, archived: Archived, blobs: Blobs | None, scratch: Path) -> Segment:
    """Fetch a blob anew, whatever copies there are, and open it; raises as `fetch` does."""
    path = segment_path(scratch, archived.first)
    (blobs or blobs_of(folder, archive)).get_file(archived.blob, path)
    return Segment(path, readonly=True)


def _make_room(fetched: Path) -> None:
    """Remove the copies that were made first; whoever has one open goes on reading it."""
    copies = sorted(fetched.glob("*.sqlite"), key=lambda path: path.stat().st_mtime_ns)
    for path in copies[: max(0, len(copies) + 1 - _FETCHED_AT_MOST)]:
        path.unlink(missing_ok=True)


def _manifest(folder: Path) -> Path:
    return folder / "archive.json"


def _checksum(archive: Archive) -> str:
    return hashlib.sha256(msgspec.json.encode(archive, order="deterministic")).hexdigest()


def _damaged(path: Path) -> Corrupt:
    return Corrupt(which=f"{path} is not what was written", fix="Restore it from a backup of the journal")
