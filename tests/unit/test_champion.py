"""The champion: restored at any point it answers as if it had followed from the start, and errors move nothing."""

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal import errors
from journal.blobs import DirectoryBlobs
from journal.body import Decision, Snapshot, Version, draft_of
from journal.control import signed_parts
from journal.log import START
from journal.memory_log import MemoryJournal
from journal.record import Draft, Kind, Record
from registry.signing import Signer
from serving.champion import Champion, ChampionState, Served

PRIOR = 0.5


class Constant:
    """A family whose models are one number: the smallest flavor there is."""

    FAMILY = "constant"

    def inputs(self, columns: Sequence[str], values: Sequence[Any]) -> Any:
        return values

    def predict_one(self, model: Any, x: Any) -> float:
        return float(model)

    def load(self, data: bytes) -> Any:
        return float(data)

    def digest(self, model: Any) -> str:
        return hashlib.sha256(repr(model).encode()).hexdigest()


class Registry:
    """Publishes constants, stages them and decides about them, and keeps the records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = MemoryJournal("t")
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.signer = Signer.open(folder / "key")
        self.sequence = 0

    def champion(self) -> Champion:
        return Champion(
            pipeline="t",
            flavor_of=lambda _: Constant(),
            blobs=self.blobs,
            verifier=self.signer,
            prior=PRIOR,
            read_record=lambda offset: self.journal.read(0, offset - 1, 1)[0],
        )

    def land(self, draft: Draft) -> Record:
        (record,) = self.journal.append([draft])
        assert isinstance(record, Record)
        return record

    def _model(self, line: str, number: float) -> dict[str, str]:
        blob, name = self.blobs.put(repr(number).encode()), Constant().digest(number)
        signature = self.signer.sign(line, "constant", name, blob)
        return {"line": line, "family": "constant", "model": name, "blob": blob, "signature": signature}

    def snapshot(self, line: str, number: float, *, published: bool = True, **changes: Any) -> Record:
        body = Snapshot(**(self._model(line, number) | changes), examples=1, published=published, guard={}, reasons=[])
        return self.land(draft_of(body, kind=Kind.SNAPSHOT, stream="s", id=f"s{self.journal.end()}"))

    def version(self, line: str, number: float) -> Record:
        body = Version(
            **self._model(line, number), service="s@1", dataset="d", job="j", trigger=0, recipe="r", evidence={}
        )
        return self.land(draft_of(body, kind=Kind.VERSION, stream="v", id=f"v{self.journal.end()}"))

    def decide(self, action: str, line: str, *, sequence: int | None = None, pipeline: str = "t") -> Record:
        self.sequence += 1
        decision = Decision(
            sequence=self.sequence if sequence is None else sequence, action=action, subject=line, why="", details={}
        )
        signed = msgspec.structs.replace(decision, signature=self.signer.sign(*signed_parts(pipeline, decision)))
        return self.land(draft_of(signed, kind=Kind.DECISION, stream="c", id=f"c{self.journal.end()}"))

    def lose(self, number: float, damaged: bytes | None = None) -> None:
        """Damage or remove a model's blob."""
        address = self.blobs.put(repr(number).encode())
        (path,) = self.folder.glob(f"blobs/**/{address}")
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def answers(champion: Champion) -> tuple[Any, ...]:
    return champion.predict_one([], []), champion.digest, champion.is_ready, champion.served


def follow(champion: Champion, record: Record) -> str:
    """The error that following a record ends in; nothing else about it matters."""
    try:
        champion.observe(record)
    except errors.RivermillError as error:
        return type(error).__name__
    return ""


def restored(registry: Registry, state: ChampionState) -> Champion:
    champion = registry.champion()
    stored = msgspec.msgpack.encode(state)
    champion.restore(msgspec.msgpack.decode(stored, type=ChampionState))
    return champion


