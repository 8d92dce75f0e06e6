"""View and service plans: what ``views.py`` of a pipeline declares, checked against the contracts, free of Feast."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from features.aggregates import Aggregate, parse_aggregates
from features.rows import ViewSchema
from journal.clock import MICROSECOND
from journal.errors import Misconfigured

if TYPE_CHECKING:
    from feast import Entity, FeatureService, FeatureView

    from journal.contract import Contract
    from journal.field import Field

WINDOWS = "rivermill.windows"
"""The tag of a window view: its aggregates as JSON. Tags survive Feast's registry."""
STREAM = "rivermill.stream"
"""The tag of a plain view's source: the stream that feeds it."""

STALE = ("default", "fail", "flag")
_FIELD_TYPES = {"Int64": "int64", "Float64": "float64", "String": "string", "Bool": "bool"}
_KEY_TYPES = {"INT64": "int64", "STRING": "string", "BOOL": "bool"}
_CONTRACT_TYPES = {"int64": ("integer",), "float64": ("number", "integer"), "string": ("string",), "bool": ("boolean",)}
_RESERVED = ("event_timestamp", "known_timestamp", "deleted")


class ViewPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A feature view, resolved.

    Attributes:
        name: The view.
        version: Rises when its meaning changes; a live learner keeps the one it learned with.
        join_keys: Names, sorted: the order of a row's key.
        key_types: One of `features.rows.TYPES` per join key.
        fields: (name, type) in declared order: the order of a row's values.
        ttl: After how many microseconds a value is stale; None for never.
        stale: What a reader does then: ``default`` (missing), ``fail``, or ``flag`` (serve it, degraded).
        kind: ``windows`` are computed by tiles; ``plain`` are the newest record itself.
        streams: What feeds it, sorted.
        aggregates: One per field of a window view; empty for a plain one.
    """

    name: str
    version: int = 1
    join_keys: tuple[str, ...]
    key_types: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    ttl: int | None
    stale: Literal["default", "fail", "flag"] = "default"
    kind: Literal["windows", "plain"]
    streams: tuple[str, ...]
    aggregates: tuple[Aggregate, ...] = ()

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the whole definition."""
        return _digest(self)

    @property
    def schema(self) -> ViewSchema:
        """What its rows hold."""
        return ViewSchema(self.name, tuple(zip(self.join_keys, self.key_types, strict=True)), self.fields)


class ServicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A feature service, resolved: its views in order, and the inputs that come from the question itself."""

    name: str
    views: tuple[ViewPlan, ...]
    request: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the service and of every view in it."""
        return _digest([self.name, self.request, [view.digest for view in self.views]])

    @property
    def label(self) -> str:
        """``name@`` and the first 12 digits of the digest: what predictions name."""
        return f"{self.name}@{self.digest[:12]}"


def compile_views(
    objects: Iterable[Any], contracts: "Mapping[str, Contract]", request: Sequence[str] = ()
) -> tuple[tuple[ViewPlan, ...], dict[str, ServicePlan]]:
    """Resolve a pipeline's Feast objects against its contracts.

    Args:
        objects: Entities, feature views and feature services; anything else is passed over.
        contracts: By stream.
        request: The question's own fields, which every service's columns begin with.

    Returns:
        The view plans in the order given, and the service plans by name.

    Raises:
        Misconfigured: With all the mistakes, one a line.
    """
    from feast import Entity, FeatureService, FeatureView  # noqa: PLC0415 (4.6 s, paid already by whoever has objects)

    given = list(objects)
    compiler = _Compiler([each for each in given if isinstance(each, Entity)], contracts)
    views = [compiler.view(each) for each in given if isinstance(each, FeatureView)]
    plans = {view.name: view for view in views}
    services = [compiler.service(each, plans, request) for each in given if isinstance(each, FeatureService)]
    compiler.check_names([view.name for view in views], [service.name for service in services])
    if compiler.mistakes:
        number = f"{len(compiler.mistakes)} mistake{'s' if len(compiler.mistakes) > 1 else ''} in views.py"
        raise Misconfigured(which="\n  ".join([number, *compiler.mistakes]), fix="Mend them all, then try again")
    return tuple(views), {service.name: service for service in services}


