"""The only module that names adapters: it makes a pipeline's journal, folds, stores and registry, and joins them."""

import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from features.feast_store import apply, open_store
from features.history import History
from features.online_table import OnlineTable
from features.outbox import Outbox
from features.processor import FeatureFold
from features.reader import FeatureReader, Source
from features.redis_copy import RedisCopy
from features.view_plan import plan_views, require_kept
from features.view_sets import FIRST, PUBLISH_VIEWS, ViewSet, plans_of
from journal.blobs import DirectoryBlobs, write_durably
from journal.body import Definition
from journal.checkpoint import FoldFile
from journal.control import ControlLog, Entry, echo_of
from journal.erasure import finish_erasures
from journal.errors import Refused
from journal.fold import Fold
from journal.intake import Intake
from journal.log import START, Journal
from journal.privacy import KeyTable
from journal.quality import QualityFold
from journal.reading import Pages, read_one
from journal.rebuild import Followed, Succession, remove_fold
from journal.record import Cause, Record
from journal.restore import checked_missing
from journal.runner import Runner
from journal.sqlite_log import SqliteJournal
from journal.stamp import is_behind
from journal.upcast import Lift, as_stored
from registry.flavor import Flavor, OnlineFlavor
from registry.signing import Signer, Verifier, public_path
from rivermill.build import build_fingerprint, fold_fingerprint, fold_identity
from rivermill.genesis import begin, definition_of
from rivermill.lockstep import Lockstep
from rivermill.online_rows import copy_of
from rivermill.pipeline import Pipeline
from rivermill.settings import Home
from rivermill.view_files import echoed_sets, later_files
from serving.answer import AnswerFold
from serving.answering import Answering
from serving.champion import Champion
from serving.predictor import Predictor
from training.join import JoinFold
from training.learner import Learner

if TYPE_CHECKING:
    from feast import FeatureStore


HISTORY_ROWS_PER_FLUSH = 200_000
FLAVORS = ("river", "batch")
_VERSIONS: Mapping[str, int] = {
    FIRST: FeatureFold.version,
    AnswerFold.name: AnswerFold.version,
    JoinFold.name: JoinFold.version,
    Learner.name: Learner.version,
}
FOLDS = tuple(_VERSIONS)
"""Each has a file, in the order in which a record visits them; `QualityFold` comes behind, where there are rules."""


class FoldJournal(Pages, Followed, Protocol):
    """What folds need of a journal: the owner's own, or one that another process owns."""

    def mark(self, sink: str) -> Cause | None:
        """See `journal.log.Journal.mark`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterViews:
    """A view set that came after the first: its fold, with the way of its rows to history."""

    runner: Runner
    outbox: Outbox
    history: History

    def flush_history(self, at_least: int = 0) -> None:
        """See `Folds.flush_history`."""
        self.history.flush(self.outbox, at_least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """A pipeline's folds, restored and ready to go on."""

    runners: Sequence[Runner]
    features: FeatureFold
    answer: AnswerFold
    join: JoinFold
    learner: Learner
    outbox: Outbox
    table: OnlineTable
    copy: RedisCopy | None
    history: History
    later: Sequence[LaterViews] = ()
    beside: Sequence[Succession] = ()
    """Those that are rebuilt beside the files that are read."""

    def flush_history(self, at_least: int = 0) -> None:
        """Move accepted rows from each outbox to Delta, if there are at least that many in it."""
        self.history.flush(self.outbox, at_least)
        for views in self.later:
            views.flush_history(at_least)

    def close(self) -> None:
        """Let go of the folds' files."""
        for runner in self.runners:
            runner.close()
        if self.copy is not None:
            self.copy.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pipeline, owned by this process and ready to take events."""

    pipeline: Pipeline
    home: Home
    journal: SqliteJournal
    control: ControlLog
    keys: KeyTable
    intake: Intake
    lockstep: Lockstep
    folds: Folds

    def close(self) -> None:
        """Let go of every file, the journal's ownership last."""
        self.folds.close()
        self.keys.close()
        self.journal.close()