def random_record(registry: Registry, chance: random.Random) -> Record:
    online, batch = chance.choice(["online", "second"]), chance.choice(["v-1", "v-2", "v-3"])
    number = round(chance.random(), 3)
    action = chance.choice(["promote", "roll_back", "promote", "reject", "bootstrap"])
    steps: list[Callable[[], Record]] = [
        lambda: registry.snapshot(online, number),
        lambda: registry.snapshot(online, number),
        lambda: registry.snapshot(online, number, published=False),
        lambda: registry.snapshot(online, number, signature="00"),
        lambda: registry.version(batch, number),
        lambda: registry.decide(action, online),
        lambda: registry.decide(action, batch),
        lambda: registry.decide(action, batch),
        lambda: registry.decide(action, "nowhere"),
        lambda: registry.decide(action, batch, pipeline="another"),
        lambda: registry.decide(action, batch, sequence=chance.randint(1, registry.sequence + 1)),
    ]
    return chance.choice(steps)()


@pytest.mark.parametrize("seed", range(40))
def test_restored_anywhere_it_goes_on_as_if_it_had_followed_from_the_start(registry: Registry, seed: int) -> None:
    chance = random.Random(seed)
    champions = [registry.champion()]
    for _ in range(60):
        record = random_record(registry, chance)
        assert len({follow(champion, record) for champion in champions}) == 1
        assert len({answers(champion) for champion in champions}) == 1
        assert len({repr(champion.state) for champion in champions}) == 1
        assert answers(restored(registry, champions[0].state)) == answers(champions[0])
        if chance.random() < 0.1:
            champions.append(restored(registry, champions[0].state))
    assert len(champions) > 1


@pytest.mark.parametrize("seed", range(10))
def test_an_error_moves_nothing(registry: Registry, seed: int) -> None:
    chance, champion, errors_seen = random.Random(seed), registry.champion(), 0
    for _ in range(60):
        before = (answers(champion), champion.state)
        if follow(champion, random_record(registry, chance)):
            errors_seen += 1
            assert (answers(champion), champion.state) == before
    assert errors_seen


def test_two_lines_back_is_cold_and_answers_all_the_same(registry: Registry) -> None:
    champion = registry.champion()
    for record in (
        registry.version("v-1", 0.1),
        registry.version("v-2", 0.2),
        registry.version("v-3", 0.3),
        registry.decide("promote", "v-1"),
        registry.decide("promote", "v-2"),
        registry.decide("promote", "v-3"),
        registry.decide("roll_back", "v-1"),
    ):
        champion.observe(record)
    assert champion.predict_one([], []) == 0.1
    assert champion.served == Served(line="v-1", snapshot=0, control=4)
    assert champion.state.previous == "v-3"


def test_one_line_back_is_warm_and_needs_no_blob(registry: Registry) -> None:
    champion = registry.champion()
    for record in (
        registry.version("v-1", 0.1),
        registry.version("v-2", 0.2),
        registry.decide("promote", "v-1"),
        registry.decide("promote", "v-2"),
    ):
        champion.observe(record)
    registry.lose(0.1)
    champion.observe(registry.decide("roll_back", "v-1"))
    assert champion.predict_one([], []) == 0.1


@pytest.mark.parametrize(
    ("damaged", "error"), [(None, errors.UnknownName), (b"0.9", errors.Corrupt), (b"", errors.Corrupt)]
)
def test_a_cold_line_whose_blob_is_lost_is_not_switched_to(
    registry: Registry, damaged: bytes | None, error: type[Exception]
) -> None:
    champion = registry.champion()
    champion.observe(registry.version("v-1", 0.1))
    champion.observe(registry.version("v-2", 0.2))
    champion.observe(registry.decide("promote", "v-2"))
    registry.lose(0.1, damaged)
    with pytest.raises(error):
        champion.observe(registry.decide("promote", "v-1"))
    assert (champion.predict_one([], []), champion.served.line) == (0.2, "v-2")


@pytest.mark.parametrize(
    ("damaged", "error"), [(None, errors.UnknownName), (b"0.9", errors.Corrupt), (b"", errors.Corrupt)]
)
@pytest.mark.parametrize("lost", [0.1, 0.2])
def test_a_restore_that_misses_a_blob_says_so_and_changes_nothing(
    registry: Registry, damaged: bytes | None, error: type[Exception], lost: float
) -> None:
    champion = registry.champion()
    for record in (
        registry.version("v-1", 0.1),
        registry.version("v-2", 0.2),
        registry.decide("promote", "v-1"),
        registry.decide("promote", "v-2"),
    ):
        champion.observe(record)
    registry.lose(lost, damaged)
    again = registry.champion()
    with pytest.raises(error, match="blob"):
        again.restore(champion.state)
    assert (again.state, again.predict_one([], [])) == (ChampionState(), PRIOR)


