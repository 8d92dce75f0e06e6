"""Runs in lock-step: recorded events, a file, a release; each resumable, each ending in one object of figures."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from features import dataset
from features.dataset_store import ADHOC
from journal.blobs import write_durably
from journal.body import Decision, decode
from journal.clock import DAY
from journal.digest import digest_journal, digest_parts
from journal.errors import Refused, RegistryDown
from journal.log import START
from journal.owner import OwnerLock
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from rivermill.agenda import Agenda, DemoRollback, DriftRetrains, Retrains
from rivermill.build import build_fingerprint
from rivermill.datasets import of_everything
from rivermill.drift_watch import watch_of
from rivermill.example_requests import example_of
from rivermill.input_file import InputFile, require_file
from rivermill.live_line import LiveLine
from rivermill.lockstep import Agenda as LockstepAgenda
from rivermill.lockstep import NothingToDo, Progress
from rivermill.pipeline import load_pipeline
from rivermill.registry_wiring import lines_of, projection_of, retrainer_of
from rivermill.settings import Home
from rivermill.supervisor import say_on_stderr
from rivermill.wiring import HISTORY_ROWS_PER_FLUSH, Run, open_run

Figures = dict[str, Any]


def run_demo(folder: Path, home: Home, weeks: int, *, fresh: bool, quiet: bool) -> Figures:
    """Play a pipeline's recording; resume an unfinished run of the same arguments, repeat a finished one's figures.

    Raises:
        Refused: The home holds a demo of other arguments, or state that no demo made.
    """
    pipeline = load_pipeline(folder)
    if pipeline.recorded is None:
        raise Refused(which=f"pipeline {pipeline.name!r} has no recording", fix="Use `rivermill play PIPELINE FILE`")
    arguments = {"pipeline": pipeline.name, "weeks": weeks}
    if fresh:
        _delete(home)
    elif (figures := _finished(home, arguments)) is not None:
        return figures
    home.prepare()
    write_durably(_note(home), orjson.dumps({"arguments": arguments}))
    with _running(open_run(pipeline, home)) as run:
        until = pipeline.starts[0] + weeks * 7 * DAY
        figures = _play(run, pipeline.recorded(weeks=weeks), f"demo:{weeks}", quiet=quiet, until=until)
        _mirror(run, quiet=quiet)
    write_durably(_note(home), orjson.dumps({"arguments": arguments, "figures": figures}))
    return figures


def run_file(folder: Path, home: Home, file: Path, *, quiet: bool) -> Figures:
    """Play a file of JSON lines.

    Raises:
        UnknownName: There is no such file.
    """
    require_file(file)
    with _running(open_run(load_pipeline(folder), home)) as run:
        given = InputFile(file, run.journal)
        return _play(run, given.events(), given.sink, quiet=quiet, seal=given.seal)


@contextmanager
def _running(run: Run) -> Iterator[Run]:
    try:
        yield run
    finally:
        run.close()


def _play(
    run: Run,
    events: Iterable[bytes],
    sink: str,
    *,
    quiet: bool,
    until: int | None = None,
    seal: Callable[[], None] = lambda: None,
) -> Figures:
    started = time.perf_counter()
    before = run.journal.mark(sink)
    with LiveLine(run, quiet=quiet, until=until) as live:
        agenda = _agenda(run, live, demo=until is not None)
        offered = run.lockstep.play(
            events, sink, agenda=agenda, progress=_after_group(run, live.update), notice=live.notice, seal=seal
        )
        live.finishing()
        run.folds.flush_history()
        figures = _figures(run)
    seconds = time.perf_counter() - started
    played = offered - (before.offset + 1 if before else 0)
    return {**figures, "seconds": round(seconds, 2), "events_per_second": round(played / seconds)}


def _mirror(run: Run, *, quiet: bool) -> None:
    """Bring MLflow up to date; what it misses now the next run, or `rivermill up`, makes up for."""
    if run.pipeline.retrain is None:
        return
    try:
        projection_of(run, say_on_stderr).run()
    except RegistryDown as error:
        if not quiet:
            say_on_stderr(str(error))


def _agenda(run: Run, live: LiveLine, *, demo: bool) -> LockstepAgenda:
    """What the run stops for; nothing when the pipeline declares no retrains."""
    if run.pipeline.retrain is None:
        return NothingToDo()
    lines = lines_of(run)
    retrainer = retrainer_of(run, lines)
    watch = watch_of(run.pipeline, run.home, run.journal, run.control)
    return Agenda(
        Retrains(run, retrainer, ray_once=demo, say=live.tell),
        DemoRollback(run, lines, say=live.tell) if demo else None,
        None if watch is None else DriftRetrains(run, retrainer, watch, say=live.tell),
    )


def _after_group(run: Run, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    def after(progress: Progress) -> None:
        run.folds.flush_history(HISTORY_ROWS_PER_FLUSH)
        show(progress)

    return after


def _figures(run: Run) -> Figures:
    """Everything that is the same for two runs over one input."""
    journal_digest, counts = digest_journal(run.journal)
    kinds = Counter[Kind]()
    for (kind, _), count in counts.items():
        kinds[kind] += count
    joined = run.folds.join.counts()
    tallies = run.journal.tallies()
    learned, served = run.folds.learner.report(), run.folds.learner.report_served()
    return {
        "pipeline": run.pipeline.name,
        "events": kinds[Kind.SOURCE],
        "repeated": tallies.get("repeated", 0),
        "refused": tallies.get("refused", 0),
        "conflicts": tallies.get("conflicts", 0),
        "quarantined": kinds[Kind.QUARANTINE],
        "questions": counts[Kind.SOURCE, run.pipeline.question.stream],
        "predictions": kinds[Kind.PREDICTION],
        "joined": joined["joined"],
        "expired": joined["expired"],
        "pending": joined["pending"],
        "late": joined["late"],
        "unmatched": joined["unmatched"],
        "degraded": run.folds.answer.degraded,
        "snapshots": kinds[Kind.SNAPSHOT],
        "auc_champion": served["auc"],
        "log_loss_champion": served["log_loss"],
        "auc_online": learned["auc"],
        "log_loss_online": learned["log_loss"],
        "calibration_error_online": learned["calibration_error"],
        **_decided(run, unanswered=counts[Kind.SOURCE, run.pipeline.question.stream] - kinds[Kind.PREDICTION]),
        "dataset": _dataset(run),
        "example": example_of(run),
        "digest": digest_parts(
            {"journal": journal_digest, **{r.fold.name: r.fold.digest() for r in run.lockstep.runners}}
        ),
    }


def _decided(run: Run, unanswered: int) -> Figures:
    """Versions, promotions, and the rollback with the time it took."""
    if run.pipeline.retrain is None:
        return {"versions": [], "promotions": [], "rollback": None}
    lines = lines_of(run)
    history = lines.history()
    back = next((entry for entry in history if entry["action"] == "roll_back"), None)
    return {
        "versions": [facts for facts in lines.table() if facts["kind"] == "batch"],
        "promotions": [
            {"at": entry["at"], "from": entry["from"], "to": entry["line"], "verdict": entry["verdict"]}
            for entry in history
            if entry["action"] == "promote"
        ],
        "rollback": None
        if back is None
        else {
            "from": back["from"],
            "to": back["line"],
            "ms": lines.rollback_ms(back["line"]),
            "failed_requests": unanswered,
        },
    }


def _dataset(run: Run) -> Figures | None:
    if not run.folds.join.counts()["joined"]:
        return None
    asked = of_everything(run.pipeline, ADHOC)
    made = dataset.build(
        run.journal, run.home.datasets, run.pipeline.name, run.journal.end(), build_fingerprint(), asked
    )
    return {
        "version": made.version,
        "considered": made.considered,
        "excluded": made.excluded,
        "rows_in": made.rows_in,
        "rows_out": made.rows_out,
        "hash": made.hash,
    }


def _delete(home: Home) -> None:
    """Delete a pipeline's state, unless a process owns it. What a crash leaves of it no longer looks like state."""
    if not home.folder.exists():
        return
    lock = OwnerLock(home.journal)
    doomed = home.folder.with_name(f".{home.pipeline}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    home.folder.rename(doomed)
    shutil.rmtree(doomed)
    lock.release()


def _note(home: Home) -> Path:
    return home.folder / "demo.json"


def _finished(home: Home, arguments: Figures) -> Figures | None:
    if not _note(home).exists():
        if home.exists:
            raise Refused(
                which=f"{home.folder} holds state that no demo made",
                fix="Use another --home, or delete it with --fresh",
            )
        return None
    note = orjson.loads(_note(home).read_bytes())
    if note["arguments"] != arguments:
        raise Refused(
            which=f"{home.folder} holds a demo of {note['arguments']['weeks']} weeks, not of {arguments['weeks']}",
            fix="Ask for that, or add --fresh to delete it and start anew",
        )
    if home.exists and _is_mixed(home):
        raise Refused(
            which=f"{home.folder} holds other events beside the demo's",
            fix="Look at it with `rivermill status`, use another --home, or add --fresh to delete it and start anew",
        )
    figures: Figures | None = note.get("figures")
    return figures


def _is_mixed(home: Home) -> bool:
    """Whether anything but the recording came in: a file that was played, a release."""
    journal = SqliteReader(home.journal)
    marks = [sink for segment in journal.segments()[-1:] for sink in segment.marks()]
    decisions = journal.of_kind(Kind.DECISION, START, 1_000_000)
    journal.close()
    released = any(decode(record.body, Decision).sequence == 0 for record in decisions)
    return released or any(sink.startswith("file:") for sink in marks)
