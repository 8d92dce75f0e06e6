"""How a dataset version was made: what lies beside its rows, and what a rebuild needs."""

from pathlib import Path

import msgspec

from features.dataset_rules import Checked
from features.dataset_service import Service
from features.dataset_store import MANIFEST
from journal.errors import Corrupt, UnknownName


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """How a dataset version was made.

    Attributes:
        version: ``<pipeline>-<first 12 of the hash>``.
        pipeline: Whose it is.
        service: The feature service, as ``name@digest``.
        views: Its views, as ``name@version``.
        digests: The digest of each view's definition; empty where nobody declared it to the build.
        schema: Column names and types, in order.
        incarnation: The life of the journal it was read from.
        first: First journal offset whose prediction counts.
        through: Last journal offset that was considered.
        as_of: The journal time there, in microseconds.
        window: How far back from there predictions count, in microseconds; None for all.
        build: Fingerprint of the code and libraries.
        considered: Predictions in the range.
        excluded: Those without a row, by reason.
        rows_in: Predictions left after the exclusions.
        rows_out: Rows written; always ``rows_in``.
        positives: Rows whose outcome is true.
        lines: Rows by the line that answered.
        reconstructed: Rows by the view that was joined as it was known, since their predictions do not hold it.
        quality: The rules that held, with how many values each was about.
        created: The journal time of the build, in microseconds.
        hash: SHA-256 over the canonical rows.
        made_of: The service with all that a rebuild needs of it.
    """

    version: str
    pipeline: str
    service: str
    views: list[str]
    digests: dict[str, str]
    schema: list[tuple[str, str]]
    incarnation: str
    first: int
    through: int
    as_of: int
    window: int | None
    build: str
    considered: int
    excluded: dict[str, int]
    rows_in: int
    rows_out: int
    positives: int
    lines: dict[str, int]
    reconstructed: dict[str, int]
    quality: list[Checked]
    created: int
    hash: str
    made_of: Service


def load(root: Path, version: str) -> Manifest:
    """Read a version's manifest; raises UnknownName, or Corrupt where it is damaged."""
    path = root / version / MANIFEST
    if "/" in version or not path.exists():
        known = ", ".join(manifest.version for manifest in versions(root)) or "none"
        raise UnknownName(which=f"dataset {version!r}; there are: {known}", fix="`rivermill dataset list` shows them")
    return _decode(path)


def versions(root: Path) -> list[Manifest]:
    """Every version, by name; a folder that begins with a dot is none yet."""
    return [_decode(path) for path in sorted(root.glob(f"[!.]*/{MANIFEST}"))]


def _decode(path: Path) -> Manifest:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.MsgspecError as error:
        raise Corrupt(which=f"{path} ({error})", fix="Delete its folder and build it again") from error
