"""Whatever comes in: its place in quarantine, or an error that says what, which and what to do, and an exit code."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from journal.checkpoint import FoldFile
from journal.control import ControlLog
from journal.reading import decisions_in
from journal.segment import segment_paths
from journal.sqlite_log import SqliteJournal
from journal.sqlite_reader import SqliteReader
from registry.signing import Signer
from rivermill.cli import main
from rivermill.pipeline import load_pipeline
from rivermill.settings import Home, configs_folder

PHISHING = configs_folder() / "phishing"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def recorded() -> list[bytes]:
    recording = load_pipeline(PHISHING).recorded
    assert recording is not None
    return list(islice(recording(), 400))


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--home", str(tmp_path / "home"), *arguments])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def played(tmp_path: Path, command: Command, recorded: list[bytes]) -> Callable[..., dict[str, Any]]:
    """Plays the recording with lines of the test's own after it; gives the figures."""

    def play(*lines: bytes) -> dict[str, Any]:
        file = tmp_path / "events.jsonl"
        file.write_bytes(b"\n".join([*recorded, *lines]))
        code, out, err = command("play", str(PHISHING), str(file), "--json")
        assert code == 0, err
        figures: dict[str, Any] = json.loads(out)
        return figures

    return play


def changed(raw: bytes, **data: Any) -> bytes:
    """An event with another id and other data."""
    event = json.loads(raw)
    event["id"] += "/changed"
    event["data"] |= data
    return json.dumps(event).encode()


def at(raw: bytes, time: str) -> bytes:
    event = json.loads(raw)
    return json.dumps({**event, "id": event["id"] + time, "time": time}).encode()


@pytest.mark.parametrize(
    ("spoil", "bucket"),
    [
        (lambda raw: raw[:-5], "malformed"),
        (lambda raw: raw.replace(b'"data":{', b'"data":{"n":NaN,'), "malformed"),
        (lambda _: b"\xff\xfe", "malformed"),
        (lambda _: b"[" * 100_000, "too_large"),
        (lambda _: b"[" * 10_000, "malformed"),
        (lambda raw: raw.replace(b'"type":"visits"', b'"type":"nobody"'), "unknown_stream"),
        (lambda raw: raw.replace(b'"specversion":"1.0"', b'"specversion":"9"'), "malformed"),
    ],
)
def test_what_is_no_event_is_refused_and_counted(
    played: Callable[..., dict[str, Any]], command: Command, recorded: list[bytes], spoil: Any, bucket: str
) -> None:
    figures = played(spoil(recorded[0]))
    assert (figures["refused"], figures["quarantined"], figures["events"]) == (1, 0, 400)
    (status,) = json.loads(command("status", "--json")[1])
    assert status["left no record"] == {"refused": 1, f"refused.{bucket}": 1}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda raw: changed(raw, age_of_domain="old"), "age_of_domain"),
        (lambda raw: raw.replace(b'"long_url"', b'"other"').replace(b"visits/", b"visits/x"), "other"),
        (lambda raw: changed(raw, unknown=1), "unknown"),
        (lambda raw: changed(raw, page="no-page"), "page"),
        (lambda raw: at(raw, "2033-05-05T00:00:00Z"), "maxGap is 7d"),
    ],
)
def test_what_breaks_its_contract_is_kept_with_the_reason(
    played: Callable[..., dict[str, Any]], command: Command, recorded: list[bytes], spoil: Any, reason: str
) -> None:
    figures = played(spoil(recorded[0]))
    assert (figures["refused"], figures["quarantined"], figures["events"]) == (0, 1, 400)
    (waiting,) = json.loads(command("journal", "quarantine", "list", "phishing", "--json")[1])
    assert waiting["stream"] == "visits"
    assert reason in waiting["reason"]


