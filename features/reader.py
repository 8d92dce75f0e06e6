"""The read path: a feature service resolved once into a read plan, then one round trip for all views and questions.

No Feast registry, no protobuf. Staleness is enforced here, since Feast does not: a value older than its view's TTL is
missing, and the view's policy says what then.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from features.read_plan import PYTHON_TYPES, Lookup, ReadPlan, plan_of
from features.read_plan import column_name as name_column
from features.rows import Row, encode_key
from features.views import ServicePlan, ViewPlan
from journal.body import Definition, Stamp
from journal.errors import CallerError, UpstreamError

if TYPE_CHECKING:
    from feast import FeatureStore


NEVER = 1 << 64
"""Microseconds: no row is that old."""


class Source(Protocol):
    """Where rows are: the fold's own table in this process, its file, or Redis."""

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        """The newest row of each (view, key), in order; None where there is none. Raises `StoreDown`."""
        ...


class StaleFeatures(UpstreamError):
    """A view that must not be stale is."""


class WrongQuestion(CallerError):
    """This question lacks an input, or has one of another type."""

    status = 422


@dataclass(frozen=True, slots=True)
class Features:
    """What one question gets.

    Attributes:
        values: One per column of the definition; None is missing.
        stamps: One per view: (event, known) of the row that was read; None where there was none, or a stale one.
        degraded: Whether a stale value was served and flagged.
    """

    values: list[Any]
    stamps: list[Stamp | None]
    degraded: bool


class FeatureReader:
    """Answers "what is known about this question now" from a read plan."""

    def __init__(self, service: ServicePlan, request: Sequence[str], source: Source) -> None:
        """Resolve a pipeline's service.

        Args:
            service: The views and their columns, in order.
            request: Fields of the question that are columns themselves.
            source: Where the rows are.

        Raises:
            Misconfigured: A feature has the name of an input.
        """
        self._follow(plan_of(service, request), source)

    @classmethod
    def of(cls, plan: ReadPlan, source: Source) -> "FeatureReader":
        """A reader of a plan that was resolved elsewhere."""
        reader = cls.__new__(cls)
        reader._follow(plan, source)
        return reader

    def _follow(self, plan: ReadPlan, source: Source) -> None:
        self.plan, self._source = plan, source
        # Views that share a key share its encoding.
        inputs = list(dict.fromkeys(lookup.inputs for lookup in plan.lookups))
        self._inputs = inputs
        self._lookups = [
            (
                lookup,
                lookup.view,
                inputs.index(lookup.inputs),
                NEVER if lookup.ttl is None else lookup.ttl,
                lookup.whole,
            )
            for lookup in plan.lookups
        ]

    @property
    def columns(self) -> list[str]:
        """What the values are called, in order."""
        return self.plan.columns

    def read(self, question: Mapping[str, Any], now: int) -> Features:
        """Read every view for one question, as of ``now`` (microseconds).

        Raises:
            StaleFeatures: A view with policy ``fail`` has no fresh value.
            WrongQuestion: An input is not there, or a key is of another type (where the plan is strict).
            StoreDown: The store does not answer; see `nothing`.
        """
        keys = self._keys(question)
        rows = self._source.get_many(
            [(view, key) for _, view, n, _, _ in self._lookups if (key := keys[n]) is not None]
        )
        return self._features(question, keys, iter(rows), now)

    def read_many(self, questions: Sequence[Mapping[str, Any]], now: int) -> list[Features]:
        """Read every view for every question, in one round trip for all; raises as `read`."""
        keyed = [(question, self._keys(question)) for question in questions]
        wanted = [
            (view, key) for _, keys in keyed for _, view, n, _, _ in self._lookups if (key := keys[n]) is not None
        ]
        rows = iter(self._source.get_many(wanted))
        return [self._features(question, keys, rows, now) for question, keys in keyed]

    def nothing(self, question: Mapping[str, Any]) -> Features:
        """The question's own fields, and nothing else: what is left while the store is down."""
        values = self._request(question)
        missing = [None] * (len(self.columns) - len(values))
        return Features(values + missing, [None] * len(self._lookups), degraded=True)

    def _keys(self, question: Mapping[str, Any]) -> list[bytes | None]:
        """The encoded key of each distinct set of inputs; None where one of them is null."""
        try:
            found = [[question[name] for name in names] for names in self._inputs]
        except KeyError as error:
            raise _lacks(error) from error
        try:
            return [None if None in values else encode_key(values) for values in found]
        except (OverflowError, TypeError) as error:
            raise WrongQuestion(which=f"a key cannot be stored ({error})", fix=_FIX) from error

    def _request(self, question: Mapping[str, Any]) -> list[Any]:
        try:
            return [question[name] for name in self.plan.request]
        except KeyError as error:
            raise _lacks(error) from error

    def _features(
        self, question: Mapping[str, Any], keys: Sequence[bytes | None], rows: Iterator[Row | None], now: int
    ) -> Features:
        values = self._request(question)
        stamps: list[Stamp | None] = []
        degraded = False
        for lookup, _, n, ttl, whole in self._lookups:
            row = next(rows) if keys[n] is not None else None
            if row is not None:
                _, event, known, found = row
                is_fresh = now - event <= ttl
                if found is not None and (is_fresh or lookup.stale == "flag"):
                    degraded |= not is_fresh
                    values += found if len(found) == whole else lookup.pick(found)
                    stamps.append((event, known))
                    continue
            self._note_missing(question, lookup, row)
            values += lookup.nothing
            stamps.append(None)
        return Features(values, stamps, degraded)

    def _note_missing(self, question: Mapping[str, Any], lookup: Lookup, row: Row | None) -> None:
        if row is None and self.plan.strict:
            _require_types(question, lookup)
        if lookup.stale == "fail":
            raise StaleFeatures(
                which=f"view {lookup.view!r} has no fresh row for this question", fix="Check its stream"
            )


