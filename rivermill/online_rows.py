"""Where answers read their features: the fold's own file, or a copy in Redis where the environment names one."""

import os

from features.online_table import OnlineReader
from features.redis_copy import RedisCopy, RedisSource, open_copy, open_source
from rivermill.pipeline import Pipeline
from rivermill.settings import REDIS_VARIABLE, Home


def copy_of(pipeline: Pipeline, incarnation: str) -> RedisCopy | None:
    """What the feature fold keeps like its own table; None when no Redis is named."""
    address = os.environ.get(REDIS_VARIABLE)
    if not address:
        return None
    return open_copy(address, pipeline.name, _life(pipeline, incarnation), [view.name for view in pipeline.views])


def rows_of(pipeline: Pipeline, home: Home, incarnation: str) -> RedisSource | OnlineReader:
    """What a process that answers reads from."""
    address = os.environ.get(REDIS_VARIABLE)
    if not address:
        return OnlineReader(home.fold("features"))
    return open_source(address, pipeline.name, _life(pipeline, incarnation))


def _life(pipeline: Pipeline, incarnation: str) -> str:
    """What the rows follow from: one life of the journal, and the definition of the views."""
    return f"{incarnation}/{pipeline.service.label}"