def open_run(pipeline: Pipeline, home: Home) -> Run:
    """Own a pipeline's home, restore its folds, and catch up with the journal and the control log.

    Raises:
        OwnedElsewhere, NotWritable, Corrupt, Misconfigured: As the parts say.
        Refused: The pipeline's rules changed under a live line.
        Untrusted: A decision that the journal lacks is not ours: nothing after it is echoed either.
    """
    home.prepare()
    journal = SqliteJournal(home.journal, pipeline.name, dedup_window=pipeline.dedup_window)
    try:
        return _wire(pipeline, home, journal)
    except BaseException:
        journal.close()
        raise


def _wire(pipeline: Pipeline, home: Home, journal: SqliteJournal) -> Run:
    control = _begun(pipeline, home, journal)
    keys = KeyTable(home.keys / "subjects.sqlite")
    intake = Intake(journal, pipeline.contracts, keys, starts=pipeline.starts)
    folds, lockstep = _caught_up(pipeline, home, journal, intake)
    missing = _missing(control, pipeline, home, journal)
    for entry in missing:
        lockstep.land(echo_of(entry))
    if any(entry.action == PUBLISH_VIEWS for entry in missing):
        folds.close()
        folds, lockstep = _caught_up(pipeline, home, journal, intake)
    _register(pipeline, home, journal.incarnation)
    return Run(
        pipeline=pipeline,
        home=home,
        journal=journal,
        control=control,
        keys=keys,
        intake=intake,
        lockstep=lockstep,
        folds=folds,
    )


def make_ready(pipeline: Pipeline, home: Home) -> None:
    """What live processes find: a journal that is begun, every decision's echo, and folds that have caught up.

    Folds of another version catch up in their worker: what they computed is read on until then. Where there is nothing
    to read on, everything is rebuilt first.

    Raises:
        As `open_run`.
    """
    home.prepare()
    with closing(SqliteJournal(home.journal, pipeline.name, dedup_window=pipeline.dedup_window)) as journal:
        control = _begun(pipeline, home, journal)
        if reads_on := _reads_on(pipeline, home, journal):
            journal.append([echo_of(entry) for entry in _missing(control, pipeline, home, journal)])
            open_folds(pipeline, home, journal, beside=True).close()
            _register(pipeline, home, journal.incarnation)
    if not reads_on:
        open_run(pipeline, home).close()


def _reads_on(pipeline: Pipeline, home: Home, journal: SqliteJournal) -> bool:
    """Whether a fold is to be rebuilt while there are rows of every view."""
    views = [each.fold for each in echoed_sets(home, journal, journal.incarnation, pipeline.views).live]
    versions = {**_VERSIONS, **dict.fromkeys(views, FeatureFold.version)}
    successions = {
        name: Succession(home.fold(name), fold_identity(pipeline, version), journal)
        for name, version in versions.items()
    }
    return any(each.is_beside for each in successions.values()) and all(successions[name].is_read for name in views)


def _begun(pipeline: Pipeline, home: Home, journal: SqliteJournal) -> ControlLog:
    control = control_of(home)
    begin(pipeline, definition_of(pipeline), journal, control, signer_of(home), online_flavor)
    with closing(KeyTable(home.keys / "subjects.sqlite")) as keys:
        finish_erasures(control, pipeline.name, keys, verifier_of(home))
    return control


def _missing(control: ControlLog, pipeline: Pipeline, home: Home, journal: SqliteJournal) -> list[Entry]:
    return checked_missing(control, pipeline.name, journal, verifier_of(home))


def _caught_up(pipeline: Pipeline, home: Home, journal: SqliteJournal, intake: Intake) -> tuple[Folds, Lockstep]:
    folds = open_folds(pipeline, home, journal)
    lockstep = Lockstep(journal, intake, folds.runners)
    lockstep.catch_up()
    return folds, lockstep


