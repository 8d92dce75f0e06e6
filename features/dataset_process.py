"""Building a dataset version in a process of its own: ``python -m features.dataset_process <request as JSON>``.

A build holds all its rows at once, several times over. A process that lives for months should not: what a child took,
it gives back when it ends.

The child's exit code is 0 and its standard output the manifest, or the exit code of an error (journal/errors.py) with
what the error says. It ends with the process that started it.
"""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from features import dataset
from features.dataset_store import TRAINING
from journal.errors import Corrupt, JobFailed, Refused, RivermillError
from journal.parent import ends_with
from journal.record import Record
from journal.sqlite_reader import SqliteReader

_ROOT = Path(__file__).parents[1]
_RAISED_AGAIN: tuple[type[RivermillError], ...] = (Refused, Corrupt)


class _Request(msgspec.Struct, frozen=True):
    journal: str
    root: str
    pipeline: str
    through: int
    build: str
    asked: dataset.Asked
    parent: int


class _Failure(msgspec.Struct, frozen=True):
    error: str
    which: str
    fix: str


FOR_TRAINING = dataset.Asked(kind=TRAINING)


def build_apart(
    journal: Path, root: Path, pipeline: str, through: int, fingerprint: str, asked: dataset.Asked = FOR_TRAINING
) -> dataset.Manifest:
    """`features.dataset.build` over a journal's files, by a child process; all its features are as predicted.

    Raises:
        Refused: As there.
        Corrupt: As there.
        JobFailed: The child died; the message holds what it printed last.
    """
    request = _Request(str(journal), str(root), pipeline, through, fingerprint, asked, os.getpid())
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "features.dataset_process", msgspec.json.encode(request).decode()],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise _failure(done)
    return msgspec.json.decode(done.stdout, type=dataset.Manifest)


def _failure(done: "subprocess.CompletedProcess[bytes]") -> RivermillError:
    try:
        failure = msgspec.json.decode(done.stdout, type=_Failure)
    except msgspec.MsgspecError:
        said = done.stderr.decode(errors="replace").splitlines()[-5:]
        return JobFailed(
            which=f"the process that builds its dataset ended with {done.returncode}:\n" + "\n".join(said),
            fix="Submit it again; `rivermill dataset build` does this step alone",
        )
    for kind in _RAISED_AGAIN:
        if kind.__name__ == failure.error:
            return kind(which=failure.which, fix=failure.fix)
    return JobFailed(which=f"its dataset: {failure.error}: {failure.which}", fix=failure.fix)


def _none_here(question: Record) -> Record:
    raise Refused(
        which=f"a column that predictions do not hold, and the question at {question.offset} may need an adapter",
        fix="`rivermill dataset build` reads the pipeline's adapters",
    )


def main(text: str) -> int:
    """Build what a request asks for; returns the exit code."""
    request = msgspec.json.decode(text, type=_Request)
    if not ends_with(request.parent, signal.SIGKILL):
        os.kill(os.getpid(), signal.SIGKILL)
    # Rows are many and hold no cycles: looking for some costs a quarter of a build.
    gc.disable()
    journal = SqliteReader(Path(request.journal))
    try:
        made = dataset.build(
            journal,
            Path(request.root),
            request.pipeline,
            request.through,
            request.build,
            request.asked,
            lift=_none_here,
        )
    except RivermillError as error:
        sys.stdout.buffer.write(msgspec.json.encode(_Failure(type(error).__name__, error.which, error.fix)))
        return error.exit_code
    finally:
        journal.close()
    sys.stdout.buffer.write(msgspec.json.encode(made))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
