"""R11, R12, R13, R15, R19: bad, doubled, disordered and contradicting input, on the whole loop of a real pipeline."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from journal.clock import DAY, MINUTE, format_time, parse_time
from journal.digest import digest_journal, digest_parts
from journal.intake import Accepted, Conflicted, Quarantined, Refused, Repeated, Taken
from journal.log import START
from journal.owner_client import OwnerClient
from journal.record import Kind, Record
from journal.wire import AcceptedFate, QuarantinedFate, RefusedFate
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_folds, open_run
from tests.crash.history import reconcile

pytestmark = pytest.mark.slow
EVENTS = 240
FOLDER = configs_folder() / "phishing"
PLACES = (("UTC", "0"), ("Pacific/Chatham", "1"), ("America/New_York", "4242"))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(FOLDER)


@pytest.fixture(scope="module")
def events(pipeline: Pipeline) -> list[dict[str, Any]]:
    assert pipeline.recorded is not None
    return [json.loads(raw) for raw in islice(pipeline.recorded(), EVENTS)]


@pytest.fixture
def run(pipeline: Pipeline, tmp_path: Path) -> Iterator[Run]:
    run = open_run(pipeline, Home(tmp_path, "phishing"))
    yield run
    run.close()


@dataclass(frozen=True, slots=True)
class Played:
    """What became of every line."""

    fates: list[Taken]
    records: list[Record]
    tallies: dict[str, int]

    def count(self, kind: type[Taken]) -> int:
        return sum(isinstance(fate, kind) for fate in self.fates)


def play(run: Run, lines: Sequence[dict[str, Any] | bytes]) -> Played:
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    with run.journal.group():
        fates = [run.lockstep.offer(line) for line in raw]
    run.lockstep.commit_folds()
    played = Played(fates, records_of(run), run.journal.tallies())
    assert reconcile(len(lines), played.records, played.tallies)["missing"] == 0
    return played


def records_of(run: Run) -> list[Record]:
    records, after = [], START
    while page := run.journal.read(0, after, 1_000):
        records += page
        after = page[-1].offset
    return records


def digest(run: Run) -> str:
    folds = {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners}
    return digest_parts({"journal": digest_journal(run.journal)[0], **folds})


def moved(event: dict[str, Any], by: int) -> dict[str, Any]:
    return event | {"time": format_time(parse_time(event["time"]) + by)}


def test_r11_every_line_of_a_doubled_disordered_stream_is_counted(run: Run, events: list[dict[str, Any]]) -> None:
    chance = random.Random(11)
    again = chance.sample(events, 40)
    others = [event | {"data": event["data"] | {"ip_in_url": 1 - event["data"]["ip_in_url"]}} for event in again[:15]]
    future = [moved(event, 9_000 * DAY) | {"id": f"future-{n}"} for n, event in enumerate(events[:7])]
    ancient = [moved(event, -400 * DAY) | {"id": f"ancient-{n}"} for n, event in enumerate(events[:5])]
    disordered = sorted(events, key=lambda event: parse_time(event["time"]) + chance.randrange(30 * MINUTE))
    played = play(run, [*disordered, *again, *others, *future, *ancient, *future])
    assert (played.count(Accepted), played.count(Repeated), played.count(Conflicted)) == (EVENTS, 40, 15)
    assert played.count(Quarantined) == 7 + 5 + 7
    assert played.tallies == {"repeated": 40, "conflicts": 15, "quarantined_again": 7}
    assert all(one.at < next_.at for one, next_ in pairwise(played.records))
    assert _learned_once(run, played.records)


def _learned_once(run: Run, records: list[Record]) -> bool:
    kinds = Counter(record.kind for record in records)
    counts = run.folds.join.counts()
    ends = kinds[Kind.EXAMPLE] + kinds[Kind.EXPIRED] + counts["pending"]
    return kinds[Kind.PREDICTION] == ends and run.folds.learner.counts()["examples"] == kinds[Kind.EXAMPLE]


def test_r12_skewed_producers_are_ordered_by_position(run: Run, events: list[dict[str, Any]]) -> None:
    """Reports come from a clock that steps back and forth by 45 minutes; nothing expires that would not have."""
    skewed = [
        moved(event, (-45, 45)[n % 2] * MINUTE) if event["type"] == "reports" else event
        for n, event in enumerate(events)
    ]
    played = play(run, skewed)
    sources = [record for record in played.records if record.kind is Kind.SOURCE]
    assert [record.id for record in sources] == [event["id"] for event in skewed]
    assert all(one.at < next_.at for one, next_ in pairwise(played.records))
    assert run.folds.join.counts()["expired"] == 0
    assert _learned_once(run, played.records)


def test_r12_the_zone_that_a_time_is_spelled_in_changes_nothing(
    pipeline: Pipeline, events: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The same moments in UTC, and in zones that change under way as they do when summer time begins."""
    digests = []
    for name, spell in (("utc", str), ("zones", _in_a_zone)):
        run = open_run(pipeline, Home(tmp_path / name, "phishing"))
        play(run, [event | {"time": spell(event["time"])} for event in events])
        digests.append(digest(run))
        run.close()
    assert digests[0] == digests[1]


