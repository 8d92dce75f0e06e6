"""A feature service resolved once: which views, which keys from which fields of a question, which columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from features.views import ServicePlan, ViewPlan
from journal.errors import Misconfigured

PYTHON_TYPES: Mapping[str, type] = {"int64": int, "float64": float, "string": str, "bool": bool}
"""What a key of each type is in a question."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is read of one view.

    Attributes:
        view: Its name in the store.
        inputs: The question's fields that make up the key, in the order of the view's sorted join keys.
        key_types: One of `features.rows.TYPES` per input.
        size: How many values a row of the view has.
        picks: Which of them are wanted, by place; None for all.
        columns: What the wanted values are called, one per value.
        ttl: After how many microseconds a value is stale; None for never.
        stale: What becomes of a stale value: ``default`` (missing), ``fail``, or ``flag`` (served, degraded).
    """

    view: str
    inputs: tuple[str, ...]
    key_types: tuple[str, ...]
    size: int
    picks: tuple[int, ...] | None
    columns: tuple[str, ...]
    ttl: int | None
    stale: Literal["default", "fail", "flag"]

    @property
    def whole(self) -> int:
        """How many values a row has that is taken as it is; -1 when only a part of any is."""
        return self.size if self.picks is None else -1

    @property
    def nothing(self) -> list[None]:
        """What stands for the wanted values where they are missing."""
        return [None] * len(self.columns)

    def pick(self, values: Sequence[Any]) -> Sequence[Any]:
        """The wanted values of a row; raises `Misconfigured` when the row was written by another definition."""
        if len(values) != self.size:
            raise Misconfigured(
                which=f"view {self.view!r} has {self.size} fields, its rows hold {len(values)}",
                fix="Open the reader again, or apply the views that wrote these rows",
            )
        return values if self.picks is None else [values[place] for place in self.picks]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Everything about a service that reading needs.

    Attributes:
        request: Fields of the question that are columns themselves, before all others.
        lookups: One per view, in order.
        strict: Whether a key of a wrong type is an error. A pipeline's questions were checked by their contract.
    """

    request: tuple[str, ...]
    lookups: tuple[Lookup, ...]
    strict: bool = False

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(self.columns).items() if count > 1]
        if twice:
            fix = "Rename the feature or the view, or leave the input out of the request"
            raise Misconfigured(which=f"an input or another feature has the name of {', '.join(twice)}", fix=fix)

    @property
    def columns(self) -> list[str]:
        """What the values of an answer are called, in order."""
        return [*self.request, *(column for lookup in self.lookups for column in lookup.columns)]


def plan_of(service: ServicePlan, request: Sequence[str]) -> ReadPlan:
    """The read plan of a pipeline's service: whole views, whose keys are the question's fields of the same names."""
    return ReadPlan(tuple(request), tuple(_lookup(view) for view in service.views))


def column_name(view: str, field: str) -> str:
    """Feast's full feature name, so that a dataset and ``get_historical_features`` agree: ``view__field``."""
    return f"{view}__{field}"


def _lookup(view: ViewPlan) -> Lookup:
    return Lookup(
        view=view.name,
        inputs=view.join_keys,
        key_types=view.key_types,
        size=len(view.fields),
        picks=None,
        columns=tuple(column_name(view.name, name) for name, _ in view.fields),
        ttl=view.ttl,
        stale=view.stale,
    )
