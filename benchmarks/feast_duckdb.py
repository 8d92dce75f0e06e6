"""How long Feast's own duckdb store takes for the questions that another benchmark left in a folder.

Run by the Python of an environment with ``feast[duckdb]``, which is not among our libraries; it needs nothing of ours.
The folder holds ``entities.parquet``, one Parquet file per view, and ``views.json``: for each view its join keys, the
columns of its times (``event``, ``created``) and its ``ttl`` in seconds.
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
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

_MEMORY = 8 << 30
_WARM_UP = 100
_TYPES = {"double": (Float64, None), "int64": (Int64, ValueType.INT64), "string": (String, ValueType.STRING)}


def seconds(folder: Path) -> float:
    """Of one historical read of all questions, after one that warms it up."""
    told: dict[str, Any] = json.loads((folder / "views.json").read_text())
    entities: dict[str, Entity] = {}
    views = [_view(name, view, folder / f"{name}.parquet", entities) for name, view in told.items()]
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
    store.apply([*entities.values(), *views, service])
    questions = pq.read_table(folder / "entities.parquet").to_pandas()

    def ask(rows: Any) -> None:
        found = store.get_historical_features(rows, features=service, full_feature_names=True).to_arrow()
        assert len(found) == len(rows)

    ask(questions.head(_WARM_UP))
    began = time.perf_counter()
    ask(questions)
    return time.perf_counter() - began


def _view(name: str, told: dict[str, Any], path: Path, entities: dict[str, Entity]) -> FeatureView:
    types = {field.name: _TYPES[str(field.type)] for field in pq.read_schema(path) if str(field.type) in _TYPES}
    for key in told["keys"]:
        entities.setdefault(key, Entity(name=key, join_keys=[key], value_type=types[key][1]))
    return FeatureView(
        name=name,
        entities=[entities[key] for key in told["keys"]],
        ttl=None if told["ttl"] is None else timedelta(seconds=told["ttl"]),
        schema=[Field(name=each, dtype=kind) for each, (kind, _) in types.items()],
        source=FileSource(
            name=name, path=str(path), timestamp_field=told["event"], created_timestamp_column=told["created"] or ""
        ),
    )


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.stdout.write(json.dumps(seconds(Path(sys.argv[1]))))