def _in_a_zone(time: str) -> str:
    moment = parse_time(time)
    hours = 1 if moment % DAY < DAY // 20 else 2
    return format_time(moment + hours * 60 * MINUTE).replace("Z", f"+0{hours}:00")


def test_r12_neither_the_time_zone_nor_the_hash_seed_of_a_process_changes_anything(tmp_path: Path) -> None:
    children = []
    for zone, seed in PLACES:
        root = tmp_path / seed
        code = f"from tests.crash.zygote import play; play({str(root)!r}, {str(FOLDER)!r}, {EVENTS}, 0)"
        environment = os.environ | {"TZ": zone, "PYTHONHASHSEED": seed}
        children.append((root, subprocess.Popen([sys.executable, "-c", code], env=environment)))
    digests = set()
    for root, child in children:
        assert child.wait() == 0
        digests.add((root / "digest").read_text())
    assert len(digests) == 1


def bad_lines(event: dict[str, Any]) -> dict[str, tuple[bytes, str]]:
    """Each with the end that it must find: a bucket of what is refused, or ``quarantined``."""
    raw = json.dumps(event).encode()

    def data(**fields: Any) -> bytes:
        return json.dumps(event | {"id": "bad", "data": event["data"] | fields}).encode()

    return {
        "not JSON": (b"{", "malformed"),
        "nothing": (b"", "malformed"),
        "no UTF-8": (b'{"id": "\xff"}', "malformed"),
        "cut": (raw[:-3], "malformed"),
        "a list": (b"[" + raw + b"]", "malformed"),
        "NaN": (data(https=float("nan")), "malformed"),
        "Infinity": (data(https=float("inf")), "malformed"),
        "1e999": (data(https=0.25).replace(b"0.25", b"1e999"), "quarantined"),
        "ten megabytes": (data(more="x" * 10_000_000), "too_large"),
        "ten thousand fields": (data(**{f"f{n}": n for n in range(10_000)}), "too_large"),
        "deep": (data(more=0).replace(b'"more": 0', b'"more": ' + b"[" * 5_000 + b"]" * 5_000), "malformed"),
        "an unknown version of CloudEvents": (json.dumps(event | {"specversion": "9.9"}).encode(), "malformed"),
        "an unknown stream": (json.dumps(event | {"type": "nobody"}).encode(), "unknown_stream"),
        "an unknown version of the schema": (
            json.dumps(event | {"dataschema": "https://example.com/visits#9"}).encode(),
            "quarantined",
        ),
        "out of range": (data(https=2), "quarantined"),
        "of another type": (data(https="yes"), "quarantined"),
    }


NAMES = sorted(bad_lines({"data": {}}))


@pytest.mark.parametrize("name", NAMES)
def test_r13_a_bad_line_ends_where_it_must_and_the_next_is_taken(
    run: Run, events: list[dict[str, Any]], name: str
) -> None:
    raw, end = bad_lines(events[1])[name]
    played = play(run, [events[0], raw, events[2]])
    first, bad, last = played.fates
    assert isinstance(first, Accepted)
    assert isinstance(last, Accepted)
    assert last.record.offset > first.record.offset
    if end == "quarantined":
        assert isinstance(bad, Quarantined)
    else:
        assert isinstance(bad, Refused)
        assert bad.bucket == end
    assert bad.reason


