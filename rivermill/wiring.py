"""The only module that names adapters: it makes a pipeline's journal, folds and stores, and joins them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from features.feast_store import apply, open_store
from features.history import History
from features.online_table import OnlineTable
from features.outbox import Outbox
from features.processor import FeatureFold
from features.reader import FeatureReader, define
from journal.blobs import DirectoryBlobs, write_durably
from journal.body import Decision, Definition, Genesis, decode, draft_of
from journal.checkpoint import FoldFile
from journal.clock import format_span
from journal.errors import Refused
from journal.fold import Fold
from journal.intake import Intake
from journal.log import START
from journal.privacy import KeyTable
from journal.record import FORMAT, Cause, Draft, Kind, Record
from journal.runner import Runner
from journal.sqlite_log import SqliteJournal
from journal.stamp import is_behind
from registry.flavor import Flavor
from registry.signing import Signer
from rivermill.build import build_fingerprint, library_fingerprint
from rivermill.lockstep import Lockstep
from rivermill.pipeline import Pipeline
from rivermill.settings import Home
from serving.answer import AnswerFold
from serving.predictor import Predictor
from training.join import JoinFold
from training.learner import Learner

if TYPE_CHECKING:
    from feast import FeatureStore

CONTRACT_TYPES = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}
HISTORY_ROWS_PER_FLUSH = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pipeline, owned by this process and ready to take events."""

    pipeline: Pipeline
    home: Home
    journal: SqliteJournal
    keys: KeyTable
    intake: Intake
    lockstep: Lockstep
    features: FeatureFold
    answer: AnswerFold
    join: JoinFold
    learner: Learner
    outbox: Outbox
    history: History

    def flush_history(self, at_least: int = 0) -> None:
        """Move accepted rows from the outbox to Delta, if there are at least that many."""
        self.history.flush(self.outbox, at_least)

    def close(self) -> None:
        """Let go of every file, the journal's ownership last."""
        for runner in self.lockstep.runners:
            runner.close()
        self.keys.close()
        self.journal.close()


def open_run(pipeline: Pipeline, home: Home) -> Run:
    """Own a pipeline's home, restore its folds, and catch up with the journal.

    Raises:
        OwnedElsewhere, NotWritable, Corrupt, Misconfigured: As the parts say.
        Refused: The pipeline's rules changed under a live line.
    """
    home.prepare()
    journal = SqliteJournal(home.journal, pipeline.name, dedup_window=pipeline.dedup_window)
    try:
        return _wire(pipeline, home, journal)
    except BaseException:
        journal.close()
        raise


def _wire(pipeline: Pipeline, home: Home, journal: SqliteJournal) -> Run:
    definition = definition_of(pipeline)
    _begin(pipeline, definition, journal)
    keys = KeyTable(home.keys / "subjects.sqlite")
    intake = Intake(journal, pipeline.contracts, keys, starts=pipeline.starts)
    schemas = [view.schema for view in pipeline.views]
    files = {name: FoldFile(home.fold(name)) for name in ("features", "answer", "join", "learner")}
    table = OnlineTable(files["features"].db)
    outbox = Outbox(files["features"].db, schemas)
    features = FeatureFold(pipeline.views, pipeline.lateness, table, outbox)
    reader = FeatureReader(pipeline.service, pipeline.question.request, table)
    answer = _answer(pipeline, home, journal, definition, reader)
    join = JoinFold(pipeline.label)
    learner = _learner(pipeline, home, journal)
    folds: tuple[Fold, ...] = (features, answer, join, learner)
    runners = [Runner(fold, files[fold.name], journal, library_fingerprint()) for fold in folds]
    lockstep = Lockstep(journal, intake, runners)
    lockstep.catch_up()
    _register(pipeline, home, journal)
    return Run(
        pipeline=pipeline,
        home=home,
        journal=journal,
        keys=keys,
        intake=intake,
        lockstep=lockstep,
        features=features,
        answer=answer,
        join=join,
        learner=learner,
        outbox=outbox,
        history=History(home.history(journal.incarnation), schemas),
    )


def _answer(
    pipeline: Pipeline, home: Home, journal: SqliteJournal, definition: Definition, reader: FeatureReader
) -> AnswerFold:
    return AnswerFold(
        stream=pipeline.question.stream,
        key=pipeline.question.key,
        definition=definition,
        reader=reader,
        predictor=Predictor(
            flavor_named(pipeline.line.flavor),
            DirectoryBlobs(home.blobs),
            Signer.open(home.keys / "signing.key"),
            pipeline.line.settings.prior,
        ),
        next_at=journal.next_at,
        is_answered=_is_answered(journal),
        read_record=_read_one(journal),
        build=build_fingerprint(),
    )


