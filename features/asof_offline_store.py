"""Feast's offline store on our join: point-in-time correct by known time, over Delta history or Parquet files.

In `feature_store.yaml`: ``offline_store: {type: features.asof_offline_store.AsofOfflineStore, history: <folder>}``.
The known time is the source's ``created_timestamp_column``, or its event time when it declares none, and nothing that
was not known yet is joined unless the store is told so. See `features.asof_join` for which row answers, and
`docs/offline-store.md` for what a user of Feast finds here.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import _get_requested_on_demand_feature_views, compute_non_entity_date_range
from pydantic import Field

from features.asof_join import AsofView, Limits
from features.entity_rows import entities_from, entities_of
from features.feast_sources import open_source, save
from features.outbox import DELETED
from features.sharded_join import sharded_join
from features.source_rows import columns_of, in_range, is_history, latest, living, real_keys
from journal.clock import MICROSECOND
from journal.errors import Refused


class AsofOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Where the history lies and what a join may use.

    Attributes:
        type: Names this plugin.
        history: Folder against which relative source paths are resolved.
        memory_limit: DuckDB's cap per join; what does not fit spills to a temporary folder.
        threads: DuckDB's threads per join.
        share_rows: Above so many entity rows a join is done in stretches of time, one after another.
        filter_by_created_timestamp: Whether a row that was created after the moment stays hidden where a call does not
            ask for it, which Feast cannot tell from a call that asks for the opposite.
        stamps: Whether each view also answers with ``<view>__event`` and ``<view>__known`` (int64 microseconds).
    """

    type: Literal["features.asof_offline_store.AsofOfflineStore"] = "features.asof_offline_store.AsofOfflineStore"
    history: str = "history"
    memory_limit: str = "2GB"
    threads: int = 2
    share_rows: int = Field(default=1_000_000, gt=0)
    filter_by_created_timestamp: bool = True
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
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """The features of each entity row as they were known at its timestamp; rows out are rows in, in order.

        ``entity_df`` may also be a query for DuckDB, or None: then there is one row at ``end_date`` for every key of
        which something happened from ``start_date`` on, in the order of the keys.

        Raises:
            Refused: The query fails; without entity rows, views are asked that have different keys.
        """
        known = filter_by_created_timestamp or config.offline_store.filter_by_created_timestamp
        views = [_asof_view(config, view, feature_refs, full_feature_names, not known) for view in feature_views]
        limits = Limits(config.offline_store.memory_limit, config.offline_store.threads)
        if entity_df is None:
            entities = entities_of(views, *compute_non_entity_date_range(feature_views, start_date, end_date))
        elif isinstance(entity_df, str):
            entities = entities_from(entity_df, limits)
        else:
            entities = pa.Table.from_pandas(entity_df, preserve_index=False)
        at = infer_event_timestamp_from_entity_df(_dtypes(entities))
        moments = pc.min_max(entities[at])
        slices = -(-len(entities) // config.offline_store.share_rows)
        return AsofRetrievalJob(
            lambda: sharded_join(entities, at, views, map, slices=slices, limits=limits),
            folder=config.offline_store.history,
            full_feature_names=full_feature_names,
            on_demand_feature_views=_on_demand(feature_views, feature_refs, project, registry),
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
        columns = columns_of(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        stamps = [name for name in (timestamp_field, created_timestamp_column) if name]

        def compute() -> pa.Table:
            rows = in_range(_rows(config, data_source), columns, timestamp_field, start_date, end_date)
            return living(latest(rows, real_keys(join_key_columns), stamps), join_key_columns, columns)

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
        columns = columns_of(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)

        def compute() -> pa.Table:
            rows = in_range(_rows(config, data_source), columns, timestamp_field, start_date, end_date)
            return living(rows, join_key_columns, columns)

        return AsofRetrievalJob(compute)

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Any) -> None:  # noqa: ARG004
        """Refused: a view's history is written by its fold, or by whoever made the source's files."""
        raise Refused(
            which=f"rows for the offline side of view {feature_view.name!r}",
            fix="Send events to its pipeline, or write the source's files with the tool that makes them",
        )

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Write one Parquet file into the destination's folder, named by its rows: the same logs again change nothing.

        Raises:
            Refused: The destination is no folder of files, or wants partitions; the columns are not those of the logs.
        """
        where = logging_config.destination
        if not isinstance(where, FileLoggingDestination) or where.partition_by:
            fix = "Use a FileLoggingDestination without partition_by"
            raise Refused(which=f"logs into {type(where).__name__}", fix=fix)
        rows = ds.dataset(data, format="parquet").to_table() if isinstance(data, Path) else data
        schema = source.get_schema(registry)
        if set(rows.column_names) != set(schema.names):
            which = f"logs with {', '.join(rows.column_names)}"
            raise Refused(which=which, fix=f"Pass the columns {', '.join(schema.names)}")
        rows = rows.select(schema.names).cast(schema).combine_chunks()
        place = f"{where.path}/{_digest(rows)}.parquet"
        save(rows, place, config.offline_store.history, where.s3_endpoint_override, replace=True)

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


def _on_demand(
    views: list[FeatureView], feature_refs: list[str], project: str, registry: BaseRegistry
) -> list[OnDemandFeatureView]:
    joined = {view.projection.name_to_use() for view in views}
    if all(ref.partition(":")[0] in joined for ref in feature_refs):
        return []
    # Not by the registry's cache: it lacks what was applied since, and its lists are kept by the `id` of a copy, which
    # a later copy may have again. Either way Feast leaves a view out without a word.
    found: list[OnDemandFeatureView] = _get_requested_on_demand_feature_views(
        feature_refs, project, registry, allow_cache=False
    )
    return found


def _asof_view(
    config: RepoConfig, view: FeatureView, feature_refs: list[str], full_feature_names: bool, by_event: bool
) -> AsofView:
    source, name = view.batch_source, view.projection.name_alias or view.name
    stored_as = {feature: column for column, feature in source.field_mapping.items()}
    known = source.created_timestamp_column or source.timestamp_field
    asked = [ref.partition(":")[2] for ref in feature_refs if ref.partition(":")[0] == view.projection.name_to_use()]
    prefix = f"{name}__" if full_feature_names else ""
    keys = real_keys(column.name for column in view.entity_columns)
    rows = _rows(config, source)
    ours = is_history(rows.schema)
    return AsofView(
        name=name,
        rows=rows,
        keys={view.projection.join_key_map.get(key, key): stored_as.get(key, key) for key in keys},
        event=stored_as.get(source.timestamp_field, source.timestamp_field),
        known=stored_as.get(known, known),
        fields={stored_as.get(feature, feature): f"{prefix}{feature}" for feature in dict.fromkeys(asked)},
        ttl=view.ttl // MICROSECOND if view.ttl else 0,
        deleted=DELETED if ours else None,
        ordered=ours,
        by_event=by_event,
        stamps=config.offline_store.stamps,
    )


def _digest(rows: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sha256(sink.getvalue()).hexdigest()[:32]


def _dtypes(entities: pa.Table) -> dict[str, Any]:
    frame = entities.schema.empty_table().to_pandas()
    return dict(zip(frame.columns, frame.dtypes, strict=True))
