"""The rows behind Feast's file sources: Delta tables and Parquet files, in folders and on S3, read lazily.

A Delta table is read through delta-rs, by its log: partitions are columns, and what was deleted is not there. A table
with deletion vectors is read whole into memory, since nothing reads those lazily. S3 is reached by the source's own
``s3_endpoint_override`` and the usual AWS variables of the environment.
"""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError, TableNotFoundError
from feast.data_source import DataSource
from feast.infra.offline_stores.file_source import FileSource
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, S3FileSystem, SubTreeFileSystem

from journal.errors import Corrupt, Refused, UnknownName

_S3 = "s3://"
_VECTORS = "deletionVectors"
_LOG = "_delta_log"
_MEND = "Restore the table's log from where it was written; nothing of it is read until then"


def open_source(source: DataSource, folder: str) -> ds.Dataset:
    """The rows behind a Feast source.

    Args:
        source: A file source.
        folder: Against which its path is resolved when it is relative.

    Raises:
        Refused: It is not a file source, or its table needs what no reader here can do.
        UnknownName: There is nothing at its path.
        Corrupt: Its table's log is damaged.
    """
    if not isinstance(source, FileSource):
        raise Refused(which=f"source {source.name!r} is a {type(source).__name__}", fix="Use a FileSource")
    if source.path.startswith(_S3):
        return _on_s3(source)
    path = Path(folder) / source.path
    if (path / _LOG).is_dir():
        return _delta(str(path), {}, None)
    if not path.exists():
        raise _nothing(str(path))
    return ds.dataset(path, format="parquet")


def save(rows: pa.Table, path: str, folder: str, endpoint: str | None, *, replace: bool) -> None:
    """Write rows to one Parquet file, whole or not at all.

    Args:
        rows: What to write.
        path: Where, on disk or ``s3://``.
        folder: Against which a relative path is resolved.
        endpoint: Of S3, where it is not Amazon's.
        replace: Whether what lies there may go.

    Raises:
        Refused: Something lies there and may not go.
    """
    on_s3 = path.startswith(_S3)
    files = _bucket(endpoint) if on_s3 else LocalFileSystem()
    place = path.removeprefix(_S3) if on_s3 else str(Path(folder) / path)
    if not replace and files.get_file_info(place).type != FileType.NotFound:
        raise Refused(which=f"{path} exists", fix="Choose another path, or pass allow_overwrite=True")
    if on_s3:
        # An object appears when it is closed.
        pq.write_table(rows, place, filesystem=files)
        return
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, f"{place}.unfinished")
    Path(f"{place}.unfinished").replace(place)


def _on_s3(source: FileSource) -> ds.Dataset:
    endpoint = source.file_options.s3_endpoint_override
    files, place = _bucket(endpoint), source.path.removeprefix(_S3).rstrip("/")
    try:
        if files.get_file_info(FileSelector(f"{place}/{_LOG}", allow_not_found=True)):
            return _delta(source.path, _delta_options(endpoint), SubTreeFileSystem(place, files))
        rows = ds.dataset(place, filesystem=files, format="parquet")
    except FileNotFoundError as error:
        raise _nothing(source.path) from error
    except OSError as error:
        fix = "Check s3_endpoint_override and the AWS_ variables of the environment"
        raise Refused(which=f"{source.path} cannot be read ({_first_line(error)})", fix=fix) from error
    if not rows.files:
        raise _nothing(source.path)
    return rows


def _bucket(endpoint: str | None) -> S3FileSystem:
    # Without the first a host that is no cloud machine is asked for credentials; without the second, objects go out in
    # chunks with a checksum behind them, which other servers than Amazon's do not take.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    scheme, _, host = (endpoint or "").rpartition("://")
    options: dict[str, Any] = {"endpoint_override": host, "scheme": scheme or "https"} if host else {}
    return S3FileSystem(region=_region(), allow_delayed_open=True, **options)


def _region() -> str:
    return os.environ.get("AWS_REGION", "us-east-1")


def _delta_options(endpoint: str | None) -> dict[str, str]:
    region = {"AWS_REGION": _region()}
    if not endpoint:
        return region
    return region | {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http:")).lower()}


def _delta(address: str, options: dict[str, str], files: FileSystem | None) -> ds.Dataset:
    try:
        table = DeltaTable(address, storage_options=options)
        _require_whole(address, table)
        if _VECTORS in (table.protocol().reader_features or ()):
            return _whole(table)
        return table.to_pyarrow_dataset(filesystem=files)
    except TableNotFoundError as error:
        raise _nothing(address) from error
    except (DeltaError, OSError) as error:
        raise Corrupt(which=f"{address} ({_first_line(error)})", fix=_MEND) from error


def _require_whole(address: str, table: DeltaTable) -> None:
    """An empty last commit is what a crash leaves; delta-rs takes it for a commit that changed nothing."""
    last = Path(address, _LOG, f"{table.version():020}.json")
    if last.exists() and not last.stat().st_size:
        raise Corrupt(which=f"{last} is empty", fix=_MEND)


def _whole(table: DeltaTable) -> ds.Dataset:
    rows = pa.table(QueryBuilder().register("rows", table).execute("SELECT * FROM rows").read_all())
    return ds.dataset(rows.cast(pa.schema(table.schema().to_arrow())))


def _nothing(address: str) -> UnknownName:
    return UnknownName(which=f"{address} holds no rows", fix="Start the view's fold once, or correct the source's path")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
