"""A dataset's writer killed at each of its steps leaves a whole version or none, and the next one gives the same.

Run as a program, this file forks the writers that are killed: the n-th child dies as it is about to touch the datasets'
folder for the n-th time, seen through Python's audit events; one more is killed by the system as its rows grow.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from features import dataset
from features import dataset_store as store
from features.dataset_retention import apply_retention
from journal.body import Definition, Example, Prediction, draft_of
from journal.errors import Refused
from journal.record import Draft, Kind
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader

pytestmark = pytest.mark.slow

DEFINITION = Definition(service="s@1", request=[], views=["v@1"], columns=["v__n"], types=["float64"])
PREDICTIONS = 2_000
"""Enough for a file of rows that takes more than one page of the disk."""
MID_WRITE = "mid-write"
_WATCHED = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})
_WRITES_UP_TO = 4_096


def prediction(number: int) -> Draft:
    body = Prediction(
        key=f"k{number}", question=0, service="s@1", values=[number / 7], stamps=[None], score=0.5, line="l", model="",
        snapshot=-1, control=1, degraded=False, build="b",
    )  # fmt: skip
    return draft_of(body, kind=Kind.PREDICTION, stream="predictions", id=f"p-{number}")


def example(of: int) -> Draft:
    body = Example(key="", prediction=of, label=0, outcome=of % 3 == 0)
    return draft_of(body, kind=Kind.EXAMPLE, stream="examples", id=f"e-{of}")


def tell(folder: Path) -> None:
    """Write a journal of predictions, each with its outcome."""
    with closing(SqliteJournal(folder / "journal", "t")) as journal:
        journal.append([draft_of(DEFINITION, kind=Kind.DEFINITION, stream="f", id="s@1")])
        journal.append([prediction(number) for number in range(PREDICTIONS)])
        journal.append([example(offset) for offset in range(1, PREDICTIONS + 1)])


def build(folder: Path, root: Path) -> dataset.Manifest:
    with closing(SqliteReader(folder / "journal")) as journal:
        return dataset.build(journal, root, "t", journal.end(), "b")


def restore(folder: Path, root: Path) -> None:
    (made,) = dataset.versions(root)
    with closing(SqliteReader(folder / "journal")) as journal:
        dataset.restore(journal, root, made.version)


def archive(_: Path, root: Path) -> None:
    (made,) = dataset.versions(root)
    store.archive(root, made.version)


def drop(_: Path, root: Path) -> None:
    (made,) = dataset.versions(root)
    store.drop(root, made.version)


DEEDS: dict[str, tuple[list[Callable[[Path, Path], Any]], Callable[[Path, Path], Any]]] = {
    "build": ([], build),
    "build what was dropped": ([build, drop], build),
    "archive": ([build], archive),
    "drop": ([build, archive], drop),
    "restore": ([build, archive], restore),
}
"""What was done before, and what is killed."""


def die_at(step: int, root: Path) -> None:
    """From now on this process ends as it touches a folder for so many times."""
    left = count(step, -1)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _WATCHED and str(arguments[0]).startswith(str(root)) and next(left) == 1:
            os.write(1, f"{event} {Path(str(arguments[0])).name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def die_in_a_write() -> None:
    """From now on the system ends this process as it makes a file longer than a page."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_WRITES_UP_TO, _WRITES_UP_TO))


def in_a_child(arm: Callable[[], None], deed: Callable[[Path, Path], Any], folder: Path, root: Path) -> int:
    """Do it in a child; the signal that ended it, or 0."""
    sys.stdout.flush()
    if not (pid := os.fork()):
        arm()
        deed(folder, root)
        os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_everywhere(folder: Path, name: str) -> None:
    """Do a deed in one child after the other, each killed a step later, until one survives."""
    import_module("pandera.pandas")
    before, deed = DEEDS[name]
    template = folder / "template"
    template.mkdir()
    for each in before:
        in_a_child(lambda: None, each, folder, template)
    for step in count(1):
        root = shutil.copytree(template, folder / f"killed-{step:02}")
        if not in_a_child(lambda at=step, of=root: die_at(at, of), deed, folder, root):  # type: ignore[misc]
            break
    root = shutil.copytree(template, folder / MID_WRITE)
    if in_a_child(die_in_a_write, deed, folder, root) == signal.SIGXFSZ:
        os.write(1, f"{MID_WRITE}\n".encode())


