"""The registrar: works on training jobs, submits those that a schedule asks for, and keeps MLflow up to date.

Jobs run one at a time, each in a process of its own. A registrar that dies takes its job's process with it; the next
one claims the job again when its lease has run out, and what was finished is not done twice.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from journal.control import ControlLog
from journal.errors import Busy, LostRace, OwnerDown, RegistryDown, RivermillError
from journal.log import START
from journal.owner_client import OwnerClient
from journal.record import Draft, Kind
from journal.sqlite_reader import SqliteReader
from rivermill.drift_watch import LiveDrift, watch_of
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.projection import Logged
from rivermill.registry_wiring import jobs_of, live_lines, live_projection, live_retrainer, mlflow_of
from rivermill.retraining import Order, handled_triggers, scheduled_key
from rivermill.settings import Home
from rivermill.supervisor import say_on_stderr
from rivermill.wall import wall_now
from rivermill.wiring import control_of
from training.job_runner import JobStopped
from training.jobs import Job, JobTable, State
from training.schedule import last_trigger

_LOOK_EVERY = 0.5
_BEAT_EVERY = 5.0
_RETRY_AFTER = 0.2
_PROJECT_EVERY = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Post:
    """One pipeline, as the registrar sees it."""

    pipeline: Pipeline
    home: Home
    jobs: JobTable
    control: ControlLog
    journal: SqliteReader
    drift: LiveDrift | None


class Registrar:
    """Looks after several pipelines."""

    def __init__(self, posts: Sequence[_Post], root: Path, mlflow_ui: str, say: Say) -> None:
        self._posts, self._say = posts, say
        self._mlflow = mlflow_of(root, ui=mlflow_ui)
        self._stopping = threading.Event()
        self._name = f"registrar-{os.getpid()}"
        self._clocks: dict[str, int] = {}
        self._projected: dict[str, tuple[int, int, int]] = {}
        self._projections: dict[str, Logged] = {post.pipeline.name: set() for post in posts}
        self._complained = False

    def run(self) -> bool:
        """Look after them until `stop`; False when the half that works on jobs has died before."""
        working = threading.Thread(target=self._work, name="jobs")
        working.start()
        try:
            # One half without the other would look alive and do nothing.
            while working.is_alive() and not self._stopping.wait(_LOOK_EVERY):
                self._look()
            return self._stopping.is_set()
        finally:
            self._stopping.set()
            working.join()

    def _look(self) -> None:
        for post in self._posts:
            post.journal.refresh()
            self._submit_due(post)
            if post.drift is not None:
                post.drift.look(wall_now())
            self._project_news(post)

    def stop(self) -> None:
        """Let `run` return; a job that is under way is stopped and claimed again later."""
        self._stopping.set()

    def _submit_due(self, post: _Post) -> None:
        """Ask for the retrain that the schedule is due, if it was not handled or asked for before."""
        settings, clock = post.pipeline.retrain, post.journal.clock
        if settings is None or clock == self._clocks.get(post.pipeline.name):
            return
        self._clocks[post.pipeline.name] = clock
        trigger = last_trigger(settings, post.pipeline.starts[0], clock)
        if trigger is None or trigger in handled_triggers(post.journal):
            return
        post.jobs.submit(post.pipeline.name, scheduled_key(trigger), {"trigger": trigger}, wall_now(), "schedule")

    def _work(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY):
            for post in self._posts:
                job = post.jobs.claim(self._name, wall_now())
                if job is not None:
                    self._carry_out(post, job)

    def _carry_out(self, post: _Post, job: Job) -> None:
        self._say(f"job {job.id} of {job.pipeline} begins (attempt {job.epoch})")
        beat = _Heartbeat(post.jobs, job, self._stopping)
        try:
            result = self._retrain(post, job, beat)
        except JobStopped:
            if not self._stopping.is_set():
                self._finish(post, job, "stopped", {"reason": "stopped"})
            return
        except RivermillError as error:
            self._say(f"job {job.id} failed: {error}")
            self._finish(post, job, "failed", {"reason": str(error)})
            return
        finally:
            beat.end()
        self._finish(post, job, "succeeded", result)
        self._say(f"job {job.id} made {result['line']}: {result['decision'] or 'left as a candidate'}")

    def _finish(self, post: _Post, job: Job, state: State, result: dict[str, object]) -> None:
        try:
            post.jobs.finish(job.id, job.epoch, state, result)
        except LostRace as error:
            self._say(f"job {job.id} is another registrar's by now: {error}")

    def _retrain(self, post: _Post, job: Job, beat: "_Heartbeat") -> dict[str, object]:
        owner = OwnerClient(post.home.socket)

        def land(draft: Draft) -> None:
            while True:
                with contextlib.suppress(OwnerDown, Busy):
                    owner.append([("", [draft])])
                    return
                if self._stopping.wait(_RETRY_AFTER):
                    raise JobStopped(which=f"{job.id} could not reach the journal's owner", fix="It is tried again")

        with contextlib.closing(owner), contextlib.closing(SqliteReader(post.home.journal)) as journal:
            lines = live_lines(post.pipeline, post.home, journal, land)
            order = Order(
                job=job.id,
                trigger=job.spec.get("trigger", journal.clock),
                executor=job.spec.get("executor", "auto"),
                promote=job.spec.get("promote", job.principal == "schedule"),
                principal=job.principal,
                reason=job.spec.get("reason", ""),
            )
            return live_retrainer(lines, post.home, journal).run(order, stopped=beat.stopped)

    def _project_news(self, post: _Post) -> None:
        """Project what is new, and now and then what is not: somebody may have edited the alias."""
        name, head = post.pipeline.name, post.control.head(post.pipeline.name)
        newest = post.journal.last_of_kind(Kind.VERSION, 1) + post.journal.last_of_kind(Kind.SNAPSHOT, 1)
        state = (
            head.sequence if head else 0,
            max((record.offset for record in newest), default=START),
            int(time.monotonic() // _PROJECT_EVERY),
        )
        if state != self._projected.get(name) and self._project(post):
            self._projected[name] = state

    def _project(self, post: _Post) -> bool:
        lines = live_lines(post.pipeline, post.home, post.journal, lambda _: None)
        logged = self._projections[post.pipeline.name]
        projection = live_projection(lines, post.home, post.journal, self._mlflow, self._say, logged)
        try:
            projection.run()
        except (RegistryDown, LostRace) as error:
            if not self._complained:
                self._say(f"MLflow is behind: {error}")
            self._complained = True
            return False
        self._complained = False
        return True


class _Heartbeat:
    """Keeps a job's lease while it runs, and learns whether it is to stop."""

    def __init__(self, jobs: JobTable, job: Job, stopping: threading.Event) -> None:
        self._jobs, self._job, self._stopping = jobs, job, stopping
        self._ended, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of {job.id}")
        self._thread.start()

    def stopped(self) -> bool:
        """Whether the job is to stop."""
        return self._stop.is_set() or self._stopping.is_set()

    def end(self) -> None:
        """The job has ended."""
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(min(_BEAT_EVERY, 1.0)):
            try:
                if self._jobs.heartbeat(self._job.id, self._job.epoch, wall_now()).stop:
                    self._stop.set()
            except LostRace:
                self._stop.set()
                return


def _post(pipeline: Pipeline, home: Home) -> _Post:
    journal, control, jobs = SqliteReader(home.journal), control_of(home), jobs_of(home)
    watch = watch_of(pipeline, home, journal, control)
    drift = None if watch is None else LiveDrift(pipeline.name, watch, journal, jobs)
    return _Post(pipeline, home, jobs, control, journal, drift)


def main(root: Path, mlflow_ui: str, folders: Sequence[Path]) -> int:
    """Run the registrar until SIGTERM; returns its exit code."""
    pipelines = [load_pipeline(folder) for folder in folders]
    homes = [Home(root, pipeline.name) for pipeline in pipelines]
    posts = [_post(pipeline, home) for pipeline, home in zip(pipelines, homes, strict=True)]
    registrar = Registrar(posts, root, mlflow_ui, say_on_stderr)

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        registrar.stop()

    signal.signal(signal.SIGTERM, ask_to_stop)
    return 0 if registrar.run() else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], [Path(folder) for folder in sys.argv[3:]]))