def test_an_event_from_far_ahead_can_be_released(
    played: Callable[..., dict[str, Any]], command: Command, recorded: list[bytes]
) -> None:
    played(at(recorded[0], "2033-05-05T00:00:00Z"))
    (waiting,) = json.loads(command("journal", "quarantine", "list", "phishing", "--json")[1])
    release = ("journal", "quarantine", "release", str(PHISHING), waiting["id"], "--why", "the page really came back")
    code, _, err = command(*release)
    assert (code, "--advance" in err) == (3, True)
    code, out, _ = command(*release, "--advance", "--json")
    assert (code, json.loads(out)["stream"]) == (0, "visits")
    assert json.loads(command("journal", "quarantine", "list", "phishing", "--json")[1]) == []
    (status,) = json.loads(command("status", "--json")[1])
    assert status["now"].startswith("2033-05-05")
    records = [
        json.loads(line) for line in command("journal", "tail", "phishing", "-n", "300", "--json")[1].splitlines()
    ]
    kinds = [record["kind"] for record in records]
    after = kinds[kinds.index("decision") :]
    assert after[:2] == ["decision", "source"]
    assert {"expired", "prediction"} <= set(after[2:])
    assert command(*release, "--advance")[0] == 5


def test_an_unknown_quarantine_id_is_named(command: Command, played: Callable[..., dict[str, Any]]) -> None:
    played()
    code, _, err = command("journal", "quarantine", "release", str(PHISHING), "q-none", "--why", "?")
    assert (code, "'q-none'" in err, "quarantine list" in err) == (3, True, True)


def test_the_same_event_twice_changes_nothing_and_another_body_is_a_conflict(
    played: Callable[..., dict[str, Any]], recorded: list[bytes], tmp_path: Path
) -> None:
    plain = played()
    shutil.rmtree(tmp_path / "home")
    figures = played(recorded[0], recorded[5], recorded[1], changed_body(recorded[0]))
    assert (figures["repeated"], figures["conflicts"], figures["quarantined"]) == (3, 1, 0)
    same = ("events", "predictions", "joined", "auc_online", "digest")
    assert [figures[name] for name in same] == [plain[name] for name in same]


def changed_body(raw: bytes) -> bytes:
    """The same id with other, valid data."""
    event = json.loads(raw)
    event["data"]["popup_window"] = 1.0 - event["data"]["popup_window"]
    return json.dumps(event).encode()


def test_an_outcome_without_a_question_joins_nothing(
    played: Callable[..., dict[str, Any]], recorded: list[bytes]
) -> None:
    report = next(raw for raw in recorded if b'"type":"reports"' in raw)
    event = json.loads(changed(report, page="page-9999"))
    figures = played(json.dumps(event).encode())
    assert figures["unmatched"] == 1
    assert figures["predictions"] == figures["joined"] + figures["expired"] + figures["pending"]


def test_a_first_event_outside_starts_is_quarantined(tmp_path: Path, command: Command, recorded: list[bytes]) -> None:
    file = tmp_path / "late.jsonl"
    file.write_bytes(at(recorded[0], "2021-01-01T00:00:00Z"))
    code, out, _ = command("play", str(PHISHING), str(file), "--json")
    figures = json.loads(out)
    assert (code, figures["quarantined"], figures["events"], figures["dataset"]) == (0, 1, 0, None)
    (waiting,) = json.loads(command("journal", "quarantine", "list", "phishing", "--json")[1])
    assert "starts" in waiting["reason"]


def test_a_file_that_has_grown_goes_on_where_it_stopped(
    tmp_path: Path, played: Callable[..., dict[str, Any]], command: Command, recorded: list[bytes]
) -> None:
    file = tmp_path / "growing.jsonl"
    file.write_bytes(b"\n".join(recorded[:250]))
    command("play", str(PHISHING), str(file))
    file.write_bytes(b"\n".join(recorded))
    code, out, _ = command("play", str(PHISHING), str(file), "--json")
    assert (code, json.loads(out)["repeated"]) == (0, 0)
    grown = json.loads(out)["digest"]
    shutil.rmtree(tmp_path / "home")
    assert played()["digest"] == grown


def test_another_file_that_begins_alike_is_another_input(
    tmp_path: Path, command: Command, recorded: list[bytes]
) -> None:
    """Nothing of it is skipped as if it had been read: what the journal knows is a repeat, the rest is new."""
    file = tmp_path / "first.jsonl"
    file.write_bytes(b"\n".join([*recorded[:50], b"broken"]))
    command("play", str(PHISHING), str(file))
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"\n".join([recorded[0], *recorded[20:]]))
    code, out, _ = command("play", str(PHISHING), str(other), "--json")
    figures = json.loads(out)
    assert (code, figures["events"], figures["repeated"], figures["refused"]) == (0, 400, 31, 1)
    again = json.loads(command("play", str(PHISHING), str(file), "--json")[1])
    assert (again["digest"], again["repeated"], again["refused"]) == (figures["digest"], 31, 1)


