"""Backups: a prefix of the journal, and the control log that goes with it, taken while the owner writes on.

A backup is a folder of plain files and a manifest with their hashes, written last: without it there is no backup. It
never holds the key table unless that was asked for by name, so that destroying a key erases from every backup too.
`journal.restore` puts one back.
"""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from journal.archive import kept_path
from journal.blobs import Blobs, digest_of, write_durably
from journal.errors import Corrupt, Refused, UnknownName
from journal.segment import Segment, segment_path
from journal.sqlite import copy_database
from journal.sqlite_reader import SqliteReader

FORMAT = 1
MANIFEST = "backup.json"
CONTROL, KEYS = "control.sqlite", "subjects.sqlite"
_KEPT = "kept.sqlite"

Progress = Callable[[str, float], None]
"""Told the file that is being copied, and the share of it that is done."""


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a backup: its name, bytes and SHA-256 (hex)."""

    name: str
    size: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds.

    Attributes:
        format: Of this manifest.
        pipeline: Whose journal it is.
        incarnation: The life of the journal that it is a prefix of.
        begins: The first offset that it holds; what lies before is no longer provable.
        end: Its last offset.
        clock: The journal's clock there, in microseconds.
        files: Everything beside the manifest.
    """

    format: int
    pipeline: str
    incarnation: str
    begins: int
    end: int
    clock: int
    files: tuple[Saved, ...]


def back_up(
    folder: Path,
    target: Path,
    *,
    control: Path | None = None,
    keys: Path | None = None,
    blobs: Blobs | None = None,
    progress: Progress = lambda _, __: None,
) -> BackupManifest:
    """Copy a journal as it stands, every record checked, while its owner may write on.

    Args:
        folder: The journal's.
        target: A folder that is empty or not there.
        control: The control log's SQLite file. Copied after the journal, so that it knows every decision echoed there.
        keys: The key table's, only when the backup shall be able to read what is sealed.
        blobs: Where segments lie that have left the folder; by default where the folder's manifest says.
        progress: Told how far it is.

    Raises:
        Refused: The target is not empty.
        UnknownName: There is no journal.
        Corrupt: A segment does not hold; nothing that can be restored was left behind.
    """
    require_empty(target, "back up into an empty folder")
    with closing(SqliteReader(folder, blobs)) as reader:
        if not reader.segments():
            raise UnknownName(which=f"no journal in {folder}", fix="Name the home that holds it")
        target.mkdir(parents=True, exist_ok=True)
        files = [_save(segment, target, progress) for segment in reader.chain.in_order()]
    for source, name in ((kept_path(folder), _KEPT), (control, CONTROL), (keys, KEYS)):
        if source is not None and source.exists():
            # The key table is among them, and SQLite would make a file that anyone may read.
            os.close(os.open(target / name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            copy_database(source, target / name, lambda share, name=name: progress(name, share))  # type: ignore[misc]
            files.append(target / name)
    manifest = _describe(target, files)
    write_durably(target / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _save(segment: Segment, target: Path, progress: Progress) -> Path:
    path = segment_path(target, segment.first)
    copy_database(segment.path, path, lambda share: progress(path.name, share))
    with closing(Segment(path, readonly=True)) as copy:
        for damage in copy.damage():
            raise damage
    return path


def _describe(target: Path, files: list[Path]) -> BackupManifest:
    with closing(SqliteReader(target)) as reader:
        return BackupManifest(
            format=FORMAT,
            pipeline=str(reader.segments()[-1].meta("pipeline")),
            incarnation=reader.incarnation,
            begins=reader.segments()[0].first,
            end=reader.end(),
            clock=reader.clock,
            files=tuple(Saved(name=f.name, size=f.stat().st_size, sha256=digest_of(f)) for f in files),
        )


def load_backup(source: Path) -> BackupManifest:
    """A backup's manifest, once every file of it has the hash that it names.

    Raises:
        UnknownName: There is no whole backup.
        Corrupt: A file is damaged or missing; all of them are named.
    """
    try:
        manifest = msgspec.json.decode((source / MANIFEST).read_bytes(), type=BackupManifest)
    except FileNotFoundError as error:
        raise UnknownName(which=f"no backup in {source}", fix=f"Name a folder that holds {MANIFEST}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(which=f"{source / MANIFEST}", fix="Use another backup") from error
    broken = [saved.name for saved in manifest.files if not holds(source / saved.name, saved)]
    if broken:
        raise Corrupt(which=f"{source}: {', '.join(broken)}", fix="Use another backup")
    return manifest


def holds(path: Path, saved: Saved) -> bool:
    """Whether a file is the one that was saved, byte by byte."""
    return path.is_file() and path.stat().st_size == saved.size and digest_of(path) == saved.sha256


def require_empty(folder: Path, fix: str) -> None:
    """Raise `Refused` when a folder holds anything but the lock of an owner that is gone."""
    found = [] if not folder.exists() else sorted(path.name for path in folder.iterdir() if path.name != "owner.lock")
    if found:
        raise Refused(which=f"{folder} holds {found[0]}", fix=fix.capitalize())
