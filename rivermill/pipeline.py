"""A pipeline's folder, read whole and checked whole: every mistake at once, each with its file and line."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.views import ServicePlan, ViewPlan, compile_views
from journal.contract import Contract, load_contracts
from journal.errors import Misconfigured, UnknownName
from journal.located import Mistakes, read_document
from journal.stage_rule import StageRule, rules_of
from journal.upcast import Adapters
from registry.guard import GuardPolicy
from registry.policy import Policy, policy_of
from rivermill.adapter_file import read_adapters
from rivermill.dataset_terms import read_terms
from rivermill.drift_settings import read_drift
from rivermill.settings import PIPELINES_VARIABLE
from rivermill.source_file import Section, load_module
from rivermill.stage_rules_file import read_stage_rules
from training.label_rule import LabelRule
from training.learner import LearnerSettings
from training.recipe import Recipe, RetrainSettings

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRule:
    """Which stream asks, and what of a question the model sees.

    Attributes:
        stream: Each event of this stream is a question.
        key: The field that its label will carry too.
        service: The feature service that answers need.
        request: Fields of the question that are features themselves.
    """

    stream: str
    key: str
    service: str
    request: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRule:
    """An online line: its family, what makes its untrained model, and how it learns and publishes."""

    flavor: str
    make_model: Callable[[], Any]
    settings: LearnerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """What the journal's owner needs of a pipeline: nothing of its views and models, which take seconds to load."""

    name: str
    starts: tuple[int, int]
    contracts: dict[str, Contract]
    question: QuestionRule

    @property
    def dedup_window(self) -> int:
        """How long the journal remembers ids: the longest that any contract asks for, in microseconds."""
        return max(contract.dedup_window for contract in self.contracts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """One use case, ready to be wired."""

    name: str
    folder: Path
    starts: tuple[int, int]
    contracts: dict[str, Contract]
    adapters: Adapters
    question: QuestionRule
    label: LabelRule
    lines: tuple[LineRule, ...]
    bootstrap: str
    feast_objects: tuple[Any, ...]
    views: tuple[ViewPlan, ...]
    service: ServicePlan
    recorded: Callable[..., Iterator[bytes]] | None
    retrain: RetrainSettings | None
    gate: Policy | None
    quality: tuple[StageRule, ...]

    @property
    def line(self) -> LineRule:
        """The line that answers first."""
        return next(line for line in self.lines if line.settings.line == self.bootstrap)

    @property
    def dedup_window(self) -> int:
        """How long the journal remembers ids: the longest that any contract asks for, in microseconds."""
        return max(contract.dedup_window for contract in self.contracts.values())

    @property
    def lateness(self) -> int:
        """How late an event may correct a window: the longest that any contract allows, in microseconds."""
        return max(contract.lateness for contract in self.contracts.values())


def load_pipeline(folder: Path) -> Pipeline:
    """Read a pipeline's folder.

    Raises:
        UnknownName: There is no such folder.
        Misconfigured: With every mistake in it.
    """
    if not (folder / "pipeline.yaml").exists():
        known = sorted(path.parent.name for path in folder.parent.glob("*/pipeline.yaml"))
        raise UnknownName(
            which=f"pipeline {folder.name!r}; there are: {', '.join(known) or 'none'}",
            fix=f"Name one of them, give a folder with a pipeline.yaml, or set {PIPELINES_VARIABLE}",
        )
    mistakes = Mistakes()
    pipeline = _read(folder, mistakes)
    mistakes.raise_all(f"pipeline {folder.name}", "Mend the lines named, then try again")
    assert pipeline is not None, "a pipeline without mistakes is a pipeline"
    return pipeline


def load_intake(folder: Path) -> IntakeRules:
    """Read of a pipeline's folder what its journal's owner needs.

    Raises:
        Misconfigured: With the mistakes in that.
    """
    mistakes = Mistakes()
    document = read_document(folder / "pipeline.yaml", mistakes)
    contracts = _contracts(folder, mistakes)
    mistakes.raise_all(f"pipeline {folder.name}", "Mend the lines named, then try again")
    assert document is not None, "a document without mistakes is one"
    top = Section(document, mistakes)
    rules = IntakeRules(
        name=top.text("pipeline"), starts=_starts(top), contracts=contracts, question=_question(top.section("question"))
    )
    mistakes.raise_all(f"pipeline {folder.name}", "Mend the lines named, then try again")
    return rules


def _starts(top: Section) -> tuple[int, int]:
    section = top.section("starts")
    window = (section.moment("from"), section.moment("to"))
    section.finish()
    return window


def _read(folder: Path, mistakes: Mistakes) -> Pipeline | None:
    document = read_document(folder / "pipeline.yaml", mistakes)
    if document is None:
        return None
    top = Section(document, mistakes)
    name = top.text("pipeline")
    if not _NAME.fullmatch(name) or name != folder.resolve().name:
        top.wrong("pipeline", f"is {name!r}; it must be its folder's name, of lower-case letters, digits, '_' and '-'")
    top.text("description", default="")
    top.text("clock", among=("events",))
    window = _starts(top)
    question, label = _question(top.section("question")), _label(top.section("label"))
    models = load_module(name, folder / "models.py", mistakes)
    lines = tuple(_line(lines_of, line, models) for lines_of in (top.section("lines"),) for line in lines_of.names())
    bootstrap = top.text("bootstrap")
    names = [line.settings.line for line in lines]
    if bootstrap not in names:
        top.wrong("bootstrap", f"names no line; there are: {', '.join(names) or 'none'}")
    retrain = _retrain(top.section("retrain"), label, models) if top.has("retrain") else None
    gate = _gate(top) if top.has("gate") else None
    if retrain is not None and gate is None:
        top.wrong("retrain", "makes versions that no gate would judge; add a section 'gate'")
    quality = read_stage_rules(top.section("quality"), label) if top.has("quality") else ()
    recorded = _function(top, "recorded", folder, name, mistakes) if top.has("recorded") else None
    # Those who use these sections read them on their own; here they are only checked.
    read_terms(top)
    read_drift(top)
    top.finish()
    contracts = _contracts(folder, mistakes)
    adapters = read_adapters(folder, contracts, mistakes)
    objects, views, service = _views(folder, name, question, contracts, mistakes)
    if contracts:
        _cross_check(top, question, label, contracts)
    if mistakes.found or service is None:
        return None
    return Pipeline(
        name=name,
        folder=folder,
        starts=window,
        contracts=contracts,
        adapters=adapters,
        question=question,
        label=label,
        lines=lines,
        bootstrap=bootstrap,
        feast_objects=objects,
        views=views,
        service=service,
        recorded=recorded,
        retrain=retrain,
        gate=gate,
        quality=rules_of(contracts, quality),
    )


def _question(section: Section) -> QuestionRule:
    rule = QuestionRule(
        stream=section.text("stream"),
        key=section.text("key"),
        service=section.text("service"),
        request=section.texts("request"),
    )
    section.finish()
    return rule


def _label(section: Section) -> LabelRule:
    outcome = section.section("outcome")
    rule = LabelRule(
        stream=section.text("stream"),
        key=section.text("key"),
        outcome=outcome.text("field"),
        at_least=outcome.number("at_least") if outcome.has("at_least") else None,
        wait=section.span("wait"),
        joins=section.text("joins", default="first", among=("first", "last", "all")),  # type: ignore[arg-type]
    )
    outcome.finish()
    section.finish()
    return rule


def _line(lines: Section, name: str, models: Any) -> LineRule:
    section = lines.section(name)
    guard = section.section("guard")
    factory_name = section.text("model")
    factory = getattr(models, factory_name, None)
    if models is not None and not callable(factory):
        section.wrong("model", f"names {factory_name!r}, which models.py does not define")
    settings = LearnerSettings(
        line=name,
        prior=section.number("prior"),
        guard=GuardPolicy(window=guard.whole("window"), minimum=guard.whole("minimum"), factor=guard.number("factor")),
        snapshot_every=section.whole("snapshot_every"),
        checkpoint_every=section.whole("checkpoint_every"),
    )
    rule = LineRule(flavor=section.text("flavor", among=("river",)), make_model=factory or dict, settings=settings)
    if not 0 < settings.prior < 1:
        section.wrong("prior", f"is {settings.prior}, not a probability between 0 and 1")
    guard.finish()
    section.finish()
    return rule


def _retrain(section: Section, label: LabelRule, models: Any) -> RetrainSettings:
    recipes = section.section("recipes")
    settings = RetrainSettings(
        recipes=tuple(_recipe(recipes, name, models) for name in recipes.names()),
        folds=section.whole("folds"),
        test=section.span("test"),
        gap=label.wait,
        every=section.span("every"),
        first=section.span("first"),
    )
    section.finish()
    return settings


def _recipe(recipes: Section, name: str, models: Any) -> Recipe:
    section = recipes.section(name)
    function = section.text("model")
    if models is not None and not callable(getattr(models, function, None)):
        section.wrong("model", f"names {function!r}, which models.py does not define")
    if not _NAME.fullmatch(name):
        recipes.wrong(name, "is no name: lower-case letters, digits, '_' and '-'")
    encoding = section.text("encoding", among=("codes", "dense"))
    section.finish()
    return Recipe(name=name, function=function, encoding=encoding)  # type: ignore[arg-type]


def _gate(top: Section) -> Policy | None:
    section = top.section("gate")
    policy, mistakes = policy_of(section.entries)
    for setting, what in mistakes:
        section.wrong(setting, what)
    return policy


def _function(
    top: Section, setting: str, folder: Path, name: str, mistakes: Mistakes
) -> Callable[..., Iterator[bytes]] | None:
    file, _, function_name = top.text(setting).partition(":")
    module = load_module(name, folder / file, mistakes)
    function = getattr(module, function_name, None)
    if module is not None and not callable(function):
        top.wrong(setting, f"names {function_name!r}, which {file} does not define")
    return function


def _contracts(folder: Path, mistakes: Mistakes) -> dict[str, Contract]:
    try:
        return load_contracts(folder / "contracts")
    except Misconfigured as error:
        _merge(error, mistakes)
        return {}


def _views(
    folder: Path, name: str, question: QuestionRule, contracts: dict[str, Contract], mistakes: Mistakes
) -> tuple[tuple[Any, ...], tuple[ViewPlan, ...], ServicePlan | None]:
    module = load_module(name, folder / "views.py", mistakes)
    if module is None or not contracts:
        return (), (), None
    objects = tuple(value for key, value in vars(module).items() if _is_feast(value) and not key.startswith("_"))
    try:
        views, services = compile_views(objects, contracts, request=question.request)
    except Misconfigured as error:
        _merge(error, mistakes)
        return (), (), None
    return objects, views, services.get(question.service)


def _merge(error: Misconfigured, mistakes: Mistakes) -> None:
    """Take over the mistakes of a part, without the line that counts them."""
    mistakes.found += [line.strip() for line in error.which.split("\n")[1:]]


def _is_feast(value: object) -> bool:
    return type(value).__module__.startswith("feast.") and type(value).__name__ in {
        "Entity",
        "FeatureView",
        "FeatureService",
    }


def _cross_check(top: Section, question: QuestionRule, label: LabelRule, contracts: dict[str, Contract]) -> None:
    """What one file says must be true of another."""
    for setting, stream, fields in (
        ("question", question.stream, (question.key, *question.request)),
        ("label", label.stream, (label.key, label.outcome)),
    ):
        contract = contracts.get(stream)
        if contract is None:
            top.wrong(setting, f"names stream {stream!r}, which has no contract")
            continue
        for field in fields:
            if field not in contract.field_names:
                top.wrong(setting, f"names field {field!r}, which the contract of {stream!r} does not have")
            elif field in contract.personal - contract.pseudonymous:
                top.wrong(setting, f"names field {field!r}, which is personal and therefore sealed")