def test_a_decision_before_its_version_names_nothing_and_the_version_alone_does_not_either(
    registry: Registry,
) -> None:
    champion = registry.champion()
    champion.observe(registry.decide("bootstrap", "online"))
    early = registry.decide("promote", "v-1")
    with pytest.raises(errors.UnknownName, match=r"'v-1'.*must come before the decision"):
        champion.observe(early)
    champion.observe(registry.version("v-1", 0.1))
    assert champion.served == Served(line="online", snapshot=START, control=1)
    champion.observe(registry.decide("promote", "v-1"))
    assert (champion.predict_one([], []), champion.served.control) == (0.1, 3)


@pytest.mark.parametrize("kind", ["snapshot", "version"])
def test_a_bootstrapped_line_answers_as_soon_as_it_has_a_model(registry: Registry, kind: str) -> None:
    champion = registry.champion()
    champion.observe(registry.decide("bootstrap", "l"))
    assert (champion.is_ready, champion.predict_one([], []), champion.digest) == (False, PRIOR, "")
    champion.observe(registry.snapshot("l", 0.1) if kind == "snapshot" else registry.version("l", 0.1))
    assert (champion.is_ready, champion.predict_one([], []), champion.served.snapshot) == (True, 0.1, 1)
    assert answers(restored(registry, champion.state)) == answers(champion)


def test_a_decision_that_is_echoed_behind_a_later_one_is_history(registry: Registry) -> None:
    """Two processes decide one after the other, and the second's echo comes first."""
    champion = registry.champion()
    champion.observe(registry.version("v-1", 0.1))
    champion.observe(registry.version("v-2", 0.2))
    champion.observe(registry.decide("promote", "v-2", sequence=3))
    champion.observe(registry.decide("promote", "v-1", sequence=2))
    assert (champion.served.line, champion.served.control, champion.state.previous) == ("v-2", 3, "")
    champion.observe(registry.decide("promote", "v-1", sequence=4))
    assert (champion.served.line, champion.state.previous) == ("v-1", "v-2")


def test_the_same_line_named_again_keeps_the_way_back(registry: Registry) -> None:
    champion = registry.champion()
    for record in (
        registry.version("v-1", 0.1),
        registry.version("v-2", 0.2),
        registry.decide("promote", "v-1"),
        registry.decide("promote", "v-2"),
        registry.decide("promote", "v-2"),
    ):
        champion.observe(record)
    assert (champion.served.control, champion.state.previous) == (3, "v-1")


@pytest.mark.parametrize("changes", [{"model": "0" * 64}, {"blob": "0" * 64}, {"signature": "00"}, {"family": "x"}])
def test_a_snapshot_that_is_not_ours_leaves_the_one_before(registry: Registry, changes: dict[str, Any]) -> None:
    champion = registry.champion()
    champion.observe(registry.decide("bootstrap", "l"))
    champion.observe(registry.snapshot("l", 0.1))
    with pytest.raises(errors.Untrusted):
        champion.observe(registry.snapshot("l", 0.2, **changes))
    assert (champion.predict_one([], []), champion.served.snapshot) == (0.1, 1)


def test_a_signed_blob_of_another_model_is_corrupt(registry: Registry) -> None:
    champion = registry.champion()
    champion.observe(registry.decide("bootstrap", "l"))
    blob, name = registry.blobs.put(b"0.9"), Constant().digest(0.1)
    signature = registry.signer.sign("l", "constant", name, blob)
    with pytest.raises(errors.Corrupt, match="line l"):
        champion.observe(registry.snapshot("l", 0.1, blob=blob, signature=signature))
    assert not champion.is_ready


def test_other_kinds_and_actions_change_nothing(registry: Registry) -> None:
    champion = registry.champion()
    champion.observe(registry.decide("bootstrap", "l"))
    before = champion.state
    champion.observe(registry.decide("reject", "l"))
    champion.observe(registry.land(Draft(kind=Kind.EXAMPLE, stream="x", id="x", body=b"{}")))
    champion.observe(registry.snapshot("l", 0.1, published=False))
    assert champion.state == before