class _Compiler:
    """Reads one object at a time and notes every mistake; what it returns is used only when there is none."""

    def __init__(self, entities: "Sequence[Entity]", contracts: "Mapping[str, Contract]") -> None:
        self.mistakes: list[str] = []
        self._entities = {entity.name: entity for entity in entities}
        self._contracts = contracts

    def view(self, view: "FeatureView") -> ViewPlan:
        """A plan, as far as the view can be read."""
        keys = dict(sorted(self._keys(view)))
        fields = tuple((field.name, self._type(view, field.name, str(field.dtype))) for field in view.features)
        declared = view.tags.get(WINDOWS)
        aggregates = self._aggregates(view, declared) if declared else ()
        streams = sorted({each.stream for each in aggregates}) if declared else self._source(view)
        self._check_fields(view, keys, [name for name, _ in fields])
        self._check_streams(view, keys, {} if declared else dict(fields), streams)
        return ViewPlan(
            name=view.name,
            version=self._version(view),
            join_keys=tuple(keys),
            key_types=tuple(keys.values()),
            fields=fields,
            ttl=self._ttl(view),
            stale=self._stale(view),
            kind="windows" if declared else "plain",
            streams=tuple(streams),
            aggregates=tuple(aggregates),
        )

    def service(self, service: "FeatureService", views: Mapping[str, ViewPlan], request: Sequence[str]) -> ServicePlan:
        """A plan over the views that are known."""
        known = []
        for projection in service.feature_view_projections:
            view = views.get(projection.name)
            if view is None:
                self._note(f"service {service.name}", f"view {projection.name!r} is not in views.py")
            elif len(projection.features) != len(view.fields):
                self._note(
                    f"service {service.name}", f"takes a part of view {view.name!r}; a service takes whole views"
                )
            else:
                known.append(view)
        return ServicePlan(name=service.name, views=tuple(known), request=tuple(request))

    def check_names(self, views: Sequence[str], services: Sequence[str]) -> None:
        """A name belongs to one view, or one service."""
        for kind, names in (("view", views), ("service", services)):
            for name, count in Counter(names).items():
                if count > 1:
                    self._note(f"{kind} {name}", f"{count} {kind}s have this name")

    def _note(self, place: str, text: str) -> None:
        self.mistakes.append(f"{place}: {text}")

    def _keys(self, view: "FeatureView") -> Iterator[tuple[str, str]]:
        for name in view.entities:
            entity = self._entities.get(name)
            if entity is None:
                self._note(f"view {view.name}", f"its entity {name!r} is not an object of views.py")
            elif entity.value_type.name not in _KEY_TYPES:
                self._note(f"entity {name}", f"{entity.value_type.name} is no key; use {', '.join(_KEY_TYPES)}")
            else:
                yield entity.join_key, _KEY_TYPES[entity.value_type.name]

    def _type(self, view: "FeatureView", name: str, kind: str) -> str:
        if kind not in _FIELD_TYPES:
            self._note(f"view {view.name}", f"field {name!r} is {kind}; use {', '.join(_FIELD_TYPES)}")
        return _FIELD_TYPES.get(kind, "float64")

    def _aggregates(self, view: "FeatureView", declared: str) -> Sequence[Aggregate]:
        fields = {stream: _open_fields(contract) for stream, contract in self._contracts.items()}
        aggregates, mistakes = parse_aggregates(declared, fields)
        self.mistakes += [f"view {view.name}: {mistake}" for mistake in mistakes]
        return aggregates

    def _source(self, view: "FeatureView") -> Sequence[str]:
        source = view.batch_source
        if source is None or STREAM not in source.tags:
            self._note(f"view {view.name}", "no stream feeds it; give it source=stream(NAME), or make it a window_view")
            return ()
        if source.path != view.name:
            stream = source.tags[STREAM]
            self._note(f"view {view.name}", f"its history is {source.path!r}; write stream({stream!r}, {view.name!r})")
        return (source.tags[STREAM],)

    def _check_fields(self, view: "FeatureView", keys: Mapping[str, str], fields: Sequence[str]) -> None:
        if "__" in view.name:
            self._note(f"view {view.name}", "'__' parts a view from its field in a column's name")
        for name, count in Counter((*keys, *_RESERVED, *fields)).items():
            if count > 1:
                self._note(f"view {view.name}", f"field {name!r} has the name of another field, a join key or a stamp")

    def _check_streams(
        self, view: "FeatureView", keys: Mapping[str, str], fields: Mapping[str, str], streams: Sequence[str]
    ) -> None:
        """Keys and fields must be in every feeding stream, in the clear and of the declared type."""
        for stream in streams:
            contract = self._contracts.get(stream)
            if contract is None:
                if fields:
                    self._note(f"view {view.name}", f"stream {stream!r} has no contract")
                continue
            known = _open_fields(contract)
            for what, wanted in (("join key", keys), ("field", fields)):
                for name, kind in wanted.items():
                    if name not in known:
                        self._note(f"view {view.name}", f"stream {stream!r} has no {what} {name!r} in the clear")
                    elif known[name].type not in _CONTRACT_TYPES[kind]:
                        self._note(f"view {view.name}", f"{what} {name!r} is {kind}, in {stream!r} {known[name].type}")

    def _ttl(self, view: "FeatureView") -> int | None:
        never = view.tags.get("ttl") == "none"
        if bool(view.ttl) == never:
            both = "both a ttl and the tag ttl: none" if never else "no ttl; give it one, or the tag ttl: none"
            self._note(f"view {view.name}", f"it has {both}")
        return None if never or view.ttl is None else view.ttl // MICROSECOND

    def _stale(self, view: "FeatureView") -> Literal["default", "fail", "flag"]:
        stale = view.tags.get("stale", "default")
        if stale not in STALE:
            self._note(f"view {view.name}", f"tag stale is {stale!r}; use {', '.join(STALE)}")
        return stale  # type: ignore[no-any-return]

    def _version(self, view: "FeatureView") -> int:
        version = view.tags.get("version", "1")
        if not version.isdecimal() or int(version) < 1:
            self._note(f"view {view.name}", f"tag version is {version!r}, not a whole number from 1")
            return 1
        return int(version)


def _open_fields(contract: "Contract") -> "dict[str, Field]":
    """What a feature may be made from: a sealed field is in no body (law 14), but for an entity key's pseudonym."""
    return {field.name: field for field in contract.fields if not field.personal or field.entity_key}


def _digest(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
