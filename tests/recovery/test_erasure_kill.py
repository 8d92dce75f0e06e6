"""An erasure killed between any two of its steps is finished by whoever comes next, and says what it said before.

Run as a program, this file is the erasure that is killed.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from journal.body import Decision, decode
from journal.clock import DAY, format_time
from journal.contract import Contract
from journal.control import ControlLog, missing_echoes
from journal.control import echo_of as echo
from journal.erasure import Eraser, finish_erasures
from journal.errors import UnknownName
from journal.field import Field
from journal.intake import Accepted, Intake
from journal.log import START
from journal.privacy import KeyTable
from journal.proof import prove
from journal.record import Draft, Kind
from journal.sealed import Sealed, check_sealed
from journal.sqlite_log import SqliteJournal
from journal.trail import Trail, trail_of
from registry.signing import Signer

pytestmark = pytest.mark.slow

NOON = 1_357_041_600_000_000
ANNA, BERT = "anna.marker@example.org", "bert.marker@example.org"
VISITS = Contract(
    stream="visits",
    version="1.0.0",
    fields=(
        Field(name="person", type="string", required=True, personal=True, entity_key=True),
        Field(name="page", type="string", required=True),
    ),
    dedup_window=2 * DAY,
    max_gap=DAY,
    subject="person",
)
STEPS = ("asked", "followed", "decided", "marked", "destroyed", "echoed")


class Shop:
    """What an erasure works on, opened by one process after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signer = Signer.open(folder / "signing")
        self.keys = KeyTable(folder / "keys" / "subjects.sqlite")
        self.control = ControlLog(f"sqlite:///{folder / 'control.sqlite'}")
        self.journal = SqliteJournal(folder / "journal", "shop")

    def visit(self, id: str, person: str) -> str:
        data = {"person": person, "page": "/"}
        event = {"specversion": "1.0", "id": id, "source": "/web", "type": "visits", "time": format_time(NOON)}
        taken = Intake(self.journal, {"visits": VISITS}, self.keys, None).take(
            json.dumps(event | {"data": data}).encode()
        )
        assert isinstance(taken, Accepted)
        return taken.record.subject or ""

    def eraser(self, **changed: Any) -> Eraser:
        parts: dict[str, Any] = {
            "pipeline": "shop",
            "keys": self.keys,
            "control": self.control,
            "signer": self.signer,
            "clock": lambda: self.journal.clock,
            "land": self.land,
        }
        return Eraser(**(parts | changed))

    def land(self, draft: Draft) -> None:
        self.journal.append([draft])

    def follow(self, subject: str) -> Trail:
        return trail_of(self.journal, subject, {"visits": VISITS})

    def close(self) -> None:
        self.keys.close()
        self.journal.close()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DyingDatabase:
    """A key table's database whose process dies before it cuts the write-ahead log."""

    def __init__(self, db: Any) -> None:
        self.db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def __enter__(self) -> Any:
        return self.db.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self.db.__exit__(*error)

    def execute(self, statement: str, *bindings: Any) -> Any:
        if "wal_checkpoint" in statement:
            die()
        return self.db.execute(statement, *bindings)


class DyingKeys:
    """A key table whose process dies before or after it has destroyed a key."""

    def __init__(self, keys: KeyTable, after: bool) -> None:
        self.keys, self.after = keys, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self.keys, name)

    def erase(self, *subjects: str) -> None:
        if self.after:
            self.keys.erase(*subjects)
        die()


def erase_and_die(folder: Path, step: str) -> None:
    shop = Shop(folder)
    changed: dict[str, Any] = {}

    def follow(subject: str) -> Trail:
        if step == "asked":
            die()
        return shop.follow(subject)

    def clock() -> int:
        die()
        return NOON

    def land(draft: Draft) -> None:
        shop.land(draft)
        die()

    if step == "followed":
        changed["clock"] = clock
    elif step in ("decided", "destroyed"):
        changed["keys"] = DyingKeys(shop.keys, after=step == "destroyed")
    elif step == "marked":
        shop.keys._db = DyingDatabase(shop.keys._db)  # type: ignore[assignment]
    elif step == "echoed":
        changed["land"] = land
    eraser = shop.eraser(**changed)
    eraser.erase(eraser.find(ANNA), why="ticket 12", principal="dora", follow=follow)


@pytest.fixture
def killed(tmp_path: Path, step: str) -> tuple[Shop, str, bytes]:
    """A shop after its erasure was killed, with the subject and the key that was to be destroyed."""
    with closing(Shop(tmp_path)) as shop:
        subject = shop.visit("v1", ANNA)
        shop.visit("v2", BERT)
        secret: bytes = shop.keys._db.execute("SELECT key FROM subject WHERE id = ?", (subject,)).get
    run = subprocess.run([sys.executable, __file__, str(tmp_path), step], check=False)
    assert run.returncode == -signal.SIGKILL
    return Shop(tmp_path), subject, secret


def files_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("step", STEPS)
def test_whoever_owns_the_journal_next_finishes_it(killed: tuple[Shop, str, bytes], step: str) -> None:
    shop, subject, secret = killed
    decided = step not in ("asked", "followed")
    assert (secret in files_of(shop.folder)) is (step not in ("destroyed", "echoed"))
    assert len(shop.control.entries("shop")) == decided
    finished = finish_erasures(shop.control, "shop", shop.keys, shop.signer)
    assert finished == ([subject] if step == "decided" else [])
    for entry in missing_echoes(shop.control, "shop", shop.journal):
        shop.land(echo(entry))
    echoes = [decode(record.body, Decision) for record in shop.journal.of_kind(Kind.DECISION, START, 9)]
    assert [(each.action, each.subject, each.why) for each in echoes] == [("erase", subject, "ticket 12")] * decided
    assert check_sealed(shop.journal, shop.keys) == Sealed(equal=2 - decided, erased=int(decided), different=[])
    assert (secret[:8] in files_of(shop.folder)) is not decided
    assert prove(shop.control, "shop", shop.signer, shop.journal).decisions == decided
    shop.close()


@pytest.mark.parametrize("step", STEPS)
def test_who_asks_again_is_served_or_told(killed: tuple[Shop, str, bytes], step: str) -> None:
    """By the identifier, as long as it leads to somebody; by the subject's id, always. There is one decision."""
    shop, subject, secret = killed
    eraser = shop.eraser()
    if step in ("asked", "followed", "decided"):
        assert eraser.find(ANNA) == subject
    else:
        with pytest.raises(UnknownName, match="erased already"):
            eraser.find(ANNA)
    done = eraser.erase(subject, why="asked again", principal="eve", follow=shop.follow)
    assert (done.decision, done.again) == (1, step not in ("asked", "followed"))
    (entry,) = shop.control.entries("shop")
    assert entry.why == ("ticket 12" if done.again else "asked again")
    assert len(shop.journal.of_kind(Kind.DECISION, START, 9)) == 1
    assert missing_echoes(shop.control, "shop", shop.journal) == []
    assert secret[:8] not in files_of(shop.folder)
    shop.close()


if __name__ == "__main__":
    erase_and_die(Path(sys.argv[1]), sys.argv[2])
