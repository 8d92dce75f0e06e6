"""Where answers read their features: the fold's own file, or a copy in Redis where the environment names one."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from features.online_table import OnlineReader
from features.processor import FeatureFold
from features.reader import Source
from features.redis_copy import RedisCopy, open_copy, open_source
from features.rows import Row
from features.view_sets import FIRST
from journal.checkpoint import place_in
from journal.rebuild import Identity
from rivermill.build import fold_identity
from rivermill.pipeline import Pipeline
from rivermill.settings import REDIS_VARIABLE, Home


class Rows(Source, Protocol):
    """Rows of somebody else, to be let go of at the end."""

    def close(self) -> None:
        """Let go of the file or the connection."""
        ...


class FollowedRows:
    """Rows of a fold that may be rebuilt meanwhile: from the moment it has taken over, those of its new file."""

    def __init__(self, path: Path, open_rows: Callable[[], Rows]) -> None:
        """Open them.

        Args:
            path: The fold's file, which leads to another one when a rebuilt fold takes over.
            open_rows: Opens what is to be read while the path leads where it does.
        """
        self._path, self._open = path, open_rows
        self._file = path.resolve()
        self._rows = open_rows()

    def get_many(self, wanted: Sequence[tuple[str, bytes]]) -> list[Row | None]:
        """See `features.reader.Source`."""
        return self._rows.get_many(wanted)

    def follow(self) -> None:
        """Go over to the file that the path leads to now, if it is another one. Not while somebody reads."""
        file = self._path.resolve()
        if file != self._file:
            with closing(self._rows):
                self._file, self._rows = file, self._open()

    def close(self) -> None:
        """Let go of what is read."""
        self._rows.close()


def copy_of(pipeline: Pipeline, incarnation: str) -> RedisCopy | None:
    """What the feature fold keeps like its own table; None when no Redis is named."""
    address = os.environ.get(REDIS_VARIABLE)
    if not address:
        return None
    life = _life(pipeline, incarnation, fold_identity(pipeline, FeatureFold.version))
    return open_copy(address, pipeline.name, life, [view.name for view in pipeline.views])


def rows_of(pipeline: Pipeline, home: Home, incarnation: str) -> Rows:
    """What a process that answers reads from at this moment."""
    address = os.environ.get(REDIS_VARIABLE)
    if not address:
        return OnlineReader(home.fold(FIRST))
    place = place_in(home.fold(FIRST), FIRST)
    identity = Identity(*place[:2]) if place else fold_identity(pipeline, FeatureFold.version)
    return open_source(address, pipeline.name, _life(pipeline, incarnation, identity))


def followed_rows(pipeline: Pipeline, home: Home, incarnation: str) -> FollowedRows:
    """What a process that answers reads from, whatever takes over meanwhile."""
    return FollowedRows(home.fold(FIRST), lambda: rows_of(pipeline, home, incarnation))


def _life(pipeline: Pipeline, incarnation: str, fold: Identity) -> str:
    """What the rows follow from: one life of the journal, the definition of the views, and what computed them."""
    return f"{incarnation}/{pipeline.service.label}/{fold.name}"
