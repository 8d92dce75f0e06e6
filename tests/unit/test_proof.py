"""Whatever is done to the control log without the signing key is found, and the message names the place."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from journal import errors
from journal.body import Decision, decode, draft_of, encode
from journal.control import ControlLog, Entry, decision_of, echo_of
from journal.digest import digest_journal
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.poison import skips_in
from journal.proof import Proof, prove
from journal.reading import decisions_in
from journal.record import Kind
from registry.signing import Signer
from tests.drafts import draft_again

NOON = 1_357_041_600_000_000
NOUNS = {"decisions": "decision", "evidence": "evidence", "audit": "audit row"}
ROWS = 4


class World:
    """Four decisions with their echoes; before each, a row of evidence and two of the audit."""

    def __init__(self, folder: Path) -> None:
        self.signer = Signer.open(folder / "key")
        self.path = folder / "control.sqlite"
        self.control = ControlLog(f"sqlite:///{self.path}")
        self.journal = MemoryJournal("flights")
        for number in range(ROWS):
            self.measure(number)
            self.decide(number)

    def measure(self, number: int, pipeline: str = "flights") -> None:
        self.control.put_evidence(pipeline, "line", "gate", {"auc": 0.5 + number / 10}, self.signer)
        for person in ("anna", "ben"):
            self.control.put_audit(
                pipeline,
                when=NOON + number,
                person=person,
                action="promote",
                object=f"line-{number}",
                outcome="done",
                why="better",
                decision=number + 1,
                details={"n": number},
                signer=self.signer,
            )

    def decide(self, number: int, pipeline: str = "flights", echoed: bool = True, **changes: Any) -> Entry:
        facts: dict[str, Any] = {
            "action": "promote",
            "subject": f"line-{number}",
            "why": "better",
            "details": {"auc": 0.5 + number / 10},
            "at": NOON + number,
            "principal": "anna",
            "key": f"key-{number}",
        }
        entry = self.control.append(pipeline, expected=number, signer=self.signer, **(facts | changes))
        if echoed:
            self.journal.append([echo_of(entry)])
        return entry

    def prove(self) -> Proof:
        return prove(self.control, "flights", self.signer, self.journal)

    def change(self, statement: str, **bindings: Any) -> None:
        with self.control.engine.begin() as connection:
            connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
            assert connection.execute(sa.text(statement), bindings).rowcount > 0

    def count(self, table: str) -> int:
        with self.control.engine.begin() as connection:
            return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def cells() -> list[tuple[str, str, Any]]:
    """Every column of every table with another value of its own kind, and of another kind."""
    texts: list[Any] = ["", "mine", b"mine"]
    numbers: list[Any] = [0, NOON + 77, "x"]
    jsons: list[Any] = ["{}", '{"auc":1.0}', '{"auc": 0.6}', "null", "{", b"{}", 7]
    common: dict[str, list[Any]] = {
        "pipeline": ["phishing", b"flights"],
        "sequence": [0, 77, -1],
        "previous": texts,
        "hash": ["", "0" * 64],
    }
    tables: dict[str, dict[str, list[Any]]] = {
        "decisions": {
            **dict.fromkeys(("action", "subject", "why", "principal", "key"), texts),
            "details": jsons,
            "heads": [*jsons, '{"audit":[0,""]}'],
            "at": numbers,
        },
        "evidence": {**dict.fromkeys(("line", "kind"), texts), "facts": jsons},
        "audit": {
            **dict.fromkeys(("person", "action", "object", "outcome", "why"), texts),
            "details": jsons,
            "when": numbers,
            "decision": [0, 99, "x"],
        },
    }
    return [
        (table, column, value)
        for table, columns in tables.items()
        for column, values in {**common, **columns}.items()
        for value in values
    ]


def test_what_was_decided_holds(world: World) -> None:
    assert world.prove() == Proof(decisions=4, evidence=4, audit=8, echoes=4, vouched=12)
    assert prove(world.control, "phishing", world.signer).decisions == 0
    assert prove(world.control, "flights", Signer.open(world.path.with_name("key"))).echoes == 0


def test_what_differs_between_equal_runs_is_outside_the_digest(world: World, tmp_path: Path) -> None:
    """Other keys, other measurements by the wall: other heads and signatures, and the same digest."""
    (tmp_path / "again").mkdir()
    again = World(tmp_path / "again")
    assert digest_journal(again.journal) == digest_journal(world.journal)
    again.measure(4)
    world.decide(4)
    again.decide(4)
    mine, theirs = (decode(each.journal.read(0, START, 9)[4].body, Decision) for each in (world, again))
    assert mine.heads != theirs.heads
    assert digest_journal(again.journal) == digest_journal(world.journal)


def test_every_column_is_among_those_that_are_changed(world: World) -> None:
    ledgers = [world.control.decided, *world.control.beside.values()]
    columns = {(ledger.table.name, column.name) for ledger in ledgers for column in ledger.table.columns}
    assert {(table, column) for table, column, _ in cells()} == {
        (table, column) for table, column in columns if column != "signature"
    }


@pytest.mark.parametrize(("table", "column", "value"), cells())
def test_every_changed_cell_is_found_and_named(world: World, table: str, column: str, value: object) -> None:
    world.change(f'UPDATE {table} SET "{column}" = :value WHERE sequence = 3', value=value)
    number = 1 if (column, value) in (("sequence", 0), ("sequence", -1)) else 3
    with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} {number} of 'flights'"):
        world.prove()


@pytest.mark.parametrize("table", NOUNS)
@pytest.mark.parametrize("spelling", ["''", "upper(signature)", "signature || ' '", "replace(hash, '0', '1')", "7"])
def test_every_changed_signature_is_found_and_named(world: World, table: str, spelling: str) -> None:
    world.change(f"UPDATE {table} SET signature = {spelling} WHERE sequence = 2")
    with pytest.raises(errors.Untrusted, match=f"{NOUNS[table]} 2 of 'flights' is not ours"):
        world.prove()


@pytest.mark.parametrize("table", NOUNS)
@pytest.mark.parametrize("sequence", [1, 2, 3])
def test_a_row_cut_out_is_found(world: World, table: str, sequence: int) -> None:
    world.change(f"DELETE FROM {table} WHERE sequence = :n", n=sequence)
    with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} {sequence} of 'flights'"):
        world.prove()


@pytest.mark.parametrize("table", NOUNS)
@pytest.mark.parametrize("sequence", [1, 2])
def test_a_gap_closed_by_renumbering_is_found(world: World, table: str, sequence: int) -> None:
    world.change(f"DELETE FROM {table} WHERE sequence = :n", n=sequence)
    for number in range(sequence + 1, world.count(table) + 2):
        world.change(f"UPDATE {table} SET sequence = sequence - 1 WHERE sequence = :n", n=number)
    with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} {sequence} of 'flights'"):
        world.prove()


@pytest.mark.parametrize("table", NOUNS)
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_cut_end_is_found(world: World, table: str, kept: int) -> None:
    world.change(f"DELETE FROM {table} WHERE sequence > :n", n=kept)
    with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} {kept + 1} of 'flights' is missing, and all after it"):
        world.prove()


@pytest.mark.parametrize("table", NOUNS)
def test_rows_that_changed_places_are_found(world: World, table: str) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        world.change(f"UPDATE {table} SET sequence = :new WHERE sequence = :old", old=old, new=new)
    with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} 2 of 'flights'"):
        world.prove()


@pytest.mark.parametrize("table", NOUNS)
def test_rows_of_another_pipeline_are_found(world: World, table: str) -> None:
    for number in range(ROWS + 1):
        world.measure(number, "phishing")
        world.decide(number, "phishing", echoed=False)
    world.change(f"DELETE FROM {table} WHERE pipeline = 'flights'")
    world.change(f"UPDATE {table} SET pipeline = 'flights'")
    with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} 1 of 'flights'"):
        world.prove()


@pytest.mark.parametrize(("table", "facts"), [("evidence", "facts"), ("audit", "details"), ("decisions", "details")])
def test_an_older_row_in_a_newer_ones_place_is_found(world: World, table: str, facts: str) -> None:
    """What it says, and even the hash and the signature under it, were ours once: in another place."""
    for columns in ((facts,), (facts, "hash", "signature"), (facts, "hash", "previous", "signature")):
        taken = ", ".join(f"{name} = (SELECT {name} FROM {table} WHERE sequence = 1)" for name in columns)
        world.change(f"UPDATE {table} SET {taken} WHERE sequence = 4")
        with pytest.raises(errors.Corrupt, match=f"{NOUNS[table]} 4 of 'flights'"):
            world.prove()


def test_an_older_copy_of_the_whole_database_is_found(world: World) -> None:
    copy = world.path.read_bytes()
    world.decide(4)
    world.path.write_bytes(copy)
    with pytest.raises(errors.Corrupt, match=r"decision 5 of 'flights' is missing.*echoed up to 5"):
        world.prove()
    world.decide(4, subject="mine")
    with pytest.raises(errors.Corrupt, match=r"echoed a decision 5 of 'flights' that the control log tells in another"):
        prove(world.control, "flights", world.signer, MemoryWith(world.journal, 5))


class MemoryWith(MemoryJournal):
    """The first echoes of a journal."""

    def __init__(self, journal: MemoryJournal, count: int) -> None:
        super().__init__("flights")
        self.append([draft_again(record) for record in journal.read(0, START, count)])


def test_an_end_cut_from_table_and_journal_alike_shows_in_what_stands_beside(world: World) -> None:
    """Who cuts decisions in both places has the audit of them left over, and cannot cut that: the head before names it.

    Only a whole older state of everything is a state that was true once.
    """
    world.change("DELETE FROM decisions WHERE sequence > 3")
    shorter = MemoryWith(world.journal, 3)
    assert prove(world.control, "flights", world.signer, shorter).vouched == 9
    world.change("DELETE FROM audit WHERE sequence > 5")
    with pytest.raises(errors.Corrupt, match="audit row 6 of 'flights' is missing"):
        prove(world.control, "flights", world.signer, shorter)


def test_all_rewritten_with_new_hashes_is_untrusted(world: World, tmp_path: Path) -> None:
    """Table and echoes made anew, in every detail, under another key."""
    (tmp_path / "theirs").mkdir()
    forged = World(tmp_path / "theirs")
    world.path.write_bytes(forged.path.read_bytes())
    with pytest.raises(errors.Untrusted, match="decision 1 of 'flights' is not ours"):
        prove(world.control, "flights", world.signer, forged.journal)


@pytest.mark.parametrize(
    "changed",
    [{"subject": "mine"}, {"why": "x"}, {"action": "reject"}, {"details": {}}, {"heads": {}}, {"sequence": 3}],
)
def test_a_changed_echo_is_untrusted(world: World, changed: dict[str, Any]) -> None:
    echo = decode(world.journal.read(0, START, 9)[1].body, Decision)
    forged = msgspec.structs.replace(echo, **changed)
    draft = msgspec.structs.replace(draft_again(world.journal.read(0, START, 9)[1]), body=encode(forged), id="forged")
    world.journal.append([draft])
    with pytest.raises(errors.Untrusted, match=rf"echo of decision {forged.sequence} of 'flights' is not ours"):
        world.prove()


def test_an_echo_that_is_yet_to_come_is_no_damage(world: World) -> None:
    late = world.decide(4, echoed=False)
    assert world.prove().decisions == 5
    assert world.prove().echoes == 4
    world.journal.append([echo_of(late)])
    assert world.prove().echoes == 5


def test_what_came_after_the_last_decision_is_not_vouched_for_yet(world: World) -> None:
    world.measure(9)
    assert world.prove() == Proof(decisions=4, evidence=5, audit=10, echoes=4, vouched=12)
    world.change("DELETE FROM audit WHERE sequence = 10")
    assert world.prove().audit == 9
    entry = world.decide(4)
    assert decision_of(entry).heads.keys() == {"evidence", "audit", "decisions"}
    world.change("DELETE FROM audit WHERE sequence = 9")
    with pytest.raises(errors.Corrupt, match="audit row 9 of 'flights' is missing"):
        world.prove()


def test_a_table_that_was_dropped_is_found(world: World) -> None:
    with world.control.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE evidence")
    world.control = ControlLog(f"sqlite:///{world.path}")
    with pytest.raises(errors.Corrupt, match="evidence 1 of 'flights' is missing"):
        world.prove()


@pytest.mark.parametrize("action", ["skip", "cutover", "promote"])
def test_a_decision_without_a_number_counts_for_nothing_and_is_found(world: World, action: str) -> None:
    forged = Decision(sequence=0, action=action, subject="s", why="w", details={"fold": "learner", "offset": 3})
    world.journal.append([draft_of(forged, kind=Kind.DECISION, stream="control", id="forged")])
    assert skips_in(world.journal) == {}
    assert all(decision.sequence for _, decision in decisions_in(world.journal))
    with pytest.raises(errors.Untrusted, match=rf"echoes no decision: {action} s without a number"):
        world.prove()
