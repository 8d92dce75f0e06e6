"""What computed a number: fingerprints of the libraries and of our own code."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from journal.rebuild import Identity
from rivermill.pipeline import Pipeline

ROOMS = ("journal", "features", "registry", "training", "serving", "rivermill")
_LIBRARIES = ("river", "numpy", "msgspec", "apsw", "feast", "duckdb", "deltalake", "pyarrow")


@cache
def library_fingerprint() -> str:
    """12 hex digits of the Python and library versions whose numbers a fold's state holds."""
    names = [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def fold_fingerprint(pipeline: Pipeline) -> str:
    """What a fold's numbers follow from beside its own version: the libraries, and what lifts older records."""
    return "-".join(filter(None, (library_fingerprint(), pipeline.adapters.digest[:12])))


def fold_identity(pipeline: Pipeline, version: int) -> Identity:
    """What a pipeline's fold of this version is today."""
    return Identity(version, fold_fingerprint(pipeline))


@cache
def build_fingerprint() -> str:
    """12 hex digits over the libraries and every source file of the six rooms: what a prediction was computed by."""
    root = Path(__file__).parent.parent
    total = hashlib.sha256(library_fingerprint().encode())
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
