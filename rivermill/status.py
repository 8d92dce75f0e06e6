"""Where every pipeline of a home stands, read from its files without owning them."""

from pathlib import Path
from typing import Any

from journal.body import Snapshot, decode
from journal.checkpoint import FoldFile
from journal.clock import format_time
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.settings import Home, pipelines_in

Facts = dict[str, Any]
_RECENT = 1_000


def status_of(root: Path) -> list[Facts]:
    """One object per pipeline that has ever run in this home."""
    return [_status(Home(root, name)) for name in pipelines_in(root)]


def _status(home: Home) -> Facts:
    journal = SqliteReader(home.journal)
    end = journal.end()
    facts: Facts = {
        "pipeline": home.pipeline,
        "now": format_time(journal.clock),
        "records": end + 1,
        "segments": len(journal.segments()),
        "lag": {name: end - offset for name, offset in _positions(home).items()},
        "serving": _serving(journal),
        "quarantined": len(journal.of_kind(Kind.QUARANTINE, -1, 1_000_000)),
        "left no record": journal.tallies(),
        "datasets": len(list(home.datasets.glob("*/manifest.json"))),
    }
    journal.close()
    return facts


def _positions(home: Home) -> dict[str, int]:
    positions = {}
    for path in sorted(home.fold("x").parent.glob("*.sqlite")):
        file = FoldFile(path, readonly=True)
        position = file.position(path.stem)
        positions[path.stem] = -1 if position is None else position.offset
        file.close()
    return positions


def _serving(journal: SqliteReader) -> Facts | str:
    """The last published snapshot, or what answers until there is one."""
    for record in reversed(journal.last_of_kind(Kind.SNAPSHOT, _RECENT)):
        snapshot = decode(record.body, Snapshot)
        if snapshot.published:
            return {
                "line": snapshot.line,
                "model": snapshot.model[:12],
                "examples": snapshot.examples,
                "since": format_time(record.at),
            }
    return "the prior: no snapshot yet"
