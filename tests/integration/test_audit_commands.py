"""Audit and erasure from the command line, over a home on disk: with and without an owner that runs."""

import contextlib
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from journal.clock import format_time
from journal.control import ControlLog
from journal.errors import Corrupt, OwnerDown, Refused, RivermillError, UnknownName
from journal.intake import Accepted, Intake
from journal.log import START
from journal.owner_client import OwnerClient
from journal.privacy import KeyTable
from journal.record import Kind
from journal.sealed import Sealed, check_sealed
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from registry.signing import Signer
from rivermill.audit_commands import audit, erase
from rivermill.auditing import Auditing
from rivermill.pipeline import load_intake
from rivermill.place import Place
from rivermill.settings import Home

pytestmark = pytest.mark.slow

NOON = 1_357_041_600_000_000
ANNA, BERT = "anna.marker@example.org", "bert.marker@example.org"
PIPELINE = """\
pipeline: shop
clock: events
starts: {from: 2013-01-01T00:00:00Z, to: 2013-01-02T00:00:00Z}
question: {stream: visits, key: page, service: s, request: []}
"""
CONTRACT = """\
apiVersion: v3.0.2
kind: DataContract
id: shop-visits
name: visits
version: 1.0.0
status: active
schema:
  - name: visits
    logicalType: object
    properties:
      - name: person
        logicalType: string
        required: true
        classification: personal
      - name: page
        logicalType: string
        required: true
customProperties:
  - {property: dedupWindow, value: 2d}
  - {property: maxGap, value: 1d}
  - {property: subject, value: person}
"""