def open_folds(pipeline: Pipeline, home: Home, journal: FoldJournal, *, beside: bool = False) -> Folds:
    """Restore every fold of a pipeline from its file; `Runner.offset` says how far each had come.

    Args:
        pipeline: Whose.
        home: Where the files are.
        journal: What the folds read.
        beside: Whether a fold that another version wrote is rebuilt beside its file, which is read on until the fold is
            decided to take over; otherwise it is rebuilt in place.

    Raises:
        Refused: A view that the journal's folds compute was changed or removed.
    """
    definition = definition_of(pipeline)
    sets = echoed_sets(home, journal, journal.incarnation, pipeline.views)
    require_kept(plan_views(pipeline.views, sets))
    views = plans_of(sets.first, pipeline.views)
    schemas = [view.schema for view in views]
    shelf = _Shelf(pipeline, home, journal, beside=beside)
    files = {name: shelf.open(name, version) for name, version in _VERSIONS.items()}
    is_read = home.fold(FIRST) not in {each.path for each in shelf.beside}
    copy = copy_of(pipeline, journal.incarnation) if is_read else None
    table = OnlineTable(files["features"].db, copy)
    outbox = Outbox(files["features"].db, schemas)
    features = FeatureFold(views, pipeline.lateness, table, outbox)
    answer = _answer(pipeline, home, journal, definition, table)
    join = JoinFold(pipeline.label, pipeline.question.stream)
    learner = _learner(pipeline, home, journal)
    folds: list[Fold] = [features, answer, join, learner]
    if pipeline.quality:
        quality = QualityFold(pipeline.quality)
        files[quality.name] = shelf.open(quality.name, quality.version)
        folds.append(quality)
    else:
        # What was measured by rules that are gone would count as a reader that stays behind.
        remove_fold(home.fold(QualityFold.name))
    # A runner that never steps (a live worker's) asks less of its journal than the whole port.
    port = cast(Journal, journal)
    live = (each for each in sets.live if each.fold != FIRST)
    later = [open_views(pipeline, home, journal, each, shelf.open(each.fold, FeatureFold.version)) for each in live]
    runners = [Runner(fold, files[fold.name], port, fold_fingerprint(pipeline), lift=_lift(pipeline)) for fold in folds]
    return Folds(
        runners=[*runners, *(each.runner for each in later)],
        features=features,
        answer=answer,
        join=join,
        learner=learner,
        outbox=outbox,
        table=table,
        copy=copy,
        history=History(home.history(journal.incarnation), schemas),
        later=later,
        beside=shelf.beside,
    )


class _Shelf:
    """Opens folds' files to be written."""

    def __init__(self, pipeline: Pipeline, home: Home, journal: FoldJournal, *, beside: bool) -> None:
        self._pipeline, self._home, self._journal = pipeline, home, journal
        self._may_be_beside = beside
        self.beside: list[Succession] = []

    def open(self, name: str, version: int) -> FoldFile:
        path = self._home.fold(name)
        if not self._may_be_beside:
            return FoldFile(path)
        succession = Succession(path, fold_identity(self._pipeline, version), self._journal)
        succession.settle()
        if succession.is_beside:
            self.beside.append(succession)
        return FoldFile(succession.writes)


def open_views(pipeline: Pipeline, home: Home, journal: FoldJournal, each: ViewSet, file: FoldFile) -> LaterViews:
    """Restore the fold of a later view set from its file, or begin it.

    When a set that is still to be published begins, what another set left in the history of its views is removed.
    """
    plans = plans_of(each, pipeline.views)
    schemas = [view.schema for view in plans]
    outbox = Outbox(file.db, schemas)
    fold = FeatureFold(plans, pipeline.lateness, OnlineTable(file.db), outbox, name=each.fold)
    port = cast(Journal, journal)
    runner = Runner(fold, file, port, fold_fingerprint(pipeline), lift=_lift(pipeline), beside=FIRST)
    root = home.history(journal.incarnation)
    if runner.offset == START and not each.published:
        for view in plans:
            shutil.rmtree(root / view.name, ignore_errors=True)
    return LaterViews(runner=runner, outbox=outbox, history=History(root, schemas))


def _lift(pipeline: Pipeline) -> Lift:
    """Where nothing is lifted the runners pay nothing for it."""
    return as_stored if pipeline.adapters.is_identity else pipeline.adapters.lift


