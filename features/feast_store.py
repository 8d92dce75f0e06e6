"""A pipeline's Feast project: its registry and our two plugins, configured in code."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feast import FeatureStore


def open_store(
    home: Path,
    project: str,
    online: Path | str,
    history: Path,
    now_us: int | None = None,
    *,
    owned: bool = True,
    socket: Path | None = None,
    elsewhere: Mapping[str, Path] | None = None,
) -> "FeatureStore":
    """Open a project's store; `import feast` takes seconds, so only here.

    Args:
        home: The registry lies at ``feast/registry.sqlite`` below it.
        project: Feast's name for the pipeline.
        online: The file of the fold that owns the views, or with ``owned=False`` one of the plugin's own; or a Redis
            address (``redis://...``), where the fold's table has a copy or the plugin its own rows.
        history: Folder against which the views' relative source paths are resolved.
        now_us: The journal's now in microseconds, for staleness; None is the wall clock. See `set_now`.
        owned: Whether a fold owns what is in ``online``.
        socket: Where the owner of the pipeline's journal listens, so that owned plain views can be pushed to.
        elsewhere: The files of owned views whose rows are not in ``online``, by view: those of later view sets.
    """
    from feast import FeatureStore, RepoConfig  # noqa: PLC0415

    registry = home.absolute() / "feast" / "registry.sqlite"
    registry.parent.mkdir(parents=True, exist_ok=True)
    return FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            # Not cache_mode thread: its thread outlives the store, and what was just applied would be seen late.
            registry={"registry_type": "sql", "path": f"sqlite:///{registry}", "cache_ttl_seconds": 60},
            online_store={
                **_place(online, elsewhere or {}),
                "owned": owned,
                "socket": str(socket.absolute()) if socket else None,
                "enforce_ttl": True,
                "now_us": now_us,
            },
            offline_store={
                "type": "features.asof_offline_store.AsofOfflineStore",
                "history": str(history.absolute()),
            },
            entity_key_serialization_version=3,
        )
    )


def _place(online: Path | str, elsewhere: Mapping[str, Path]) -> dict[str, Any]:
    if isinstance(online, Path):
        return {
            "type": "features.sqlite_online_store.SqliteOnlineStore",
            "path": str(online.absolute()),
            "elsewhere": {view: str(path.absolute()) for view, path in elsewhere.items()},
        }
    return {"type": "features.redis_online_store.RedisOnlineStore", "address": online}


def set_now(store: "FeatureStore", now_us: int) -> None:
    """Move the moment against which the store's online reads judge staleness."""
    store.config.online_store.now_us = now_us


def apply(store: "FeatureStore", objects: Sequence[Any]) -> None:
    """Register entities, views and services; nothing is registered when a view has a type that we cannot hold.

    Raises:
        Misconfigured: Every such field, all at once.
    """
    from feast import FeatureView  # noqa: PLC0415

    from features.feast_row import check_views  # noqa: PLC0415

    check_views([thing for thing in objects if isinstance(thing, FeatureView)])
    store.apply(list(objects))
