"""Checks of this machine, the home and its pipelines; each says what was found and what to do."""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from journal.checkpoint import FoldFile
from journal.errors import RivermillError
from journal.reading import each_of
from journal.sqlite_reader import SqliteReader
from rivermill.settings import HOME_VARIABLE, Home, pipelines_in

if TYPE_CHECKING:
    from rivermill.pipeline import Pipeline

# SQLite 3.7.0 to 3.51.2 can corrupt a database when a checkpoint races a write on another connection.
SOUND_SQLITE = (3, 51, 3)
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, whether it is well, what was found, and what to do if it is not."""

    check: str
    ok: bool
    found: str
    fix: str = ""


def examine(root: Path, folder_of: Callable[[str], Path], names: tuple[str, ...]) -> list[Finding]:
    """Run every check; pipelines default to all that the home holds."""
    findings = [_python(), _sqlite(), _home(root)]
    for name in names or pipelines_in(root):
        findings += _examine_pipeline(Home(root, Path(name).name), folder_of(name))
    return findings


def _examine_pipeline(home: Home, folder: Path) -> Iterator[Finding]:
    load = cache(lambda: _load(folder))
    yield _check(f"{home.pipeline}: its files", lambda: _files(load()))
    if home.exists:
        yield _check(f"{home.pipeline}: journal", lambda: _journal(home))
        yield _check(f"{home.pipeline}: checkpoints", lambda: _checkpoints(home))
        yield _check(f"{home.pipeline}: served model", lambda: _model(home, load()))


def _check(name: str, look: Callable[[], str]) -> Finding:
    """Turn one of our errors into a finding."""
    try:
        return Finding(check=name, ok=True, found=look())
    except RivermillError as error:
        return Finding(check=name, ok=False, found=error.which, fix=error.fix)


def _python() -> Finding:
    return Finding(
        check="Python",
        ok=sys.version_info >= OLDEST_PYTHON,
        found=platform.python_version(),
        fix="Use Python 3.11 or newer",
    )


def _sqlite() -> Finding:
    version = tuple(map(int, apsw.sqlite_lib_version().split(".")))
    return Finding(
        check="SQLite",
        ok=version >= SOUND_SQLITE,
        found=f"{apsw.sqlite_lib_version()}, through apsw",
        fix="Install a newer apsw: this one can corrupt a journal",
    )


def _home(root: Path) -> Finding:
    nearest = next(path for path in (root.absolute(), *root.absolute().parents) if path.exists())
    return Finding(
        check="home",
        ok=nearest.is_dir() and os.access(nearest, os.W_OK),
        found=str(root),
        fix=f"Make {nearest} writable, or set {HOME_VARIABLE}",
    )


def _load(folder: Path) -> "Pipeline":
    from rivermill.pipeline import load_pipeline  # noqa: PLC0415 - pays for Feast

    return load_pipeline(folder)


def _files(pipeline: "Pipeline") -> str:
    return f"{len(pipeline.contracts)} contracts, {len(pipeline.views)} views, line {pipeline.bootstrap!r}"


def _journal(home: Home) -> str:
    journal = SqliteReader(home.journal)
    try:
        for segment in journal.segments():
            for damage in segment.damage():
                raise damage
        return f"{journal.end() + 1} records in {len(journal.segments())} segment(s), every checksum holds"
    finally:
        journal.close()


def _checkpoints(home: Home) -> str:
    names = []
    for path in sorted(home.fold("x").parent.glob("*.sqlite")):
        file = FoldFile(path, readonly=True)
        try:
            file.check()
        finally:
            file.close()
        names.append(path.stem)
    return f"{', '.join(names) or 'none'}: every checksum holds"


def _model(home: Home, pipeline: "Pipeline") -> str:
    from journal.reading import read_one  # noqa: PLC0415 - not needed by the other checks
    from rivermill.wiring import champion_of  # noqa: PLC0415
    from serving.champion import FOLLOWED  # noqa: PLC0415

    journal = SqliteReader(home.journal)
    try:
        champion = champion_of(pipeline, home, read_one(journal))
        records = [record for kind in FOLLOWED for record in each_of(journal, kind)]
        for record in sorted(records, key=lambda record: record.offset):
            champion.observe(record)
    finally:
        journal.close()
    line = champion.served.line
    if not champion.is_ready:
        return f"the prior of {line!r}: no snapshot yet" if line else "nobody: no decision yet"
    return f"line {line}, model {champion.digest[:12]}: its digest, its signature and every decision's hold"
