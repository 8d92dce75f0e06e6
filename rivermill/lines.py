"""A pipeline's lines: what may answer, what does, and how that changes. Every face (CLI, API, demo) comes here.

A change is planned from the control log and from evidence, explained or applied, and then echoed into the journal,
where the folds obey it. A decision that could not be echoed holds all the same: whoever owns the journal next echoes
it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from journal.body import Snapshot, Version, decode
from journal.clock import format_time
from journal.control import ControlLog, Entry, echo_of
from journal.errors import ConflictingId, LostRace, Refused, UnknownName
from journal.quality import require_running
from journal.record import Draft
from journal.stage_rule import DATASET, FEATURES, JOIN
from registry import promotion
from registry.evidence import with_live
from registry.gate import report
from registry.policy import Policy
from registry.promotion import Plan, plan_promotion, plan_rejection, plan_roll_back, succession_of
from registry.signing import Signer
from rivermill.evaluation import Evaluation
from rivermill.pipeline import Pipeline

SERVING = "serving"
"""The kind of evidence that whoever serves writes about a staged version."""

GATE = "gate"
"""The kind of evidence that a decision was made by: the numbers and the report."""

ROLLBACK = "roll_back"
"""The kind of evidence that tells how long a rollback took."""

ONLINE = -1

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """The verbs.

    Attributes:
        pipeline: Whose lines.
        control: Its control log.
        evaluation: Measures lines.
        land: Appends a record durably, with all that follows from it.
        clock: The journal's, in microseconds.
        signer: Signs decisions.
        lockstep: Whether checks by the wall are reported only.
    """

    pipeline: Pipeline
    control: ControlLog
    evaluation: Evaluation
    land: Callable[[Draft], None]
    clock: Callable[[], int]
    signer: Signer
    lockstep: bool

    def table(self) -> Sequence[Facts]:
        """A row per line, online ones first, then versions from the oldest on."""
        succession = self._succession()
        online = [self._online_facts(line.settings.line) for line in self.pipeline.lines]
        batch = [_version_facts(offset, version) for offset, version in self.evaluation.versions().values()]
        return [
            {**facts, "state": str(succession.states.get(facts["line"], "candidate"))} for facts in (*online, *batch)
        ]

    def show(self, line: str) -> Facts:
        """One line, what the gate last said about it, and what it would say beside today's champion."""
        facts = next((facts for facts in self.table() if facts["line"] == line), None)
        if facts is None:
            self.evaluation.version(line)
            raise UnknownName(which=f"line {line!r}", fix="`rivermill registry list` shows them")
        judged = self.judged(line)
        if line == self.champion or facts["state"] == "rejected":
            return {**facts, **judged}
        plan = self.plan_promotion(line)
        return {**facts, **judged, "now": promotion.explain(plan)}

    def judged(self, line: str) -> Facts:
        """What the gate last said about a line when somebody asked for a decision, and its report; empty before."""
        return self.control.evidence_of(self.pipeline.name, line, self.signer).get(GATE, {})

    def history(self) -> Sequence[Facts]:
        """A row per decision, from the first."""
        return [_entry_facts(entry) for entry in self.control.entries(self.pipeline.name)]

    @property
    def champion(self) -> str:
        """The line that answers by the control log's last decision."""
        return self._succession().champion

    def plan_promotion(self, line: str) -> Plan:
        """What a promotion of this line would do; raises UnknownName, Refused."""
        return plan_promotion(**self._planned(line))

    def plan_roll_back(self, to: str = "") -> Plan:
        """What a rollback would do."""
        return plan_roll_back(self._succession(), to)

    def promote(
        self, line: str, *, why: str, principal: str, key: str, expected: int | None = None, facts: Facts | None = None
    ) -> Entry:
        """Let a line answer, through the gate.

        Args:
            line: Which.
            why: The reason.
            principal: Who asks.
            key: Of the request; asked twice it is done once.
            expected: The last decision that the caller knows of; None for whatever it is now.
            facts: What the decision's details say beside the gate's numbers.

        Raises:
            UnknownName, Refused, GateClosed, LostRace: As the plan and the gate say.
            ConflictingId: The key stands for another decision.
        """
        known = self._decided(key, "promote", line)
        if known is not None:
            return self._landed(known)
        require_running(self.evaluation.journal, FEATURES, JOIN, DATASET)
        plan = self.plan_promotion(line)
        self._keep_judgement(plan)
        return self._apply(plan, why, principal, key, expected, facts)

    def roll_back(
        self, to: str = "", *, why: str, principal: str, key: str, expected: int | None = None, measure: bool = False
    ) -> Entry:
        """Let an earlier champion answer again. ``measure`` keeps how long that took as evidence.

        Raises:
            Refused, LostRace: As the plan says.
            ConflictingId: The key stands for another decision.
        """
        known = self._decided(key, "roll_back", to)
        if known is not None:
            return self._landed(known)
        begun = time.perf_counter()
        entry = self._apply(self.plan_roll_back(to), why, principal, key, expected, None)
        if measure:
            took = round((time.perf_counter() - begun) * 1_000, 3)
            self.control.put_evidence(self.pipeline.name, entry.subject, ROLLBACK, {"ms": took}, self.signer)
        return entry

    def unstaged(self) -> Sequence[str]:
        """Versions that could still be promoted and that serving has not measured yet."""
        states = self._succession().states
        open_to = [line for line in self.evaluation.versions() if str(states.get(line, "candidate")) == "candidate"]
        known = {line: self.control.evidence_of(self.pipeline.name, line, self.signer) for line in open_to}
        return [line for line in open_to if SERVING not in known[line]]

    def stage(self, line: str) -> Facts:
        """Let whoever serves measure a version, and keep that as evidence; raises UnknownName, Untrusted, Corrupt."""
        facts = self.evaluation.staged(line)
        self.control.put_evidence(self.pipeline.name, line, SERVING, facts, self.signer)
        return facts

    def is_staged(self, line: str) -> bool:
        """Whether that has been done."""
        return SERVING in self.control.evidence_of(self.pipeline.name, line, self.signer)

    def rollback_ms(self, line: str) -> float | None:
        """How long the last rollback to this line took, from the command until it answered; None if nobody measured."""
        facts = self.control.evidence_of(self.pipeline.name, line, self.signer).get(ROLLBACK)
        return None if facts is None else float(facts["ms"])

    def decide(self, line: str, *, principal: str, key: str, facts: Facts) -> Entry:
        """After a retrain: promote the best of those that the gate lets in, or reject the new version.

        The online lines that do not answer compete under the same rules. Of those that pass, the one whose log loss
        lies lowest beside the champion's wins.
        """
        known = promotion.decided(self.control, self.pipeline.name, key)
        if known is not None:
            return self._landed(known)
        plans = [self.plan_promotion(name) for name in self._competing(line)]
        for plan in plans:
            self._keep_judgement(plan)
        open_to = [plan for plan in plans if not plan.refusals and plan.verdict is not None and plan.verdict.passes]
        if not open_to:
            plan = plan_rejection(**self._planned(line))
            return self._apply(plan, "the gate does not let it in", principal, key, None, facts)
        best = min(open_to, key=lambda plan: plan.evidence["log_loss_behind_champion"])
        return self._apply(best, "the best that the gate lets in", principal, key, None, facts)

    def _decided(self, key: str, action: str, line: str) -> Entry | None:
        """What was decided under a key before; ``line`` may be empty, for whichever it was."""
        known = promotion.decided(self.control, self.pipeline.name, key)
        if known is not None and (known.action != action or line not in ("", known.subject)):
            raise ConflictingId(
                which=f"key {key!r} stands for decision {known.sequence}: {known.action} {known.subject}",
                fix="Use another key for another decision",
            )
        return known

    def _competing(self, version: str) -> Sequence[str]:
        """The new version, and every online line that has published something and does not answer."""
        published = {record.data["line"] for record in self._snapshots() if record.data["published"]}
        names = (line.settings.line for line in self.pipeline.lines)
        return [version, *(name for name in names if name in published and name != self.champion)]

    def _planned(self, line: str) -> Any:
        succession = self._succession()
        if line == succession.champion:
            raise Refused(which=f"{line!r} answers already", fix="Nothing is left to do")
        online = line in {each.settings.line for each in self.pipeline.lines}
        evidence = self.evaluation.evidence(line, succession.champion, self._policy)
        live = self.control.evidence_of(self.pipeline.name, line, self.signer).get(SERVING, {})
        return {
            "succession": succession,
            "line": line,
            "version": ONLINE if online else self.evaluation.version(line)[0],
            "evidence": with_live(evidence, live),
            "policy": self._policy,
            "lockstep": self.lockstep or online,
        }

    def _apply(
        self, plan: Plan, why: str, principal: str, key: str, expected: int | None, facts: Facts | None
    ) -> Entry:
        if expected is not None and expected != plan.expected:
            raise LostRace(
                which=f"decision {expected} is not the last any more, {plan.expected} is ({plan.from_line!r} answers)",
                fix="Look at `rivermill registry history`, then decide again",
            )
        entry = promotion.apply(
            plan,
            self.control,
            at=self.clock(),
            principal=principal,
            why=why,
            key=key,
            signer=self.signer,
            facts=facts or {},
        )
        return self._landed(entry)

    def _landed(self, entry: Entry) -> Entry:
        """A decision whose echo is in the journal: whoever decided it may have died before that. Twice is once."""
        self.land(echo_of(entry))
        return entry

    def _keep_judgement(self, plan: Plan) -> None:
        """Keep what the gate says as evidence: before the decision, since nobody would make up for it after a crash."""
        if plan.verdict is not None and not plan.refusals:
            judged = {"passed": plan.verdict.passes, "report": report(plan.verdict), **plan.evidence}
            self.control.put_evidence(self.pipeline.name, plan.to_line, GATE, judged, self.signer)

    @property
    def _policy(self) -> Policy:
        if self.pipeline.gate is None:
            raise Refused(
                which=f"pipeline {self.pipeline.name!r} has no gate, so nothing may be promoted",
                fix="Add a section 'gate' to its pipeline.yaml",
            )
        return self.pipeline.gate

    def _succession(self) -> promotion.Succession:
        return succession_of(self.pipeline.name, self.control.entries(self.pipeline.name))

    def _snapshots(self) -> Sequence[Any]:
        return self.evaluation.snapshots()

    def _online_facts(self, line: str) -> Facts:
        published = [decode(record.body, Snapshot) for record in self._snapshots()]
        mine = [snapshot for snapshot in published if snapshot.line == line and snapshot.published]
        last = mine[-1] if mine else None
        return {
            "line": line,
            "kind": "online",
            "model": last.model[:12] if last else "",
            "rows": last.examples if last else 0,
            "dataset": "",
            "recipe": "",
            "offset": ONLINE,
        }


def _version_facts(offset: int, version: Version) -> Facts:
    return {
        "line": version.line,
        "kind": "batch",
        "model": version.model[:12],
        "rows": version.evidence["rows"],
        "dataset": version.dataset,
        "recipe": version.recipe,
        "offset": offset,
    }


def _entry_facts(entry: Entry) -> Facts:
    return {
        "sequence": entry.sequence,
        "at": format_time(entry.at),
        "action": entry.action,
        "line": entry.subject,
        "from": entry.details.get("from", entry.details.get("champion", "")),
        "verdict": entry.details.get("verdict", ""),
        "by": entry.principal,
        "why": entry.why,
    }
