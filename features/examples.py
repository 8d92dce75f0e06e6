"""Examples as rows: every prediction of a journal range joined with its end, the features as predicted.

What a prediction holds at the wanted view and version is taken from it, bit for bit. What it does not hold is left
empty here and noted: `features.dataset_known` joins it as it was known at the prediction's ``at``.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.bad_windows import BadWindows
from features.dataset_columns import ARROW_TYPES, Columns
from features.dataset_service import Layout, Service
from features.ends import Ends, Offsets, each_body
from journal import reading
from journal.bodies import Body
from journal.body import Definition, decode
from journal.errors import Refused
from journal.log import START
from journal.record import Kind

__all__ = ["ARROW_TYPES", "Gap", "Readable", "Rows", "collect"]

_ROWS_PER_BATCH = 5_000
_PARTS_AHEAD = 4
"""How many tables may wait to be made: what waits holds the text of its values."""
_INSTANT = pa.timestamp("us", "UTC")
_QUESTION, _SERVICE = "\0question", "\0service"
"""Columns that only a collection has: where a row's question stands, and the number of its service."""


class Readable(reading.Readable, Protocol):
    """A journal to read."""

    @property
    def incarnation(self) -> str:
        """Its life."""
        ...

    def end(self, partition: int = 0) -> int:
        """The last offset."""
        ...


class _Answer(msgspec.Struct, frozen=True, gc=False):
    """Of a prediction's body what a row takes; the values stay text."""

    key: str
    question: int
    service: str
    values: msgspec.Raw
    line: str


_decode_answer = msgspec.json.Decoder(_Answer).decode
_Pair = tuple[Body, _Answer]


@dataclass(frozen=True, slots=True)
class Gap:
    """Columns that some rows' predictions do not hold.

    Attributes:
        view: The label of their view; empty for the question's own.
        columns: Their names.
        rows: Which rows, rising; shape (gaps,).
    """

    view: str
    columns: tuple[str, ...]
    rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows:
    """A dataset's rows before they are written, with the counts that reconcile them to the predictions.

    Attributes:
        table: One row per example, in the order of the predictions.
        service: What its columns are.
        considered: Predictions in the range.
        excluded: Those without a row, by reason.
        lines: Rows by the line that answered.
        questions: Offset of each row's question; shape (rows,).
        gaps: What predictions do not hold, by their service and by view.
    """

    table: pa.Table
    service: Service
    considered: int
    excluded: dict[str, int]
    lines: dict[str, int]
    questions: Offsets
    gaps: list[Gap]

    @property
    def definition(self) -> Definition:
        """What the feature columns mean."""
        return self.service.definition


def collect(journal: Readable, through: int, *, first: int = 0, service: Service | None = None) -> Rows:
    """Join every prediction of a range with its end.

    A prediction that was asked, made or labelled in a window that a quality rule found bad is left out, as
    ``bad_window:<rule>``, where the rule is about that record's stream.

    Columns: ``prediction`` (journal offset), ``at`` (microseconds, UTC), ``key``, the features, ``outcome``,
    ``reconstructed`` (whether some feature is not the prediction's own; `features.dataset_known` fills those).

    Args:
        journal: Where.
        through: The last offset whose record counts; labels behind it are not known yet.
        first: The first offset whose prediction counts.
        service: The columns; by default those of the newest service that the journal defines in the range.

    Raises:
        Refused: The range holds no prediction.
    """
    definitions = _definitions(journal, through)
    wanted = service or Service(definition=definitions[-1])
    by_service = {each.service: each for each in definitions}
    bad = BadWindows(journal, through)
    bodies = each_body(journal, Kind.PREDICTION, first, through)
    with ThreadPoolExecutor(1) as parser:
        collected = _Collected(wanted, by_service, Ends(journal, through, first), parser)
        while batch := [(record, _decode_answer(record.body)) for record in islice(bodies, _ROWS_PER_BATCH)]:
            collected.take(batch, bad)
        return collected.rows()


def _definitions(journal: Readable, through: int) -> list[Definition]:
    records = [record for record in journal.of_kind(Kind.DEFINITION, START, 1_000) if record.offset <= through]
    if not records:
        raise Refused(which="the journal defines no feature service in this range", fix="Play events first")
    return [decode(record.body, Definition) for record in records]


