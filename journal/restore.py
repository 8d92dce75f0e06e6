"""Putting a backup back: as a new life of the journal, by a signed decision.

The rules:

- Files are staged beside their place. The last step is one rename, so that there is a journal or none; an interrupted
  restore is made again by the same call.
- The decision stands in the control log and its echo in the journal before that rename: no journal is read that does
  not say what was put back, by whom. An interrupted restore leaves a decision without its journal; it is echoed too.
- Echoes that the backup's journal lacks come first, in order, since its control log may be newer.
- Whatever stood in the old life is rebuilt: no position of it holds in the new one.
"""

import os
from contextlib import closing
from pathlib import Path

import msgspec

from journal.archive import Archive, save_archive
from journal.backup import CONTROL, KEYS, BackupManifest, holds, load_backup, require_empty
from journal.blobs import copy_durably, sync_folder
from journal.chain import Chain
from journal.control import ControlLog, Entry, append_next, echo_of, missing_echoes
from journal.erasure import SignsAndVerifies
from journal.errors import Refused
from journal.ledger import Verifies
from journal.log import START
from journal.reading import ByKind
from journal.segment import Segment
from journal.sqlite_log import SqliteJournal

ACTION = "restore"


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore came to: the details of its decision.

    Attributes:
        incarnation: The new life.
        was: The life that the backup was taken of.
        end: The last offset that the backup held.
        files: How many files were put in place.
    """

    incarnation: str
    was: str
    end: int
    files: int


class Deciding(msgspec.Struct, frozen=True, kw_only=True):
    """Who puts a backup back.

    Attributes:
        signer: Signs the decision, and checks those that are echoed before it.
        principal: Who decides.
        why: The reason; may be empty.
    """

    signer: SignsAndVerifies
    principal: str
    why: str = ""


def restore(
    source: Path,
    folder: Path,
    *,
    control: Path | None = None,
    keys: Path | None = None,
    deciding: Deciding | None = None,
) -> Restored:
    """Put a backup in place as a new life of the journal.

    Args:
        source: The backup.
        folder: The journal's; must be empty or not there.
        control: Where the control log goes, if the backup holds one; must not be there, or be the backup's already.
        keys: The same of the key table.
        deciding: Who decides; needs ``control``. Without it nothing says that this was a restore.

    Raises:
        Refused: Something is in the way.
        UnknownName: There is no whole backup.
        Corrupt: The backup is damaged, or its journal echoes decisions that its control log does not hold.
        Untrusted: A decision that would be echoed is not ours.
    """
    manifest = load_backup(source)
    require_empty(folder, "restore into an empty home")
    places = {CONTROL: control, KEYS: keys}
    others = [(saved, place) for saved in manifest.files if (place := places.get(saved.name)) is not None]
    for saved, place in others:
        if place.exists() and not holds(place, saved) and not (deciding and _goes_on(source, place, manifest)):
            raise Refused(which=f"{place} is there already", fix="Restore into an empty home")
    staged = folder.with_name(f"{folder.name}.restoring")
    life = _stage(source, staged, manifest)
    for saved, place in others:
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy_durably(source / saved.name, place)
            place.chmod(0o600)
    restored = Restored(incarnation=life, was=manifest.incarnation, end=manifest.end, files=len(manifest.files))
    if control is not None and deciding is not None and manifest.end > START:
        _decide(staged, control, manifest, restored, deciding)
    _move(staged, folder)
    return restored


def _stage(source: Path, staged: Path, manifest: BackupManifest) -> str:
    staged.mkdir(parents=True, exist_ok=True)
    for left in staged.iterdir():
        left.unlink()
    for name in (saved.name for saved in manifest.files if saved.name not in {CONTROL, KEYS}):
        copy_durably(source / name, staged / name)
    if manifest.begins:
        save_archive(staged, Archive(begins=manifest.begins))
    return begin_new_life(staged)


def begin_new_life(folder: Path, life: str = "") -> str:
    """Give the journal in a folder that nobody owns a new incarnation, drawn here unless given, and return it."""
    life = life or os.urandom(8).hex()
    with closing(Chain(folder, Segment)) as chain:
        newest = chain.local[-1]
        with newest.db:
            newest.set_meta(incarnation=life)
        newest.checkpoint(wholly=True)
    return life


def _goes_on(source: Path, place: Path, manifest: BackupManifest) -> bool:
    """Whether a control log is the backup's with nothing but restores behind it: what an interrupted one leaves."""
    if place.name != CONTROL:
        return False
    # A copy, since opening a control log makes the tables that it lacks.
    copy = place.with_name(f"{place.name}.restoring")
    copy_durably(source / CONTROL, copy)
    try:
        before, now = (ControlLog(_url(path)).entries(manifest.pipeline) for path in (copy, place))
    finally:
        copy.unlink()
    return list(now[: len(before)]) == list(before) and all(entry.action == ACTION for entry in now[len(before) :])


def _decide(staged: Path, control: Path, manifest: BackupManifest, restored: Restored, deciding: Deciding) -> None:
    log = ControlLog(_url(control))
    echo_missing(staged, manifest.pipeline, log, deciding.signer)
    append_next(
        log,
        manifest.pipeline,
        lambda: manifest.clock,
        action=ACTION,
        subject=restored.incarnation,
        why=deciding.why,
        details=msgspec.to_builtins(restored),
        principal=deciding.principal,
        key=f"{ACTION}-{restored.incarnation}",
        signer=deciding.signer,
    )
    echo_missing(staged, manifest.pipeline, log, deciding.signer)


def echo_missing(folder: Path, pipeline: str, log: ControlLog, verifier: Verifies) -> None:
    """Append the echoes that a journal lacks, in order. Nobody may own it meanwhile.

    Raises:
        OwnedElsewhere: Somebody does.
        Corrupt, Untrusted: The journal echoes decisions that the control log does not hold, or one of those that it
            lacks is not ours. Nothing was appended.
    """
    with closing(SqliteJournal(folder, pipeline)) as journal:
        journal.append([echo_of(entry) for entry in checked_missing(log, pipeline, journal, verifier)])


def checked_missing(log: ControlLog, pipeline: str, journal: ByKind, verifier: Verifies) -> list[Entry]:
    """The decisions that a journal has not echoed, each held to its hash and signature; raises as `echo_missing`."""
    missing = missing_echoes(log, pipeline, journal)
    for entry in missing:
        log.decided.check_one(entry, verifier)
    return missing


def _url(path: Path) -> str:
    return f"sqlite:///{path.absolute()}"


def _move(staged: Path, folder: Path) -> None:
    if folder.exists():
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
    staged.rename(folder)
    sync_folder(folder.parent)
