"""What computed a number: fingerprints of the libraries and of our own code."""

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOMS = ("journal", "features", "registry", "training", "serving", "rivermill")
_LIBRARIES = ("river", "numpy", "msgspec", "apsw", "feast", "duckdb", "deltalake", "pyarrow")


@cache
def library_fingerprint() -> str:
    """12 hex digits of the Python and library versions whose numbers a fold's state holds."""
    names = [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


@cache
def build_fingerprint() -> str:
    """12 hex digits over the libraries and every source file of the six rooms: what a prediction was computed by."""
    root = Path(__file__).parent.parent
    total = hashlib.sha256(library_fingerprint().encode())
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        total.update(path.relative_to(root).as_posix().encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
