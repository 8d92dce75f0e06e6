"""A segment's file: what is seldom is found without reading what is frequent."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from journal.record import Kind
from journal.segment import Segment

SELDOM = (Kind.GENESIS, Kind.DEFINITION, Kind.QUARANTINE, Kind.SNAPSHOT, Kind.VERSION, Kind.DECISION, Kind.ALERT)


@pytest.mark.parametrize("kind", SELDOM)
def test_records_of_a_seldom_kind_are_found_by_the_index(tmp_path: Path, kind: Kind) -> None:
    segment = Segment(tmp_path / "segment-000000000000.sqlite")
    plans: list[str] = []

    def note(_: apsw.Cursor, statement: str, bindings: Any) -> bool:
        if statement.startswith("SELECT"):
            plan = apsw.Connection(str(segment.path)).execute(f"EXPLAIN QUERY PLAN {statement}", bindings)
            plans.extend(str(step[-1]) for step in plan)
        return True

    segment.db.exec_trace = note
    segment.of_kind(kind, 0, 10)
    segment.rows_of(kind, 0, 10)
    segment.last_of_kind(kind, 10)
    segment.close()
    assert len(plans) == 3
    assert all(plan.startswith("SEARCH record USING INDEX rare (kind=?") for plan in plans)
