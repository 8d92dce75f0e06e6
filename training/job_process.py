"""One training job in a process of its own: ``python -m training.job_process <folder>``.

It reads the folder's ``spec.json`` and leaves a result there, or no result at all. Progress goes to standard output. It
gives way to every other process, ends with the process that started it, and stops cleanly on SIGTERM: Ray is shut down
and no result is written.

Exit codes: 0 done; 1 a recipe failed, with its traceback; 143 stopped; otherwise that of the error (journal/errors.py),
such as 4 for a spec that cannot be read, 5 for folds that the rows do not make, 7 for rows that are not the spec's.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import pyarrow as pa

from features import dataset
from journal.errors import Corrupt, RivermillError
from journal.parent import ends_with
from training.job_folder import read_spec, write_result
from training.models_file import ModelsFile
from training.recipe import RetrainSpec
from training.retrain import choose_executor, retrain

PARENT_VARIABLE = "RIVERMILL_JOB_PARENT"
"""Names the process that a job must not outlive."""

STOPPED = 128 + signal.SIGTERM
_NICENESS = 19


class _Stop(BaseException):
    """SIGTERM came. No recipe may swallow it, so it is no Exception."""


def carry_out(folder: Path) -> None:
    """Do what a job's folder asks for.

    Raises:
        Corrupt: The dataset's rows are not those that the spec names.
    """
    spec = read_spec(folder)
    rows = _rows(spec)
    _say(f"dataset {spec.dataset}: {len(rows)} rows")
    retrained = retrain(rows, spec, ModelsFile(spec.models, spec.models_hash), choose_executor(rows, spec), _say)
    # What is fitted is kept: from here on a stop comes too late.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_result(folder, retrained)
    _say(f"done: {retrained.winner}, model {retrained.exported.digest[:12]}")


def _rows(spec: RetrainSpec) -> pa.Table:
    rows = dataset.read(Path(spec.root), spec.dataset)
    found = dataset.hash_rows(rows)
    if found != spec.hash:
        raise Corrupt(
            which=f"dataset {spec.dataset} hashes to {found[:12]}, and the job was submitted for {spec.hash[:12]}",
            fix="`rivermill dataset verify` tells what was damaged; build it again",
        )
    return rows


def _say(line: str) -> None:
    print(line, flush=True)


def _stop(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise _Stop


def _end_with_parent() -> None:
    """Ask for SIGTERM at the parent's death, and notice one that came before we could ask."""
    if not ends_with(int(os.environ.get(PARENT_VARIABLE, os.getppid())), signal.SIGTERM):
        raise _Stop


def main(folder: Path) -> int:
    """Run a job and return its exit code."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        _end_with_parent()
        os.nice(_NICENESS)
        carry_out(folder)
    except _Stop:
        _say("stopped, without a result")
        return STOPPED
    except RivermillError as error:
        _say(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    if threading.active_count() > 1:
        # A Ray that hung while it started would hold the interpreter; all that counts is on the disk.
        os._exit(code)
    sys.exit(code)
