"""The smallest pipeline that has everything: questions, labels, window and plain views, an online line, versions."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from features.aggregates import Aggregate
from features.reader import define
from features.views import ServicePlan, ViewPlan
from journal.clock import DAY, MINUTE, SECOND, parse_time
from journal.contract import Contract
from journal.field import Field
from registry.guard import GuardPolicy
from registry.policy import Policy, policy_of
from training.label_rule import Joins, LabelRule
from training.learner import LearnerSettings

BEGINS = parse_time("2026-01-01T00:00:00Z")
LATENESS = 30 * SECOND
WAIT = 45 * SECOND
MAX_GAP = 10 * MINUTE
ONLINE = "online"
PRIOR = 0.4
SOURCE = "/simulated"


_DECODERS: dict[str, msgspec.json.Decoder[msgspec.Struct]] = {}


class _CompiledContract(Contract):
    """A contract that is compiled once for all seeds, not at every start."""

    def decoder(self) -> msgspec.json.Decoder[msgspec.Struct]:
        """See `journal.contract.Contract.decoder`."""
        if self.stream not in _DECODERS:
            _DECODERS[self.stream] = super().decoder()
        return _DECODERS[self.stream]


def _contract(stream: str, *fields: Field) -> Contract:
    return _CompiledContract(
        stream=stream, version="1.0.0", fields=fields, dedup_window=30 * DAY, max_gap=MAX_GAP, lateness=LATENESS
    )


CONTRACTS = {
    contract.stream: contract
    for contract in (
        _contract(
            "orders",
            Field(name="n", type="integer", required=True, limits={"ge": 0}),
            Field(name="order", type="string", required=True),
            Field(name="shop", type="string", required=True),
        ),
        _contract(
            "updates",
            Field(name="shop", type="string", required=True),
            Field(name="level", type="integer", required=True, limits={"ge": 0}),
        ),
        _contract("outcomes", Field(name="order", type="string"), Field(name="paid", type="boolean")),
    )
}

BUSY = ViewPlan(
    name="busy",
    join_keys=("shop",),
    key_types=("string",),
    fields=(("orders", "int64"), ("updates", "int64")),
    ttl=None,
    kind="windows",
    streams=("orders", "updates"),
    aggregates=(
        Aggregate(kind="count", stream="orders", over=40 * SECOND, tile=10 * SECOND),
        Aggregate(kind="count", stream="updates", over=20 * SECOND, tile=10 * SECOND),
    ),
)
LEVELS = ViewPlan(
    name="levels",
    join_keys=("shop",),
    key_types=("string",),
    fields=(("level", "int64"),),
    ttl=None,
    kind="plain",
    streams=("updates",),
)
VIEWS = (BUSY, LEVELS)
REQUEST = {"n": "int64"}
SERVICE = ServicePlan(name="simulated", views=VIEWS, request=tuple(REQUEST))
DEFINITION = define(SERVICE, REQUEST)
LEARNER = LearnerSettings(
    line=ONLINE,
    prior=PRIOR,
    guard=GuardPolicy(window=8, factor=3.0, minimum=2),
    snapshot_every=3,
    checkpoint_every=4,
)


def label_rule(joins: Joins) -> LabelRule:
    """How outcomes are read."""
    return LabelRule(stream="outcomes", key="order", outcome="paid", wait=WAIT, joins=joins)


def gate_policy() -> Policy:
    """What the gate asks of a version."""
    policy, mistakes = policy_of(
        {
            "auc": {"at_least": 0.6, "why": "A floor."},
            "log_loss_behind_champion": {"at_most": 0.002, "why": "Luck."},
            "rows": {"at_least": 100, "why": "Enough."},
        }
    )
    if policy is None:
        raise AssertionError(mistakes)
    return policy


class Diary(msgspec.Struct):
    """A model that knows by heart which questions it has learned from: nothing learned twice can hide in it."""

    learned: list[int] = []
    paid: int = 0
    weight: float = 0.0


class DiaryFlavor:
    """The family of diaries; its arithmetic depends on the order of the examples."""

    FAMILY = "diary"

    def inputs(self, columns: Sequence[str], values: Sequence[Any]) -> Any:
        """See `registry.flavor.Flavor.inputs`."""
        return dict(zip(columns, values, strict=True))

    def predict_one(self, model: Diary, x: Any) -> float:
        """A probability that every learned example moves."""
        known = x["busy__orders"] or 0
        score = (model.paid + 1) / (len(model.learned) + 2) + model.weight * known
        return min(max(score, 0.05), 0.95)

    def learn_one(self, model: Diary, x: Any, y: bool) -> None:
        """Learn one example."""
        model.weight = model.weight * 0.9 + (0.01 if y else -0.01) * (x["levels__level"] or 1)
        model.learned.append(x["n"])
        model.paid += y

    def dump(self, model: Diary) -> bytes:
        """Its whole state."""
        return msgspec.msgpack.encode(model)

    def load(self, data: bytes) -> Diary:
        """Read it back."""
        return msgspec.msgpack.decode(data, type=Diary)

    def digest(self, model: Diary) -> str:
        """SHA-256 over its state."""
        return hashlib.sha256(self.dump(model)).hexdigest()

    def finite(self, model: Diary) -> bool:
        """Always."""
        return model.weight == model.weight


FLAVOR = DiaryFlavor()
