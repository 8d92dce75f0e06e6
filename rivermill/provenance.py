"""Where an answer came from: its question, the rows it read, the model, the decision that let it answer, the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from journal.body import Decision, Definition, Prediction, Snapshot, Version, decode
from journal.clock import format_time
from journal.control import NAMING
from journal.errors import UnknownName
from journal.log import START
from journal.reading import ByKind, Readable, decisions_in, each_of, read_one
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from rivermill.build import build_fingerprint
from rivermill.desk import recorded_answer
from rivermill.inspection import reading
from rivermill.pipeline import load_pipeline
from rivermill.progress_bar import Tell
from rivermill.recomputing import Recomputed
from rivermill.recomputing import recompute as recompute_answer
from rivermill.settings import Home

Facts = dict[str, Any]

AT_OFFSET = "@"
"""What an offset begins with where an id may stand."""


def look_up(
    folder: Path, home: Home, which: str, source: str, *, recompute: bool, tell: Tell = lambda _, __: None
) -> Facts:
    """One answer with all that it was made from, as JSON.

    Args:
        folder: The pipeline's.
        home: Where its state is.
        which: The id of its question, or ``@`` and its own offset.
        source: Whose id it is.
        recompute: Whether to compute it again and tell what came of that.
        tell: Told meanwhile how many records of how many were read.

    Raises:
        UnknownName: There is no such answer.
        RivermillError: As `rivermill.recomputing.recompute`.
    """
    with reading(home) as journal:
        record, answer = find_answer(journal, which, source)
        facts = provenance(journal, record, answer)
        if recompute:
            facts["recomputed"] = as_facts(recompute_answer(load_pipeline(folder), home, journal, answer, tell), answer)
        return facts


def find_answer(journal: SqliteReader, which: str, source: str) -> tuple[Record, Prediction]:
    """The prediction at ``@OFFSET``, or the one that answers the question of this id and source.

    Raises:
        UnknownName: There is none.
    """
    if not which.startswith(AT_OFFSET):
        return recorded_answer(journal, source, which)
    offset = which.removeprefix(AT_OFFSET)
    page = journal.read(0, int(offset) - 1, 1) if offset.isdecimal() else []
    if not page or page[0].kind is not Kind.PREDICTION:
        raise UnknownName(
            which=f"a prediction at offset {offset}", fix="`rivermill journal tail --kind prediction` shows offsets"
        )
    return page[0], decode(page[0].body, Prediction)


def provenance(journal: Readable, record: Record, answer: Prediction) -> Facts:
    """All that a recorded answer was made from, as JSON."""
    question = read_one(journal)(answer.question)
    definition = _definition(journal, answer.service)
    stamps = [stamp and [format_time(moment) for moment in stamp] for stamp in answer.stamps]
    return {
        "id": question.id,
        "source": question.source,
        "offset": record.offset,
        "at": format_time(record.at),
        "probability": answer.score,
        "degraded": answer.degraded,
        "question": {"offset": question.offset, "kind": question.kind.value, "at": format_time(question.at)},
        "judged_at": format_time(answer.judged_at(question)),
        "service": answer.service,
        "line": answer.line,
        "model": _model(journal, answer),
        "decision": _decision(journal, answer.control),
        "build": answer.build,
        "features": dict(zip(definition.columns, answer.values, strict=True)),
        "stamps": dict(zip(definition.views, stamps, strict=True)),
    }


def as_facts(recomputed: Recomputed, recorded: Prediction) -> Mapping[str, Any]:
    """What computing it again came to, as JSON."""
    again = recomputed.answer
    told = {"score": (recorded.score, again.score), "degraded": (recorded.degraded, again.degraded)}
    return {
        "verdict": "different" if recomputed.differences else "equal",
        "differences": list(recomputed.differences),
        **{name: {"recorded": was, "recomputed": now} for name, (was, now) in told.items() if was != now},
        "build": build_fingerprint(),
    }


def _definition(journal: ByKind, service: str) -> Definition:
    found = (decode(record.body, Definition) for record in each_of(journal, Kind.DEFINITION))
    return next(definition for definition in found if definition.service == service)


def _model(journal: Readable, answer: Prediction) -> Facts | None:
    """The snapshot or version that answered, with what it was made from; None where the prior did."""
    if answer.snapshot == START:
        return None
    record = read_one(journal)(answer.snapshot)
    facts: Facts = {"offset": record.offset, "kind": record.kind.value, "at": format_time(record.at)}
    if record.kind is Kind.VERSION:
        version = decode(record.body, Version)
        made = {"recipe": version.recipe, "dataset": version.dataset, "job": version.job}
        return {**facts, "digest": version.model, "blob": version.blob, **made}
    snapshot = decode(record.body, Snapshot)
    return {**facts, "digest": snapshot.model, "blob": snapshot.blob, "examples": snapshot.examples}


def _decision(journal: ByKind, sequence: int) -> Facts | None:
    """The decision under which the line answered."""
    for record, decision in decisions_in(journal):
        if decision.sequence == sequence and decision.action in NAMING:
            return _echo(record, decision)
    return None


def _echo(record: Record, decision: Decision) -> Facts:
    return {
        "sequence": decision.sequence,
        "action": decision.action,
        "line": decision.subject,
        "why": decision.why,
        "offset": record.offset,
        "at": format_time(record.at),
    }