def _answer(
    pipeline: Pipeline, home: Home, journal: FoldJournal, definition: Definition, table: OnlineTable
) -> AnswerFold:
    return AnswerFold(
        stream=pipeline.question.stream,
        answering=answering_of(pipeline, definition, table, champion_of(pipeline, home, read_one(journal))),
        is_answered=_is_answered(journal),
    )


def answering_of(pipeline: Pipeline, definition: Definition, source: Source, champion: Champion) -> Answering:
    """What answers are made with."""
    return Answering(
        key=pipeline.question.key,
        definition=definition,
        reader=FeatureReader(pipeline.service, pipeline.question.request, source),
        champion=champion,
        build=build_fingerprint(),
    )


def champion_of(pipeline: Pipeline, home: Home, read_record: Callable[[int], Record]) -> Champion:
    """A champion that has followed nothing yet."""
    return Champion(
        pipeline=pipeline.name,
        flavor_of=flavor_named,
        blobs=DirectoryBlobs(home.blobs),
        verifier=verifier_of(home),
        prior=pipeline.line.settings.prior,
        read_record=read_record,
    )


def predictor_of(pipeline: Pipeline, home: Home) -> Predictor:
    """A predictor without a model."""
    return Predictor(flavor_named, DirectoryBlobs(home.blobs), verifier_of(home), pipeline.line.settings.prior)


def _learner(pipeline: Pipeline, home: Home, journal: FoldJournal) -> Learner:
    line = pipeline.line
    return Learner(
        line.settings,
        make_model=line.make_model,
        flavor=online_flavor(line.flavor),
        blobs=DirectoryBlobs(home.blobs),
        signer=signer_of(home),
        read_prediction=read_one(journal),
    )


def _is_answered(journal: FoldJournal) -> Callable[[Record], bool]:
    def is_answered(question: Record) -> bool:
        return is_behind(Cause(question.partition, question.offset, 0), journal.mark(AnswerFold.name))

    return is_answered


def signer_of(home: Home) -> Signer:
    """Signs with the home's key, created at first."""
    return Signer.open(home.keys / "signing.key")


def verifier_of(home: Home) -> Verifier:
    """Checks what the home's key signed."""
    signer_of(home)
    return Verifier.open(public_path(home.keys / "signing.key"))


def control_of(home: Home) -> ControlLog:
    """The pipeline's control log."""
    return ControlLog(home.control)


def _register(pipeline: Pipeline, home: Home, incarnation: str) -> None:
    """Tell Feast's registry about the views, once: a live journal's views never change."""
    applied = home.feast / "applied"
    if not applied.exists() or applied.read_text() != pipeline.service.label:
        apply(feast_store(home, incarnation), pipeline.feast_objects)
        write_durably(applied, pipeline.service.label.encode())


def feast_store(home: Home, incarnation: str, now: int | None = None) -> "FeatureStore":
    """Feast's own view of a pipeline, with the views that are published at this moment.

    Args:
        home: The pipeline's.
        incarnation: The journal's life.
        now: Judges staleness, in microseconds; None is the wall clock.
    """
    online, later = home.fold(FIRST), later_files(home, control_of(home))
    history = home.history(incarnation)
    return open_store(home.folder, home.pipeline, online, history, now, socket=home.socket, elsewhere=later)


def flavor_named(name: str) -> Flavor:
    """The module of a model family; it is imported only when a model is needed."""
    if name not in FLAVORS:
        raise Refused(which=f"flavor {name!r}", fix=f"There are: {', '.join(FLAVORS)}")
    return cast(Flavor, importlib.import_module(f"registry.flavors.{name}"))


def online_flavor(name: str) -> OnlineFlavor:
    """The module of a family that can learn one example at a time."""
    flavor: Any = flavor_named(name)
    if not hasattr(flavor, "learn_one"):
        raise Refused(which=f"flavor {name!r} does not learn online", fix="Use 'river'")
    return cast(OnlineFlavor, flavor)