def _learner(pipeline: Pipeline, home: Home, journal: SqliteJournal) -> Learner:
    line = pipeline.line
    return Learner(
        line.settings,
        make_model=line.make_model,
        flavor=flavor_named(line.flavor),
        blobs=DirectoryBlobs(home.blobs),
        signer=Signer.open(home.keys / "signing.key"),
        read_prediction=_read_one(journal),
    )


def _is_answered(journal: SqliteJournal) -> Callable[[Record], bool]:
    def is_answered(question: Record) -> bool:
        return is_behind(Cause(question.partition, question.offset, 0), journal.mark(AnswerFold.name))

    return is_answered


def _read_one(journal: SqliteJournal) -> Callable[[int], Record]:
    def read(offset: int) -> Record:
        return journal.read(0, offset - 1, 1)[0]

    return read


def _register(pipeline: Pipeline, home: Home, journal: SqliteJournal) -> None:
    """Tell Feast's registry about the views, once: a live journal's views never change."""
    applied = home.feast / "applied"
    if not applied.exists() or applied.read_text() != pipeline.service.label:
        apply(feast_store(home, journal.incarnation), pipeline.feast_objects)
        write_durably(applied, pipeline.service.label.encode())


def feast_store(home: Home, incarnation: str, now: int | None = None) -> "FeatureStore":
    """Feast's own view of a pipeline; ``now`` (microseconds) judges staleness, None is the wall clock."""
    return open_store(home.folder, home.pipeline, home.fold("features"), home.history(incarnation), now)


def _begin(pipeline: Pipeline, definition: Definition, journal: SqliteJournal) -> None:
    """Write what every journal begins with: whose it is, what its columns mean, which line answers first.

    Raises:
        Refused: The journal began under other rules; the message names them.
    """
    rules = rules_of(pipeline, definition)
    if journal.end() == START:
        genesis = Genesis(pipeline=pipeline.name, clock="events", format=FORMAT, rules=rules)
        begins = draft_of(genesis, kind=Kind.GENESIS, stream="journal", id=pipeline.name)
        journal.append([begins, _defines(definition), _bootstraps(pipeline)])
        return
    began = decode(journal.of_kind(Kind.GENESIS, START, 1)[0].body, Genesis).rules
    changed = [f"{name} (was {began.get(name)}, is {rule})" for name, rule in rules.items() if began.get(name) != rule]
    if changed:
        raise Refused(
            which=f"this journal began under other rules: {'; '.join(changed)}",
            fix="A live line's rules never change: put them back, or start anew with --fresh",
        )


def rules_of(pipeline: Pipeline, definition: Definition) -> dict[str, str]:
    """What the state of the folds follows from, beside the journal: name to canonical text."""
    line, flavor = pipeline.line, flavor_named(pipeline.line.flavor)
    return {
        "views": definition.service,
        "question": repr(pipeline.question),
        "label": repr(pipeline.label),
        "line": repr(line.settings),
        "model": flavor.digest(line.make_model()),
        "lateness": format_span(pipeline.lateness),
        "dedup window": format_span(pipeline.dedup_window),
    }


def _defines(definition: Definition) -> Draft:
    return draft_of(definition, kind=Kind.DEFINITION, stream="features", id=definition.service)


def _bootstraps(pipeline: Pipeline) -> Draft:
    decision = Decision(
        sequence=1,
        action="bootstrap",
        subject=pipeline.bootstrap,
        why="the pipeline declares it; until its first snapshot the prior answers",
        details={"prior": pipeline.line.settings.prior},
    )
    return draft_of(decision, kind=Kind.DECISION, stream="control", id="bootstrap")


def definition_of(pipeline: Pipeline) -> Definition:
    """What a prediction's values will mean."""
    types = {field.name: CONTRACT_TYPES[field.type] for field in pipeline.contracts[pipeline.question.stream].fields}
    return define(pipeline.service, {name: types[name] for name in pipeline.question.request})


def flavor_named(name: str) -> Flavor:
    """The module of a model family; River is imported only when a model is needed."""
    if name != "river":
        raise Refused(which=f"flavor {name!r}", fix="There is only 'river' so far")
    from registry.flavors import river  # noqa: PLC0415

    return cast(Flavor, river)