class Shop:
    """A pipeline's folder and home, and the command line over them."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "pipelines" / "shop"
        (self.folder / "contracts").mkdir(parents=True)
        (self.folder / "pipeline.yaml").write_text(PIPELINE)
        (self.folder / "contracts" / "visits.odcs.yaml").write_text(CONTRACT)
        self.home = Home(root / "home", "shop")
        self.home.prepare()
        self.place = Place(root / "home", root / "pipelines")
        self.control = ControlLog(self.home.control)
        self.signer = Signer.open(self.home.keys / "signing.key")
        self.cli = click.Group("rivermill", commands=[audit, click.Group("journal", commands=[erase])])
        self.subjects = self.fill()

    def fill(self) -> dict[str, str]:
        with closing(self.journal()) as journal, closing(self.keys()) as keys:
            intake = Intake(journal, load_intake(self.folder).contracts, keys, None)
            taken = {person: intake.take(visit(person)) for person in (ANNA, BERT)}
        return {person: each.record.subject or "" for person, each in taken.items() if isinstance(each, Accepted)}

    def journal(self) -> SqliteJournal:
        return SqliteJournal(self.home.journal, "shop")

    def keys(self) -> KeyTable:
        return KeyTable(self.home.keys / "subjects.sqlite")

    def sealed(self) -> Sealed:
        with closing(SqliteReader(self.home.journal)) as journal, closing(self.keys()) as keys:
            return check_sealed(journal, keys)

    def run(self, *arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(self.cli, arguments, obj=self.place, input=given)

    def facts(self, *arguments: str, given: str | None = None) -> Any:
        result = self.run(*arguments, "--json", given=given)
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    def fails(self, kind: type[RivermillError], *arguments: str, given: str | None = None) -> str:
        result = self.run(*arguments, given=given)
        assert isinstance(result.exception, kind), result.output
        return str(result.exception)

    def decide(self, number: int) -> None:
        self.control.append(
            "shop",
            expected=number,
            action="reject",
            subject=f"line-{number}",
            why="worse",
            details={},
            at=NOON + number,
            principal="ben",
            key=str(number),
            signer=self.signer,
        )


def visit(person: str) -> bytes:
    event = {"specversion": "1.0", "id": person[:4], "source": "/web", "type": "visits", "time": format_time(NOON)}
    return json.dumps(event | {"data": {"person": person, "page": "/"}}).encode()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_person_is_erased_and_nothing_names_them(shop: Shop) -> None:
    assert shop.sealed() == Sealed(equal=2, erased=0, different=[])
    done = shop.facts("journal", "erase", "shop", "--why", "ticket 12", given=f"{ANNA}\n")
    assert (done["erased"], done["decision"], done["again"], done["records"]) == (shop.subjects[ANNA], 1, False, 1)
    assert shop.sealed() == Sealed(equal=1, erased=1, different=[])
    (row,) = shop.facts("audit", "show", "shop")
    assert (row["action"], row["object"], row["outcome"], row["why"]) == (
        "erase",
        shop.subjects[ANNA],
        "done",
        "ticket 12",
    )
    assert (row["decision"], row["at"]) == (1, format_time(NOON))
    assert row["who"].startswith("local:")
    files = b"".join(path.read_bytes() for path in shop.home.root.rglob("*") if path.is_file())
    assert b"marker" not in files


def test_erasing_again_by_id_says_so_and_by_identifier_finds_nobody(shop: Shop) -> None:
    first = shop.facts("journal", "erase", "shop", ANNA, "--why", "x")
    again = shop.facts("journal", "erase", "shop", shop.subjects[ANNA], "--id", "--why", "y")
    assert again == {**first, "again": True}
    message = shop.fails(UnknownName, "journal", "erase", "shop", ANNA, "--why", "x")
    assert "erased already" in message
    assert "marker" not in message
    rows = shop.facts("audit", "shop")
    assert [row["outcome"] for row in rows] == ["done", "done", "UnknownName"]
    assert "marker" not in json.dumps(rows)


def test_a_name_given_as_an_id_is_not_quoted(shop: Shop) -> None:
    result = shop.run("journal", "erase", "shop", ANNA, "--id", "--why", "x")
    assert result.exit_code == 2
    assert "32 hex digits" in result.output
    assert "marker" not in result.output
    assert "no reason" in shop.fails(Refused, "journal", "erase", "shop", ANNA, "--why", " ")


def test_explain_changes_nothing(shop: Shop) -> None:
    shown = shop.facts("journal", "erase", "shop", ANNA, "--why", "x", "--explain")
    assert (shown["subject"], shown["records"], shown["versions"]) == (shop.subjects[ANNA], 1, [])
    assert shop.sealed() == Sealed(equal=2, erased=0, different=[])
    assert shop.facts("audit", "shop") == []


def test_the_owner_that_runs_takes_the_echo(shop: Shop) -> None:
    command = [sys.executable, "-m", "rivermill.owner_process", str(shop.home.root), str(shop.folder)]
    owner = subprocess.Popen(command)
    try:
        with closing(OwnerClient(shop.home.socket)) as client:
            wait_for(client, owner)
            # A repeat: from now on the owner has the person's key in memory.
            client.take([visit(ANNA)], "p")
            before = shop.subjects[ANNA]
            shop.facts("journal", "erase", "shop", ANNA, "--why", "x")
            with closing(SqliteReader(shop.home.journal)) as journal:
                (echo,) = journal.of_kind(Kind.DECISION, START, 9)
            assert (echo.data["action"], echo.data["subject"]) == ("erase", before)
            proof = shop.facts("audit", "verify", "shop")
            assert (proof["decisions"], proof["echoes"], proof["audit"]) == (1, 1, 1)
            client.take([visit(ANNA).replace(b'"anna"', b'"again"')], "p")
    finally:
        owner.terminate()
        assert owner.wait() == 0
    with closing(SqliteReader(shop.home.journal)) as journal:
        (_, _, _, after) = journal.read(0, START, 9)
    assert after.subject not in (None, before)
    assert shop.sealed() == Sealed(equal=2, erased=1, different=[])


def wait_for(client: OwnerClient, owner: "subprocess.Popen[bytes]") -> None:
    answers = False
    while not answers:
        assert owner.poll() is None, "the owner did not come up"
        with contextlib.suppress(OwnerDown):
            client.state()
            answers = True


def test_the_audit_is_asked_by_person_object_and_time(shop: Shop) -> None:
    shop.decide(0)
    with Auditing(shop.home.root, lambda: NOON + 60_000_000).attempt(
        "shop", person="anna", action="submit", object="job-1", why="weekly"
    ):
        pass
    rows = shop.facts("audit", "shop")
    assert [(row["who"], row["action"], row["object"]) for row in rows] == [
        ("ben", "reject", "line-0"),
        ("anna", "submit", "job-1"),
    ]
    assert shop.facts("audit", "shop", "--who", "anna") == rows[1:]
    assert shop.facts("audit", "shop", "--object", "line-0") == rows[:1]
    assert shop.facts("audit", "shop", "--since", "2013-01-01T12:00:01Z") == rows[1:]
    assert shop.facts("audit", "shop", "--until", "2013-01-01T12:00:01Z") == rows[:1]
    assert shop.facts("audit", "shop", "--limit", "1") == rows[1:]
    assert "no UTC offset" in shop.run("audit", "shop", "--since", "2013-01-01").output
    table = shop.run("audit", "shop").output
    assert "job-1" in table
    assert "details" not in table


def test_the_homes_own_audit_has_a_name(shop: Shop) -> None:
    with Auditing(shop.home.root, lambda: NOON).attempt("", person="anna", action="add_key", object="ben"):
        pass
    (row,) = shop.facts("audit", "show", "-")
    assert (row["who"], row["action"], row["object"]) == ("anna", "add_key", "ben")
    assert shop.facts("audit", "verify", "-")["audit"] == 1
    assert shop.facts("audit", "show", "shop") == []


def test_verify_names_the_place_that_was_changed(shop: Shop) -> None:
    for number in range(3):
        shop.decide(number)
    assert shop.facts("audit", "verify", "shop")["decisions"] == 3
    with shop.control.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE decisions SET why = 'mine' WHERE sequence = 2")
    assert "decision 2 of 'shop'" in shop.fails(Corrupt, "audit", "verify", "shop")


def test_an_unknown_pipeline_is_named(shop: Shop) -> None:
    for verb in ("show", "verify"):
        assert "'nowhere'" in shop.fails(UnknownName, "audit", verb, "nowhere")
