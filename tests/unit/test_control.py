"""The control log: one winner per sequence, a chain that shows what was changed, and echoes that prove themselves."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from journal import errors
from journal.body import Decision, decode
from journal.control import ControlLog, Entry, decision_of, echo_of, missing_echoes, signed_parts
from journal.log import START, Repeat
from journal.memory_log import MemoryJournal
from journal.record import Kind
from registry.signing import Signer

NOON = 1_357_041_600_000_000


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path / "key")


@pytest.fixture
def control(tmp_path: Path) -> ControlLog:
    return ControlLog(f"sqlite:///{tmp_path / 'control.sqlite'}")


def decide(control: ControlLog, signer: Signer, expected: int, **changes: Any) -> Entry:
    facts: dict[str, Any] = {
        "action": "promote",
        "subject": f"line-{expected + 1}",
        "why": "better",
        "details": {"auc": 0.75, "rows": [1, 2], "note": "é"},
        "at": NOON + expected,
        "principal": "anna",
        "key": f"key-{expected + 1}",
    }
    pipeline = changes.pop("pipeline", "flights")
    return control.append(pipeline, expected=expected, signer=signer, **(facts | changes))


@pytest.fixture
def chain(control: ControlLog, signer: Signer) -> list[Entry]:
    return [decide(control, signer, n) for n in range(5)]


def change(control: ControlLog, statement: str, **bindings: Any) -> None:
    with control.engine.begin() as connection:
        assert connection.execute(sa.text(statement), bindings).rowcount != 0


def test_an_empty_log_names_nobody(control: ControlLog, signer: Signer) -> None:
    assert (control.head("flights"), control.champion("flights"), control.entries("flights")) == (None, None, [])
    assert control.verify("flights", signer) == 0


def test_a_decision_is_read_back_as_it_was_made(control: ControlLog, signer: Signer) -> None:
    made = decide(control, signer, 0)
    assert control.entries("flights") == [made]
    assert control.head("flights") == made
    assert (made.sequence, made.previous, made.details["note"]) == (1, "", "é")


def test_each_holds_the_hash_of_the_one_before(chain: list[Entry], control: ControlLog, signer: Signer) -> None:
    assert [entry.sequence for entry in chain] == [1, 2, 3, 4, 5]
    assert [entry.previous for entry in chain] == ["", *(entry.hash for entry in chain[:-1])]
    assert control.verify("flights", signer) == 5
    assert control.entries("flights", after=3) == chain[3:]


def test_only_naming_decisions_name_the_champion(control: ControlLog, signer: Signer) -> None:
    for n, (action, line) in enumerate([("bootstrap", "a"), ("promote", "b"), ("reject", "c"), ("roll_back", "a")]):
        decide(control, signer, n, action=action, subject=line)
        assert control.champion("flights") == ["a", "b", "b", "a"][n]


def test_pipelines_are_numbered_apart(control: ControlLog, signer: Signer) -> None:
    decide(control, signer, 0)
    assert decide(control, signer, 0, pipeline="phishing").sequence == 1
    assert control.champion("phishing") == "line-1"
    assert control.verify("phishing", signer) == 1


@pytest.mark.parametrize("expected", [0, 4, 6, 99])
def test_a_stale_or_wrong_expectation_loses(
    chain: list[Entry], control: ControlLog, signer: Signer, expected: int
) -> None:
    with pytest.raises(errors.LostRace, match=r"decision 5 \(promote line-5, by anna\).*plan anew"):
        decide(control, signer, expected, key="new")
    assert control.entries("flights") == chain


def test_the_first_decision_has_none_before_it(control: ControlLog, signer: Signer) -> None:
    with pytest.raises(errors.LostRace, match="it is none"):
        decide(control, signer, 3)
    assert control.head("flights") is None


def test_the_same_key_again_is_the_same_decision(chain: list[Entry], control: ControlLog, signer: Signer) -> None:
    again = decide(control, signer, 1, why="in other words", details={}, at=NOON + 99, principal="ben")
    assert again == chain[1]
    assert control.entries("flights") == chain


@pytest.mark.parametrize("other", [{"action": "reject"}, {"subject": "another"}])
def test_the_same_key_for_something_else_conflicts(
    chain: list[Entry], control: ControlLog, signer: Signer, other: dict[str, str]
) -> None:
    with pytest.raises(errors.ConflictingId, match="'key-2' stands for decision 2: promote line-2"):
        decide(control, signer, 1, **other)
    assert control.entries("flights") == chain


@pytest.mark.usefixtures("chain")
def test_a_key_is_its_pipelines_own(control: ControlLog, signer: Signer) -> None:
    assert decide(control, signer, 0, pipeline="phishing", subject="x", key="key-2").sequence == 1


def test_details_that_are_not_json_leave_nothing(control: ControlLog, signer: Signer) -> None:
    with pytest.raises(TypeError):
        decide(control, signer, 0, details={"model": object()})
    assert control.head("flights") is None
    assert decide(control, signer, 0).sequence == 1


RACER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from journal.control import ControlLog
    from journal.errors import LostRace
    from registry.signing import Signer
    url, key, me, rounds = sys.argv[1:]
    signer = Signer.open(Path(key))
    print("ready", flush=True)
    sys.stdin.readline()
    control = ControlLog(url)
    for n in range(int(rounds)):
        try:
            entry = control.append("p", expected=n, action="promote", subject=f"{me}-{n}", why="", details={}, at=n,
                                   principal=me, key=f"{me}-{n}", signer=signer)
            print("won", entry.sequence)
        except LostRace:
            print("lost", n + 1)
""")