CHANGES = {
    "build": [
        "os.rename .rows.parquet.partial",
        "os.rename keeping.json.partial",
        "os.rename manifest.json.partial",
        "os.rename .{version}.partial",
    ],
    "build what was dropped": [
        "os.rename .rows.parquet.partial",
        "os.rename keeping.json.partial",
        "os.remove {version}.parquet",
    ],
    "archive": ["os.rename .{version}.parquet.partial", "os.rename keeping.json.partial", "os.remove rows.parquet"],
    "drop": ["os.rename keeping.json.partial", "os.remove rows.parquet", "os.remove {version}.parquet"],
    "restore": [
        "os.rename .rows.parquet.partial",
        "os.rename keeping.json.partial",
        "os.remove {version}.parquet",
    ],
}
"""The steps of each that change what others see, in their order."""


class Killed(NamedTuple):
    """What the writers left: the folder of each, the steps that they died at, and the version that should be there."""

    deed: str
    folder: Path
    roots: list[Path]
    steps: list[str]
    made: dataset.Manifest


@pytest.fixture(scope="module", params=DEEDS)
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    tell(folder)
    command = [sys.executable, __file__, str(folder), request.param]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    roots = [*sorted(folder.glob("killed-*")), folder / MID_WRITE]
    made = build(folder, folder / "reference")
    return Killed(request.param, folder, roots, re.sub(r"json\.\d+", "json", run.stdout).splitlines(), made)


def test_each_step_is_one_to_die_at(killed: Killed) -> None:
    """Each writer died but the last, at all steps that there are; and amid the rows, where any are written."""
    assert len(killed.steps) == len(killed.roots) - 1 - (MID_WRITE not in killed.steps)
    assert (MID_WRITE in killed.steps) is (killed.deed != "drop")
    version = killed.made.version
    assert [step for step in killed.steps if step.startswith(("os.rename", "os.remove"))] == [
        step.format(version=version) for step in CHANGES[killed.deed]
    ]


def test_what_is_left_is_a_whole_version_or_none(killed: Killed) -> None:
    for root in killed.roots:
        left = dataset.versions(root)
        assert left in ([], [killed.made]), root
        assert left or killed.deed == "build", root
        for made in left:
            is_dropped = store.keeping_of(root / made.version).storage == "dropped"
            with pytest.raises(Refused) if is_dropped else nullcontext():
                assert dataset.hash_rows(dataset.read(root, made.version)) == made.hash


def test_whoever_comes_next_makes_it_whole(killed: Killed) -> None:
    """The same build gives the same version, ready to read, with nothing beside it that the next sweep leaves."""
    for root in killed.roots:
        again = shutil.copytree(root, killed.folder / "again" / root.name)
        assert build(killed.folder, again) == killed.made
        restore(killed.folder, again)
        with closing(SqliteReader(killed.folder / "journal")) as journal:
            assert dataset.verify(journal, again, killed.made.version) == killed.made
        store.sweep(again)
        files = {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()}
        named = {f"{killed.made.version}/{name}" for name in (store.MANIFEST, store.ROWS, store.KEEPING)}
        assert files == {".lock", *named}


def test_retention_lets_go_of_all_that_its_note_says(killed: Killed) -> None:
    """Rows that a killed writer should have removed go with the next `retain`, and so do its half-written files."""
    for root in killed.roots:
        swept = shutil.copytree(root, killed.folder / "swept" / root.name)
        apply_retention(swept, [])
        assert list(swept.rglob("*.partial")) == []
        assert dataset.versions(swept) == dataset.versions(root)
        for made in dataset.versions(swept):
            storage = store.keeping_of(swept / made.version).storage
            held = {"dropped": [], "archive": [f"{made.version}.parquet"], "standard": [store.ROWS]}[storage]
            assert [path.name for path in swept.rglob("*.parquet")] == held


def test_two_processes_that_build_one_version_at_once_both_succeed(tmp_path: Path) -> None:
    """Both wait for the lock with their rows ready; then both find one whole version."""
    tell(tmp_path)
    root = tmp_path / "datasets"
    with store.locked(root):
        builders = [
            subprocess.Popen([sys.executable, __file__, str(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        assert [said.readline() for each in builders if (said := each.stdout)] == ["waits\n", "waits\n"]
        assert dataset.versions(root) == []
    names = [each.communicate()[0] for each in builders]
    assert [each.returncode for each in builders] == [0, 0]
    (made,) = dataset.versions(root)
    assert names == [made.version, made.version]
    assert dataset.hash_rows(dataset.read(root, made.version)) == made.hash


def build_and_say(folder: Path) -> None:
    """Build, and say when the lock is waited for, and which version it was."""
    sys.addaudithook(lambda event, _: event == "fcntl.flock" and os.write(1, b"waits\n"))
    made = build(folder, folder / "datasets")
    os.write(1, made.version.encode())


if __name__ == "__main__":
    if sys.argv[2:]:
        kill_everywhere(Path(sys.argv[1]), sys.argv[2])
    else:
        build_and_say(Path(sys.argv[1]))
