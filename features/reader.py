"""The read path: a feature service resolved once into a read plan, then one round trip per question.

No Feast registry, no protobuf. Staleness is enforced here, since Feast does not: a value older than its view's TTL is
missing, and the view's policy says what then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from features.rows import Row, encode_key
from features.views import ServicePlan, ViewPlan
from journal.body import Definition, Stamp
from journal.errors import UpstreamError


class Source(Protocol):
    """Where rows are: the fold's own table in this process, or its file."""

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        """The newest row of each (view, key), in order; None where there is none."""
        ...


class StaleFeatures(UpstreamError):
    """A view that must not be stale is."""


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
        """Resolve the plan.

        Args:
            service: The views and their columns, in order.
            request: Fields of the question that are columns themselves.
            source: Where the rows are.
        """
        self._source = source
        self._request = tuple(request)
        self._views = [
            (view.name, view.join_keys, view.ttl, view.stale, [None] * len(view.fields)) for view in service.views
        ]

    def read(self, question: Mapping[str, Any], now: int) -> Features:
        """Read every view for one question, as of ``now`` (microseconds).

        Raises:
            StaleFeatures: A view with policy ``fail`` has no fresh value.
        """
        keys = [self._key(question, join_keys) for _, join_keys, _, _, _ in self._views]
        wanted = [(view[0], key) for view, key in zip(self._views, keys, strict=True) if key is not None]
        rows = iter(self._source.get_many(wanted))
        values: list[Any] = [question[name] for name in self._request]
        stamps: list[Stamp | None] = []
        degraded = False
        for key, (name, _, ttl, stale, nothing) in zip(keys, self._views, strict=True):
            row = next(rows) if key is not None else None
            if row is not None and row.values is not None:
                if ttl is None or now - row.event <= ttl:
                    values += row.values
                    stamps.append((row.event, row.known))
                    continue
                if stale == "flag":
                    degraded = True
                    values += row.values
                    stamps.append((row.event, row.known))
                    continue
            if stale == "fail":
                raise StaleFeatures(which=f"view {name!r} has no fresh row for this question", fix="Check its stream")
            values += nothing
            stamps.append(None)
        return Features(values, stamps, degraded)

    def nothing(self, question: Mapping[str, Any]) -> Features:
        """The question's own fields, and nothing else."""
        values: list[Any] = [question[name] for name in self._request]
        for _, _, _, _, missing in self._views:
            values += missing
        return Features(values, [None] * len(self._views), degraded=True)

    def _key(self, question: Mapping[str, Any], join_keys: Sequence[str]) -> bytes | None:
        key = [question[name] for name in join_keys]
        return None if None in key else encode_key(key)


def define(service: ServicePlan, request: Mapping[str, str]) -> Definition:
    """What a prediction's values and stamps will mean: the request's columns (name to type), then each view's."""
    columns, types = list(request), list(request.values())
    for view in service.views:
        columns += [column_name(view, name) for name, _ in view.fields]
        types += [kind for _, kind in view.fields]
    return Definition(
        service=service.label,
        request=list(request),
        views=[view.label for view in service.views],
        columns=columns,
        types=types,
    )


def column_name(view: ViewPlan, field: str) -> str:
    """Feast's full feature name, so that a dataset and ``get_historical_features`` agree: ``view__field``."""
    return f"{view.name}__{field}"
