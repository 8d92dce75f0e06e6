"""What lock-step stops for: retrains when their schedule or a drift says, and the demo's own rollback.

What was done is read from the journal's decisions, and what was refused from the control log, so that a run which was
killed goes on with what is still to do. A refusal is remembered before the next event enters: after a crash it is met
again at the very same place, or not at all, and never turns into a retrain over more rows somewhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from journal.body import Decision, decode
from journal.clock import DAY
from journal.errors import GateClosed, Refused, RivermillError
from journal.log import START
from journal.record import Kind
from rivermill.drift_watch import PRINCIPAL, DriftWatch, drift_job
from rivermill.lines import Lines
from rivermill.retraining import Order, Retrainer, handled_triggers, scheduled_job
from rivermill.wiring import Run
from training.recipe import Where
from training.schedule import last_trigger, next_trigger

DEMO = "demo"
ROLL_BACK_KEY = "demo-roll-back"
PROMOTE_AGAIN_KEY = "demo-promote-again"
REFUSED = "refused"
"""The kind of evidence, under a request's key, that the request was refused in lock-step."""

ROLL_BACK_AFTER = 2 * DAY
PROMOTE_AGAIN_AFTER = 2 * DAY


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision's echo: when it became known, in microseconds, and what it says."""

    at: int
    decision: Decision


class Refusals:
    """Which requests were refused in this life of the journal: each counts as handled, whatever is killed later."""

    def __init__(self, run: Run, lines: Lines) -> None:
        self._run, self._lines = run, lines

    def remember(self, key: str, why: RivermillError) -> None:
        """Durably, and signed like every other evidence: nobody else stops retrains by writing here."""
        facts = {"why": str(why), "incarnation": self._run.journal.incarnation, "end": self._run.journal.end()}
        self._lines.control.put_evidence(self._run.pipeline.name, key, REFUSED, facts, self._lines.signer)

    def holds(self, key: str) -> bool:
        """Whether the request was refused here. One that lies behind the end of a journal put back is not yet made."""
        facts = self._lines.control.evidence_of(self._run.pipeline.name, key, self._lines.signer).get(REFUSED)
        journal = self._run.journal
        return facts is not None and facts["incarnation"] == journal.incarnation and facts["end"] <= journal.end()


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
        triggers = handled_triggers(run.journal)
        self._refusals = Refusals(run, retrainer.lines)
        self._handled: int | None = max(triggers.union(self._refused()), default=None)
        self._ray_next = ray_once and not triggers

    @property
    def due(self) -> int | None:
        """See `rivermill.lockstep.Agenda`."""
        return next_trigger(self._settings, self._start, self._handled)

    def act(self) -> None:
        """See `rivermill.lockstep.Agenda`."""
        trigger = last_trigger(self._settings, self._start, self._run.journal.clock)
        assert trigger is not None, "called when due"
        executor: Where = "ray" if self._ray_next else "auto"
        self._say("retraining" + (" on Ray" if self._ray_next else ""))
        order = Order(job=scheduled_job(self._run.pipeline.name, trigger), trigger=trigger, executor=executor)
        if carry_out(order, self._retrainer, self._refusals, self._say):
            self._ray_next = False
        self._handled = trigger

    def _refused(self) -> list[int]:
        """The moment reached last, if its retrain was refused; before that none is asked for any more."""
        trigger = last_trigger(self._settings, self._start, self._run.journal.clock)
        name = self._run.pipeline.name
        return [trigger] if trigger is not None and self._refusals.holds(scheduled_job(name, trigger)) else []


