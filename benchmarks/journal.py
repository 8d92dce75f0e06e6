"""What a long journal costs: ready after kill -9, replay by a counting fold, verify, backup, restore.

``python -m benchmarks.journal [--records 1000000] [--rounds 5]`` kills an owner in mid-write and prints

- G17: from the start of a new owner's process until it has appended, in seconds (limit 3, aim 1);
- G16: a counting fold through the runner over L9, a plain scan of the journal, in turns (limit 0.2, aim 0.5);
- how long `verify`, `backup` and `restore` take, and that the restored journal goes on.
"""

import argparse
import gc
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from journal.backup import back_up
from journal.checkpoint import FoldFile
from journal.clock import SECOND
from journal.log import START
from journal.record import Draft, Kind, Record
from journal.restore import restore
from journal.runner import Runner
from journal.sqlite_log import SqliteJournal
from journal.verify import verify

NOON = 1_357_041_600 * SECOND
BODY = (
    b'{"carrier":"UA","dest":"ORD","distance":719,"flight":1545,"hour":5,"minute":15,"origin":"EWR","tailnum":"N14228"}'
)
PER_GROUP = 1_000
PAGE = 1_000
GROWING = """
import sys
from pathlib import Path
from benchmarks.journal import event
from journal.sqlite_log import SqliteJournal
journal = SqliteJournal(Path(sys.argv[1]), "bench")
print("ready", flush=True)
while True:
    journal.append([event(n) for n in range(journal.end() + 1, journal.end() + 101)])
    print(journal.end(), flush=True)
"""


def event(n: int) -> Draft:
    """One source event of a usual size, about 300 bytes with its envelope."""
    return Draft(
        kind=Kind.SOURCE,
        stream="departures",
        source="/flights",
        id=f"01941f29-{n:012d}",
        time=NOON + n * SECOND,
        body=BODY,
        conflict=b"0123456789abcdef",
        principal="local:bench",
    )


class Counting:
    """The smallest fold there is: how many records of each stream."""

    name, version, kinds, resume_offset = "count", 1, frozenset({Kind.SOURCE}), None

    def __init__(self) -> None:
        self.counts = Counter[str]()

    def load(self, file: FoldFile) -> None:
        """Begin anew."""

    def apply(self, record: Record) -> Sequence[Draft]:
        """Count one."""
        self.counts[record.stream] += 1
        return ()

    def save(self, file: FoldFile) -> None:
        """Write the counts."""
        file.put("count", ((name.encode(), str(count).encode()) for name, count in self.counts.items()))

    def digest(self) -> str:
        """The counts in words."""
        return repr(sorted(self.counts.items()))


def fill(folder: Path, records: int) -> None:
    """Write a journal of so many records."""
    journal = SqliteJournal(folder, "bench")
    start = time.perf_counter()
    for first in range(0, records, PER_GROUP):
        journal.append([event(n) for n in range(first, min(first + PER_GROUP, records))])
    print(f"{records:,} records written in groups of {PER_GROUP:,}: {time.perf_counter() - start:.1f} s")
    journal.close()


def grow_and_kill(folder: Path) -> float:
    """Seconds until an owner's process has appended; then kill it in mid-write."""
    start = time.perf_counter()
    command = [sys.executable, "-c", GROWING, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.readline()
        taken = time.perf_counter() - start
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    return taken


def scan(journal: SqliteJournal) -> float:
    """L9: seconds of processor time to read every record."""
    start, after = time.process_time(), START
    while page := journal.read(0, after, PAGE):
        after = page[-1].offset
    return time.process_time() - start


def replay(journal: SqliteJournal, folder: Path) -> tuple[float, str]:
    """Seconds of processor time for a counting fold from the first record, with its commits; and its digest."""
    file = folder / "count.sqlite"
    file.unlink(missing_ok=True)
    fold = Counting()
    runner = Runner(fold, FoldFile(file), journal, "bench")
    start = time.process_time()
    while page := journal.read(0, runner.offset, PAGE):
        for record in page:
            runner.step(record)
        runner.commit()
    taken = time.process_time() - start
    runner.close()
    return taken, fold.digest()


def measure_start(folder: Path, rounds: int) -> None:
    """Print G17."""
    taken = [grow_and_kill(folder) for _ in range(rounds + 1)][1:]
    print(f"G17 ready after kill -9: {median(taken):.2f} s ({min(taken):.2f}-{max(taken):.2f}); accept 3 s, aim 1 s")


def measure_replay(folder: Path, scratch: Path, rounds: int) -> None:
    """Print G16's counting fold over L9."""
    journal = SqliteJournal(folder, "bench")
    gc.freeze()
    ratios, digests = [], set()
    for _ in range(rounds):
        bare = scan(journal)
        taken, digest = replay(journal, scratch)
        ratios.append(bare / taken)
        digests.add(digest)
    assert len(digests) == 1
    print(
        f"L9 plain scan: {(journal.end() + 1) / bare:,.0f} records/s\n"
        f"G16 counting fold over L9: {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}); accept 0.2, aim 0.5"
    )
    journal.close()


def measure_care(folder: Path, scratch: Path) -> None:
    """Print what verify, backup and restore take."""
    start = time.perf_counter()
    found = verify(folder)
    assert not found.damage
    print(f"verify {found.records:,} records: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    made = back_up(folder, scratch / "backup")
    size = sum(file.size for file in made.files)
    print(f"backup {size / 1e6:,.0f} MB, every record checked: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    restore(scratch / "backup", scratch / "restored")
    journal = SqliteJournal(scratch / "restored", "bench")
    journal.append([event(made.end + 1)])
    print(f"restore elsewhere and go on: {time.perf_counter() - start:.1f} s")
    assert journal.end() == made.end + 1
    journal.close()


def main() -> None:
    """Make a journal and measure it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        fill(scratch / "journal", options.records)
        measure_start(scratch / "journal", options.rounds)
        measure_replay(scratch / "journal", scratch, options.rounds)
        measure_care(scratch / "journal", scratch)


if __name__ == "__main__":
    main()
