"""Where versions lie, how they are kept, and what retention does with them."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from features import dataset_store as store
from features.dataset_manifest import Manifest, versions
from features.dataset_retention import DEFAULT, Step, Terms, apply_retention, plan_retention
from features.dataset_service import Service
from features.dataset_store import ADHOC, GATE, TRAINING, Keeping
from journal.blobs import write_durably
from journal.body import Definition
from journal.clock import DAY
from journal.errors import Corrupt, DurabilityLost, Refused

TABLE = pa.table({"prediction": [1, 2], "x": [0.5, None], "key": ["a", "b"], "outcome": [True, False]})


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file may grow beyond this size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def manifest(version: str) -> Manifest:
    definition = Definition(service="s@1", request=[], views=[], columns=["x"], types=["float64"])
    return Manifest(
        version=version, pipeline="t", service="s@1", views=[], digests={}, schema=[], incarnation="i", first=0,
        through=9, as_of=9, window=None, build="b", considered=2, excluded={}, rows_in=2, rows_out=2, positives=1,
        lines={"l": 2}, reconstructed={}, quality=[], created=9, hash="0" * 64, made_of=Service(definition=definition),
    )  # fmt: skip


def publish(root: Path, version: str = "t-1", kind: str = ADHOC, claimed: int = 0, table: pa.Table = TABLE) -> None:
    made = msgspec.json.encode(manifest(version))
    store.publish(root, version, table, made, Keeping(kind=kind, claimed=claimed))


def keeping(root: Path, version: str = "t-1") -> Keeping:
    return store.keeping_of(root / version)


def test_a_version_is_written_once_and_claimed_again(tmp_path: Path) -> None:
    publish(tmp_path, kind=GATE, claimed=5)
    before = (tmp_path / "t-1" / store.ROWS).stat().st_mtime_ns
    publish(tmp_path, kind=ADHOC, claimed=9)
    assert keeping(tmp_path) == Keeping(kind=GATE, claimed=9)
    publish(tmp_path, kind=TRAINING, claimed=7)
    assert keeping(tmp_path) == Keeping(kind=TRAINING, claimed=9)
    assert (tmp_path / "t-1" / store.ROWS).stat().st_mtime_ns == before
    assert store.read(tmp_path, "t-1").equals(TABLE)
    assert store.read(tmp_path, "t-1", ["x"]).column_names == ["x"]


def test_archived_rows_read_as_before_and_come_back(tmp_path: Path) -> None:
    publish(tmp_path)
    for _ in range(2):
        store.archive(tmp_path, "t-1")
        assert keeping(tmp_path).storage == "archive"
        assert not (tmp_path / "t-1" / store.ROWS).exists()
        assert store.read(tmp_path, "t-1").equals(TABLE)
        assert store.size_of(tmp_path, "t-1") == (tmp_path / "archive" / "t-1.parquet").stat().st_size
    store.put_back(tmp_path, "t-1", TABLE)
    assert keeping(tmp_path).storage == "standard"
    assert not (tmp_path / "archive" / "t-1.parquet").exists()
    assert store.read(tmp_path, "t-1").equals(TABLE)


@pytest.mark.parametrize("archived", [False, True])
def test_dropped_rows_are_gone_until_they_are_built_again(tmp_path: Path, archived: bool) -> None:
    publish(tmp_path)
    if archived:
        store.archive(tmp_path, "t-1")
    store.drop(tmp_path, "t-1")
    assert sorted(path.name for path in tmp_path.rglob("*.parquet")) == []
    assert store.size_of(tmp_path, "t-1") == 0
    with pytest.raises(Refused, match=r"were let go of.*dataset restore"):
        store.read(tmp_path, "t-1")
    store.archive(tmp_path, "t-1")
    assert keeping(tmp_path).storage == "dropped"
    publish(tmp_path, claimed=3)
    assert keeping(tmp_path) == Keeping(kind=ADHOC, claimed=3)
    assert store.read(tmp_path, "t-1").equals(TABLE)


def test_torn_folders_are_no_versions(tmp_path: Path) -> None:
    for torn in (tmp_path / ".t-1.partial", tmp_path / "t-1"):
        torn.mkdir()
        (torn / "junk").touch()
    publish(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".lock", "keeping.json", "manifest.json", "rows.parquet", "t-1",
    ]  # fmt: skip


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"kind": 1}'])
def test_a_damaged_note_is_named(tmp_path: Path, content: bytes | None) -> None:
    publish(tmp_path)
    note = tmp_path / "t-1" / store.KEEPING
    note.unlink() if content is None else write_durably(note, content)
    with pytest.raises(Corrupt, match=r"keeping\.json"):
        store.read(tmp_path, "t-1")


def test_writers_take_turns(tmp_path: Path) -> None:
    """While one holds the root, another waits; both then find one whole version."""
    began, done = threading.Event(), threading.Event()

    def other() -> None:
        began.set()
        publish(tmp_path, claimed=8)
        done.set()

    thread = threading.Thread(target=other)
    with store.locked(tmp_path):
        thread.start()
        assert began.wait(10)
        assert not done.is_set()
        assert not (tmp_path / "t-1").exists()
    thread.join()
    publish(tmp_path, claimed=4)
    assert keeping(tmp_path).claimed == 8


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Versions of each kind, built on day 0; one more on day 60."""
    for kind in store.KINDS:
        publish(tmp_path, f"t-{kind}", kind)
    publish(tmp_path, "t-late", ADHOC, 60 * DAY)
    return tmp_path


