"""Examples as rows: every prediction of a journal range joined with its end, the features as predicted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from features.bad_windows import BadWindows
from journal import reading
from journal.body import Definition, Example, Expired, Prediction, decode
from journal.errors import Refused
from journal.log import START
from journal.reading import each_of
from journal.record import Kind, Record

ARROW_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
_ROWS_PER_BATCH = 2_000


class Readable(reading.Readable, Protocol):
    """A journal to read."""

    @property
    def incarnation(self) -> str:
        """Its life."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """A dataset's rows before they are written, with the counts that reconcile them to the predictions."""

    table: pa.Table
    definition: Definition
    considered: int
    excluded: dict[str, int]


def collect(journal: Readable, through: int) -> Rows:
    """Join every prediction up to ``through`` with its end.

    A prediction that was asked, made or labelled in a window that a quality rule found bad is left out, as
    ``bad_window:<rule>``, where the rule is about that record's stream.

    Columns: ``prediction`` (journal offset), ``at`` (microseconds, UTC), ``key``, the features, ``outcome``.

    Raises:
        Refused: The range holds predictions of more than one feature service, or none at all.
    """
    ends, reasons, joins = _ends(journal, through)
    bad = BadWindows(journal, through)
    definition = _definition(journal, through)
    excluded = Counter[str]()
    batches, considered = [], 0
    for page in _in_batches(_predictions(journal, through)):
        considered += len(page)
        chosen = [(record, body) for record, body in page if record.offset in ends]
        excluded.update(reasons.get(record.offset, "pending") for record, _ in page if record.offset not in ends)
        if bad:
            spoiled = [
                bad.rule_against(question=body.question, prediction=record.offset, **joins[record.offset])
                for record, body in chosen
            ]
            excluded.update(f"bad_window:{rule}" for rule in spoiled if rule is not None)
            chosen = [pair for pair, rule in zip(chosen, spoiled, strict=True) if rule is None]
        _check_service(definition, chosen)
        batches.append(_batch(definition, chosen, ends))
    if not considered:
        raise Refused(which="no prediction in the range", fix="Play events first")
    return Rows(pa.Table.from_batches(batches), definition, considered, dict(sorted(excluded.items())))


def _ends(journal: Readable, through: int) -> tuple[dict[int, bool], dict[int, str], dict[int, dict[str, int]]]:
    """By prediction offset: outcomes, the reasons of those that have none, and where label and example stand."""
    outcomes: dict[int, bool] = {}
    reasons: dict[int, str] = {}
    joins: dict[int, dict[str, int]] = {}
    for record in each_of(journal, Kind.EXAMPLE, through):
        example = decode(record.body, Example)
        outcomes[example.prediction] = example.outcome
        joins[example.prediction] = {"label": example.label, "example": record.offset}
    for record in each_of(journal, Kind.EXPIRED, through):
        expired = decode(record.body, Expired)
        reasons[expired.prediction] = expired.reason
    return outcomes, reasons, joins


def _definition(journal: Readable, through: int) -> Definition:
    records = [record for record in journal.of_kind(Kind.DEFINITION, START, 1_000) if record.offset <= through]
    if not records:
        raise Refused(which="the journal defines no feature service in this range", fix="Play events first")
    return decode(records[-1].body, Definition)


def _predictions(journal: Readable, through: int) -> Iterator[tuple[Record, Prediction]]:
    for record in each_of(journal, Kind.PREDICTION, through):
        yield record, decode(record.body, Prediction)


def _in_batches(pairs: Iterator[tuple[Record, Prediction]]) -> Iterator[list[tuple[Record, Prediction]]]:
    batch: list[tuple[Record, Prediction]] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == _ROWS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _check_service(definition: Definition, rows: Sequence[tuple[Record, Prediction]]) -> None:
    others = {body.service for _, body in rows} - {definition.service}
    if others:
        raise Refused(
            which=f"predictions of {', '.join(sorted(others))} stand beside those of {definition.service}",
            fix="Build one dataset per feature service, with a range that holds only one",
        )


def _batch(definition: Definition, rows: Sequence[tuple[Record, Prediction]], ends: dict[int, bool]) -> pa.RecordBatch:
    features = zip(*(body.values for _, body in rows), strict=True) if rows else [()] * len(definition.columns)
    columns = {
        "prediction": pa.array([record.offset for record, _ in rows], pa.int64()),
        "at": pa.array([record.at for record, _ in rows], pa.timestamp("us", "UTC")),
        "key": pa.array([body.key for _, body in rows], pa.string()),
        **{
            name: pa.array(values, ARROW_TYPES[kind])
            for name, kind, values in zip(definition.columns, definition.types, features, strict=True)
        },
        "outcome": pa.array([ends[record.offset] for record, _ in rows], pa.bool_()),
    }
    return pa.RecordBatch.from_pydict(columns)
