"""Feast's online store on our Redis table.

In `feature_store.yaml`: ``online_store: {type: features.redis_online_store.RedisOnlineStore, address: redis://...}``.
With ``owned: true`` the rows are the copy of a fold's table (`features.redis_copy`).
"""

import threading
from collections.abc import Sequence
from typing import Literal

from feast.feature_view import FeatureView
from feast.repo_config import RepoConfig

from features.guarded_online_store import GuardedConfig, GuardedOnlineStore
from features.redis_line import RedisLine
from features.redis_shelf import RedisShelf
from features.redis_table import RedisTable
from features.rows import Row
from journal.clock import DAY, MICROSECOND
from journal.errors import Misconfigured

EXPIRY_GRACE = DAY
"""Microseconds that a row outlives its use in the server: readers' clocks differ from the server's."""


class RedisOnlineStoreConfig(GuardedConfig):
    """Which server; see `GuardedConfig` for the rest.

    Attributes:
        type: Names this plugin.
        address: ``redis://[user][:password]@host[:port][/db]``, ``rediss://...`` for TLS, or ``unix://path[?db=N]``.
        deadline: Seconds that a request may take.
        expire: Whether the server may forget rows a day after they became stale: only with ``enforce_ttl`` and the
            wall clock, and never those of a view that is served stale.
    """

    type: Literal["features.redis_online_store.RedisOnlineStore"] = "features.redis_online_store.RedisOnlineStore"
    address: str
    deadline: float = 5.0
    expire: bool = False


class RedisOnlineStore(GuardedOnlineStore):
    """One connection, made at first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shelf: RedisShelf | None = None

    def shelf(self, config: RepoConfig, view: str = "") -> RedisShelf:  # noqa: ARG002
        """The project's rows, of all views."""
        with self._lock:
            if self._shelf is None:
                store = config.online_store
                self._shelf = RedisShelf(RedisTable(RedisLine(store.address, store.deadline), config.project))
            return self._shelf

    def offer_again(self, config: RepoConfig, view: FeatureView, rows: Sequence[Row]) -> None:
        """Offer rows of the view's history to the guard: they may be what the copy lacks.

        What is in the history only the fold's own file could say. Each row is behind the guard, so none is overwritten
        by an older one.
        """
        self.shelf(config).write_copy(view.name, rows)

    def keep(self, config: RepoConfig, view: FeatureView) -> int | None:
        """Its ttl and a grace, where the server may forget.

        Raises:
            Misconfigured: It may not, since readers could still want the row.
        """
        store = config.online_store
        if not store.expire:
            return None
        if not store.enforce_ttl or store.now_us is not None:
            raise Misconfigured(
                which="expire: true, where rows are read beyond their ttl or at another time than the wall clock's",
                fix="Set enforce_ttl: true and no now_us, or leave expire out",
            )
        stays = not view.ttl or view.tags.get("stale") == "flag"
        return None if stays else view.ttl // MICROSECOND + EXPIRY_GRACE
