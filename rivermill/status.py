"""Where every pipeline of a home stands, read from its files without owning them."""

from pathlib import Path
from typing import Any

from journal.body import Decision, Snapshot, decode
from journal.checkpoint import positions_in
from journal.clock import format_time
from journal.control import NAMING
from journal.held import count_held
from journal.log import START
from journal.poison import stopped_at
from journal.quality import stopped_stages
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
    end, held = journal.end(), count_held(journal)
    facts: Facts = {
        "pipeline": home.pipeline,
        "now": format_time(journal.clock),
        "records": end + 1,
        "segments": len(journal.segments()),
        "lag": {name: end - offset for name, offset in positions_in(home.fold("x").parent).items()},
        "serving": _serving(journal),
        "quarantined": held["quarantined"],
        "quarantine": held,
        "held": [alert.name for alert in stopped_stages(journal).values()],
        **_poison(home),
        "left no record": journal.tallies(),
        "datasets": len(list(home.datasets.glob("*/manifest.json"))),
    }
    journal.close()
    return facts


def _poison(home: Home) -> Facts:
    """The record that a fold cannot take, if the worker stays before one."""
    suspect = stopped_at(home.attempts)
    return (
        {} if suspect is None else {"stays before": f"record {suspect.offset} of fold {suspect.fold}: {suspect.error}"}
    )


def _serving(journal: SqliteReader) -> Facts | str:
    """The line that the last echo names, and its model; or what answers until there is one."""
    named = [decode(record.body, Decision) for record in journal.of_kind(Kind.DECISION, START, 1_000_000)]
    naming = [decision for decision in named if decision.action in NAMING]
    if not naming:
        return "nobody: no decision yet"
    line = naming[-1].subject
    for record in journal.of_kind(Kind.VERSION, START, 1_000_000):
        if record.id == line:
            return {"line": line, "model": record.data["model"][:12], "decision": naming[-1].sequence}
    for record in reversed(journal.last_of_kind(Kind.SNAPSHOT, _RECENT)):
        snapshot = decode(record.body, Snapshot)
        if snapshot.published and snapshot.line == line:
            return {
                "line": line,
                "model": snapshot.model[:12],
                "decision": naming[-1].sequence,
                "examples": snapshot.examples,
                "since": format_time(record.at),
            }
    return f"the prior of {line}: no snapshot yet"