def test_unknown_names_are_named(command: Command, played: Callable[..., dict[str, Any]]) -> None:
    played()
    for arguments, words in (
        (("play", "nowhere", "x.jsonl"), ("x.jsonl",)),
        (("features", "list", "nowhere"), ("'nowhere'", "flights, phishing")),
        (("features", "show", str(PHISHING), "nothing"), ("'nothing'", "reports_by_ip")),
        (("features", "get", str(PHISHING), "reports_by_ip", "page=1"), ("page=1", "ip_in_url=...")),
        (("features", "get", str(PHISHING), "reports_by_ip", "ip_in_url=yes"), ("'yes'", "int64")),
        (("features", "get", str(PHISHING), "reports_by_ip", "ip_in_url=77"), ("ip_in_url=77",)),
        (("dataset", "show", "phishing", "phishing-0"), ("'phishing-0'", "phishing-")),
        (("dataset", "verify", "phishing", "../x"), ("'../x'",)),
        (("dataset", "list", "--json", "nobody"), ("'nobody'", "--home")),
        (("journal", "tail", "nobody"), ("'nobody'", "--home")),
        (("journal", "tail", "phishing", "--kind", "thing"), ("'thing'", "prediction")),
    ):
        code, out, err = command(*arguments)
        assert code == 3, arguments
        assert all(word in err for word in words), (arguments, err)
        assert out.strip() in {"", "[]"}, arguments


def test_a_pipeline_with_mistakes_names_all_of_them_with_file_and_line(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(PHISHING, folder)
    settings = folder / "pipeline.yaml"
    settings.write_text(
        settings.read_text()
        .replace("wait: 6h", "wait: six hours")
        .replace("key: page\n  service", "key: pagina\n  service")
        .replace("prior: 0.44", "prior: 44\n    colour: blue")
        .replace("model: online", "model: offline")
    )
    (folder / "models.py").write_text("def online(:\n")
    views = folder / "views.py"
    views.write_text(views.read_text().replace('count("reports"', 'count("rapports"').replace("ttl=", "#"))
    code, _, err = command("features", "list", str(folder))
    assert code == 4
    for place, word in (
        ("pipeline.yaml:", "six hours"),
        ("pipeline.yaml:", "'pagina'"),
        ("pipeline.yaml:", "44"),
        ("pipeline.yaml:", "colour"),
        ("models.py:1", "SyntaxError"),
        ("views.py:", "ttl"),
    ):
        assert any(place in line and word in line for line in err.splitlines()), (place, word, err)


def test_contracts_with_mistakes_are_named_too(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(PHISHING, folder)
    contract = folder / "contracts" / "reports.odcs.yaml"
    contract.write_text(contract.read_text().replace("logicalType: boolean", "logicalType: yesno"))
    (folder / "pipeline.yaml").write_text((PHISHING / "pipeline.yaml").read_text().replace("bootstrap: online", ""))
    code, _, err = command("features", "list", str(folder))
    assert code == 4
    assert any("reports.odcs.yaml:" in line and "yesno" in line for line in err.splitlines())
    assert any("pipeline.yaml:" in line and "bootstrap is missing" in line for line in err.splitlines())
    assert "no contract" not in err


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, command: Command, recorded: list[bytes]) -> None:
    (tmp_path / "home").write_text("a file in the way")
    (tmp_path / "events.jsonl").write_bytes(recorded[0])
    code, _, err = command("play", str(PHISHING), str(tmp_path / "events.jsonl"))
    assert (code, "home/phishing" in err, "RIVERMILL_HOME" in err) == (9, True, True)


def test_a_second_owner_is_refused(tmp_path: Path, command: Command, recorded: list[bytes]) -> None:
    (tmp_path / "events.jsonl").write_bytes(recorded[0])
    owner = SqliteJournal(Home(tmp_path / "home", "phishing").journal, "phishing")
    code, _, err = command("play", str(PHISHING), str(tmp_path / "events.jsonl"))
    owner.close()
    assert (code, "belongs to process" in err) == (8, True)


def flip(path: Path, needle: bytes) -> None:
    data = path.read_bytes()
    assert needle in data
    path.write_bytes(data.replace(needle, needle[:-1] + bytes([needle[-1] ^ 1])))


def test_a_flipped_byte_in_a_segment_is_named(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]]
) -> None:
    played()
    (path,) = segment_paths(Home(tmp_path / "home", "phishing").journal)
    flip(path, b'"key":"page-0100"')
    code, _, err = command("journal", "verify", "phishing")
    assert (code, "segment-000000000000.sqlite: record" in err, "journal repair" in err) == (7, True, True)
    code, out, _ = command("doctor", "--json")
    assert code == 1
    bad = [finding["check"] for finding in json.loads(out) if not finding["ok"]]
    assert bad == ["phishing: journal"]


