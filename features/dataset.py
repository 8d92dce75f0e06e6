"""Versioned datasets: an immutable folder of Parquet and a manifest, named by the content of its rows.

Rows are examples: the features as predicted and the outcome. Every prediction of the range is considered and ends up
either in a row or in a counted exclusion; rows out = rows in, in the order of the predictions.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from features.dataset_diff import first_difference
from features.dataset_hash import hash_rows
from features.dataset_manifest import Manifest, load, versions
from features.dataset_range import EVER, at_of, first_known
from features.dataset_rules import Checked, check
from features.dataset_service import Service
from features.dataset_store import ADHOC, Keeping, keeping_of, publish, put_back, read
from features.examples import Readable, Rows, collect
from journal.errors import Corrupt, NoLongerProvable
from journal.field import Field
from journal.quality import require_running
from journal.stage_rule import DATASET, FEATURES, JOIN
from journal.upcast import Lift, as_stored

if TYPE_CHECKING:
    from features.dataset_known import Known

__all__ = ["Asked", "Manifest", "build", "check", "hash_rows", "load", "read", "rebuild", "verify", "versions"]
"""Also what callers need beside `build` and `verify`, from where it is defined."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset is wanted for and made of, beside the journal's end; the defaults take everything.

    Attributes:
        first: The first offset whose prediction counts; by default the first that can still be read.
        as_of: The journal time of the range's end, in microseconds; by default that of its last record.
        window: How far back predictions count, in microseconds; only for the record, ``first`` decides.
        kind: What it is for: one of `features.dataset_store.KINDS`.
        service: Its columns; by default those of the newest service that the journal defines in the range.
        promised: By column the contract's field that it comes from.
    """

    first: int | None = None
    as_of: int | None = None
    window: int | None = None
    kind: str = ADHOC
    service: Service | None = None
    promised: dict[str, Field] = {}


EVERYTHING = Asked()


def build(
    journal: Readable,
    root: Path,
    pipeline: str,
    through: int,
    fingerprint: str,
    asked: Asked = EVERYTHING,
    *,
    known: "Known | None" = None,
    lift: Lift = as_stored,
) -> Manifest:
    """Write the dataset version of a journal range; one that exists already is returned as it is.

    Args:
        journal: Where the examples are.
        root: Where the versions lie.
        pipeline: Whose they are.
        through: The last offset that counts.
        fingerprint: Of the code and libraries.
        asked: What it is for and made of.
        known: Where views' rows are that predictions do not hold.
        lift: Makes questions of earlier versions readable.

    Raises:
        Refused: The rows break the dataset's own rules (the message says which rows), or a view cannot be looked up.
        Stopped: A quality rule held a stage that datasets come from, at the end of the range.
    """
    require_running(journal, FEATURES, JOIN, DATASET, through=through)
    if asked.first is None:
        asked = msgspec.structs.replace(asked, first=first_known(journal, EVER, through))
    rows = collect(journal, through, first=asked.first or 0, service=asked.service)
    table = _filled(rows, journal, known, through, lift)
    held = check(table, asked.promised)
    made = _manifest(rows, table, held, _Place(journal, pipeline, through, fingerprint), asked)
    keeping = Keeping(kind=asked.kind, claimed=made.created)
    publish(root, made.version, table, msgspec.json.format(msgspec.json.encode(made)), keeping)
    return load(root, made.version)


def rebuild(journal: Readable, manifest: Manifest, known: "Known | None" = None, lift: Lift = as_stored) -> pa.Table:
    """The rows that a manifest's range gives today."""
    rows = collect(journal, manifest.through, first=manifest.first, service=manifest.made_of)
    return _filled(rows, journal, known, manifest.through, lift)


def _filled(rows: Rows, journal: Readable, known: "Known | None", through: int, lift: Lift) -> pa.Table:
    if not rows.gaps:
        return rows.table
    from features.dataset_known import fill  # noqa: PLC0415 - a join's libraries, which most builds need not load

    return fill(rows, journal, known, through, lift)


