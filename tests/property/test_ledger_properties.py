"""Whatever sequence of edits leaves the control log another than it was is found, and no other is complained about."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.control import ControlLog, echo_of
from journal.errors import Corrupt, Untrusted
from journal.memory_log import MemoryJournal
from journal.proof import prove
from registry.signing import Signer

TABLES = {
    "decisions": ["action", "subject", "why", "details", "at", "principal", "key", "heads"],
    "evidence": ["line", "kind", "facts"],
    "audit": ["when", "person", "action", "object", "outcome", "why", "decision", "details"],
}
CHAIN = ["sequence", "previous", "hash", "signature", "pipeline"]
ROWS = 3

Log = tuple[Path, Signer, MemoryJournal]


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    """Three decisions, a row of evidence and one of the audit before each, and the echoes."""
    with tempfile.TemporaryDirectory() as folder:
        path, signer = Path(folder) / "control.sqlite", Signer.open(Path(folder) / "key")
        control, journal = ControlLog(f"sqlite:///{path}"), MemoryJournal("p")
        for number in range(ROWS):
            control.put_evidence("p", "line", "gate", {"auc": number}, signer)
            control.put_audit(
                "p", when=number, person="anna", action="promote", object="line", outcome="done", signer=signer
            )
            entry = control.append(
                "p",
                expected=number,
                action="promote",
                subject="line",
                why="",
                details={},
                at=number,
                principal="anna",
                key=str(number),
                signer=signer,
            )
            journal.append([echo_of(entry)])
        yield path, signer, journal


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """One statement over one table, as somebody with a database shell could write it."""
    table = draw(st.sampled_from(sorted(TABLES)))
    row, other = draw(st.integers(1, ROWS)), draw(st.integers(1, ROWS + 1))
    column = draw(st.sampled_from(TABLES[table] + CHAIN))
    value = draw(st.one_of(st.integers(-5, 5), st.sampled_from(["", "p", "anna", "line", "{}", '{"auc":1}', b"x"])))
    bindings: dict[str, Any] = {"row": row, "other": other, "value": value}
    copied = ", ".join(f'"{name}" = (SELECT "{name}" FROM {table} WHERE sequence = :other)' for name in TABLES[table])
    statement = draw(
        st.sampled_from(
            [
                f"DELETE FROM {table} WHERE sequence = :row",
                f"DELETE FROM {table} WHERE sequence >= :row",
                f'UPDATE {table} SET "{column}" = :value WHERE sequence = :row',
                f"UPDATE {table} SET sequence = :other WHERE sequence = :row",
                f"UPDATE {table} SET {copied} WHERE sequence = :row",
                f'UPDATE {table} SET "{column}" = (SELECT "{column}" FROM {table} WHERE sequence = :other) '
                "WHERE sequence = :row",
            ]
        )
    )
    return statement, {name: bound for name, bound in bindings.items() if f":{name}" in statement}


def content(control: ControlLog) -> list[Any]:
    with control.engine.connect() as connection:
        return [
            [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY sequence, pipeline")]
            for table in TABLES
        ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(statements=st.lists(edits(), min_size=1, max_size=4))
def test_every_difference_is_found_and_nothing_else(log: Log, statements: list[tuple[str, dict[str, Any]]]) -> None:
    path, signer, journal = log
    with tempfile.TemporaryDirectory() as folder:
        control = ControlLog(f"sqlite:///{shutil.copy(path, folder)}")
        before = content(control)
        for statement, bindings in statements:
            try:
                with control.engine.begin() as connection:
                    connection.execute(sa.text(statement), bindings)
            except sa.exc.IntegrityError:
                continue
        if content(control) == before:
            assert prove(control, "p", signer, journal).vouched == 2 * ROWS
        else:
            with pytest.raises((Corrupt, Untrusted), match="of 'p'"):
                prove(control, "p", signer, journal)
