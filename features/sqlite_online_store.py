"""Feast's online store on our SQLite table.

In `feature_store.yaml`: ``online_store: {type: features.sqlite_online_store.SqliteOnlineStore, path: <file>}``. With
``owned: true`` the file belongs to a pipeline's fold. Otherwise it is this plugin's own (one Feast project each).
"""

import threading
from typing import Literal

from feast.repo_config import RepoConfig

from features.guarded_online_store import GuardedConfig, GuardedOnlineStore, path_in
from features.sqlite_shelf import SqliteShelf


class SqliteOnlineStoreConfig(GuardedConfig):
    """Which file; see `GuardedConfig` for the rest.

    Attributes:
        type: Names this plugin.
        path: The SQLite file; a relative one is taken from the repository's folder.
    """

    type: Literal["features.sqlite_online_store.SqliteOnlineStore"] = "features.sqlite_online_store.SqliteOnlineStore"
    path: str


class SqliteOnlineStore(GuardedOnlineStore):
    """One connection behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shelf: SqliteShelf | None = None

    def shelf(self, config: RepoConfig) -> SqliteShelf:
        """The file, opened at first; raises `UnknownName` when it is a fold's and not there yet."""
        with self._lock:
            if self._shelf is None:
                self._shelf = SqliteShelf(path_in(config, config.online_store.path), owned=config.online_store.owned)
            return self._shelf

    def close_file(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            if self._shelf is not None:
                self._shelf.close()
            self._shelf = None