def open_reader(store: "FeatureStore", service: str, request: Sequence[str] = ()) -> FeatureReader:
    """A reader for a Feast project over one of our online stores, with or without a pipeline.

    Args:
        store: Its registry is read now and never again.
        service: The name of a feature service.
        request: Fields of the question that become columns of their own, before the features.

    Raises:
        UnknownName: There is no such service, or a view of it is gone.
        Misconfigured: The store is not one of ours, a feature has the name of an input, or the service computes
            features on demand.
        StoreDown: The Redis copy of a fold's table is not there.
    """
    from features.feast_reader import resolve, source_of  # noqa: PLC0415 (imports Feast)

    return FeatureReader.of(resolve(store, service, request), source_of(store))


def define(service: ServicePlan, request: Mapping[str, str]) -> Definition:
    """What a prediction's values and stamps will mean: the request's columns (name to type), then each view's."""
    types = list(request.values())
    for view in service.views:
        types += [kind for _, kind in view.fields]
    return Definition(
        service=service.label,
        request=list(request),
        views=[view.label for view in service.views],
        columns=plan_of(service, list(request)).columns,
        types=types,
    )


def column_name(view: ViewPlan, field: str) -> str:
    """What a view's field is called among the columns; see `features.read_plan.column_name`."""
    return name_column(view.name, field)


def _require_types(question: Mapping[str, Any], lookup: Lookup) -> None:
    """A key of a wrong type is never found, since it is written in other bytes: so this is asked of misses only."""
    for name, kind in zip(lookup.inputs, lookup.key_types, strict=True):
        value = question[name]
        if value is not None and type(value) is not PYTHON_TYPES[kind]:
            raise WrongQuestion(which=f"{name!r} is {type(value).__name__}, view {lookup.view!r} has {kind}", fix=_FIX)


def _lacks(error: KeyError) -> WrongQuestion:
    return WrongQuestion(which=f"there is no {error.args[0]!r}", fix=_FIX)


_FIX = "Send every join key and request field, each of its declared type"