def test_a_flipped_byte_in_a_checkpoint_is_named_and_the_fold_rebuilt_after_deletion(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]]
) -> None:
    before = played()
    path = Home(tmp_path / "home", "phishing").fold("join")
    file = FoldFile(path, readonly=True)
    _, waiting = next(file.scan("pending"))
    file.close()
    flip(path, waiting)
    code, out, _ = command("doctor", "--json")
    bad = [finding for finding in json.loads(out) if not finding["ok"]]
    assert (code, [finding["check"] for finding in bad]) == (1, ["phishing: checkpoints"])
    assert "Delete this file" in bad[0]["fix"]
    code, _, err = command("play", str(PHISHING), str(tmp_path / "events.jsonl"))
    assert (code, "join.sqlite" in err) == (7, True)
    path.unlink()
    assert played()["digest"] == before["digest"]


@pytest.mark.parametrize("name", ["features", "answer", "join", "learner"])
def test_every_fold_can_be_rebuilt_from_the_journal(
    tmp_path: Path, played: Callable[..., dict[str, Any]], name: str
) -> None:
    before = played()
    for path in Home(tmp_path / "home", "phishing").fold(name).parent.glob(f"{name}.sqlite*"):
        path.unlink()
    after = played()
    assert {**after, "seconds": 0, "events_per_second": 0} == {**before, "seconds": 0, "events_per_second": 0}


def test_a_tampered_snapshot_is_not_served(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]]
) -> None:
    played()
    home = Home(tmp_path / "home", "phishing")
    (home.keys / "signing.key").unlink()
    (home.keys / "signing.key.pub").unlink(missing_ok=True)
    code, out, _ = command("doctor", "--json")
    assert code == 1
    assert [f["check"] for f in json.loads(out) if not f["ok"]] == ["phishing: served model"]


def test_a_decision_that_somebody_else_wrote_is_not_echoed(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]]
) -> None:
    played()
    home = Home(tmp_path / "home", "phishing")
    ControlLog(home.control).append(
        "phishing",
        expected=1,
        action="roll_back",
        subject="online",
        why="because I can",
        details={},
        at=0,
        principal="nobody",
        key="forged",
        signer=Signer.open(tmp_path / "another.key"),
    )
    code, _, err = command("play", str(PHISHING), str(tmp_path / "events.jsonl"))
    assert (code, "signature" in err) == (11, True)
    journal = SqliteReader(home.journal)
    decided = [decision.sequence for _, decision in decisions_in(journal)]
    journal.close()
    assert decided == [1]


def test_changed_views_are_refused_under_a_live_line(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]]
) -> None:
    played()
    folder = tmp_path / "phishing"
    shutil.copytree(PHISHING, folder)
    views = folder / "views.py"
    views.write_text(views.read_text().replace('over="7d"', 'over="5d"'))
    code, _, err = command("play", str(folder), str(tmp_path / "events.jsonl"))
    assert (code, "--fresh" in err) == (5, True)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("wait: 6h", "wait: 2h", "label"),
        ("snapshot_every: 50", "snapshot_every: 60", "line"),
        ("SGD(0.05)", "SGD(1.5)", "model"),
        ("value: 3h", "value: 1h", "lateness"),
    ],
)
def test_changed_rules_are_refused_under_a_live_line(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]], old: str, new: str, named: str
) -> None:
    """Otherwise the folds' state would no longer follow from the journal."""
    played()
    folder = tmp_path / "phishing"
    shutil.copytree(PHISHING, folder)
    for path in (folder / "pipeline.yaml", folder / "models.py", *folder.glob("contracts/*")):
        path.write_text(path.read_text().replace(old, new))
    code, _, err = command("play", str(folder), str(tmp_path / "events.jsonl"))
    assert (code, f"{named} (was" in err, "--fresh" in err) == (5, True, True)


