"""One life of the service: everything that a process builds anew over what outlived the last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from features.online_table import OnlineTable
from features.processor import FeatureFold
from features.reader import FeatureReader
from features.rows import Row
from journal.blobs import Blobs
from journal.body import Genesis, draft_of
from journal.checkpoint import FoldFile
from journal.control import ControlLog, echo_of, missing_echoes
from journal.fold import Fold
from journal.intake import Intake
from journal.log import START, Journal
from journal.privacy import KeyTable
from journal.record import FORMAT, Cause, Kind, Record
from journal.runner import Runner
from journal.stamp import is_behind
from registry.signing import Signer
from rivermill.lockstep import Lockstep
from serving.answer import AnswerFold
from serving.answering import Answering
from serving.champion import Champion
from tests.simulation.faults import Faults
from tests.simulation.pipeline import (
    CONTRACTS,
    DEFINITION,
    FLAVOR,
    LATENESS,
    LEARNER,
    ONLINE,
    PRIOR,
    REQUEST,
    SERVICE,
    VIEWS,
    Diary,
    label_rule,
)
from tests.simulation.stores import SimulatedBlobs, SimulatedFoldFile, SimulatedJournal
from training.join import JoinFold
from training.label_rule import Joins
from training.learner import Learner

FOLDS = ("features", "answer", "join", "learner")
_FINGERPRINT = "simulated"
_SPACE = "accepted"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """What every seed shares: keys and the control log's database, in which each seed is a pipeline of its own."""

    folder: Path
    keys: KeyTable
    signer: Signer
    control: ControlLog


class AcceptedRows:
    """The rows that the online table took, kept in the fold's file: the way to history, without Arrow."""

    def __init__(self, file: FoldFile) -> None:
        self._file = file
        self._added: list[bytes] = []
        self.count = sum(1 for _ in file.scan(_SPACE))

    def add(self, view: str, rows: Sequence[Row]) -> None:
        """See `features.processor.RowsOut.add`."""
        self._added += [_encode((view, *row)) for row in rows]

    def save(self) -> None:
        """See `features.processor.RowsOut.save`."""
        self._file.put(_SPACE, ((n.to_bytes(8), row) for n, row in enumerate(self._added, self.count)))
        self.count += len(self._added)
        self._added.clear()

    def saved(self) -> list[bytes]:
        """All of them, view by view, each in the order of its acceptance: commits may be cut anywhere."""
        rows = [row for _, row in self._file.scan(_SPACE)]
        return sorted(rows, key=lambda row: str(_decode(row)[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What outlives a process."""

    name: str
    joins: Joins
    faults: Faults
    keyring: Keyring
    journal: SimulatedJournal
    blobs: SimulatedBlobs
    file_of: type[SimulatedFoldFile] = SimulatedFoldFile
    join_of: type[JoinFold] = JoinFold

    def path(self, fold: str) -> Path:
        """Where a fold's file is, in memory."""
        return Path(f"/{self.name}/{fold}.sqlite")


class FoldSet:
    """A pipeline's folds over a world, wired as `rivermill.wiring` does."""

    def __init__(self, world: World, journal: Journal, files: dict[str, FoldFile], *, asks_again: bool = False) -> None:
        """Restore them.

        Args:
            world: What they stand on.
            journal: What they read.
            files: Their files, by name.
            asks_again: Whether questions that the journal holds the answer to are answered once more.
        """
        self._journal = journal
        self.table = OnlineTable(files["features"].db)
        self.rows = AcceptedRows(files["features"])
        self.features = FeatureFold(VIEWS, LATENESS, self.table, self.rows)
        self.answer = self._answer(world, asks_again)
        self.join = world.join_of(label_rule(world.joins), "orders")
        self.learner = Learner(
            LEARNER,
            make_model=Diary,
            flavor=FLAVOR,
            blobs=cast(Blobs, world.blobs),
            signer=world.keyring.signer,
            read_prediction=self._read_one,
        )
        folds: tuple[Fold, ...] = (self.features, self.answer, self.join, self.learner)
        self.runners = [Runner(fold, files[fold.name], journal, _FINGERPRINT) for fold in folds]

    def _answer(self, world: World, asks_again: bool) -> AnswerFold:
        champion = Champion(
            pipeline=world.name,
            flavor_of=lambda _: FLAVOR,
            blobs=cast(Blobs, world.blobs),
            verifier=world.keyring.signer,
            prior=PRIOR,
            read_record=self._read_one,
        )
        answering = Answering(
            key="order",
            definition=DEFINITION,
            reader=FeatureReader(SERVICE, tuple(REQUEST), self.table),
            champion=champion,
            build="simulated",
        )
        return AnswerFold(
            stream="orders",
            answering=answering,
            is_answered=lambda question: not asks_again and self._is_answered(question),
        )

    def _read_one(self, offset: int) -> Record:
        return self._journal.read(0, offset - 1, 1)[0]

    def _is_answered(self, question: Record) -> bool:
        return is_behind(Cause(question.partition, question.offset, 0), self._journal.mark(AnswerFold.name))

    @property
    def diary(self) -> Any:
        """The online model."""
        return self.learner.model


class Life:
    """One process, from its start to its death."""

    def __init__(self, world: World) -> None:
        """Start: restore the folds, catch up with the journal, echo what was decided and not echoed."""
        self.world = world
        self.journal = world.journal
        self.files: dict[str, FoldFile] = {fold: world.file_of(world.path(fold), world.faults) for fold in FOLDS}
        self.folds = FoldSet(world, world.journal, self.files)
        self.restored = [(runner.fold.name, runner.offset, runner.fold.digest()) for runner in self.folds.runners]
        self.lockstep = Lockstep(self.journal, intake_of(world), self.folds.runners)

    def begin(self) -> None:
        """What `rivermill.wiring.open_run` does once the folds are restored."""
        self.lockstep.catch_up()
        for entry in missing_echoes(self.world.keyring.control, self.world.name, self.journal):
            self.lockstep.land(echo_of(entry))

    def end(self) -> None:
        """Let go of the files; what was committed stays."""
        for file in self.files.values():
            file.close()


def intake_of(world: World) -> Intake:
    """The journal's door."""
    return Intake(world.journal, CONTRACTS, world.keyring.keys, None)


def begin_journal(world: World) -> None:
    """Write what every journal begins with, once; `rivermill.genesis.begin` in small."""
    if world.journal.end() != START:
        return
    entry = world.keyring.control.append(
        world.name, expected=0, action="bootstrap", subject=ONLINE, why="the pipeline declares it",
        details={"prior": PRIOR}, at=0, principal="local", key="bootstrap", signer=world.keyring.signer,
    )  # fmt: skip
    genesis = Genesis(pipeline=world.name, clock="events", format=FORMAT)
    begins = draft_of(genesis, kind=Kind.GENESIS, stream="journal", id=world.name)
    defines = draft_of(DEFINITION, kind=Kind.DEFINITION, stream="features", id=DEFINITION.service)
    world.journal.append([begins, defines, echo_of(entry)])
