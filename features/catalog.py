"""The catalog of a pipeline's feature views: what each says about whom, from what, how fresh, and who relies on it.

Nothing is read here: a catalog is made of the Feast objects and the plans that a pipeline declares, of what the fold's
file holds (`features.catalog_state`), and of the users that only ``rivermill/`` knows.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from features.aggregates import Aggregate, Shape
from features.views import STREAM, WINDOWS, ServicePlan, ViewPlan
from journal.clock import format_span
from journal.errors import Misconfigured

TRUST = ("experimental", "trusted", "deprecated")
"""What the tag ``trust`` of a view may say; the first where it says nothing."""

_OURS = frozenset({WINDOWS, STREAM, "version", "stale", "ttl", "trust"})


class FieldEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: its name, one of `features.rows.TYPES`, and what it is in words."""

    name: str
    type: str
    meaning: str


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the fold holds of a view. Times are in microseconds.

    Attributes:
        entities: Entities that have a row.
        stale: Those whose row is past the view's TTL.
        rows: Rows in history, those that wait to be moved there included.
        newest_event: The largest event time of any row; None where there is none.
        newest_known: The largest known time of any row.
        late: By stream, how many of its events came too late to change any window; streams without such are left out.
    """

    entities: int
    stale: int
    rows: int
    newest_event: int | None
    newest_known: int | None
    late: dict[str, int] = {}


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A line that answers from a view: its name, its kind (``online`` or ``batch``), its state, its model's digest."""

    line: str
    kind: str
    state: str
    model: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One view.

    Attributes:
        view: Its name.
        label: ``name@version``.
        version: Rises when its meaning changes.
        digest: SHA-256 of the definition.
        description: What it says about an entity.
        owner: Whom to ask.
        trust: One of `TRUST`.
        tags: The user's own tags.
        kind: ``windows`` or ``plain``.
        streams: What feeds it.
        keys: Join key to type.
        fields: Its features, in the order of a row's values.
        ttl: Microseconds after which a row is stale; None for never.
        stale: What a reader does then.
        services: The feature services that take it.
        held: What the fold holds; None where the pipeline has not run.
        users: Who relies on it.
    """

    view: str
    label: str
    version: int
    digest: str
    description: str
    owner: str
    trust: Literal["experimental", "trusted", "deprecated"]
    tags: dict[str, str]
    kind: str
    streams: tuple[str, ...]
    keys: dict[str, str]
    fields: tuple[FieldEntry, ...]
    ttl: int | None
    stale: str
    services: tuple[str, ...]
    held: Held | None = None
    users: tuple[User, ...] = ()

    @property
    def ttl_text(self) -> str:
        """The TTL in words."""
        return "none" if self.ttl is None else format_span(self.ttl)


def catalog_of(objects: Iterable[Any], views: Sequence[ViewPlan], services: Iterable[ServicePlan]) -> list[Entry]:
    """What a pipeline declares.

    Args:
        objects: Its Feast objects; those that are no feature views are passed over.
        views: Their plans.
        services: The plans of its services.

    Returns:
        One entry per view, in the order of the plans.

    Raises:
        Misconfigured: A view's tag ``trust`` says something else than `TRUST`.
    """
    declared = {each.name: each for each in objects if type(each).__name__ == "FeatureView"}
    wrong = [f"view {name}: {trust!r}" for name, each in declared.items() if (trust := _trust(each)) not in TRUST]
    if wrong:
        raise Misconfigured(which=f"tag trust of {', '.join(wrong)}", fix=f"Use one of {', '.join(TRUST)}")
    takers = {service.name: {view.label for view in service.views} for service in services}
    return [
        _entry(view, declared[view.name], tuple(name for name, taken in takers.items() if view.label in taken))
        for view in views
    ]


def _trust(declared: Any) -> str:
    return str(declared.tags.get("trust", TRUST[0]))


def _entry(view: ViewPlan, declared: Any, services: tuple[str, ...]) -> Entry:
    meanings = [meaning(each) for each in view.aggregates] or [f"of the newest record of {view.streams[0]}"] * len(
        view.fields
    )
    return Entry(
        view=view.name,
        label=view.label,
        version=view.version,
        digest=view.digest,
        description=declared.description,
        owner=declared.owner,
        trust=_trust(declared),  # type: ignore[arg-type]
        tags={name: value for name, value in declared.tags.items() if name not in _OURS},
        kind=view.kind,
        streams=view.streams,
        keys=dict(zip(view.join_keys, view.key_types, strict=True)),
        fields=tuple(
            FieldEntry(name=name, type=kind, meaning=words)
            for (name, kind), words in zip(view.fields, meanings, strict=True)
        ),
        ttl=view.ttl,
        stale=view.stale,
        services=services,
    )


def meaning(aggregate: Aggregate) -> str:
    """A window feature in words: ``mean of departures.delay over the last 1h, in tiles of 5m``."""
    column = f"{aggregate.stream}.{aggregate.column}"
    match aggregate.kind:
        case "count":
            what = f"number of {aggregate.stream}"
        case "rate":
            what = f"part of {column} at or above {aggregate.at_least:g}"
        case "distinct":
            what = f"number of different values of {column}"
        case "decayed_mean":
            return f"mean of {column}, weights halving every {format_span(aggregate.half_life)}"
        case kind:
            what = f"{kind} of {column}"
    return f"{what} {_window(aggregate)}".rstrip()


def _window(aggregate: Aggregate) -> str:
    shape = aggregate.shape
    if isinstance(shape, Shape) and shape.gap:
        kept = f", the last one kept for {format_span(shape.keep)}" if shape.keep else ""
        return f"in the session (gaps under {format_span(shape.gap)}{kept})"
    if not aggregate.over:
        return ""
    over, tile = format_span(aggregate.over), format_span(aggregate.tile)
    if isinstance(shape, Shape):
        return f"over the last whole {over}"
    return f"since the last whole {over}" if over == tile else f"over the last {over}, in tiles of {tile}"


def with_held(entries: Iterable[Entry], held: Mapping[str, Held]) -> list[Entry]:
    """The same entries with what the fold holds, by view."""
    return [msgspec.structs.replace(entry, held=held.get(entry.view)) for entry in entries]


def with_users(entries: Iterable[Entry], users: Mapping[str, Sequence[User]]) -> list[Entry]:
    """The same entries with who relies on them, by label."""
    return [msgspec.structs.replace(entry, users=tuple(users.get(entry.label, ()))) for entry in entries]


def search(entries: Iterable[Entry], text: str) -> list[Entry]:
    """The entries that hold every word of a text somewhere, upper or lower case; an empty text finds all."""
    words = text.lower().split()
    return [entry for entry in entries if all(word in _text(entry) for word in words)]


def _text(entry: Entry) -> str:
    parts = [
        *(entry.label, entry.description, entry.owner, entry.trust, entry.kind),
        *(*entry.streams, *entry.keys, *entry.services, *entry.tags, *entry.tags.values()),
        *(f"{field.name} {field.type} {field.meaning}" for field in entry.fields),
        *(f"{user.line} {user.state} {user.model}" for user in entry.users),
    ]
    return "\n".join(parts).lower()