def test_of_four_processes_one_wins_each_sequence(tmp_path: Path, signer: Signer) -> None:
    url, rounds = f"sqlite:///{tmp_path / 'control.sqlite'}", 15
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, url, str(tmp_path / "key"), name, str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate() for racer in racers]
    assert [error for _, error in said] == [""] * 4
    tries = [line.split() for out, _ in said for line in out.splitlines()]
    won = sorted(int(sequence) for fate, sequence in tries if fate == "won")
    assert won == list(range(1, rounds + 1))
    assert len(tries) == 4 * rounds
    control = ControlLog(url)
    assert control.verify("p", signer) == rounds
    assert [entry.sequence for entry in control.entries("p")] == won


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action", "reject"),
        ("subject", "mine"),
        ("why", "because"),
        ("details", b"{}"),
        ("at", 1),
        ("principal", "nobody"),
        ("key", "other"),
        ("previous", "0" * 64),
        ("hash", "0" * 64),
    ],
)
@pytest.mark.usefixtures("chain")
def test_an_edited_field_is_found_and_named(control: ControlLog, signer: Signer, column: str, value: object) -> None:
    change(control, f"UPDATE decisions SET {column} = :value WHERE sequence = 3", value=value)
    with pytest.raises(errors.Corrupt, match=r"decision 3 of 'flights'"):
        control.verify("flights", signer)


@pytest.mark.parametrize("signature", ["", "00" * 64, "not hex"])
@pytest.mark.usefixtures("chain")
def test_an_edited_signature_is_untrusted(control: ControlLog, signer: Signer, signature: str) -> None:
    change(control, "UPDATE decisions SET signature = :s WHERE sequence = 3", s=signature)
    with pytest.raises(errors.Untrusted):
        control.verify("flights", signer)


def test_a_swapped_signature_is_untrusted(chain: list[Entry], control: ControlLog, signer: Signer) -> None:
    change(control, "UPDATE decisions SET signature = :s WHERE sequence = 3", s=chain[1].signature)
    with pytest.raises(errors.Untrusted):
        control.verify("flights", signer)


@pytest.mark.parametrize("sequence", [1, 3])
@pytest.mark.usefixtures("chain")
def test_an_entry_cut_out_of_the_middle_is_found(control: ControlLog, signer: Signer, sequence: int) -> None:
    change(control, "DELETE FROM decisions WHERE sequence = :n", n=sequence)
    with pytest.raises(errors.Corrupt, match=f"decision {sequence} of"):
        control.verify("flights", signer)


@pytest.mark.usefixtures("chain")
def test_a_gap_that_was_closed_by_renumbering_is_found(control: ControlLog, signer: Signer) -> None:
    change(control, "DELETE FROM decisions WHERE sequence = 3")
    change(control, "UPDATE decisions SET sequence = sequence - 1 WHERE sequence > 3")
    with pytest.raises(errors.Corrupt, match="decision 3 of"):
        control.verify("flights", signer)


@pytest.mark.usefixtures("chain")
def test_two_entries_that_changed_places_are_found(control: ControlLog, signer: Signer) -> None:
    for old, new in ((2, 99), (3, 2), (99, 3)):
        change(control, "UPDATE decisions SET sequence = :new WHERE sequence = :old", old=old, new=new)
    with pytest.raises(errors.Corrupt, match="decision 2 of"):
        control.verify("flights", signer)


