"""Where Feast's file sources lie: Delta tables as their logs say, Parquet files, both on disk and on S3."""

import json
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import FileSource
from feast.data_source import PushSource

from features.feast_sources import open_source, save
from journal.errors import Corrupt, Refused, UnknownName

pytestmark = pytest.mark.slow

_VECTOR_MAGIC = 1_681_511_377
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_WHEN = datetime(2013, 1, 1, tzinfo=UTC)
ROWS = pa.table({"k": ["a", "b", "c", "d"], "x": [1, 2, 3, 4], "day": ["1", "1", "2", "2"], "t": [_WHEN] * 4})


def source(path: str | Path, **options: Any) -> FileSource:
    return FileSource(name="s", path=str(path), timestamp_field="t", **options)


def keys(path: Path) -> list[str]:
    return sorted(open_source(source(path), ".").to_table(columns=["k"])["k"].to_pylist())


def deleting(rows: list[int]) -> dict[str, Any]:
    """A deletion vector inside the log, as Delta's protocol spells it: a 64-bit roaring bitmap in Z85."""
    array = b"".join(struct.pack("<H", row) for row in rows)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16) + array
    vector = struct.pack("<IQI", _VECTOR_MAGIC, 1, 0) + bitmap
    padded, text = vector + bytes(-len(vector) % 4), ""
    for place in range(0, len(padded), 4):
        number = int.from_bytes(padded[place : place + 4], "big")
        text += "".join(_Z85[number // 85**power % 85] for power in range(4, -1, -1))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(vector), "cardinality": len(rows)}


def commit(table: Path, version: int, *actions: dict[str, Any]) -> None:
    (table / "_delta_log" / f"{version:020}.json").write_text("\n".join(map(json.dumps, actions)) + "\n")


def test_a_partition_is_a_column_and_what_was_removed_is_gone(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), ROWS, partition_by=["day"])
    assert open_source(source(tmp_path), ".").to_table().sort_by("k").select(ROWS.column_names).to_pylist() == [
        *ROWS.to_pylist()
    ]
    DeltaTable(str(tmp_path)).delete("x = 3")
    write_deltalake(str(tmp_path), ROWS.slice(0, 1), mode="append")
    assert keys(tmp_path) == ["a", "a", "b", "d"]
    assert len(list(tmp_path.rglob("*.parquet"))) > len(DeltaTable(str(tmp_path)).file_uris())


def test_a_share_carries_a_table_to_another_process_by_the_names_of_its_files(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), ROWS, partition_by=["day"])
    found = open_source(source(tmp_path), ".")
    assert pickle.loads(pickle.dumps(found)).to_table() == found.to_table()


def test_rows_in_a_deletion_vector_are_gone(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), ROWS)
    actions = [json.loads(line) for line in (tmp_path / "_delta_log" / f"{0:020}.json").read_text().splitlines()]
    add = next(action["add"] for action in actions if "add" in action)
    features = ["deletionVectors"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    removed = {"path": add["path"], "dataChange": True, "deletionTimestamp": 1, "size": add["size"]}
    commit(
        tmp_path, 1, {"protocol": protocol}, {"remove": removed}, {"add": {**add, "deletionVector": deleting([1, 3])}}
    )
    found = open_source(source(tmp_path), ".")
    assert found.to_table()["k"].to_pylist() == ["a", "c"]
    assert found.schema == pa.schema(DeltaTable(str(tmp_path)).schema().to_arrow())


@pytest.mark.parametrize("left", [0, 100])
def test_a_torn_commit_is_named_and_nothing_is_read(tmp_path: Path, left: int) -> None:
    write_deltalake(str(tmp_path), ROWS.slice(0, 2))
    write_deltalake(str(tmp_path), ROWS.slice(2), mode="append")
    torn = tmp_path / "_delta_log" / f"{1:020}.json"
    torn.write_bytes(torn.read_bytes()[:left])
    with pytest.raises(Corrupt, match=tmp_path.name):
        open_source(source(tmp_path), ".")


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"away\.parquet holds no rows"):
        open_source(source("away.parquet"), str(tmp_path))
    with pytest.raises(Refused, match="is a PushSource"):
        open_source(PushSource(name="p", batch_source=source(tmp_path)), ".")


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server over a folder, with one bucket: ``lake``."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "lake").mkdir()
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rclone = Path(sys.executable).parent / "rclone"
    command = [str(rclone), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key,secret", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "RCLONE_CONFIG": os.devnull})
    try:
        while not listens(port):
            assert process.poll() is None, "the S3 server ended"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return endpoint


def test_parquet_and_delta_are_read_from_s3(s3: str) -> None:
    save(ROWS, "s3://lake/plain/rows.parquet", ".", s3, replace=False)
    options = {"AWS_ENDPOINT_URL": s3, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    options["AWS_S3_ALLOW_UNSAFE_RENAME"] = "true"
    write_deltalake("s3://lake/delta", ROWS, partition_by=["day"], storage_options=options)
    for path in ("s3://lake/plain/rows.parquet", "s3://lake/plain", "s3://lake/delta"):
        found = open_source(source(path, s3_endpoint_override=s3), ".").to_table().sort_by("k")
        assert found.select(["k", "x"]) == ROWS.select(["k", "x"]), path


def test_what_was_saved_on_s3_is_not_replaced_by_mistake(s3: str) -> None:
    path = "s3://lake/saved/one.parquet"
    save(ROWS, path, ".", s3, replace=False)
    with pytest.raises(Refused, match=r"saved/one\.parquet exists"):
        save(ROWS.slice(1), path, ".", s3, replace=False)
    save(ROWS.slice(1), path, ".", s3, replace=True)
    assert open_source(source(path, s3_endpoint_override=s3), ".").count_rows() == ROWS.num_rows - 1


def test_what_is_not_on_s3_is_said(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="s3://lake/away holds no rows"):
        open_source(source("s3://lake/away", s3_endpoint_override=s3), ".")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Refused, match="AWS_ variables"):
        open_source(source("s3://lake/plain", s3_endpoint_override=s3), ".")
