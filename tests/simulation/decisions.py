"""What a person or the gate does in a simulation: versions, promotions, rollbacks, releases; all by the real rules."""

from collections.abc import Callable
from typing import Any

from journal.body import Version, body_of, draft_of
from journal.control import Entry, echo_of
from journal.errors import CallerError, GateClosed, LostRace, Refused
from journal.intake import Intake
from journal.log import START
from journal.record import Draft, Kind, Record
from journal.settlement import Release
from registry.plan import Plan, plan_promotion, plan_roll_back
from registry.promotion import apply, decided
from registry.succession import Succession, succession_of
from tests.simulation.oracle import require
from tests.simulation.pipeline import DEFINITION, FLAVOR, Diary, gate_policy
from tests.simulation.process import World
from tests.simulation.scenario import Decide

_POLICY = gate_policy()
_GOOD = {"line": "", "champion": "", "auc": 0.7, "log_loss_behind_champion_high": 0.001, "rows": 500,
         "distinct_scores": 400, "not_finite": 0, "out_of_range": 0, "confidence": 0.95}  # fmt: skip
_BAD_AUC = 0.3


class Office:
    """Where decisions are made about one world.

    Attributes:
        good: The versions whose evidence meets the policy.
        refused: How often the gate or the control log said no.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._ring = world.keyring
        self.good: set[str] = set()
        self.refused = 0

    def decide(self, what: Decide, land: Callable[[Draft], None], intake: Intake) -> None:
        """Carry one decision out; carried out again after a crash, it is the same one.

        Args:
            what: What is decided.
            land: Appends a record that no fold derives, and lets what follows follow.
            intake: The owner's.
        """
        match what.kind:
            case "version" | "bad version":
                land(self._version(what))
            case "release":
                self._release(what, intake)
            case _:
                entry = self._entry(what)
                if entry is not None:
                    self._world.faults.reach("control decided")
                    land(echo_of(entry))

    def _version(self, what: Decide) -> Draft:
        line = f"{'good' if what.kind == 'version' else 'bad'}-{what.number}"
        if what.kind == "version":
            self.good.add(line)
        model = Diary(learned=[what.number], paid=what.number % 2)
        blob, digest = self._world.blobs.put(FLAVOR.dump(model)), FLAVOR.digest(model)
        signature = self._ring.signer.sign(line, FLAVOR.FAMILY, digest, blob)
        body = Version(
            line=line, family=FLAVOR.FAMILY, model=digest, blob=blob, signature=signature, service=DEFINITION.service,
            dataset="d", job="j", trigger=0, recipe="r", evidence={},
        )  # fmt: skip
        return draft_of(body, kind=Kind.VERSION, stream="versions", id=line)

    def _entry(self, what: Decide) -> Entry | None:
        key = f"request-{what.number}"
        known = decided(self._ring.control, self._world.name, key)
        if known is not None:
            return known
        plan = self._plan(what)
        if plan is None:
            return None
        try:
            entry = self._apply(plan, key)
        except (GateClosed, Refused):
            self.refused += 1
            return None
        require(what.kind != "promote badly", f"law 9: {plan.to_line} was promoted on bad evidence")
        if what.number % 2:
            self._race(plan, f"{key}-too-late")
        return entry

    def _plan(self, what: Decide) -> Plan | None:
        now = self._succession()
        if what.kind == "roll back":
            return plan_roll_back(now, "")
        wanted = [line for line in self._versions() if (line in self.good) == (what.kind == "promote")]
        if not wanted:
            return None
        line = wanted[what.number % len(wanted)]
        facts: dict[str, Any] = {**_GOOD, "line": line, "champion": now.champion}
        if line not in self.good:
            facts["auc"] = _BAD_AUC
        version = self._versions()[line]
        return plan_promotion(now, line, version=version, evidence=facts, policy=_POLICY, lockstep=True)

    def _succession(self) -> Succession:
        return succession_of(self._world.name, self._ring.control.entries(self._world.name))

    def _versions(self) -> dict[str, int]:
        return {body_of(r, Version).line: r.offset for r in self._world.journal.of_kind(Kind.VERSION, START, 1_000)}

    def _apply(self, plan: Plan, key: str) -> Entry:
        return apply(
            plan, self._ring.control, at=self._world.journal.clock, principal="ann", why="drawn", key=key,
            signer=self._ring.signer,
        )  # fmt: skip

    def _race(self, plan: Plan, key: str) -> None:
        """Somebody else has planned the same on the same knowledge, and comes too late."""
        try:
            self._apply(plan, key)
        except (LostRace, Refused):
            return
        require(False, f"law 9: two decisions followed decision {plan.expected}")

    def _release(self, what: Decide, intake: Intake) -> None:
        held: list[Record] = self._world.journal.of_kind(Kind.QUARANTINE, START, 1_000)
        if not held:
            return
        record = held[what.number % len(held)]
        end = self._world.journal.end()
        try:
            intake.settle(Release(record.id, "drawn", "ann", advance=what.number % 2 == 0))
        except CallerError:
            self.refused += 1
            require(self._world.journal.end() == end, "law 2: a refused release changed the journal")