@pytest.mark.usefixtures("chain")
def test_another_pipelines_entries_are_found(control: ControlLog, signer: Signer) -> None:
    change(control, "UPDATE decisions SET pipeline = 'phishing'")
    with pytest.raises(errors.Corrupt, match="decision 1 of 'phishing'"):
        control.verify("phishing", signer)


@pytest.mark.usefixtures("chain")
def test_a_decision_under_another_key_is_untrusted(control: ControlLog, tmp_path: Path) -> None:
    stranger = Signer.open(tmp_path / "stranger")
    with pytest.raises(errors.Untrusted):
        control.verify("flights", stranger)
    decide(control, stranger, 5)
    with pytest.raises(errors.Untrusted):
        control.verify("flights", Signer.open(tmp_path / "key"))


def test_a_cut_tail_shows_only_beside_the_journal(chain: list[Entry], control: ControlLog, signer: Signer) -> None:
    """The shorter chain is a whole chain. What it lost, the journal has echoed."""
    journal = MemoryJournal("flights")
    journal.append([echo_of(entry) for entry in chain])
    change(control, "DELETE FROM decisions WHERE sequence > 3")
    assert control.verify("flights", signer) == 3
    with pytest.raises(errors.Corrupt, match="echoed a decision 4 of 'flights'"):
        missing_echoes(control, "flights", journal)


def test_a_tail_that_was_decided_anew_shows_beside_the_journal(
    chain: list[Entry], control: ControlLog, signer: Signer
) -> None:
    journal = MemoryJournal("flights")
    journal.append([echo_of(entry) for entry in chain])
    change(control, "DELETE FROM decisions WHERE sequence > 4")
    decide(control, signer, 4, subject="mine")
    assert control.verify("flights", signer) == 5
    with pytest.raises(errors.Corrupt, match="echoed a decision 5"):
        missing_echoes(control, "flights", journal)


def test_an_echo_proves_itself(chain: list[Entry], signer: Signer) -> None:
    journal = MemoryJournal("flights")
    journal.append([echo_of(entry) for entry in chain])
    for entry, record in zip(chain, journal.read(0, START, 9), strict=True):
        echo = decode(record.body, Decision)
        assert (record.kind, record.stream, record.id) == (Kind.DECISION, "control", f"decision-{entry.sequence}")
        assert echo == decision_of(entry)
        signer.verify(echo.signature, *signed_parts("flights", echo))
        for name, forged in {"subject": "x", "sequence": 9, "action": "reject", "why": "x", "details": {}}.items():
            changed = msgspec.structs.replace(echo, **{name: forged})
            with pytest.raises(errors.Untrusted):
                signer.verify(echo.signature, *signed_parts("flights", changed))
        with pytest.raises(errors.Untrusted):
            signer.verify(echo.signature, *signed_parts("phishing", echo))


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"nested": {"b": [1, 2.5, None, True], "a": "ü"}},
        {"floats": [0.1, 1e16, -0.0, 1e-300, 5e-324, 123456789.123456789]},
        {"large": [2**63, -(2**63)]},
        {"pair": (1, "two")},
        {"missing": float("nan")},
    ],
)
def test_an_echo_proves_itself_whatever_its_details(
    control: ControlLog, signer: Signer, details: dict[str, Any]
) -> None:
    entry = decide(control, signer, 0, details=details)
    assert control.verify("flights", signer) == 1
    echo = decode(echo_of(entry).body, Decision)
    signer.verify(echo.signature, *signed_parts("flights", echo))
    (read,) = control.entries("flights")
    assert echo_of(read).body == echo_of(entry).body


def test_what_is_not_echoed_yet_is_named_in_order(chain: list[Entry], control: ControlLog) -> None:
    journal = MemoryJournal("flights")
    assert missing_echoes(control, "flights", journal) == chain
    journal.append([echo_of(chain[0]), echo_of(chain[1])])
    assert missing_echoes(control, "flights", journal) == chain[2:]
    # Somebody else's later decision was echoed first.
    journal.append([echo_of(chain[3])])
    assert missing_echoes(control, "flights", journal) == [chain[2], chain[4]]
    journal.append([echo_of(chain[2]), echo_of(chain[4])])
    assert missing_echoes(control, "flights", journal) == []
    assert journal.append([echo_of(chain[4])]) == [Repeat(4)]


