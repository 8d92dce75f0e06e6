"""What our Feast online stores have in common: everything but where the rows are.

A view's rows are written through the guard, read with staleness enforced, and kept in the order of its field list. With
``owned: true`` they belong to a pipeline's fold: a push becomes events of the pipeline's journal, and a materialization
may only offer again what the view's history holds.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features.feast_row import Answer, Written, answer_of, check_views, fields_of, key_of, places_of, row_of
from features.owned_view import push_events, verify_offered
from features.rows import Row
from features.stored_row import Wanted, newest
from journal.clock import MICROSECOND
from journal.errors import Refused


class Shelf(Protocol):
    """Where the rows are. Threads may share one."""

    def read(self, wanted: Wanted) -> list[Row | None]:
        """The stored rows asked for, in order, deletes included."""
        ...

    def write(self, view: str, fields: Sequence[str], rows: Sequence[Row], keep: int | None) -> None:
        """Offer rows of distinct keys to the guard, all of them or, on an error, perhaps some.

        Args:
            view: Whose they are.
            fields: What their values follow, each ``name:type``.
            rows: At most one of a key.
            keep: Microseconds behind its event time after which nobody can use a row any more; None for never.

        Raises:
            Refused: The view's rows follow another field list by now.
        """
        ...

    def lay_out(self, view: str, fields: Sequence[str]) -> None:
        """Let a view's rows follow this field list from now on, the stored ones too."""
        ...

    def forget(self, view: str) -> None:
        """Remove all that is stored of a view."""
        ...

    def close(self) -> None:
        """Let go of the file or the connection."""
        ...


class GuardedConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Whose rows they are, and how old an answer may be.

    Attributes:
        owned: Whether a pipeline's fold owns the rows, so that Feast writes none itself.
        socket: Where the owner of that pipeline's journal listens: what is pushed goes there.
        enforce_ttl: Whether a row older than its view's ttl reads as missing. Feast itself never checks.
        now_us: What "now" is for that check, in microseconds: the journal's now of a pipeline with ``clock: events``,
            which may be moved between reads; None is the wall clock.
    """

    owned: bool = False
    socket: str | None = None
    enforce_ttl: bool = True
    now_us: int | None = None


class GuardedOnlineStore(OnlineStore):  # type: ignore[misc]
    """Feast's side of an online store of ours. Feast shares one between all threads of a process."""

    @abstractmethod
    def shelf(self, config: RepoConfig, view: str = "") -> Shelf:
        """Where a view's rows are, opened at first; without a view, where those are that are not elsewhere."""

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads may be awaited."""
        return SupportedAsyncMethods(read=True)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Answer]:
        """One (event time, values by feature) per key, in order; (None, None) where it is missing, deleted or stale."""
        view: str = table.name
        wanted = [(view, key_of(key)) for key in entity_keys]
        rows = self.shelf(config, view).read(wanted)
        oldest = _oldest(config.online_store, table)
        places = places_of(table, requested_features)
        return [answer_of(table, places, row, oldest) for row in rows]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Answer]:
        """The same beside the event loop."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Offer rows to the guard; those of an owned view to its pipeline.

        Feast gives ``progress`` when it materializes, and none when it pushes.

        Raises:
            Refused: The view is owned, and this is neither an event for its journal nor a row of its history.
        """
        names = [feature.name for feature in table.features]
        if config.online_store.owned and progress is None:
            push_events(config, table, data)
            return
        rows = [row_of(names, written) for written in data]
        if config.online_store.owned:
            self.offer_again(config, table, rows)
        else:
            fresh = list(newest(rows).values())
            self.shelf(config).write(table.name, fields_of(table), fresh, self.keep(config, table))
        if progress:
            progress(len(rows))

    def offer_again(self, config: RepoConfig, view: FeatureView, rows: Sequence[Row]) -> None:
        """Take rows of an owned view's history: the fold holds them, or newer ones, so nothing is to be done.

        Raises:
            Refused: One is no row of the history.
        """
        verify_offered(view, rows, self.shelf(config, view.name))

    def keep(self, config: RepoConfig, view: FeatureView) -> int | None:  # noqa: ARG002
        """How many microseconds behind its event time a row is of use; None for ever."""
        return None

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Check the views; where no fold owns the rows also follow changed field lists and forget removed views."""
        check_views(tables_to_keep)
        if config.online_store.owned:
            return
        shelf = self.shelf(config)
        for view in tables_to_keep:
            shelf.lay_out(view.name, fields_of(view))
        for view in tables_to_delete:
            shelf.forget(view.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """Forget every row of these views."""
        if config.online_store.owned:
            raise Refused(
                which="the views of this store belong to a pipeline's fold", fix="Stop the pipeline and remove its home"
            )
        self.update(config, tables, [], [], [], True)


def path_in(config: RepoConfig, path: str) -> Path:
    """A path of the configuration; a relative one is taken from the repository's folder."""
    return Path(config.repo_path or ".") / path


def _oldest(config: GuardedConfig, view: FeatureView) -> int | None:
    """The smallest event time that is not stale yet; None when nothing ever is."""
    if not (config.enforce_ttl and view.ttl):
        return None
    now = time.time_ns() // 1_000 if config.now_us is None else config.now_us
    ttl: int = view.ttl // MICROSECOND
    return now - ttl
