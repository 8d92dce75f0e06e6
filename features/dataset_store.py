"""Where dataset versions lie: a folder each, written beside its place and renamed, so that it is there whole or not.

Writers in several processes take turns by a lock on the root, which dies with its process. What a version is made of
never changes; how it is kept does: its rows are ready to read (``standard``), compressed harder in a folder of their
own (``archive``), which may lie on a cheaper disk, or let go of (``dropped``). The manifest stays and says how to build
them again.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from journal.blobs import sync_folder, write_durably
from journal.errors import Corrupt, DurabilityLost, Refused

TRAINING, GATE, ADHOC = "training", "gate", "adhoc"
KINDS = (TRAINING, GATE, ADHOC)
"""What a version is for, the most important first: a version that serves two ends is kept as the first of them."""

MANIFEST, ROWS, KEEPING = "manifest.json", "rows.parquet", "keeping.json"
_ARCHIVE = "archive"
_LEVEL_READY, _LEVEL = 1, 19
"""Of zstd, for rows that are ready to read and for archived ones."""

Storage = Literal["standard", "archive", "dropped"]


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """How a version is kept.

    Attributes:
        kind: What it is for.
        claimed: The journal time at which somebody last built it, in microseconds; its age counts from there.
        storage: Where its rows are.
    """

    kind: str
    claimed: int
    storage: Storage = "standard"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Be the only writer of a root; waits for another to end."""
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def publish(root: Path, version: str, table: pa.Table, manifest: bytes, keeping: Keeping) -> None:
    """Put a version in place, durably; of one that is there already only the claim is renewed, and lost rows come back.

    Args:
        root: The folder of the versions.
        version: Its name, which follows from its rows.
        table: Its rows.
        manifest: What goes beside them.
        keeping: How to keep it.
    """
    with locked(root):
        folder = root / version
        if (folder / MANIFEST).exists():
            _claim(root, version, table, keeping)
            return
        beside = root / f".{version}.partial"
        for torn in (beside, folder):
            shutil.rmtree(torn, ignore_errors=True)
        beside.mkdir()
        _write_rows(beside / ROWS, table)
        write_durably(beside / KEEPING, msgspec.json.encode(keeping))
        write_durably(beside / MANIFEST, manifest)
        beside.rename(folder)
        sync_folder(root)


def _claim(root: Path, version: str, table: pa.Table, keeping: Keeping) -> None:
    held = keeping_of(root / version)
    kind = min(held.kind, keeping.kind, key=KINDS.index)
    changed = msgspec.structs.replace(held, kind=kind, claimed=max(held.claimed, keeping.claimed))
    if changed != held:
        write_durably(root / version / KEEPING, msgspec.json.encode(changed))
    if held.storage == "dropped":
        _write_rows(_rows_path(root, version, "standard"), table)
        _keep(root, version, changed, "standard")


def keeping_of(folder: Path) -> Keeping:
    """How the version in a folder is kept."""
    try:
        return msgspec.json.decode((folder / KEEPING).read_bytes(), type=Keeping)
    except (FileNotFoundError, msgspec.MsgspecError) as error:
        raise Corrupt(which=f"{folder / KEEPING} ({error})", fix=_AGAIN) from error


def read(root: Path, version: str, columns: list[str] | None = None) -> pa.Table:
    """A version's rows; of the named columns alone, where some are named.

    Raises:
        Corrupt: They are damaged.
        Refused: They were let go of.
    """
    storage = keeping_of(root / version).storage
    if storage == "dropped":
        raise Refused(
            which=f"the rows of dataset {version} were let go of", fix="`rivermill dataset restore` builds them again"
        )
    try:
        return pq.read_table(_rows_path(root, version, storage), columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise Corrupt(which=f"dataset {version}: {error}", fix=_AGAIN) from error


def size_of(root: Path, version: str) -> int:
    """How many bytes a version's rows take; 0 where they were let go of."""
    storage = keeping_of(root / version).storage
    path = _rows_path(root, version, storage)
    return path.stat().st_size if storage != "dropped" and path.exists() else 0


def archive(root: Path, version: str) -> None:
    """Compress a version's rows harder and put them away; they can be read as before."""
    with locked(root):
        keeping = keeping_of(root / version)
        if keeping.storage == "standard":
            (root / _ARCHIVE).mkdir(exist_ok=True)
            _write_rows(_rows_path(root, version, "archive"), read(root, version), _LEVEL)
        if keeping.storage != "dropped":
            _keep(root, version, keeping, "archive")


def put_back(root: Path, version: str, table: pa.Table) -> None:
    """Make a version's rows ready to read, as they are given."""
    with locked(root):
        _write_rows(_rows_path(root, version, "standard"), table)
        _keep(root, version, keeping_of(root / version), "standard")


def drop(root: Path, version: str) -> None:
    """Let go of a version's rows; what says how they were made stays."""
    with locked(root):
        _keep(root, version, keeping_of(root / version), "dropped")


def sweep(root: Path) -> None:
    """Remove what writers that died left: files half written, and rows that a version's note says lie elsewhere."""
    with locked(root):
        for torn in sorted(root.rglob("*.partial")):
            if torn.is_dir():
                shutil.rmtree(torn)
            else:
                torn.unlink(missing_ok=True)
        for note in root.glob(f"[!.]*/{KEEPING}"):
            keeping = keeping_of(note.parent)
            _keep(root, note.parent.name, keeping, keeping.storage)


_AGAIN = "`rivermill dataset restore` writes them again: the journal still gives the right rows"


def _rows_path(root: Path, version: str, storage: Storage) -> Path:
    return root / _ARCHIVE / f"{version}.parquet" if storage == "archive" else root / version / ROWS


def _keep(root: Path, version: str, keeping: Keeping, storage: Storage) -> None:
    """Say where the rows are, then remove them from wherever else a crash may have left them."""
    changed = msgspec.structs.replace(keeping, storage=storage)
    if changed != keeping:
        write_durably(root / version / KEEPING, msgspec.json.encode(changed))
    for other in ("standard", "archive"):
        if other != storage:
            _rows_path(root, version, other).unlink(missing_ok=True)


def _write_rows(path: Path, table: pa.Table, level: int = _LEVEL_READY) -> None:
    beside = path.with_name(f".{path.name}.partial")
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    try:
        pq.write_table(table, beside, compression="zstd", compression_level=level, use_dictionary=texts)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DurabilityLost(
            which=f"{path} ({error.strerror or error})", fix="Make room on the disk, try again"
        ) from error
