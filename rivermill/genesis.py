"""How a journal begins, and the rules that it then keeps.

Its first records say whose it is and by what rules its folds are made, what its predictions' columns mean, and which
line answers first. That line is named by the control log's first decision, like every other after it.
"""

from collections.abc import Callable

from features.reader import define
from journal.body import Definition, Genesis, decode, draft_of
from journal.clock import format_span
from journal.control import ControlLog, Entry, echo_of
from journal.errors import Refused
from journal.ledger import Signs
from journal.log import START, Journal
from journal.record import FORMAT, Draft, Kind
from registry.flavor import OnlineFlavor
from rivermill.pipeline import Pipeline

CONTRACT_TYPES = {"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}
LOCAL = "local"
"""The principal of what is done by a process that may read the home itself."""


def begin(
    pipeline: Pipeline,
    definition: Definition,
    journal: Journal,
    control: ControlLog,
    signer: Signs,
    flavor_of: Callable[[str], OnlineFlavor],
) -> None:
    """Write what every journal begins with, or check that it began so.

    Raises:
        Refused: The journal began under other rules, or the control log is another journal's.
    """
    rules = rules_of(pipeline, definition, flavor_of(pipeline.line.flavor))
    if journal.end() == START:
        genesis = Genesis(pipeline=pipeline.name, clock="events", format=FORMAT, rules=rules)
        begins = draft_of(genesis, kind=Kind.GENESIS, stream="journal", id=pipeline.name)
        journal.append([begins, _defines(definition), echo_of(_bootstrap(pipeline, control, signer))])
        return
    began = decode(journal.of_kind(Kind.GENESIS, START, 1)[0].body, Genesis).rules
    changed = [f"{name} (was {began.get(name)}, is {rule})" for name, rule in rules.items() if began.get(name) != rule]
    if changed:
        raise Refused(
            which=f"this journal began under other rules: {'; '.join(changed)}",
            fix="A live line's rules never change: put them back, or start anew with --fresh; "
            "`rivermill features plan` says how a view gets another version beside the one that is there",
        )


def definition_of(pipeline: Pipeline) -> Definition:
    """What a prediction's values will mean."""
    types = {field.name: CONTRACT_TYPES[field.type] for field in pipeline.contracts[pipeline.question.stream].fields}
    return define(pipeline.service, {name: types[name] for name in pipeline.question.request})


def rules_of(pipeline: Pipeline, definition: Definition, flavor: OnlineFlavor) -> dict[str, str]:
    """What the state of the folds follows from, beside the journal: name to canonical text."""
    line = pipeline.line
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


def _bootstrap(pipeline: Pipeline, control: ControlLog, signer: Signs) -> Entry:
    head = control.head(pipeline.name)
    if head is not None and head.sequence > 1:
        raise Refused(
            which=f"the control log knows {head.sequence} decisions about {pipeline.name!r}, and its journal is empty",
            fix="Put the journal back, or start anew with --fresh",
        )
    return control.append(
        pipeline.name,
        expected=0,
        action="bootstrap",
        subject=pipeline.bootstrap,
        why="the pipeline declares it; until its first snapshot the prior answers",
        details={"prior": pipeline.line.settings.prior},
        at=pipeline.starts[0],
        principal=LOCAL,
        key="bootstrap",
        signer=signer,
    )
