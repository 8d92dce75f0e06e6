"""From a Feast project to what the fast reader needs: a read plan and a place to read from."""

from collections.abc import Mapping, Sequence
from typing import Literal

from feast import FeatureService, FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID
from feast.feature_view_projection import FeatureViewProjection

from features.feast_row import KEY_TYPES, check_views
from features.guarded_online_store import path_in
from features.online_table import OnlineReader
from features.read_plan import Lookup, ReadPlan, column_name
from features.reader import Source
from features.redis_copy import RedisSource
from features.redis_line import RedisLine
from features.redis_online_store import RedisOnlineStoreConfig
from features.redis_shelf import LIFE
from features.redis_table import RedisTable
from features.rows import Row
from features.sqlite_online_store import SqliteOnlineStoreConfig
from features.views import STALE
from journal.clock import MICROSECOND
from journal.errors import Misconfigured, StoreDown, UnknownName


def resolve(store: FeatureStore, service: str, request: Sequence[str]) -> ReadPlan:
    """The read plan of a registered service; raises as `features.reader.open_reader`."""
    found = _service(store, service)
    lookups = tuple(_lookup(store, projection) for projection in found.feature_view_projections)
    inputs = {name for lookup in lookups for name in lookup.inputs}
    plan = ReadPlan(tuple(request), lookups, strict=True)
    clash = sorted(inputs.intersection(column for lookup in lookups for column in lookup.columns))
    if clash:
        raise Misconfigured(which=f"a join key has the name of feature {', '.join(clash)}", fix="Rename the feature")
    return plan


def source_of(store: FeatureStore) -> Source:
    """Where the rows of a project are; raises as `features.reader.open_reader`."""
    config = store.config.online_store
    match config:
        case SqliteOnlineStoreConfig():
            first = OnlineReader(path_in(store.config, config.path))
            paths = {view: path_in(store.config, path) for view, path in config.elsewhere.items()}
            readers = {path: OnlineReader(path) for path in sorted(set(paths.values()))}
            return _Spread(first, {view: readers[path] for view, path in paths.items()}) if paths else first
        case RedisOnlineStoreConfig():
            table = RedisTable(RedisLine(config.address, config.deadline), store.config.project)
            return RedisSource(table, _life(table) if config.owned else None, config.deadline)
    raise Misconfigured(
        which=f"online store {type(config).__name__}",
        fix="The fast reader reads SqliteOnlineStore and RedisOnlineStore",
    )


class _Spread:
    """The rows of views that several folds keep, each in its file."""

    def __init__(self, first: Source, elsewhere: Mapping[str, Source]) -> None:
        self._first, self._elsewhere = first, elsewhere

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        """See `features.reader.Source`."""
        places: dict[Source, list[int]] = {}
        for place, (view, _) in enumerate(wanted):
            places.setdefault(self._elsewhere.get(view, self._first), []).append(place)
        found: list[Row | None] = [None] * len(wanted)
        for source, some in places.items():
            for place, row in zip(some, source.get_many([wanted[place] for place in some]), strict=True):
                found[place] = row
        return found


def _life(table: RedisTable) -> str:
    life = table.get(table.place(LIFE))
    if life is None:
        raise StoreDown(which="Redis holds no copy of the fold's table yet", fix="Let the pipeline's worker run")
    return life.decode()


def _service(store: FeatureStore, name: str) -> FeatureService:
    try:
        return store.get_feature_service(name)
    except FeastObjectNotFoundException as error:
        known = ", ".join(sorted(each.name for each in store.list_feature_services()))
        raise UnknownName(which=f"feature service {name!r}", fix=f"There are: {known}") from error


def _view(store: FeatureStore, projection: FeatureViewProjection) -> FeatureView:
    on_demand = {view.name for view in store.list_on_demand_feature_views()}
    if projection.name in on_demand:
        raise Misconfigured(
            which=f"{projection.name!r} is computed on demand", fix="Take it out of the service, or read through Feast"
        )
    try:
        view = store.get_feature_view(projection.name)
    except FeastObjectNotFoundException as error:
        raise UnknownName(which=f"feature view {projection.name!r}", fix="Apply it, or mend the service") from error
    check_views([view])
    return view


def _lookup(store: FeatureStore, projection: FeatureViewProjection) -> Lookup:
    view = _view(store, projection)
    wanted = [feature.name for feature in projection.features]
    places = {feature.name: place for place, feature in enumerate(view.features)}
    lacking = [name for name in wanted if name not in places]
    if lacking:
        which = f"feature {', '.join(lacking)} of view {view.name!r}"
        raise UnknownName(which=which, fix=f"It has: {', '.join(places)}")
    keys = sorted((column.name, str(column.dtype)) for column in view.entity_columns if column.name != DUMMY_ENTITY_ID)
    alias = projection.name_to_use()
    return Lookup(
        view=view.name,
        inputs=tuple(projection.join_key_map.get(name, name) for name, _ in keys),
        key_types=tuple(KEY_TYPES[kind] for _, kind in keys),
        size=len(places),
        picks=None if wanted == list(places) else tuple(places[name] for name in wanted),
        columns=tuple(column_name(alias, name) for name in wanted),
        ttl=view.ttl // MICROSECOND if view.ttl else None,
        stale=_stale(view),
    )


def _stale(view: FeatureView) -> Literal["default", "fail", "flag"]:
    stale = view.tags.get("stale", STALE[0])
    if stale not in STALE:
        raise Misconfigured(which=f"view {view.name!r}: tag stale is {stale!r}", fix=f"Use {', '.join(STALE)}")
    return stale  # type: ignore[no-any-return]