class DriftRetrains:
    """Retrains that the features' drift asks for. After a restart the last look is taken again, to the same end."""

    def __init__(self, run: Run, retrainer: Retrainer, watch: DriftWatch, *, say: Callable[[str], None]) -> None:
        self._run, self._retrainer, self._watch, self._say = run, retrainer, watch, say
        self._refusals = Refusals(run, retrainer.lines)
        self._looked: int | None = None

    @property
    def due(self) -> int | None:
        """See `rivermill.lockstep.Agenda`."""
        return self._watch.next(self._looked)

    def act(self) -> None:
        """See `rivermill.lockstep.Agenda`."""
        moment = self._watch.last(self._run.journal.clock)
        assert moment is not None, "called when due"
        job, self._looked = drift_job(self._run.pipeline.name, moment), moment
        if self._refusals.holds(job):
            return
        reason = self._watch.reason(moment, handled_triggers(self._run.journal))
        if reason:
            self._say(f"retraining: {reason}")
            order = Order(job=job, trigger=moment, principal=PRINCIPAL, reason=reason)
            carry_out(order, self._retrainer, self._refusals, self._say)


def carry_out(order: Order, retrainer: Retrainer, refusals: Refusals, say: Callable[[str], None]) -> bool:
    """Retrain; whether it was not refused."""
    try:
        made = retrainer.run(order)
    except Refused as error:
        refusals.remember(order.job, error)
        say(f"no retrain this time: {error}")
        return False
    decision = made["decision"]
    say(f"{made['line']} on {made['rows']:,} rows: {decision['action']} {decision['line']}")
    return True


class DemoRollback:
    """Two days after the first promotion: back to the line before. Two days later: promoted again, through the gate."""

    def __init__(self, run: Run, lines: Lines, *, say: Callable[[str], None]) -> None:
        self._run, self._lines, self._say = run, lines, say
        self._refusals = Refusals(run, lines)
        self._plan()

    def _plan(self) -> None:
        """Look up what was done: a promotion, then our rollback of it, then our promotion again."""
        self.due: int | None = None
        self._act: Callable[[], object] = lambda: None
        decided = decisions_of(self._run)
        first = next((d for d in decided if d.decision.action == "promote"), None)
        back = next((d for d in decided if d.decision.action == "roll_back"), None)
        if first is None or _is_ours(decided, "promote") or self._refusals.holds(PROMOTE_AGAIN_KEY):
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
        self._lines.roll_back(why="the demo shows a rollback", principal=DEMO, key=ROLL_BACK_KEY, measure=True)

    def _promote_again(self, line: str) -> None:
        self._say(f"promoting {line} again")
        try:
            self._lines.promote(line, why="the demo promotes it again", principal=DEMO, key=PROMOTE_AGAIN_KEY)
        except (GateClosed, Refused) as error:
            self._refusals.remember(PROMOTE_AGAIN_KEY, error)
            self._say(f"not promoted again: {error}")


class Agenda:
    """Several agendas as one; of two that are due at once, the demo's rollback comes first and drift last."""

    def __init__(self, retrains: Retrains, rollback: DemoRollback | None, drift: DriftRetrains | None = None) -> None:
        self._rollback = rollback
        self._parts = [part for part in (rollback, retrains, drift) if part is not None]

    @property
    def due(self) -> int | None:
        """See `rivermill.lockstep.Agenda`."""
        return min((part.due for part in self._parts if part.due is not None), default=None)

    def act(self) -> None:
        """Do the earliest."""
        due = self.due
        part = next(part for part in self._parts if part.due == due)
        part.act()
        if self._rollback is not None and part is not self._rollback:
            self._rollback.refresh()


def decisions_of(run: Run) -> Sequence[Decided]:
    """Every decision that the journal holds, in order."""
    records = run.journal.of_kind(Kind.DECISION, START, 1_000_000)
    return [Decided(record.at, decode(record.body, Decision)) for record in records]


def _is_ours(decided: Sequence[Decided], action: str) -> bool:
    """Whether the demo has done this: behind its rollback, which nobody else's promotion undoes."""
    backs = [d.decision.sequence for d in decided if d.decision.action == "roll_back"]
    return any(d.decision.action == action and d.decision.sequence > min(backs) for d in decided) if backs else False
