"""The verbs over a journal's files, as the command line runs them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from journal.clock import SECOND
from journal.errors import Corrupt, Refused
from journal.record import Draft, Kind
from journal.segment import segment_path
from journal.sqlite_log import SqliteJournal
from rivermill.journal_commands import journal
from rivermill.place import Place
from rivermill.settings import configs_folder

NOON = 1_357_041_600 * SECOND


@pytest.fixture
def home(tmp_path: Path) -> Path:
    owner = SqliteJournal(tmp_path / "home" / "phishing" / "journal", "phishing", records_per_segment=10)
    owner.append([Draft(kind=Kind.GENESIS, stream="journal", id="phishing", body=b"{}")])
    for n in range(24):
        owner.append([Draft(kind=Kind.SOURCE, stream="s", source="/t", id=f"e{n}", time=NOON + n, body=b"{}")])
    owner.close()
    return tmp_path / "home"


def run(home: Path, *arguments: str) -> str:
    place = Place(home, configs_folder())
    result = CliRunner().invoke(journal, [*arguments], obj=place, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_verify_backup_damage_repair_restore(home: Path, tmp_path: Path) -> None:
    assert json.loads(run(home, "verify", "phishing", "--json"))["records"] == 25
    backup = str(tmp_path / "backup")
    assert json.loads(run(home, "backup", "phishing", backup, "--json"))["end"] == 24
    path = segment_path(home / "phishing" / "journal", 10)
    path.write_bytes(path.read_bytes().replace(b"e15", b"f15", 1))
    with pytest.raises(Corrupt, match=r"segment-000000000010\.sqlite"):
        run(home, "verify", "phishing")
    (done,) = json.loads(run(home, "repair", "phishing", backup, "--json"))
    assert done["segment"] == path.name
    assert "every checksum holds" in run(home, "verify", "phishing")
    with pytest.raises(Refused, match="empty"):
        run(home, "restore", "phishing", backup)
    restored = json.loads(run(tmp_path / "other", "restore", "phishing", backup, "--json"))
    assert restored["end"] == 24
    assert restored["was"] != restored["incarnation"]
    with pytest.raises(Refused, match="backup of 'phishing'"):
        run(tmp_path / "third", "restore", "flights", backup)


def test_retain_explains_and_changes_nothing_unless_told(home: Path) -> None:
    explained = run(home, "retain", "phishing")
    assert "fold 'features' has read nothing yet" in explained
    assert explained.endswith("Nothing leaves.\n")
    plan = json.loads(run(home, "retain", "phishing", "--apply", "--json"))
    assert (plan["applied"], plan["then"]) == (True, 0)
    assert json.loads(run(home, "archive", "phishing", "--json")) == []


def test_either_a_backup_or_a_loss(home: Path) -> None:
    place = Place(home, configs_folder())
    assert CliRunner().invoke(journal, ["repair", "phishing"], obj=place).exit_code == 2
    assert CliRunner().invoke(journal, ["retain", "phishing", "--explain", "--apply"], obj=place).exit_code == 2
    for told in (["--accept-loss"], [str(home), "--why", "w"], [str(home), "--accept-loss", "--why", "w"]):
        assert CliRunner().invoke(journal, ["repair", "phishing", *told], obj=place).exit_code == 2
    with pytest.raises(Refused, match="no acknowledged record is gone from its end, which is 24"):
        run(home, "repair", "phishing", "--accept-loss", "--why", "w")
