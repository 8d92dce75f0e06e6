"""Dataset versions of a pipeline's home, with what only Rivermill knows: its services, its lines, its terms."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from features import dataset
from features import dataset_store as store
from features.dataset_diff import difference
from features.dataset_known import Known
from features.dataset_range import Range, resolve
from features.dataset_retention import Step, apply_retention, plan_retention
from features.dataset_service import Layout, Service, service_of
from features.views import ServicePlan, compile_views
from journal.body import Definition, Version, decode
from journal.clock import DAY, format_span, format_time
from journal.erasure import erased_within
from journal.errors import UnknownName
from journal.field import Field
from journal.reading import each_of
from journal.record import Kind
from journal.sqlite_reader import SqliteReader
from journal.upcast import Lift, as_stored
from rivermill.build import build_fingerprint
from rivermill.dataset_terms import terms_of
from rivermill.genesis import CONTRACT_TYPES
from rivermill.inspection import reading
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home
from rivermill.view_files import live_files
from rivermill.wiring import control_of

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a build was asked for on the command line.

    Attributes:
        as_of: Journal time in microseconds; None for now.
        window: How far back predictions count, in microseconds; None for all.
        service: Name of a service in views.py; None for the one that predictions name last.
        kind: What it is for.
    """

    as_of: int | None = None
    window: int | None = None
    service: str | None = None
    kind: str = store.ADHOC


