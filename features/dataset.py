"""Versioned datasets: an immutable folder of Parquet and a manifest, named by the content of its rows.

Rows are examples: the features as predicted and the outcome. Every prediction of the range is considered and ends up
either in a row or in a counted exclusion; rows out = rows in, in the order of the predictions.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.examples import Readable, Rows, collect
from journal.blobs import sync_folder, write_durably
from journal.errors import Corrupt, Refused, UnknownName
from journal.quality import require_running
from journal.stage_rule import DATASET, FEATURES, JOIN


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """How a dataset version was made.

    Attributes:
        version: ``<pipeline>-<first 12 of the hash>``.
        pipeline: Whose it is.
        service: The feature service, as ``name@digest``.
        views: Its views, as ``name@version``.
        schema: Column names and types, in order.
        incarnation: The life of the journal it was read from.
        through: Last journal offset that was considered.
        build: Fingerprint of the code and libraries.
        considered: Predictions in the range.
        excluded: Those without a row, by reason.
        rows_in: Predictions left after the exclusions.
        rows_out: Rows written; always ``rows_in``.
        positives: Rows whose outcome is true.
        hash: SHA-256 over the canonical rows.
    """

    version: str
    pipeline: str
    service: str
    views: list[str]
    schema: list[tuple[str, str]]
    incarnation: str
    through: int
    build: str
    considered: int
    excluded: dict[str, int]
    rows_in: int
    rows_out: int
    positives: int
    hash: str


def build(journal: Readable, root: Path, pipeline: str, through: int, fingerprint: str) -> Manifest:
    """Write the dataset version of a journal range; one that exists already is returned as it is.

    Raises:
        Refused: The rows break the dataset's own rules; the message says which rows.
        Stopped: A quality rule held a stage that datasets come from, at the end of the range.
    """
    require_running(journal, FEATURES, JOIN, DATASET, through=through)
    rows = collect(journal, through)
    check(rows.table)
    manifest = _manifest(rows, pipeline, journal.incarnation, through, fingerprint)
    folder = root / manifest.version
    if (folder / "manifest.json").exists():
        return load(root, manifest.version)
    _write(folder, rows.table, manifest)
    return manifest


def check(table: pa.Table) -> None:
    """The rules that any dataset keeps, as a pandera schema: unique predictions, an outcome each, finite numbers.

    Raises:
        Refused: With the failing rows (by prediction offset) and rules.
    """
    import pandera.pandas as pandera  # noqa: PLC0415 - costs a second that only a build should pay

    finite = pandera.Check(np.isfinite, ignore_na=True, error="not finite")
    columns = {
        field.name: pandera.Column(checks=[finite] if pa.types.is_floating(field.type) else [], nullable=True)
        for field in table.schema
    }
    columns["prediction"] = pandera.Column(unique=True)
    columns["outcome"] = pandera.Column(nullable=False)
    frame = table.to_pandas()
    try:
        pandera.DataFrameSchema(columns, strict=True).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases.head(5)
        found = zip(cases["index"], cases["column"], cases["check"], strict=True)
        shown = "; ".join(f"row {row}, {column}: {rule}" for row, column, rule in found)
        raise Refused(
            which=f"{len(error.failure_cases)} cell(s) break the dataset's rules: {shown}",
            fix="Look at those predictions with `rivermill journal tail`",
        ) from error


def verify(journal: Readable, root: Path, version: str) -> Manifest:
    """Rebuild a version from the journal range it names, and read its file: both must have the manifest's hash.

    Raises:
        Corrupt: One of them differs; the message says which.
    """
    manifest = load(root, version)
    rebuilt = hash_rows(collect(journal, manifest.through).table)
    if rebuilt != manifest.hash:
        raise Corrupt(
            which=f"dataset {version}: rebuilt from the journal: {rebuilt[:12]}, in its manifest: {manifest.hash[:12]}",
            fix="Do not train on it; `rivermill journal verify` tells whether the journal was damaged",
        )
    stored = hash_rows(read(root, version))
    if stored != manifest.hash:
        raise Corrupt(
            which=f"dataset {version}: in its file: {stored[:12]}, in its manifest: {manifest.hash[:12]}",
            fix="Delete the folder and build it again: the journal still gives the right rows",
        )
    return manifest


def load(root: Path, version: str) -> Manifest:
    """Read a version's manifest; raises UnknownName."""
    path = root / version / "manifest.json"
    if "/" in version or not path.exists():
        known = ", ".join(manifest.version for manifest in versions(root)) or "none"
        raise UnknownName(which=f"dataset {version!r}; there are: {known}", fix="`rivermill dataset list` shows them")
    return msgspec.json.decode(path.read_bytes(), type=Manifest)


def versions(root: Path) -> list[Manifest]:
    """Every version, by name."""
    return [msgspec.json.decode(path.read_bytes(), type=Manifest) for path in sorted(root.glob("*/manifest.json"))]


def read(root: Path, version: str, columns: list[str] | None = None) -> pa.Table:
    """A version's rows; of the named columns alone, where some are named."""
    try:
        return pq.read_table(root / version / "rows.parquet", columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise Corrupt(which=f"dataset {version}: {error}", fix="Delete the folder and build it again") from error


def hash_rows(table: pa.Table) -> str:
    """SHA-256 over the canonical rows: column by column its name, type, validity and little-endian values.

    Chunking, file layout and what lies under a null do not matter; a changed bit, row or order does.
    """
    total = hashlib.sha256()
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        total.update(f"{field.name}\0{field.type}\0{len(column)}\0".encode())
        total.update(np.asarray(column.is_valid()).tobytes())
        total.update(_canonical_values(column))
    return total.hexdigest()


def _canonical_values(column: Any) -> bytes:
    if pa.types.is_string(column.type):
        texts = [text or "" for text in column.to_pylist()]
        lengths = np.fromiter((len(text.encode()) for text in texts), "<i8", len(texts))
        return lengths.tobytes() + "".join(texts).encode()
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    filled = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    return np.asarray(filled).astype(np.asarray(filled).dtype.newbyteorder("<")).tobytes()


def _manifest(rows: Rows, pipeline: str, incarnation: str, through: int, fingerprint: str) -> Manifest:
    content = hash_rows(rows.table)
    return Manifest(
        version=f"{pipeline}-{content[:12]}",
        pipeline=pipeline,
        service=rows.definition.service,
        views=rows.definition.views,
        schema=[(field.name, str(field.type)) for field in rows.table.schema],
        incarnation=incarnation,
        through=through,
        build=fingerprint,
        considered=rows.considered,
        excluded=rows.excluded,
        rows_in=rows.considered - sum(rows.excluded.values()),
        rows_out=rows.table.num_rows,
        positives=int(np.count_nonzero(np.asarray(rows.table.column("outcome")))),
        hash=content,
    )


def _write(folder: Path, table: pa.Table, manifest: Manifest) -> None:
    """Write beside and rename, so that a version is there whole or not at all."""
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    pq.write_table(table, beside / "rows.parquet", compression="zstd")
    with (beside / "rows.parquet").open("rb") as file:
        os.fsync(file.fileno())
    write_durably(beside / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    sync_folder(folder.parent)