def actions(steps: list[Step]) -> dict[str, str]:
    return {step.version.removeprefix("t-"): step.action for step in steps}


@pytest.mark.parametrize(
    ("day", "planned"),
    [
        (7, {}),
        (8, {"adhoc": "archive"}),
        (31, {"adhoc": "drop"}),
        (68, {"adhoc": "drop", "late": "archive"}),
        (91, {"adhoc": "drop", "late": "drop", "gate": "archive", "training": "archive"}),
        (366, {"adhoc": "drop", "late": "drop", "gate": "drop", "training": "archive"}),
    ],
)
def test_each_kind_has_its_terms(kept: Path, day: int, planned: dict[str, str]) -> None:
    steps = plan_retention(kept, DEFAULT, day * DAY, set())
    assert actions(steps) == planned
    apply_retention(kept, steps)
    assert actions(plan_retention(kept, DEFAULT, day * DAY, set())) == {}
    storage = {"archive": "archive", "drop": "dropped"}
    for name in ("training", "gate", "adhoc", "late"):
        assert keeping(kept, f"t-{name}").storage == storage.get(planned.get(name, ""), "standard")


def test_what_a_line_was_fitted_on_keeps_its_rows(kept: Path) -> None:
    terms = dict.fromkeys(store.KINDS, Terms(keep=DAY))
    steps = plan_retention(kept, terms, 61 * DAY, {"t-gate"})
    assert actions(steps) == {"adhoc": "drop", "gate": "hold", "training": "drop"}
    apply_retention(kept, steps)
    assert store.read(kept, "t-gate").equals(TABLE)


def test_what_a_dead_writer_left_goes_with_the_next_retention(kept: Path) -> None:
    """Rows that a note says were let go of, and half-written files: of versions and of folders beside them."""
    leftover = kept / "archive" / "t-adhoc.parquet"
    store.drop(kept, "t-adhoc")
    leftover.parent.mkdir()
    for torn in (kept / ".t-new.partial" / "deep", leftover, kept / "t-gate" / "keeping.json.7.partial"):
        torn.parent.mkdir(exist_ok=True)
        torn.touch()
    apply_retention(kept, plan_retention(kept, DEFAULT, DAY, set()))
    assert sorted(path.name for path in kept.glob("*")) == [
        ".lock",
        "archive",
        *(path.name for path in _versions(kept)),
    ]
    assert not leftover.exists()
    assert [path.name for path in kept.rglob("*.partial")] == []
    assert store.read(kept, "t-gate").equals(TABLE)


def _versions(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.glob("*/manifest.json"))


def test_rows_that_cannot_be_written_are_no_version(tmp_path: Path) -> None:
    large = pa.table({"prediction": range(5_000), "x": [n / 7 for n in range(5_000)]})
    with small_files(8_192), pytest.raises(DurabilityLost, match=r"rows\.parquet .*Make room on the disk"):
        publish(tmp_path, table=large)
    assert versions(tmp_path) == []
    publish(tmp_path, table=large)
    with small_files(8_192), pytest.raises(DurabilityLost, match=r"t-1\.parquet"):
        store.archive(tmp_path, "t-1")
    assert keeping(tmp_path).storage == "standard"
    assert store.read(tmp_path, "t-1").equals(large)
    assert [path.name for path in tmp_path.rglob("*.partial")] == []