@pytest.mark.parametrize("text", ["x: 1", "label: 5", "lines: {online: 3}", "- a list", "question: [1]"])
def test_settings_of_the_wrong_shape_are_mistakes(tmp_path: Path, command: Command, text: str) -> None:
    folder = tmp_path / "phishing"
    shutil.copytree(PHISHING, folder)
    (folder / "pipeline.yaml").write_text(text + "\n")
    code, _, err = command("features", "list", str(folder))
    assert (code, "pipeline.yaml:1" in err) == (4, True)


@pytest.mark.parametrize("name", ["..", ".", "../..", "no/such"])
def test_fresh_deletes_nothing_that_is_no_pipelines_state(tmp_path: Path, command: Command, name: str) -> None:
    for folder in (tmp_path / "journal", tmp_path / "home" / "journal", tmp_path / "home" / "phishing" / "journal"):
        folder.mkdir(parents=True)
        (folder / "precious").write_text("kept")
    assert command("demo", "--pipeline", name, "--fresh")[0] == 3
    assert len(list(tmp_path.rglob("precious"))) == 3


def test_fresh_deletes_nothing_when_the_pipeline_has_mistakes(
    tmp_path: Path, command: Command, played: Callable[..., dict[str, Any]]
) -> None:
    played()
    folder = tmp_path / "phishing"
    shutil.copytree(PHISHING, folder)
    (folder / "models.py").write_text("def")
    assert command("demo", "--pipeline", str(folder), "--fresh")[0] == 4
    assert len(json.loads(command("status", "--json")[1])) == 1


def test_a_demo_is_not_mixed_with_other_events(tmp_path: Path, command: Command, recorded: list[bytes]) -> None:
    demo = ("demo", "--pipeline", str(PHISHING), "--weeks", "1", "--json")
    code, first, _ = command(*demo)
    assert (code, command(*demo)[1]) == (0, first)
    (tmp_path / "more.jsonl").write_bytes(at(recorded[0], "2020-01-02T00:00:00Z"))
    assert command("play", str(PHISHING), str(tmp_path / "more.jsonl"))[0] == 0
    code, _, err = command(*demo)
    assert (code, "other events beside the demo's" in err) == (5, True)
    code, again, _ = command(*demo, "--fresh")
    same = ("digest", "auc_online", "dataset", "events")
    assert code == 0
    assert [json.loads(again)[name] for name in same] == [json.loads(first)[name] for name in same]


def test_numbers_beyond_64_bits_are_named(command: Command, played: Callable[..., dict[str, Any]]) -> None:
    played()
    large = "9" * 23
    assert command("features", "get", str(PHISHING), "reports_by_ip", f"ip_in_url={large}")[0] == 3
    assert command("journal", "tail", "phishing", "--from", large)[0] == 2
    assert command("journal", "tail", "phishing", "-n", large)[0] == 2


def test_a_released_event_counts_however_late(
    played: Callable[..., dict[str, Any]], command: Command, recorded: list[bytes]
) -> None:
    """Held for its gap, released after the clock has passed it by more than the lateness: its tile still takes it."""
    report = json.loads(next(raw for raw in recorded if b'"type":"reports"' in raw))
    held = {**report, "id": "held", "time": "2020-01-09T00:00:00Z"}
    held["data"] |= {"page": "page-9999", "ip_in_url": 1, "phishing": True}
    steps = [at(recorded[0], f"2020-01-0{day}T23:00:00Z") for day in (2, 5, 8)]
    played(json.dumps(held).encode(), *steps, at(recorded[0], "2020-01-09T06:00:00Z"))
    (waiting,) = json.loads(command("journal", "quarantine", "list", "phishing", "--json")[1])

    def reports() -> int:
        row = json.loads(command("features", "get", str(PHISHING), "reports_by_ip", "ip_in_url=1", "--json")[1])
        return int(row["reports_1d"])

    before = reports()
    release = ("journal", "quarantine", "release", str(PHISHING), waiting["id"], "--why", "the gap was real")
    assert command(*release)[0] == 0
    assert reports() == before + 1
    assert command(*release)[0] == 5


def test_wrong_usage_is_exit_code_2(command: Command) -> None:
    assert command("demo", "--weeks", "0")[0] == 2
    assert command("nonsense")[0] == 2


def test_the_command_line_is_the_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "rivermill", "--help"], capture_output=True, text=True, check=True)
    assert "doctor" in done.stdout
