"""Feast's offline store on our join: point-in-time correct by known time, over Delta history or Parquet files.

In `feature_store.yaml`: ``offline_store: {type: features.asof_offline_store.AsofOfflineStore, history: <folder>}``.
The known time is the source's ``created_timestamp_column``, or its event time when it declares none, so nothing that
was not known yet is ever joined, whatever ``filter_by_created_timestamp`` says. See `features.asof_join` for which row
answers, and `docs/offline-store.md` for what a user of Feast finds here.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import compute_non_entity_date_range

from features.asof_join import AsofView, Limits, asof_join
from features.entity_rows import entities_from, entities_of
from features.feast_sources import open_source, save
from features.outbox import DELETED, EVENT, KNOWN
from journal.clock import MICROSECOND, micros_of
from journal.errors import Refused

_OURS = (EVENT, KNOWN, DELETED)
"""A source with these columns is read as history: it obeys the laws of its rows, and its deletes are no values."""


class AsofOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Where the history lies and what a join may use.

    Attributes:
        type: Names this plugin.
        history: Folder against which relative source paths are resolved.
        memory_limit: DuckDB's cap per join; what does not fit spills to a temporary folder.
        threads: DuckDB's threads per join.
        stamps: Whether each view also answers with ``<view>__event`` and ``<view>__known`` (int64 microseconds).
    """

    type: Literal["features.asof_offline_store.AsofOfflineStore"] = "features.asof_offline_store.AsofOfflineStore"
    history: str = "history"
    memory_limit: str = "2GB"
    threads: int = 2
    stamps: bool = False


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A table that is computed when asked for; Feast adds the on-demand views."""

    def __init__(
        self,
        compute: Callable[[], pa.Table],
        *,
        folder: str = ".",
        full_feature_names: bool = False,
        on_demand_feature_views: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self._compute, self._folder = compute, folder
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = list(on_demand_feature_views)
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named ``<view>__<feature>``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The views that Feast computes from this table."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Which features were asked for with which keys."""
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the rows to one Parquet file, whole or not at all; on disk and on S3.

        Raises:
            Refused: The storage is not a file's, or something lies there and may not be overwritten.
        """
        if not isinstance(storage, SavedDatasetFileStorage):
            raise Refused(which=f"a saved dataset in {type(storage).__name__}", fix="Use a SavedDatasetFileStorage")
        where = storage.file_options
        rows = self.to_arrow(timeout=timeout)
        save(rows, where.uri, self._folder, where.s3_endpoint_override, replace=allow_overwrite)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._compute()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame


class AsofOfflineStore(OfflineStore):  # type: ignore[misc]
    """Reads what is there. Writing a view's history is its fold's alone."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = True,  # noqa: ARG004
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The features of each entity row as they were known at its timestamp; rows out are rows in, in order.

        ``entity_df`` may also be a query for DuckDB, or None: then there is one row at ``end_date`` for every key of
        which something happened from ``start_date`` on, in the order of the keys.

        Raises:
            Refused: The query fails; without entity rows, views are asked that have different keys.
        """
        views = [_asof_view(config, view, feature_refs, full_feature_names) for view in feature_views]
        limits = Limits(config.offline_store.memory_limit, config.offline_store.threads)
        if entity_df is None:
            entities = entities_of(views, *compute_non_entity_date_range(feature_views, start_date, end_date))
        elif isinstance(entity_df, str):
            entities = entities_from(entity_df, limits)
        else:
            entities = pa.Table.from_pandas(entity_df, preserve_index=False)
        at = infer_event_timestamp_from_entity_df(_dtypes(entities))
        moments = pc.min_max(entities[at])
        return AsofRetrievalJob(
            lambda: asof_join(entities, at, views, limits),
            folder=config.offline_store.history,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=sorted(set(entities.column_names) - {at}),
                min_event_timestamp=moments["min"].as_py(),
                max_event_timestamp=moments["max"].as_py(),
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Of each key in a range of event time, the row with the largest stamps, unless it is a delete."""
        columns = _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        stamps = [name for name in (timestamp_field, created_timestamp_column) if name]

        def compute() -> pa.Table:
            rows = _in_range(_rows(config, data_source), columns, timestamp_field, start_date, end_date)
            return _living(_latest(rows, _real(join_key_columns), stamps), join_key_columns, columns)

        return AsofRetrievalJob(compute)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row in a range of event time, without deletes and what they ended."""
        columns = _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)

        def compute() -> pa.Table:
            rows = _in_range(_rows(config, data_source), columns, timestamp_field, start_date, end_date)
            return _living(rows, join_key_columns, columns)

        return AsofRetrievalJob(compute)

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Any) -> None:  # noqa: ARG004
        """Refused: a view's history is written by its fold, or by whoever made the source's files."""
        raise Refused(
            which=f"rows for the offline side of view {feature_view.name!r}",
            fix="Send events to its pipeline, or write the source's files with the tool that makes them",
        )

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Raise `UnknownName` when the source is not there."""
        _rows(config, data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> list[tuple[str, str]]:
        """Name and Arrow type of each column."""
        return [(column.name, str(column.type)) for column in _rows(config, data_source).schema]


def _rows(config: RepoConfig, source: DataSource) -> ds.Dataset:
    return open_source(source, config.offline_store.history)


def _asof_view(config: RepoConfig, view: FeatureView, feature_refs: list[str], full_feature_names: bool) -> AsofView:
    source, name = view.batch_source, view.projection.name_alias or view.name
    stored_as = {feature: column for column, feature in source.field_mapping.items()}
    asked = [ref.partition(":")[2] for ref in feature_refs if ref.partition(":")[0] == view.projection.name_to_use()]
    prefix = f"{name}__" if full_feature_names else ""
    keys = _real(column.name for column in view.entity_columns)
    rows = _rows(config, source)
    ours = _is_history(rows.schema)
    return AsofView(
        name=name,
        rows=rows,
        keys={view.projection.join_key_map.get(key, key): stored_as.get(key, key) for key in keys},
        event=source.timestamp_field,
        known=source.created_timestamp_column or source.timestamp_field,
        fields={stored_as.get(feature, feature): f"{prefix}{feature}" for feature in dict.fromkeys(asked)},
        ttl=view.ttl // MICROSECOND if view.ttl else 0,
        deleted=DELETED if ours else None,
        ordered=ours,
        stamps=config.offline_store.stamps,
    )


def _is_history(schema: pa.Schema) -> bool:
    return set(_OURS) <= set(schema.names)


def _real(keys: Iterable[str]) -> list[str]:
    """The keys without the stand-in that Feast gives to a view without entities, and that no row holds."""
    return [key for key in keys if key != DUMMY_ENTITY_ID]


def _dtypes(entities: pa.Table) -> dict[str, Any]:
    frame = entities.schema.empty_table().to_pandas()
    return dict(zip(frame.columns, frame.dtypes, strict=True))


def _columns(keys: list[str], features: list[str], *stamps: str | None) -> list[str]:
    return list(dict.fromkeys([*_real(keys), *features, *filter(None, stamps)]))


def _in_range(
    rows: ds.Dataset, columns: list[str], event: str, start: datetime | None, end: datetime | None
) -> pa.Table:
    kind = pa.timestamp("us", rows.schema.field(event).type.tz)
    wanted = pc.scalar(True)
    if start is not None:
        wanted = wanted & (ds.field(event) >= pa.scalar(_micros(start), kind))
    if end is not None:
        wanted = wanted & (ds.field(event) <= pa.scalar(_micros(end), kind))
    ours = _OURS if _is_history(rows.schema) else ()
    return rows.to_table(columns=list(dict.fromkeys([*columns, *ours])), filter=wanted)


def _micros(moment: datetime) -> int:
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _latest(rows: pa.Table, keys: list[str], stamps: list[str]) -> pa.Table:
    """Equal stamps are decided by the values, so that the order of the files does not matter."""
    values = [name for name in rows.column_names if name not in keys and name not in stamps]
    ranked = rows.sort_by([(name, "ascending") for name in [*stamps, *values]])
    numbered = ranked.select(keys).append_column("#", pa.array(range(len(ranked)), pa.int64()))
    newest = numbered.group_by(keys).aggregate([("#", "max")])["#_max"]
    return ranked.take(newest.drop_null())


def _living(rows: pa.Table, keys: list[str], columns: list[str]) -> pa.Table:
    """Without deletes and what they ended. Feast expects its stand-in key where it asked by no key at all."""
    if not _real(keys):
        rows = rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * len(rows), pa.string()))
        keys, columns = [DUMMY_ENTITY_ID], [*columns, DUMMY_ENTITY_ID]
    if _is_history(rows.schema):
        ended = rows.filter(pc.field(DELETED)).group_by(keys).aggregate([(KNOWN, "max")])
        rows = rows.join(ended, keys, join_type="left outer")
        rows = rows.filter(pc.coalesce(pc.field(KNOWN) > pc.field(f"{KNOWN}_max"), pc.scalar(True)))
    return rows.select(columns)
