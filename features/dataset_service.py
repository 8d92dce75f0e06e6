"""A feature service as a dataset needs it: its columns, and where each view's rows can be looked up afterwards."""

from collections.abc import Mapping, Sequence

import msgspec

from features.reader import column_name, define
from features.views import ServicePlan
from journal.body import Definition
from journal.errors import Refused


class Schema(msgspec.Struct, frozen=True):
    """`features.rows.ViewSchema`, in lists, as a manifest keeps it."""

    name: str
    join_keys: list[tuple[str, str]]
    fields: list[tuple[str, str]]


class KnownView(msgspec.Struct, frozen=True, kw_only=True):
    """A view whose rows can be joined as they were known.

    Attributes:
        label: ``name@version``.
        digest: SHA-256 of its definition.
        schema: Name of its history, join keys and fields, as (name, type).
        columns: Field -> column of the dataset, in order.
        ttl: Microseconds after which a row counts as missing; 0 where a row never does, or where a stale one is served.
    """

    label: str
    digest: str
    schema: Schema
    columns: dict[str, str]
    ttl: int


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset's columns are.

    Attributes:
        definition: Names and types, in order.
        views: Its views; empty where only what predictions hold is known of the service.
    """

    definition: Definition
    views: list[KnownView] = []

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each view's definition, by label; empty where it is not known."""
        return {view.label: view.digest for view in self.views}


def service_of(plan: ServicePlan, request: Mapping[str, str]) -> Service:
    """A declared service.

    Args:
        plan: The service.
        request: The question's own columns: name to type.
    """
    views = [
        KnownView(
            label=view.label,
            digest=view.digest,
            schema=Schema(view.schema.name, list(view.schema.join_keys), list(view.schema.fields)),
            columns={name: column_name(view, name) for name, _ in view.fields},
            ttl=0 if view.ttl is None or view.stale == "flag" else view.ttl,
        )
        for view in plan.views
    ]
    return Service(definition=define(plan, request), views=views)


class Layout:
    """Where the columns of a wanted service stand among the values of predictions of another, or of the same.

    Attributes:
        columns: For each wanted column its place among the held values; None where it must be looked up.
        missing: By view what must be looked up; empty for the question's own columns.
        is_same: Whether the values can be taken as they stand.
    """

    def __init__(self, wanted: Service, held: Definition) -> None:
        """Compare them: a column is held where the prediction's service has its view at the same version."""
        place = {name: index for index, name in enumerate(held.columns)}
        self.columns: list[int | None] = []
        missing: dict[str, list[str]] = {}
        for name, view in zip(wanted.definition.columns, views_of(wanted.definition), strict=True):
            index = place.get(name) if not view or view in held.views else None
            self.columns.append(index)
            if index is None:
                missing.setdefault(view, []).append(name)
        self.missing = {view: tuple(names) for view, names in missing.items()}
        self.is_same = wanted.definition.columns == held.columns and not missing


def views_of(definition: Definition) -> Sequence[str]:
    """For each column the label of its view; empty for the question's own."""
    labels = {label.rpartition("@")[0]: label for label in definition.views} | {each: each for each in definition.views}
    views = ["" if name in definition.request else name.partition("__")[0] for name in definition.columns]
    foreign = sorted({view for view in views if view and view not in labels})
    if foreign:
        raise Refused(
            which=f"service {definition.service} has columns of {', '.join(foreign)} and no such view",
            fix="Declare the service over that view",
        )
    return [labels[view] if view else "" for view in views]
