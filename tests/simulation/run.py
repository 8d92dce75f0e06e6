"""Run the seeded simulator: ``python tests/simulation/run.py --seeds 10000 [--first N] [--bug NAME]``.

Prints what the seeds went through; each that fails with its steps and how to run it alone. Exit code 1 when one fails.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from journal.control import ControlLog
from journal.privacy import KeyTable
from registry.signing import Signer
from tests.simulation.bugs import BUGS
from tests.simulation.process import Keyring
from tests.simulation.simulation import Figures
from tests.simulation.trial import Failure, try_seed

_MOST_FAILURES = 5


@contextmanager
def open_keyring(folder: Path) -> Iterator[Keyring]:
    """Keys and a control log for any number of seeds."""
    keys = KeyTable(folder / "keys" / "subjects.sqlite")
    signer = Signer.open(folder / "keys" / "signing.key")
    try:
        yield Keyring(
            folder=folder, keys=keys, signer=signer, control=ControlLog(f"sqlite:///{folder / 'control.sqlite'}")
        )
    finally:
        keys.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first one")
    parser.add_argument("--bug", default="", choices=("", *BUGS), help="a planted bug that must be found")
    given = parser.parse_args(arguments)
    started, worked = time.perf_counter(), time.process_time()
    figures: list[Figures] = []
    failures: list[Failure] = []
    with keyring_in_memory() as keyring:
        for seed in range(given.first, given.first + given.seeds):
            result = try_seed(seed, keyring, bug=given.bug, shrink=not given.bug)
            if isinstance(result, Failure):
                failures.append(result)
                sys.stdout.write(f"{result}\n\n")
                sys.stdout.flush()
                if len(failures) == _MOST_FAILURES:
                    break
            else:
                figures.append(result)
    sys.stdout.write(_summary(figures, failures, time.perf_counter() - started, time.process_time() - worked))
    return 1 if failures else 0


@contextmanager
def keyring_in_memory() -> Iterator[Keyring]:
    """The same in a folder in memory, where the system has one: the control log is a real file, and waits for disks."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, open_keyring(Path(folder)) as keyring:
        yield keyring


def _summary(figures: list[Figures], failures: list[Failure], seconds: float, worked: float) -> str:
    count = len(figures) + len(failures)
    died = Counter(place for figure in figures for place in figure.died_at)
    sums = {
        name: sum(getattr(figure, name) for figure in figures)
        for name in ("lives", "records", "predictions", "learned", "decisions", "refused", "fenced")
    }
    told = ", ".join(f"{total:,} {name}" for name, total in sums.items())
    deaths = "\n".join(f"  {times:>7,}  {place}" for place, times in died.most_common())
    each = worked / max(count, 1) * 1e3
    return (
        f"{count:,} seeds in {seconds:.1f} s ({worked:.1f} s of one core, {each:.1f} ms each): {len(failures)} failed\n"
        f"{told}\nlives ended at:\n{deaths}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
