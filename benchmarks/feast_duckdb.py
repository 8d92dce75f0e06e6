"""How long Feast's own duckdb store takes for the questions that `benchmarks.dataset` left in a folder.

Run by the Python of an environment with ``feast[duckdb]``, which is not among our libraries; it needs nothing of ours.
"""

import json
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType

_MEMORY = 8 << 30
_KNOWN, _KEY = "known", "k"


def seconds(folder: Path) -> float:
    """Of one historical read of all questions, after one that warms it up."""
    entity = Entity(name=_KEY, join_keys=[_KEY], value_type=ValueType.INT64)
    views = [_view(entity, path) for path in sorted(folder.glob("view*.parquet"))]
    service = FeatureService(name="s", features=views)
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store=None,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([entity, *views, service])
    questions = pq.read_table(folder / "entities.parquet").to_pandas()

    def ask(rows: Any) -> None:
        found = store.get_historical_features(rows, features=service, full_feature_names=True).to_arrow()
        assert len(found) == len(rows)

    ask(questions.head(100))
    began = time.perf_counter()
    ask(questions)
    return time.perf_counter() - began


def _view(entity: Entity, path: Path) -> FeatureView:
    names = [name for name in pq.read_schema(path).names if name not in (_KEY, _KNOWN)]
    return FeatureView(
        name=path.stem,
        entities=[entity],
        ttl=timedelta(days=365),
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=FileSource(path=str(path), timestamp_field=_KNOWN),
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.stdout.write(json.dumps(seconds(Path(sys.argv[1]))))