def test_r13_over_the_owners_socket_bad_lines_hold_up_nobody(
    pipeline: Pipeline, events: list[dict[str, Any]], tmp_path: Path
) -> None:
    home = Home(tmp_path, "phishing")
    open_run(pipeline, home).close()
    owner = subprocess.Popen([sys.executable, "-m", "rivermill.owner_process", str(tmp_path), str(FOLDER)])
    client = OwnerClient(home.socket)
    try:
        while not home.socket.exists():
            assert owner.poll() is None
        lines = bad_lines(events[1])
        for n, name in enumerate(NAMES):
            raw, end = lines[name]
            bad, good = client.take([raw, json.dumps(events[n + 2]).encode()], "test")
            assert isinstance(bad, QuarantinedFate if end == "quarantined" else RefusedFate), name
            assert isinstance(good, AcceptedFate), name
        assert client.state().tallies["refused"] == sum(end != "quarantined" for _, end in lines.values())
    finally:
        client.close()
        owner.terminate()
        assert owner.wait() == 0


def test_r15_labels_that_come_never_twice_first_or_contradict_reconcile(run: Run, events: list[dict[str, Any]]) -> None:
    visits = [event for event in events if event["type"] == "visits"][:12]
    start = parse_time(visits[-1]["time"])

    def report(n: int, found: bool, after: int, more: str = "") -> dict[str, Any]:
        page = visits[n]["data"]["page"]
        data = {"page": page, "phishing": found, "ip_in_url": 0}
        time = format_time(start + after * MINUTE)
        return visits[n] | {"id": f"report/{page}{more}", "type": "reports", "time": time, "data": data}

    first = report(0, True, -11)
    in_time = [report(n, True, 1) for n in range(1, 10)]
    twice, contradicting = report(1, True, 2, "/2"), report(2, False, 2, "/2")
    late = report(10, True, 60 * 7)
    unknown = report(3, True, 3, "/x")
    unknown["data"] = unknown["data"] | {"page": "page-9999"}
    played = play(run, [first, *visits, *in_time, twice, contradicting, unknown, late])
    assert played.count(Accepted) == len(played.fates)
    counts = run.folds.join.counts()
    assert {name: counts[name] for name in ("predictions", "joined", "expired", "pending")} == {
        "predictions": 12,
        "joined": 9,
        "expired": 3,
        "pending": 0,
    }
    assert (counts["unmatched"], counts["late"], counts["repeated"], counts["contradictory"]) == (2, 1, 2, 1)
    assert _learned_once(run, played.records)


def test_r19_the_same_journal_in_pages_of_any_size_gives_the_same_folds(
    pipeline: Pipeline, events: list[dict[str, Any]], tmp_path: Path
) -> None:
    home = Home(tmp_path / "left", "phishing")
    run = open_run(pipeline, home)
    play(run, events)
    found = {runner.fold.name: runner.fold.digest() for runner in run.lockstep.runners}
    run.close()
    for size in (1, 7, 100):
        copy = Home(tmp_path / str(size), "phishing")
        shutil.copytree(home.folder, copy.folder, ignore=shutil.ignore_patterns("folds", "history"))
        assert _folded(pipeline, copy, size) == found


def _folded(pipeline: Pipeline, home: Home, size: int) -> dict[str, str]:
    """The folds' digests after pages of a size, each committed and the folds opened anew in the middle."""
    run = open_run(pipeline, home)
    for path in home.fold("x").parent.glob("*.sqlite*"):
        path.unlink()
    records = records_of(run)
    for part in (records[: len(records) // 2], records):
        folds = open_folds(pipeline, home, run.journal)
        for n in range(min(runner.offset for runner in folds.runners) + 1, len(part), size):
            for record in part[n : n + size]:
                for runner in folds.runners:
                    if record.kind in runner.kinds:
                        runner.apply(record)
            for runner in folds.runners:
                runner.pass_over(part[n : n + size][-1].offset)
                runner.commit()
        digests = {runner.fold.name: runner.fold.digest() for runner in folds.runners}
        folds.close()
    run.close()
    return digests
