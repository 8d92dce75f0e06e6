"""What lock-step stops for: retrains when their schedule says, and the demo's own rollback.

What was done is read from the journal's decisions, so that a run which was killed goes on with what is still to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from journal.body import Decision, decode
from journal.clock import DAY
from journal.log import START
from journal.record import Kind
from rivermill.lines import Lines
from rivermill.retraining import Order, Retrainer, scheduled_job
from rivermill.wiring import Run
from training.recipe import Where
from training.schedule import last_trigger, next_trigger

DEMO = "demo"
ROLL_BACK_AFTER = 2 * DAY
PROMOTE_AGAIN_AFTER = 2 * DAY


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision's echo: when it became known, in microseconds, and what it says."""

    at: int
    decision: Decision


class Retrains:
    """Retrains on the pipeline's schedule. `journal.clock` decides, and what was missed in a gap is not made up for."""

    def __init__(self, run: Run, retrainer: Retrainer, *, ray_once: bool, say: Callable[[str], None]) -> None:
        """Find out what has been handled.

        Args:
            run: The run that stops for them.
            retrainer: What is called.
            ray_once: Whether the first of them runs on Ray however small it is.
            say: Told what came of each.
        """
        settings = run.pipeline.retrain
        assert settings is not None, "an agenda of retrains needs their settings"
        self._run, self._retrainer, self._settings, self._say = run, retrainer, settings, say
        self._start = run.pipeline.starts[0]
        triggers = [d.decision.details["trigger"] for d in decisions_of(run) if "trigger" in d.decision.details]
        self._handled: int | None = max(triggers, default=None)
        self._ray_next = ray_once and not triggers

    @property
    def due(self) -> int | None:
        """See `rivermill.lockstep.Agenda`."""
        return next_trigger(self._settings, self._start, self._handled)

    def act(self) -> None:
        """See `rivermill.lockstep.Agenda`."""
        trigger = last_trigger(self._settings, self._start, self._run.journal.clock)
        assert trigger is not None, "called when due"
        name = self._run.pipeline.name
        executor: Where = "ray" if self._ray_next else "auto"
        self._say("retraining" + (" on Ray" if self._ray_next else ""))
        made = self._retrainer.run(Order(job=scheduled_job(name, trigger), trigger=trigger, executor=executor))
        self._say(f"{made['line']} on {made['rows']:,} rows: {made['decision']['action']} {made['decision']['line']}")
        self._handled, self._ray_next = trigger, False


class DemoRollback:
    """Two days after the first promotion: back to the line before. Two days later: promoted again, through the gate."""

    def __init__(self, run: Run, lines: Lines, *, say: Callable[[str], None]) -> None:
        self._run, self._lines, self._say = run, lines, say
        self._plan()

    def _plan(self) -> None:
        """Look up what was done: a promotion, then our rollback of it, then our promotion again."""
        self.due: int | None = None
        self._act: Callable[[], object] = lambda: None
        decided = decisions_of(self._run)
        first = next((d for d in decided if d.decision.action == "promote"), None)
        back = next((d for d in decided if d.decision.action == "roll_back"), None)
        if first is None or _is_ours(decided, "promote"):
            return
        if back is None:
            self.due, self._act = first.at + ROLL_BACK_AFTER, self._roll_back
        else:
            line = first.decision.subject
            self.due, self._act = back.at + PROMOTE_AGAIN_AFTER, lambda: self._promote_again(line)

    def act(self) -> None:
        """See `rivermill.lockstep.Agenda`."""
        self._act()
        self._plan()

    def refresh(self) -> None:
        """Look again: somebody else decided."""
        self._plan()

    def _roll_back(self) -> None:
        self._say("rolling back")
        self._lines.roll_back(why="the demo shows a rollback", principal=DEMO, key="demo-roll-back", measure=True)

    def _promote_again(self, line: str) -> None:
        self._say(f"promoting {line} again")
        self._lines.promote(line, why="the demo promotes it again", principal=DEMO, key="demo-promote-again")


class Agenda:
    """Several agendas as one."""

    def __init__(self, retrains: Retrains, rollback: DemoRollback | None) -> None:
        self._retrains, self._rollback = retrains, rollback

    @property
    def due(self) -> int | None:
        """See `rivermill.lockstep.Agenda`."""
        moments = [part.due for part in (self._retrains, self._rollback) if part is not None and part.due is not None]
        return min(moments, default=None)

    def act(self) -> None:
        """Do the earlier one first."""
        due = self.due
        if self._rollback is not None and self._rollback.due == due:
            self._rollback.act()
            return
        self._retrains.act()
        if self._rollback is not None:
            self._rollback.refresh()


def decisions_of(run: Run) -> Sequence[Decided]:
    """Every decision that the journal holds, in order."""
    records = run.journal.of_kind(Kind.DECISION, START, 1_000_000)
    return [Decided(record.at, decode(record.body, Decision)) for record in records]


def _is_ours(decided: Sequence[Decided], action: str) -> bool:
    """Whether the demo has done this: behind its rollback, which nobody else's promotion undoes."""
    backs = [d.decision.sequence for d in decided if d.decision.action == "roll_back"]
    return any(d.decision.action == action and d.decision.sequence > min(backs) for d in decided) if backs else False