def test_releases_are_no_echoes(chain: list[Entry], control: ControlLog) -> None:
    journal = MemoryJournal("flights")
    release = Decision(sequence=0, action="release", subject="q-1", why="", details={})
    journal.append([msgspec.structs.replace(echo_of(chain[0]), id="release-q-1", body=msgspec.json.encode(release))])
    assert missing_echoes(control, "flights", journal) == chain


def test_more_echoes_than_a_page_are_all_seen(control: ControlLog, signer: Signer) -> None:
    journal = MemoryJournal("flights")
    release = Decision(sequence=0, action="release", subject="q", why="", details={})
    entry = decide(control, signer, 0)
    drafts = [echo_of(entry)] + [
        msgspec.structs.replace(echo_of(entry), id=f"release-{n}", body=msgspec.json.encode(release))
        for n in range(1_500)
    ]
    journal.append(drafts)
    assert missing_echoes(control, "flights", journal) == []


def test_the_newest_evidence_of_a_kind_counts(control: ControlLog, signer: Signer) -> None:
    control.put_evidence("flights", "m", "gate", {"auc": 0.7}, signer)
    control.put_evidence("flights", "m", "serving", {"latency": 3}, signer)
    control.put_evidence("flights", "m", "gate", {"auc": 0.8}, signer)
    control.put_evidence("flights", "n", "gate", {"auc": 0.1}, signer)
    control.put_evidence("phishing", "m", "gate", {"auc": 0.2}, signer)
    assert control.evidence_of("flights", "m", signer) == {"gate": {"auc": 0.8}, "serving": {"latency": 3}}
    assert control.evidence_of("flights", "nobody", signer) == {}


@pytest.mark.parametrize(
    ("tampering", "error"),
    [
        ("UPDATE evidence SET facts = json_object('auc', 1.0)", errors.Corrupt),
        ("UPDATE evidence SET facts = facts || ' '", errors.Corrupt),
        ("UPDATE evidence SET facts = CAST(facts AS BLOB)", errors.Corrupt),
        ("UPDATE evidence SET facts = '{'", errors.Corrupt),
        ("UPDATE evidence SET kind = 'serving'", errors.Corrupt),
        ("UPDATE evidence SET line = 'm' WHERE line = 'n'", errors.Corrupt),
        ("UPDATE evidence SET signature = ''", errors.Untrusted),
        ("UPDATE evidence SET signature = upper(signature)", errors.Untrusted),
        ("UPDATE evidence SET pipeline = 'flights', sequence = 9 WHERE pipeline = 'phishing'", errors.Corrupt),
    ],
)
def test_evidence_that_was_changed_is_not_believed(
    control: ControlLog, signer: Signer, tampering: str, error: type[Exception]
) -> None:
    control.put_evidence("flights", "m", "gate", {"auc": 0.7}, signer)
    control.put_evidence("flights", "n", "gate", {"auc": 0.9}, signer)
    control.put_evidence("phishing", "m", "gate", {"auc": 0.95}, signer)
    change(control, tampering)
    with pytest.raises(error, match=r"evidence \d of 'flights'"):
        control.evidence_of("flights", "m", signer)


def test_evidence_under_another_key_is_untrusted(control: ControlLog, signer: Signer, tmp_path: Path) -> None:
    control.put_evidence("flights", "m", "gate", {"auc": 0.7}, Signer.open(tmp_path / "stranger"))
    with pytest.raises(errors.Untrusted):
        control.evidence_of("flights", "m", signer)


def test_a_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "control.sqlite"
    path.write_bytes(b"this was never a database, but it is long enough to be taken for one" * 40)
    with pytest.raises(errors.Corrupt, match=r"control\.sqlite"):
        ControlLog(f"sqlite:///{path}")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.NotWritable, match=r"control\.sqlite"):
        ControlLog(f"sqlite:///{tmp_path / 'nowhere' / 'control.sqlite'}")


def test_a_full_disk_is_told_and_leaves_nothing(chain: list[Entry], control: ControlLog, signer: Signer) -> None:
    @sa.event.listens_for(control.engine, "connect")
    def _fill(connection: Any, _: object) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(errors.DurabilityLost, match=r"control\.sqlite"):
        decide(control, signer, 5, why="long" * 50_000)
    sa.event.remove(control.engine, "connect", _fill)
    assert control.entries("flights") == chain
    assert decide(control, signer, 5).sequence == 6