def verify(
    journal: Readable, root: Path, version: str, *, known: "Known | None" = None, lift: Lift = as_stored
) -> Manifest:
    """Rebuild a version from its journal range, and read its rows where they are kept: both must have its hash.

    Args:
        journal: Where it was made from.
        root: Where the versions lie.
        version: Which.
        known: Where views' rows are that predictions do not hold.
        lift: Makes questions of earlier versions readable.

    Raises:
        Corrupt: One of them differs; the message says which, and where first.
        NoLongerProvable: The range cannot be read any more. The rows that are kept were checked before.
    """
    manifest = load(root, version)
    stored = None if keeping_of(root / version).storage == "dropped" else read(root, version)
    is_whole = stored is None or hash_rows(stored) == manifest.hash
    require_range(journal, manifest, "its rows have its hash" if is_whole and stored is not None else "")
    rebuilt = rebuild(journal, manifest, known, lift)
    if hash_rows(rebuilt) != manifest.hash:
        where = "" if stored is None or not is_whole else f", first in {first_difference(stored, rebuilt)}"
        raise Corrupt(
            which=f"dataset {version}: rebuilt from the journal it differs{where}",
            fix="Do not train on it; `rivermill journal verify` tells whether the journal was damaged",
        )
    if stored is not None and not is_whole:
        raise Corrupt(
            which=f"dataset {version}: its file differs, first in {first_difference(rebuilt, stored)}",
            fix="`rivermill dataset restore` writes the right rows: the journal still gives them",
        )
    return manifest


def restore(
    journal: Readable, root: Path, version: str, *, known: "Known | None" = None, lift: Lift = as_stored
) -> None:
    """Make a version's rows ready to read: those that were put away, or else what its range gives.

    Raises:
        Corrupt: What the range gives today is not what the version holds.
        NoLongerProvable: The range cannot be read any more.
    """
    manifest = load(root, version)
    table = _put_away(root, version)
    if table is None or hash_rows(table) != manifest.hash:
        require_range(journal, manifest)
        table = rebuild(journal, manifest, known, lift)
    if hash_rows(table) != manifest.hash:
        raise Corrupt(
            which=f"dataset {version}: rebuilt from the journal it differs",
            fix="`rivermill journal verify` tells whether the journal was damaged",
        )
    put_back(root, version, table)


def _put_away(root: Path, version: str) -> pa.Table | None:
    """The archived rows; None where there are none that can be read."""
    if keeping_of(root / version).storage != "archive":
        return None
    try:
        return read(root, version)
    except Corrupt:
        return None


def require_range(journal: Readable, manifest: Manifest, besides: str = "") -> None:
    """Make sure that what a version was made from can still be read.

    Raises:
        NoLongerProvable: It cannot.
    """
    told = f"; {besides}" if besides else ""
    if journal.end() < manifest.through:
        raise NoLongerProvable(
            which=f"dataset {manifest.version} ends at record {manifest.through}, the journal at {journal.end()}{told}",
            fix="Restore a backup that reaches as far",
        )
    try:
        journal.read(0, manifest.first - 1, 1)
    except NoLongerProvable as error:
        raise NoLongerProvable(
            which=f"dataset {manifest.version} begins at record {manifest.first}: {error.which}{told}", fix=error.fix
        ) from error


class _Place(NamedTuple):
    journal: Readable
    pipeline: str
    through: int
    build: str


def _manifest(rows: Rows, table: pa.Table, held: list[Checked], place: _Place, asked: Asked) -> Manifest:
    journal, pipeline, through, build = place
    content, definition = hash_rows(table), rows.definition
    return Manifest(
        version=f"{pipeline}-{content[:12]}",
        pipeline=pipeline,
        service=definition.service,
        views=definition.views,
        digests=rows.service.digests,
        schema=[(field.name, str(field.type)) for field in table.schema],
        incarnation=journal.incarnation,
        first=asked.first or 0,
        through=through,
        as_of=at_of(journal, through) if asked.as_of is None else asked.as_of,
        window=asked.window,
        build=build,
        considered=rows.considered,
        excluded=rows.excluded,
        rows_in=rows.considered - sum(rows.excluded.values()),
        rows_out=len(table),
        positives=int(np.count_nonzero(np.asarray(table["outcome"]))),
        lines=rows.lines,
        reconstructed=_reconstructed(rows),
        quality=held,
        created=at_of(journal, journal.end()),
        hash=content,
        made_of=rows.service,
    )


def _reconstructed(rows: Rows) -> dict[str, int]:
    counts = Counter[str]()
    for gap in rows.gaps:
        counts[gap.view] += len(gap.rows) if gap.view else 0
    return {view: count for view, count in counts.items() if count}
