"""One seed: a scenario, lived through by as many processes as it takes, and judged at every restart and at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, takewhile
from random import Random
from typing import Literal, cast

import apsw

from journal.control import echo_of, missing_echoes
from journal.errors import DurabilityLost
from journal.intake import Accepted, Conflicted, Quarantined, Refused, Repeated, Taken
from journal.record import Draft, Kind, Record, canonical_json
from journal.sink_epochs import SinkEpochs
from rivermill.lockstep import Lockstep
from tests.simulation import bugs, oracle
from tests.simulation.crew import Crew
from tests.simulation.decisions import Office
from tests.simulation.faults import Crash, Faults
from tests.simulation.oracle import Reading, Restored, require
from tests.simulation.pipeline import MAX_GAP, ONLINE
from tests.simulation.process import FOLDS, FoldSet, Keyring, Life, World, begin_journal, intake_of
from tests.simulation.scenario import Decide, Event, Scenario, draw_scenario
from tests.simulation.stores import SimulatedBlobs, SimulatedFoldFile, SimulatedJournal, memory_files
from training.join import JoinFold

Mode = Literal["play", "serve", "work"]
"""Lock-step over a file; lock-step over what producers send, with acks; an owner and a worker behind it."""

_LIVES = 6
_SHARE_OF_OWNER_DEATHS = 0.5
_SHARE_OF_GIVING_UP = 0.3
_INPUT = "input"


@dataclass(slots=True)
class Figures:
    """What a seed went through; sums over many say whether the simulator tries what it claims to."""

    lives: int = 0
    records: int = 0
    learned: int = 0
    predictions: int = 0
    decisions: int = 0
    refused: int = 0
    fenced: int = 0
    died_at: list[str] = field(default_factory=list)


_RUNS = count()


class Simulation:
    """One seed's run."""

    def __init__(self, seed: int, keyring: Keyring, *, bug: str = "", steps: int | None = None) -> None:
        """Draw everything.

        Args:
            seed: Whose.
            keyring: Keys and control log.
            bug: A planted bug, or none.
            steps: Only so many of the scenario's first steps; None for all.
        """
        # Each concern draws from its own stream, so that fewer steps change nothing else.
        self._chance = Random(f"{seed} driver")
        scenario = draw_scenario(Random(f"{seed} scenario"))
        self.scenario: Scenario = scenario if steps is None else scenario.cut(steps)
        self._seed, self._bug = seed, bug
        self._mode: Mode = self._chance.choice(("play", "serve", "work"))
        faults = Faults(Random(f"{seed} faults"))
        # A name of its own: what an earlier run of this seed left in memory lives on until it is collected.
        name = f"s{seed}-{next(_RUNS)}"
        self.world = World(
            name=name,
            joins=self._chance.choice(("first", "last", "all")),
            faults=faults,
            keyring=keyring,
            journal=bugs.JOURNALS.get(bug, SimulatedJournal)(name, faults),
            blobs=SimulatedBlobs(faults),
            file_of=bugs.FILES.get(bug, SimulatedFoldFile),
            join_of=bugs.JOINS.get(bug, JoinFold),
        )
        self._office = Office(self.world)
        self._cursor = 0
        self._acked: dict[str, tuple[int, bytes]] = {}
        self._seen: dict[str, tuple[int, bytes]] = {}
        self._restored: list[Restored] = []
        self._lives = self._fenced = 0
        self._life: Life | None = None
        self._epochs = SinkEpochs()
        self._attempts = keyring.folder / f"{name}.attempts.json"
        self.trace: list[str] = [f"mode {self._mode}, joins {self.world.joins}"]

    def run(self) -> Figures:
        """Live it through; raises `Broken` when an invariant does not hold."""
        with memory_files(), self._files_that_last():
            folds = self._live()
            self._judge(folds)
            self._stop()
        return self._figures(folds)

    @contextmanager
    def _files_that_last(self) -> Iterator[None]:
        """A memory file lasts as long as one connection to it is open."""
        held = [apsw.Connection(str(self.world.path(fold))) for fold in FOLDS]
        try:
            yield
        finally:
            for connection in held:
                connection.close()
            self._attempts.unlink(missing_ok=True)

    def _live(self) -> FoldSet:
        """Start again and again until a life has seen all steps."""
        while True:
            self._lives += 1
            if self._lives < _LIVES:
                self.world.faults.arm()
            else:
                self.world.faults.disarm()
            try:
                self._recall()
                self._start()
                return self._drive()
            except (Crash, DurabilityLost):
                self._die()

    def _die(self) -> None:
        self.trace.append(f"life {self._lives} ends: {self.world.faults.died_at[-1]}, at step {self._cursor}")
        self._stop()
        self.world.journal.restart()
        if self._chance.random() < _SHARE_OF_OWNER_DEATHS:
            self._epochs = SinkEpochs()
        if self._mode != "play" and self._chance.random() < _SHARE_OF_GIVING_UP:
            self._cursor += 1

    def _stop(self) -> None:
        if self._mode == "work":
            self._crew.go_home()
            self._fenced += self._crew.fenced
        elif self._life is not None:
            self._life.end()
        self._life = None

    def _recall(self) -> None:
        """What the journal holds of source events; every ack must still be true."""
        self._seen = {
            record.id: (record.offset, canonical_json([record.stream, record.time, record.data]))
            for record in self.world.journal.contents()
            if record.kind is Kind.SOURCE
        }
        for id_, acked in self._acked.items():
            require(
                self._seen.get(id_) == acked,
                f"law 1: {id_} was acked at {acked[0]}, the journal has {self._seen.get(id_)}",
            )

    def _start(self) -> None:
        self._intake = intake_of(self.world)
        self._crew = Crew(self.world, self._chance, self._epochs, self._attempts, self._open)
        begin_journal(self.world)
        if self._mode == "work":
            for entry in missing_echoes(self.world.keyring.control, self.world.name, self.world.journal):
                self.world.journal.append([echo_of(entry)])
        else:
            self._life = self._open()
            self._life.begin()

    def _open(self) -> Life:
        life = Life(self.world)
        self._restored += life.restored
        return life

    @property
    def _lockstep(self) -> Lockstep:
        assert self._life is not None
        return self._life.lockstep

    def _drive(self) -> FoldSet:
        steps = self.scenario.steps
        while self._cursor < len(steps):
            step = steps[self._cursor]
            if isinstance(step, Decide):
                self.trace.append(f"step {self._cursor}: {step.kind} {step.number}")
                self._decide(step)
                self._cursor += 1
            else:
                self._take()
        return self._settle()

    def _decide(self, step: Decide) -> None:
        if self._mode == "work":
            self._office.decide(step, self._append, self._intake)
        else:
            self._office.decide(step, self._lockstep.land, self._intake)
            self._lockstep.catch_up()

    def _append(self, draft: Draft) -> None:
        self.world.journal.append([draft])

    def _take(self) -> None:
        events = list(takewhile(lambda step: isinstance(step, Event), self.scenario.steps[self._cursor :]))
        if self._mode == "play":
            self._play(self._cursor + len(events))
            return
        group = cast(list[Event], events[: self._chance.randrange(1, 8)])
        self.trace.append(f"step {self._cursor}: {' '.join(event.id for event in group)}")
        self._serve(group)
        self._cursor += len(group)

    def _play(self, until: int) -> None:
        lines = [step.raw for step in self.scenario.steps[:until] if isinstance(step, Event)]
        self.trace.append(f"step {self._cursor}: play up to line {len(lines)}")
        self._lockstep.play(lines, _INPUT, group=self._chance.randrange(1, 12))
        self._cursor = until

    def _serve(self, group: Sequence[Event]) -> None:
        early = self._bug == bugs.ACK_BEFORE_COMMIT
        before = dict(self._seen)
        try:
            with self.world.journal.group():
                taken = [self._offer(event) for event in group]
                if early:
                    self._acknowledge(group, taken)
                if self._bug == bugs.CHECKPOINT_LEADS and self._mode == "serve":
                    self._lockstep.commit_folds()
        except BaseException:
            self._seen = before
            raise
        self._acknowledge(group, taken)
        if self._mode == "work":
            for _ in range(self._chance.randrange(3)):
                self._crew.step()
        elif self._chance.random() < 0.7:
            self._lockstep.commit_folds()

    def _offer(self, event: Event) -> Taken:
        """Take one event in, and hold its fate to what laws 1 and 2 say."""
        clock, known = self.world.journal.clock, self._seen.get(event.id)
        taken = self._intake.take(event.raw) if self._mode == "work" else self._lockstep.offer(event.raw)
        match event.holds:
            case "is no event":
                expected: type[Taken] = Refused
            case "breaks its contract":
                expected = Quarantined
            case "yes" if clock and event.time - clock > MAX_GAP:
                expected = Quarantined
            case "yes" if known is None:
                expected = Accepted
            case _:
                expected = Repeated if known is not None and known[1] == event.meaning else Conflicted
        require(type(taken) is expected, f"law 2: {event.id} is {taken}, and should be {expected.__name__}")
        if isinstance(taken, Accepted):
            self._seen[event.id] = (taken.record.offset, event.meaning)
        if isinstance(taken, Repeated | Conflicted):
            require(
                known is not None and taken.offset == known[0], f"law 2: {event.id} is said to be at {taken.offset}"
            )
        return taken

    def _acknowledge(self, group: Sequence[Event], taken: Sequence[Taken]) -> None:
        for event, fate in zip(group, taken, strict=True):
            if isinstance(fate, Accepted | Repeated):
                self._acked[event.id] = self._seen[event.id]

    def _settle(self) -> FoldSet:
        """Nothing more comes: the folds catch up."""
        if self._mode == "work":
            return self._crew.finish()
        self._lockstep.commit_folds()
        assert self._life is not None
        return self._life.folds

    def _judge(self, folds: FoldSet) -> None:
        self.world.faults.disarm()
        self._recall()
        records = self.world.journal.contents()
        # A state that is alive, and the one that the next start would find.
        self._restored += [(runner.fold.name, runner.offset, runner.fold.digest()) for runner in folds.runners]
        next_life = self._open()
        reading = Reading(self.world, records, self._restored)
        oracle.check_journal(records)
        oracle.check_states(reading, self._restored)
        oracle.check_derived(reading, records)
        oracle.check_ends(records, folds.join.counts())
        if self.world.joins == "last":
            oracle.check_last(records, folds.join.rule)
        oracle.check_learned(records, folds.diary.learned)
        require(
            next_life.folds.rows.saved() == reading.accepted, "law 4: the accepted rows are not those of one reading"
        )
        next_life.end()
        champion = self.world.keyring.control.champion(self.world.name)
        oracle.check_decisions(records, champion, self._office.good, ONLINE)
        if self._mode == "play":
            self._check_lines(records)

    def _check_lines(self, records: Sequence[Record]) -> None:
        """Every line ends in exactly one place, however often it was played."""
        tallies = self.world.journal.tallies()
        kept = sum(r.kind in (Kind.SOURCE, Kind.QUARANTINE) and r.cause is not None for r in records)
        again = tallies.get("quarantined_again", 0)
        counted = sum(tallies.get(name, 0) for name in ("repeated", "conflicts", "refused")) + kept + again
        lines = sum(isinstance(step, Event) for step in self.scenario.steps)
        require(counted == lines, f"{lines} lines, and {counted} fates: {tallies}")

    def _figures(self, folds: FoldSet) -> Figures:
        join = folds.join.counts()
        return Figures(
            lives=self._lives,
            records=self.world.journal.end() + 1,
            learned=len(folds.diary.learned),
            predictions=join["predictions"],
            decisions=sum(record.kind is Kind.DECISION for record in self.world.journal.contents()),
            refused=self._office.refused,
            fenced=self._fenced,
            died_at=self.world.faults.died_at,
        )