class Datasets:
    """The versions of one pipeline."""

    def __init__(self, folder: Path, home: Home) -> None:
        """Look at a pipeline's folder and its home; nothing is read yet."""
        self.folder, self.home, self.root = folder, home, home.datasets

    def plan(self, wanted: Wanted) -> Facts:
        """What a build would read and where its columns would come from; writes nothing."""
        with reading(self.home) as journal:
            pipeline = load_pipeline(self.folder)
            range_ = resolve(journal, journal.end(), wanted.as_of, wanted.window)
            service = self._service(pipeline, journal, range_, wanted.service)
            return {
                "pipeline": self.home.pipeline,
                "kind": wanted.kind,
                **_range_facts(range_),
                "service": service.definition.service,
                "columns": len(service.definition.columns),
                "views": _origins(service, _definitions(journal, range_.through)),
            }

    def build(self, wanted: Wanted) -> Facts:
        """Build a version; one that exists already is given as it is."""
        with reading(self.home) as journal:
            pipeline = load_pipeline(self.folder)
            range_ = resolve(journal, journal.end(), wanted.as_of, wanted.window)
            asked = dataset.Asked(
                first=range_.first,
                as_of=range_.as_of,
                window=range_.window,
                kind=wanted.kind,
                service=self._service(pipeline, journal, range_, wanted.service),
                promised=promised_by(pipeline),
            )
            made = dataset.build(
                journal,
                self.root,
                self.home.pipeline,
                range_.through,
                build_fingerprint(),
                asked,
                known=self._known(journal),
                lift=_lift(pipeline),
            )
        return self._facts(made)

    def table(self) -> Sequence[Facts]:
        """One row per version."""
        with reading(self.home) as journal:
            now = journal.last_at
        return [
            {
                "version": made.version,
                "kind": keeping.kind,
                "storage": keeping.storage,
                "rows": made.rows_out,
                "positives": made.positives,
                "bytes": store.size_of(self.root, made.version),
                "age": format_span((now - keeping.claimed) // DAY * DAY),
                "through": made.through,
                "service": made.service,
            }
            for made in dataset.versions(self.root)
            for keeping in (store.keeping_of(self.root / made.version),)
        ]

    def show(self, version: str) -> Facts:
        """A version's manifest, how it is kept, and which lines were fitted on it."""
        made = dataset.load(self.root, version)
        with reading(self.home) as journal:
            users = [line for line, used in _fitted(journal) if used == version]
        return {**self._facts(made), "fitted_on_it": users}

    def diff(self, one: str, other: str) -> Facts:
        """What differs between two versions."""
        pair = [dataset.load(self.root, version) for version in (one, other)]
        rows = [dataset.read(self.root, version) for version in (one, other)]
        return msgspec.to_builtins(difference(*pair, *rows))  # type: ignore[no-any-return]

    def verify(self, version: str) -> Facts:
        """Rebuild a version and compare; raises Corrupt or NoLongerProvable."""
        made = dataset.load(self.root, version)
        with reading(self.home) as journal:
            lift = _lift(load_pipeline(self.folder)) if made.reconstructed else as_stored
            made = dataset.verify(journal, self.root, version, known=self._known(journal), lift=lift)
        return {
            "version": version,
            "rows": made.rows_out,
            "hash": made.hash,
            "erased": len(erased_within(control_of(self.home).entries(self.home.pipeline), made.through)),
            "verdict": "rebuilt and stored rows both match",
        }

    def restore(self, version: str) -> Facts:
        """Make a version's rows ready to read again, from the archive or from the journal."""
        made = dataset.load(self.root, version)
        with reading(self.home) as journal:
            lift = _lift(load_pipeline(self.folder)) if made.reconstructed else as_stored
            dataset.restore(journal, self.root, version, known=self._known(journal), lift=lift)
        return self.show(version)

    def retain(self, *, apply: bool) -> Sequence[Step]:
        """What retention does with the versions; done only if ``apply``."""
        with reading(self.home) as journal:
            in_use = {used for _, used in _fitted(journal)}
            steps = plan_retention(self.root, terms_of(self.folder), journal.last_at, in_use)
        if apply:
            apply_retention(self.root, steps)
        return steps

    def _facts(self, made: dataset.Manifest) -> Facts:
        facts: Facts = msgspec.to_builtins(made)
        del facts["made_of"]
        keeping = msgspec.to_builtins(store.keeping_of(self.root / made.version))
        times = {name: format_time(facts[name]) for name in ("as_of", "created")}
        window = "all" if made.window is None else format_span(made.window)
        return {**facts, **times, "window": window, **keeping, "claimed": format_time(keeping["claimed"])}

    def _known(self, journal: SqliteReader) -> Known:
        folds = live_files(self.home, control_of(self.home))
        return Known(history=self.home.history(journal.incarnation), folds=folds)

    def _service(self, pipeline: Pipeline, journal: SqliteReader, range_: Range, name: str | None) -> Service:
        """The service by its name, or the newest that the range defines, with its views where they are declared."""
        services = services_of(pipeline)
        if name is not None:
            if name not in services:
                raise UnknownName(which=f"service {name!r}; there are: {', '.join(services)}", fix="Name one of them")
            return _of_plan(pipeline, services[name])
        newest = _definitions(journal, range_.through)[-1]
        plan = next((plan for plan in services.values() if plan.label == newest.service), None)
        return Service(definition=newest) if plan is None else _of_plan(pipeline, plan)


def services_of(pipeline: Pipeline) -> dict[str, ServicePlan]:
    """Every service that a pipeline declares, by name."""
    return compile_views(pipeline.feast_objects, pipeline.contracts, request=pipeline.question.request)[1]


def of_everything(pipeline: Pipeline, kind: str) -> dataset.Asked:
    """A version of all that predictions of the pipeline's own service were joined with, checked by its contract."""
    return dataset.Asked(kind=kind, service=_of_plan(pipeline, pipeline.service), promised=promised_by(pipeline))


def promised_by(pipeline: Pipeline) -> dict[str, Field]:
    """What the contract says of the question's own columns, by column."""
    contract = pipeline.contracts[pipeline.question.stream]
    return {field.name: field for field in contract.fields if field.name in pipeline.question.request}


def _of_plan(pipeline: Pipeline, plan: ServicePlan) -> Service:
    types = {name: CONTRACT_TYPES[field.type] for name, field in promised_by(pipeline).items()}
    return service_of(plan, {name: types[name] for name in pipeline.question.request})


def _definitions(journal: SqliteReader, through: int) -> list[Definition]:
    return [decode(record.body, Definition) for record in each_of(journal, Kind.DEFINITION, through)]


def _fitted(journal: SqliteReader) -> Iterator[tuple[str, str]]:
    """Every line that was fitted on a dataset version, with the version."""
    for record in each_of(journal, Kind.VERSION):
        version = decode(record.body, Version)
        yield version.line, version.dataset


def _range_facts(range_: Range) -> Facts:
    return {
        "first": range_.first,
        "through": range_.through,
        "as_of": format_time(range_.as_of),
        "window": "all" if range_.window is None else format_span(range_.window),
    }


def _origins(service: Service, definitions: Iterable[Definition]) -> Mapping[str, str]:
    """Where each view's columns would come from."""
    layouts = [Layout(service, definition) for definition in definitions]
    missing = Counter(view for layout in layouts for view in layout.missing)
    words = {0: "as predicted", len(layouts): "as known (reconstructed)"}
    return {
        view: words.get(missing[view], "as predicted, or as known (reconstructed)") for view in service.definition.views
    }


def _lift(pipeline: Pipeline) -> Lift:
    return as_stored if pipeline.adapters.is_identity else pipeline.adapters.lift
