"""Erasing a person: what nobody can read any more, what shows it, and whom it concerns."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal import errors
from journal.audit import audit
from journal.body import Decision, Definition, Example, Prediction, Snapshot, Version, decode, draft_of
from journal.clock import DAY, HOUR, format_time
from journal.contract import Contract
from journal.control import ControlLog, echo_of
from journal.digest import digest_journal
from journal.erasure import Eraser, Erasure, erased_within, finish_erasures
from journal.field import Field
from journal.intake import Accepted, Conflicted, Intake, Quarantined
from journal.log import START
from journal.privacy import Erased, KeyTable, context_of
from journal.proof import prove
from journal.record import Cause, Draft, Kind, Record
from journal.sealed import Sealed, check_sealed, reopen
from journal.settlement import Release
from journal.sqlite_log import SqliteJournal
from journal.trail import Trail, trail_of
from registry.signing import Signer

NOON = 1_357_041_600_000_000
ANNA, BERT = "anna.marker@example.org", "bert.marker@example.org"
VISITS = Contract(
    stream="visits",
    version="1.0.0",
    fields=(
        Field(name="person", type="string", required=True, personal=True, entity_key=True),
        Field(name="phone", type="string", personal=True, entity_key=True),
        Field(name="age", type="integer", personal=True, limits={"le": 120}),
        Field(name="page", type="string", required=True),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    subject="person",
)
SALES = Contract(
    stream="sales",
    version="1.0.0",
    fields=(
        Field(name="person", type="string", required=True, personal=True),
        Field(name="bought", type="boolean", required=True),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    subject="person",
)
CONTRACTS = {"visits": VISITS, "sales": SALES}


class Shop:
    """One pipeline's journal, keys and control log, with a door for events and the verbs of its folds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer = Signer.open(folder / "signing")
        self.keys = KeyTable(folder / "keys" / "subjects.sqlite")
        self.control = ControlLog(f"sqlite:///{folder / 'control.sqlite'}")
        self.journal = SqliteJournal(folder / "journal", "shop")
        self.intake = Intake(self.journal, CONTRACTS, self.keys, None)
        self.eraser = Eraser(
            pipeline="shop",
            keys=self.keys,
            control=self.control,
            signer=self.signer,
            clock=lambda: self.journal.clock,
            land=self.land,
        )

    def land(self, draft: Draft) -> None:
        self.journal.append([draft])

    def send(self, id: str, person: str, minute: int = 0, stream: str = "visits", **data: Any) -> Any:
        facts = {"phone": f"+49 {person}", "age": 44, "page": "/"} if stream == "visits" else {"bought": True}
        event = {
            "specversion": "1.0",
            "id": id,
            "source": "/web",
            "type": stream,
            "time": format_time(NOON + minute * HOUR // 60),
            "data": {"person": person, **facts, **data},
        }
        return self.intake.take(json.dumps(event).encode())

    def visit(self, id: str, person: str, minute: int = 0, **data: Any) -> Record:
        taken = self.send(id, person, minute, **data)
        assert isinstance(taken, Accepted)
        return taken.record

    def put(self, body: msgspec.Struct, kind: Kind, id: str, cause: Cause | None = None) -> int:
        draft = draft_of(body, kind=kind, stream=kind.value, id=id)
        (record,) = self.journal.append([msgspec.structs.replace(draft, cause=cause)])
        assert isinstance(record, Record)
        return record.offset

    def predict(self, question: Record) -> int:
        body = Prediction(
            key=question.data["person"],
            question=question.offset,
            service="s@1",
            values=[1.0],
            stamps=[],
            score=0.5,
            line="online",
            model="m",
            snapshot=START,
            control=1,
            degraded=False,
            build="b",
        )
        return self.put(body, Kind.PREDICTION, f"p-{question.id}")

    def join(self, prediction: int, label: int) -> int:
        body = Example(key="k", prediction=prediction, label=label, outcome=True)
        return self.put(body, Kind.EXAMPLE, f"e-{prediction}")

    def snapshot(self, learned: int, published: bool = True) -> int:
        body = Snapshot(
            line="online",
            family="river",
            model="m",
            blob="b",
            signature="",
            examples=1,
            published=published,
            guard={},
            reasons=[],
        )
        return self.put(body, Kind.SNAPSHOT, f"online-{learned}", Cause(0, learned, 0))

    def stage(self, line: str, dataset: str) -> int:
        body = Version(
            line=line,
            family="onnx",
            model="m",
            blob="b",
            signature="",
            service="s@1",
            dataset=dataset,
            job="job",
            trigger=NOON,
            recipe="r",
            evidence={},
        )
        return self.put(body, Kind.VERSION, line)

    def trail(self, subject: str, datasets: dict[str, int] | None = None) -> Trail:
        return trail_of(self.journal, subject, CONTRACTS, datasets)

    def erase(self, person: str, why: str = "asked to be forgotten") -> Erasure:
        return self.eraser.erase(self.eraser.find(person), why=why, principal="dora", follow=self.trail)

    def decisions(self) -> list[Decision]:
        return [decode(record.body, Decision) for record in self.journal.of_kind(Kind.DECISION, START, 99)]

    def close(self) -> None:
        self.keys.close()
        self.journal.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with closing(Shop(tmp_path)) as shop:
        yield shop


def files_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def keys_of(shop: Shop, subject: str) -> tuple[bytes, bytes]:
    secret, lookup = shop.keys._db.execute("SELECT key, lookup FROM subject WHERE id = ?", (subject,)).get
    return secret, lookup


def test_what_was_sealed_about_a_person_is_gone_and_about_others_is_not(shop: Shop) -> None:
    anna, bert = shop.visit("v1", ANNA), shop.visit("v2", BERT)
    assert anna.subject is not None
    assert anna.sealed is not None
    done = shop.erase(ANNA)
    assert (done.subject, done.again) == (anna.subject, False)
    context = context_of("visits", "/web", "v1")
    assert shop.keys.open_sealed(anna.subject, anna.sealed, context=context) == Erased(anna.subject)
    assert (reopen(anna, shop.keys), reopen(bert, shop.keys)) == ("erased", "equal")


def test_verification_says_erased_beside_equal_and_different(shop: Shop) -> None:
    shop.visit("v1", ANNA)
    shop.visit("v2", BERT)
    assert isinstance(shop.send("v3", ANNA, age=999), Quarantined)
    assert isinstance(shop.send("v4", BERT, age=999), Quarantined)
    shop.send("s1", BERT, stream="sales")
    shop.put(Definition(service="s@1", request=[], views=[], columns=["x"], types=["float64"]), Kind.DEFINITION, "s@1")
    assert check_sealed(shop.journal, shop.keys) == Sealed(equal=5, erased=0, different=[])
    shop.erase(ANNA)
    whole = check_sealed(shop.journal, shop.keys)
    assert (whole, whole.verdict) == (Sealed(equal=3, erased=2, different=[]), "erased")


@pytest.mark.parametrize("body", [b"{}", b'{"reason": "r", "event": "no base64"}'])
def test_a_quarantined_event_that_somebody_wrote_over_is_different(shop: Shop, body: bytes) -> None:
    held = Record(kind=Kind.QUARANTINE, stream="visits", id="q-1", body=body, partition=0, offset=0, at=1)
    assert reopen(held, shop.keys) == "different"


def test_a_moved_seal_and_a_foreign_table_are_different(shop: Shop, tmp_path: Path) -> None:
    first, second = shop.visit("v1", ANNA), shop.visit("v2", ANNA, page="/else")
    assert reopen(msgspec.structs.replace(first, sealed=second.sealed), shop.keys) == "different"
    assert reopen(msgspec.structs.replace(first, body=second.body), shop.keys) == "different"
    assert reopen(msgspec.structs.replace(first, conflict=second.conflict), shop.keys) == "different"
    assert reopen(msgspec.structs.replace(first, time=NOON + 1), shop.keys) == "different"
    with closing(KeyTable(tmp_path / "other" / "subjects.sqlite")) as foreign:
        sealed = check_sealed(shop.journal, foreign)
    assert (sealed.different, sealed.verdict) == ([0, 1], "different")


def test_a_quarantined_event_of_the_erased_cannot_be_released(shop: Shop) -> None:
    held = shop.send("v1", ANNA, age=999)
    assert isinstance(held, Quarantined)
    assert held.record is not None
    shop.erase(ANNA)
    with pytest.raises(errors.Refused, match="was erased"):
        shop.intake.settle(Release(held.id, "it was right", "gate-7"))


def test_who_comes_back_is_somebody_new(shop: Shop) -> None:
    before = shop.visit("v1", ANNA)
    shop.erase(ANNA)
    after = shop.visit("v2", ANNA)
    assert after.subject != before.subject
    assert after.data["person"] != before.data["person"]
    assert reopen(after, shop.keys) == "equal"
    again = shop.erase(ANNA)
    assert (again.subject, again.decision, again.again) == (after.subject, 2, False)


def test_an_id_of_the_erased_is_taken_and_nothing_new_is_kept(shop: Shop) -> None:
    """Nobody can tell a repeat from a conflict any more: the id stays taken, and what came under it is not stored."""
    shop.visit("v1", ANNA)
    shop.erase(ANNA)
    end = shop.journal.end()
    assert shop.send("v1", ANNA) == Conflicted("v1", 0)
    assert shop.send("v1", BERT) == Conflicted("v1", 0)
    assert shop.journal.end() == end
    assert shop.journal.tallies() == {"conflicts": 2}


def test_the_decision_is_signed_echoed_and_audited(shop: Shop) -> None:
    record = shop.visit("v1", ANNA, minute=7)
    done = shop.erase(ANNA, why="ticket 12")
    (entry,) = shop.control.entries("shop")
    assert (entry.action, entry.subject, entry.why, entry.principal) == ("erase", record.subject, "ticket 12", "dora")
    assert (entry.at, entry.sequence) == (record.time, done.decision)
    (echo,) = shop.decisions()
    assert (echo.action, echo.subject, echo.details) == ("erase", record.subject, entry.details)
    assert echo.details["pseudonyms"] == {"person": [record.data["person"]], "phone": [record.data["phone"]]}
    assert prove(shop.control, "shop", shop.signer, shop.journal).echoes == 1
    (row,) = audit(shop.control, "shop", object=record.subject or "")
    assert (row.person, row.action, row.why, row.at) == ("dora", "erase", "ticket 12", entry.at)
    assert shop.control.champion("shop") is None


def test_twice_is_once(shop: Shop) -> None:
    subject = shop.visit("v1", ANNA).subject
    assert subject is not None
    first = shop.erase(ANNA)
    before = shop.journal.end(), digest_journal(shop.journal)
    again = shop.eraser.erase(subject, why="once more", principal="eve", follow=shop.trail)
    assert again == msgspec.structs.replace(first, again=True)
    assert (shop.journal.end(), digest_journal(shop.journal)) == before
    assert len(shop.control.entries("shop")) == 1


@pytest.mark.parametrize("who", [BERT, "", "anna.marker@example.or", "' OR 1=1 --"])
def test_an_unknown_identifier_changes_nothing_and_is_not_quoted(shop: Shop, who: str) -> None:
    shop.visit("v1", ANNA)
    with pytest.raises(errors.UnknownName, match="never seen, or erased already") as found:
        shop.erase(who)
    assert not who or who not in str(found.value)
    assert shop.control.entries("shop") == []
    assert check_sealed(shop.journal, shop.keys).equal == 1
    assert shop.keys.find(who) is None


def test_a_second_time_by_identifier_says_that_nobody_is_left(shop: Shop) -> None:
    shop.visit("v1", ANNA)
    shop.erase(ANNA)
    with pytest.raises(errors.UnknownName, match="erased already") as found:
        shop.erase(ANNA)
    assert "marker" not in str(found.value)


def test_an_unknown_subject_is_not_decided_about(shop: Shop) -> None:
    with pytest.raises(errors.UnknownName):
        shop.eraser.erase("0" * 32, why="x", principal="dora", follow=shop.trail)
    assert shop.control.entries("shop") == []


@pytest.mark.parametrize("why", ["", "  \n"])
def test_without_a_reason_nothing_is_erased(shop: Shop, why: str) -> None:
    record = shop.visit("v1", ANNA)
    with pytest.raises(errors.Refused, match="no reason"):
        shop.erase(ANNA, why=why)
    assert reopen(record, shop.keys) == "equal"


def test_somebody_else_who_decides_meanwhile_is_let_pass(shop: Shop) -> None:
    shop.visit("v1", ANNA)

    def decide_first() -> int:
        head = shop.control.head("shop")
        number = head.sequence if head else 0
        if number < 3:
            facts: dict[str, Any] = {"action": "reject", "subject": "x", "why": "", "details": {}, "at": 1}
            shop.control.append("shop", expected=number, principal="ben", key=f"k{number}", signer=shop.signer, **facts)
        return NOON

    eraser = Eraser(
        pipeline="shop", keys=shop.keys, control=shop.control, signer=shop.signer, clock=decide_first, land=shop.land
    )
    done = eraser.erase(eraser.find(ANNA), why="asked", principal="dora", follow=shop.trail)
    assert done.decision == 4
    assert [entry.action for entry in shop.control.entries("shop")] == ["reject"] * 3 + ["erase"]


def test_nothing_of_the_key_is_left_in_any_file(shop: Shop) -> None:
    """Among so many others that the table's pages were split, and with keys moved between them."""
    for number in range(400):
        shop.keys.subject_of(f"person {number}")
    record = shop.visit("v1", ANNA)
    for number in range(400, 800):
        shop.keys.subject_of(f"person {number}")
    assert record.subject is not None
    secret, lookup = keys_of(shop, record.subject)
    assert secret in files_of(shop.folder / "keys")
    shop.erase(ANNA)
    left = files_of(shop.folder)
    pieces = [whole[start : start + 8] for whole in (secret, lookup) for start in range(0, 32, 4) if start <= 24]
    assert not [piece for piece in pieces if piece in left]
    assert (shop.folder / "keys" / "subjects.sqlite-wal").stat().st_size == 0


def test_nothing_personal_shows_in_any_file(shop: Shop) -> None:
    shop.visit("v1", ANNA)
    shop.send("v2", ANNA, age=999)
    shop.erase(ANNA)
    assert b"marker" not in files_of(shop.folder)


def test_another_process_forgets_the_key_that_it_remembered(shop: Shop) -> None:
    """The owner keeps subjects in memory; the erasure comes from the command line."""
    with closing(KeyTable(shop.folder / "keys" / "subjects.sqlite")) as owner:
        before = owner.subject_of(ANNA)
        bert = owner.subject_of(BERT)
        shop.erase(ANNA)
        after = owner.subject_of(ANNA)
        assert after.id != before.id
        assert owner.subject_of(BERT).id == bert.id
        assert shop.keys.subject_of(ANNA).id == after.id


def test_an_older_copy_of_the_key_table_is_emptied_again(shop: Shop) -> None:
    record = shop.visit("v1", ANNA)
    shop.visit("v2", BERT)
    assert shop.keys._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    table = shop.folder / "keys" / "subjects.sqlite"
    copy = table.read_bytes()
    shop.erase(ANNA)
    shop.keys.close()
    table.write_bytes(copy)
    shop.keys = KeyTable(table)
    assert reopen(record, shop.keys) == "equal"
    assert finish_erasures(shop.control, "shop", shop.keys, shop.signer) == [record.subject]
    assert check_sealed(shop.journal, shop.keys) == Sealed(equal=1, erased=1, different=[])
    assert finish_erasures(shop.control, "shop", shop.keys, shop.signer) == []


def test_a_table_from_before_the_person_was_known_needs_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.visit("v1", ANNA)
    shop.erase(ANNA)
    with closing(KeyTable(tmp_path / "older" / "subjects.sqlite")) as older:
        assert finish_erasures(shop.control, "shop", older, shop.signer) == []


def test_no_key_is_destroyed_for_a_decision_that_is_not_ours(shop: Shop, tmp_path: Path) -> None:
    record = shop.visit("v1", ANNA)
    stranger = Signer.open(tmp_path / "stranger")
    facts: dict[str, Any] = {"action": "erase", "subject": record.subject, "why": "", "details": {}, "at": 1}
    shop.control.append("shop", expected=0, principal="x", key="x", signer=stranger, **facts)
    with pytest.raises(errors.Untrusted, match="decision 1 of 'shop'"):
        finish_erasures(shop.control, "shop", shop.keys, shop.signer)
    assert reopen(record, shop.keys) == "equal"


def test_the_trail_leads_to_everything_that_learned_from_a_person(shop: Shop) -> None:
    """Bert's example comes first; Anna's question is labelled by an event about her, and another by one about Bert."""
    bert = shop.visit("v1", BERT)
    first = shop.join(shop.predict(bert), 99)
    assert shop.snapshot(first) > first
    question = shop.visit("v2", ANNA)
    shop.visit("v3", ANNA, phone=None)
    prediction = shop.predict(question)
    before = shop.journal.end()
    shop.stage("early", "d-early")
    label = shop.send("s1", ANNA, stream="sales").record
    second = shop.join(prediction, label.offset)
    shop.snapshot(first)
    shop.snapshot(second)
    shop.snapshot(second, published=False)
    shop.snapshot(second + 1)
    assert isinstance(shop.send("v4", ANNA, age=999), Quarantined)
    shop.stage("late", "d-late")
    shop.stage("on-old-data", "d-early")
    shop.stage("unknown", "d-gone")
    anna = question.subject
    assert anna is not None
    assert shop.trail(anna, {"d-early": before, "d-late": second, "d-after": second + 50}) == Trail(
        subject=anna,
        records=3,
        quarantined=1,
        predictions=1,
        examples=1,
        first_example=second,
        pseudonyms={"person": [question.data["person"]], "phone": [question.data["phone"]]},
        datasets=["d-after", "d-gone", "d-late"],
        versions=["late", "unknown"],
        snapshots={"online": 2},
    )


def test_a_label_about_a_person_makes_the_example_theirs(shop: Shop) -> None:
    question = shop.visit("v1", BERT)
    label = shop.send("s1", ANNA, stream="sales").record
    shop.join(shop.predict(question), label.offset)
    assert shop.trail(label.subject).examples == 1
    assert shop.trail(label.subject).predictions == 0
    assert shop.trail(question.subject or "").examples == 1


def test_the_trail_is_the_same_after_the_erasure(shop: Shop) -> None:
    question = shop.visit("v1", ANNA)
    shop.join(shop.predict(question), 99)
    subject = question.subject or ""
    before = shop.trail(subject)
    assert before.pseudonyms == {"person": [question.data["person"]], "phone": [question.data["phone"]]}
    done = shop.erase(ANNA)
    assert shop.trail(subject) == before
    assert done.details["examples"] == 1


def test_a_dataset_knows_whose_rows_are_nameless(shop: Shop) -> None:
    first = shop.join(shop.predict(shop.visit("v1", ANNA)), 99)
    shop.join(shop.predict(shop.visit("v2", BERT)), 99)
    shop.visit("v3", "carl")
    anna = shop.erase(ANNA).subject
    shop.erase("carl")
    shop.control.append(
        "shop",
        expected=2,
        action="reject",
        subject="x",
        why="",
        details={},
        at=1,
        principal="ben",
        key="k",
        signer=shop.signer,
    )
    entries = shop.control.entries("shop")
    assert erased_within(entries, first) == erased_within(entries, 999) == [anna]
    assert erased_within(entries, first - 1) == []


def test_the_trail_of_nobody_is_empty(shop: Shop) -> None:
    shop.join(shop.predict(shop.visit("v1", ANNA)), 99)
    empty = shop.trail("nobody", {"d": 99})
    assert (empty.records, empty.examples, empty.datasets, empty.pseudonyms) == (0, 0, [], {})


def test_an_echo_that_nobody_took_is_made_up_for(shop: Shop) -> None:
    shop.visit("v1", ANNA)
    taken: list[Draft] = []
    eraser = Eraser(
        pipeline="shop",
        keys=shop.keys,
        control=shop.control,
        signer=shop.signer,
        clock=lambda: NOON,
        land=taken.append,
    )
    eraser.erase(eraser.find(ANNA), why="asked", principal="dora", follow=shop.trail)
    (entry,) = shop.control.entries("shop")
    assert taken == [echo_of(entry)]
    assert shop.decisions() == []