class _Collected:
    """What was taken so far: a table per batch and service, in the journal's order within each.

    Tables are made by a thread of their own, since reading values off their text needs no Python.
    """

    def __init__(self, wanted: Service, definitions: dict[str, Definition], ends: Ends, parser: Executor) -> None:
        self._wanted, self._definitions, self._ends, self._parser = wanted, definitions, ends, parser
        self._held: dict[str, _Held] = {}
        self._parts: list[Future[pa.Table]] = []
        self._excluded, self._lines = Counter[str](), Counter[str]()
        self._considered = 0

    def take(self, batch: Sequence[_Pair], bad: BadWindows) -> None:
        """Take some predictions."""
        self._considered += len(batch)
        offsets = np.fromiter((record.offset for record, _ in batch), np.int64, len(batch))
        places = self._ends.find(offsets)
        self._excluded.update(self._ends.reasons(offsets[places < 0]))
        ended = np.flatnonzero(places >= 0).tolist()
        if bad:
            ended = [index for index in ended if self._is_good(batch[index], int(places[index]), bad)]
        by_service: dict[str, list[int]] = {}
        for index in ended:
            by_service.setdefault(batch[index][1].service, []).append(index)
        for service, indices in by_service.items():
            chosen = [batch[index] for index in indices]
            self._lines.update(answer.line for _, answer in chosen)
            outcomes = self._ends.outcomes[places[indices]]
            self._parts.append(self._parser.submit(_part, self._held_by(service), chosen, outcomes))
        if len(self._parts) > _PARTS_AHEAD:
            self._parts[-_PARTS_AHEAD].result()

    def _is_good(self, pair: _Pair, place: int, bad: BadWindows) -> bool:
        record, answer = pair
        rule = bad.rule_against(
            question=answer.question,
            prediction=record.offset,
            label=int(self._ends.labels[place]),
            example=int(self._ends.examples[place]),
        )
        if rule is not None:
            self._excluded[f"bad_window:{rule}"] += 1
        return rule is None

    def _held_by(self, service: str) -> "_Held":
        if service not in self._held:
            self._held[service] = _Held(len(self._held), self._wanted, service, self._definitions.get(service))
        return self._held[service]

    def rows(self) -> Rows:
        """All that was taken, in the journal's order."""
        if not self._considered:
            raise Refused(which="no prediction in the range", fix="Play events first, or widen the window")
        parts = [part.result() for part in self._parts]
        table = pa.concat_tables(parts or [self._nothing()])
        if len(self._held) > 1:
            table = table.sort_by("prediction")
        return Rows(
            table=table.drop_columns([_QUESTION, _SERVICE]),
            service=self._wanted,
            considered=self._considered,
            excluded=dict(sorted(self._excluded.items())),
            lines=dict(sorted(self._lines.items())),
            questions=table[_QUESTION].to_numpy(),
            gaps=_gaps(list(self._held.values()), table[_SERVICE].to_numpy()),
        )

    def _nothing(self) -> pa.Table:
        return _part(self._held_by(self._wanted.definition.service), (), np.zeros(0, np.bool_))


class _Held:
    """What predictions of one service hold of the wanted one."""

    def __init__(self, number: int, wanted: Service, service: str, definition: Definition | None) -> None:
        self.number = number
        # A service that the journal defines nowhere holds nothing that could be named.
        held = definition or Definition(service=service, request=[], views=[], columns=[])
        self.layout = Layout(wanted, held)
        self.is_partial = any(self.layout.missing)
        self._columns = Columns(held)
        self._wanted = wanted.definition

    def features(self, values: Sequence[msgspec.Raw]) -> dict[str, Any]:
        """The wanted columns; what is not held is null."""
        held = self._columns.read(values)
        pairs = zip(self._wanted.columns, self._wanted.types, self.layout.columns, strict=True)
        return {
            name: held.column(place) if place is not None else pa.nulls(len(values), ARROW_TYPES[kind])
            for name, kind, place in pairs
        }


def _part(held: _Held, chosen: Sequence[_Pair], outcomes: NDArray[np.bool_]) -> pa.Table:
    columns = {
        "prediction": pa.array([record.offset for record, _ in chosen], pa.int64()),
        "at": pa.array([record.at for record, _ in chosen], pa.int64()).view(_INSTANT),
        "key": pa.array([answer.key for _, answer in chosen], pa.string()),
        **held.features([answer.values for _, answer in chosen]),
        "outcome": pa.array(outcomes, pa.bool_()),
        "reconstructed": pa.array(np.full(len(chosen), held.is_partial)),
        _QUESTION: pa.array([answer.question for _, answer in chosen], pa.int64()),
        _SERVICE: pa.array(np.full(len(chosen), held.number, np.int32)),
    }
    return pa.table(columns)


def _gaps(held: Sequence[_Held], services: NDArray[np.int32]) -> list[Gap]:
    return [
        Gap(view, columns, np.flatnonzero(services == number))
        for number, each in enumerate(held)
        for view, columns in each.layout.missing.items()
    ]
