"""The verbs that read a journal's content: records of earlier versions as today's, and what is sealed."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from journal.body import Decision, draft_of
from journal.clock import format_time
from journal.errors import Corrupt, Misconfigured, NotLifted, Refused
from journal.intake import Accepted, Intake, Quarantined
from journal.log import START
from journal.privacy import KeyTable
from journal.reading import Lifted, decisions_in, each, each_of
from journal.record import Kind
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from rivermill.inspection import lift_of
from rivermill.journal_commands import journal
from rivermill.pipeline import load_intake
from rivermill.place import Place
from rivermill.quarantine_desk import held_event, held_rows
from rivermill.settings import Home

NOON = 1_357_041_600_000_000
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
version: VERSION.0.0
status: active
schema:
  - name: visits
    logicalType: object
    properties:
      - {name: person, logicalType: string, required: true, classification: personal}
      - {name: PAGE, logicalType: string, required: true}
customProperties:
  - {property: dedupWindow, value: 2d}
  - {property: maxGap, value: 1d}
  - {property: subject, value: person}
"""
ADAPTERS = """\
def visits_1_to_2(data):
    return {"person": data["person"], "page": data["path"]}
"""


def contract(version: int, page: str) -> str:
    return CONTRACT.replace("VERSION", str(version)).replace("PAGE", page)


class Shop:
    """A pipeline whose only visits are of version 1, where today's contract is version 2."""

    def __init__(self, root: Path) -> None:
        self.folder, self.home = root / "pipelines" / "shop", Home(root / "home", "shop")
        self.place = Place(root / "home", root / "pipelines")
        (self.folder / "contracts").mkdir(parents=True)
        (self.folder / "pipeline.yaml").write_text(PIPELINE)
        self.current = self.folder / "contracts" / "visits.odcs.yaml"
        self.current.write_text(contract(1, "path"))
        self.home.prepare()
        self.subject = self.fill()
        self.current.rename(self.folder / "contracts" / "visits.v1.odcs.yaml")
        self.current.write_text(contract(2, "page"))
        (self.folder / "adapters.py").write_text(ADAPTERS)

    def fill(self) -> str:
        """Two visits of Anna, one of which waits in quarantine, and one of Bert; return Anna's subject."""
        with closing(SqliteJournal(self.home.journal, "shop")) as owner, closing(self.keys()) as keys:
            intake = Intake(owner, load_intake(self.folder).contracts, keys, None)
            anna, bert, bad = (
                intake.take(visit(n, person, path))
                for n, (person, path) in enumerate([("anna", "/a"), ("bert", "/b"), ("anna", 7)])
            )
        assert isinstance(anna, Accepted)
        assert isinstance(bert, Accepted)
        assert isinstance(bad, Quarantined)
        return anna.record.subject or ""

    def keys(self) -> KeyTable:
        return KeyTable(self.home.keys / "subjects.sqlite")

    def verb(self, *arguments: str) -> str:
        result = CliRunner().invoke(journal, [*arguments, "--json"], obj=self.place, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    def pages(self, *arguments: str) -> list[Any]:
        printed = self.verb("tail", "shop", "--kind", "source", *arguments)
        return [without_person(json.loads(line)["body"]) for line in printed.splitlines()]


def without_person(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "person"}


def visit(n: int, person: str, path: Any) -> bytes:
    event = {"specversion": "1.0", "id": f"v{n}", "source": "/web", "type": "visits", "time": format_time(NOON)}
    return json.dumps(event | {"data": {"person": person, "path": path}}).encode()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_tail_shows_older_records_as_todays_contract_reads_them(shop: Shop) -> None:
    assert shop.pages() == [{"page": "/a"}, {"page": "/b"}]
    assert shop.pages("--stored") == [{"path": "/a"}, {"path": "/b"}]


def test_a_broken_adapter_is_named_and_what_is_stored_can_be_read(shop: Shop) -> None:
    (shop.folder / "adapters.py").write_text(ADAPTERS.replace('"path"', '"gone"'))
    with pytest.raises(NotLifted, match=r"record at 0:0: visits_1_to_2 in adapters.py: KeyError"):
        shop.pages()
    assert shop.pages("--stored", "--from", "1") == [{"path": "/b"}]
    (shop.folder / "adapters.py").unlink()
    with pytest.raises(Misconfigured, match=r"adapters\.py"):
        shop.pages()


def test_a_lifted_journal_reads_like_any_other(shop: Shop) -> None:
    with closing(SqliteReader(shop.home.journal)) as stored:
        lifted = Lifted(stored, lift_of(shop.folder))
        kinds = [record.kind for record in each(lifted)]
        assert kinds == [Kind.SOURCE, Kind.SOURCE, Kind.QUARANTINE]
        assert [record.kind for record in each(lifted, after=1)] == kinds[2:]
        assert [(record.schema, without_person(record.data)) for record in each_of(lifted, Kind.SOURCE)] == [
            (2, {"page": "/a"}),
            (2, {"page": "/b"}),
        ]
        bodies = [record.body for record in lifted.read(0, START, 9)]
        assert bodies == [record.body for record in stored.read(0, START, 9)]
        assert list(decisions_in(lifted)) == []


def test_verify_counts_what_is_sealed_and_what_was_erased(shop: Shop) -> None:
    facts = json.loads(shop.verb("verify", "shop"))
    assert (facts["records"], facts["sealed"], facts["erased"], facts["verdict"]) == (3, 3, 0, "every checksum holds")
    with closing(shop.keys()) as keys:
        keys.erase(shop.subject)
    facts = json.loads(shop.verb("verify", "shop"))
    assert (facts["sealed"], facts["erased"], facts["verdict"]) == (1, 2, "every checksum holds")


def test_verify_names_what_another_key_table_cannot_open(shop: Shop) -> None:
    shutil.rmtree(shop.home.keys)
    assert json.loads(shop.verb("verify", "shop"))["sealed"] == "not checked: there is no key table"
    shop.home.prepare()
    shop.keys().close()
    with pytest.raises(Corrupt, match=r"3 place\(s\): record 0: what is sealed .*key table back"):
        shop.verb("verify", "shop")


def erase(shop: Shop) -> None:
    said = Decision(sequence=1, action="erase", subject=shop.subject, why="asked", details={})
    with closing(SqliteJournal(shop.home.journal, "shop")) as owner, closing(shop.keys()) as keys:
        owner.append([draft_of(said, kind=Kind.DECISION, stream="control", id="decision-1")])
        keys.erase(shop.subject)


def test_an_erased_event_is_shown_without_its_content_and_never_revealed(shop: Shop) -> None:
    (waiting,) = held_rows(shop.home, stream="", reason="", state="waiting")
    before = held_event(shop.folder, shop.home, waiting["id"], reveal=False, why="", principal="carla")
    assert before["event"]["id"] == "v2"
    erase(shop)
    seen = held_event(shop.folder, shop.home, waiting["id"], reveal=False, why="", principal="carla")
    assert (seen["state"], seen["event"], seen["reason"]) == ("erased", None, waiting["reason"])
    with pytest.raises(Refused, match="was erased"):
        held_event(shop.folder, shop.home, waiting["id"], reveal=True, why="a check", principal="carla")
