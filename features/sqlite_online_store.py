"""Feast's online store on our SQLite table.

In `feature_store.yaml`: ``online_store: {type: features.sqlite_online_store.SqliteOnlineStore, path: <file>}``. With
``owned: true`` the file belongs to a pipeline's fold. Otherwise it is this plugin's own (one Feast project each).
"""

import threading
from pathlib import Path
from typing import Literal

from feast.repo_config import RepoConfig
from pydantic import Field

from features.guarded_online_store import GuardedConfig, GuardedOnlineStore, path_in
from features.sqlite_shelf import SqliteShelf


class SqliteOnlineStoreConfig(GuardedConfig):
    """Which file; see `GuardedConfig` for the rest.

    Attributes:
        type: Names this plugin.
        path: The SQLite file; a relative one is taken from the repository's folder.
        elsewhere: The files of the views whose rows are not in ``path``, by view: folds of later view sets own them.
    """

    type: Literal["features.sqlite_online_store.SqliteOnlineStore"] = "features.sqlite_online_store.SqliteOnlineStore"
    path: str
    elsewhere: dict[str, str] = Field(default_factory=dict)


class SqliteOnlineStore(GuardedOnlineStore):
    """One connection for each file, behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shelves: dict[Path, SqliteShelf] = {}

    def shelf(self, config: RepoConfig, view: str = "") -> SqliteShelf:
        """The view's file, opened at first; raises `UnknownName` when it is a fold's and not there yet."""
        store = config.online_store
        path = path_in(config, store.elsewhere.get(view, store.path))
        with self._lock:
            if path not in self._shelves:
                self._shelves[path] = SqliteShelf(path, owned=store.owned)
            return self._shelves[path]

    def close_file(self) -> None:
        """Let go of every file; the next call opens it again."""
        with self._lock:
            for shelf in self._shelves.values():
                shelf.close()
            self._shelves.clear()
