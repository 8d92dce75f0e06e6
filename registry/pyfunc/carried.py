"""Which files of ours a reader needs, and which distributions they need: found by following the imports in the source.

So what travels with a version is what serves it here, and a list that somebody forgets to extend does not exist.
"""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import journal
import registry

_ROOMS: dict[str, Path] = {room.__name__: Path(room.__path__[0]) for room in (journal, registry)}


class Carried(NamedTuple):
    """What a reader needs.

    Attributes:
        files: Place below the folder that goes on the path, to the file here.
        distributions: What those files import when they are imported themselves, from elsewhere than the standard
            library. (A library that a function imports is for the caller to name: another model may not need it.)
    """

    files: dict[Path, Path]
    distributions: frozenset[str]


def carried(*modules: str) -> Carried:
    """Follow the imports of some modules, themselves included, through our rooms.

    Args:
        modules: Their full names, such as ``registry.pyfunc.linear``.
    """
    found: dict[str, Path] = {}
    foreign: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found[module] = _file(module)
        tree = ast.parse(found[module].read_text())
        foreign |= set(_foreign(tree))
        waiting += [*_ours(tree), *filter(None, [module.rpartition(".")[0]])]
    provided_by = packages_distributions() if foreign else {}
    distributions = frozenset(provided_by[package][0] for package in foreign)
    return Carried({_place(module, file): file for module, file in found.items()}, distributions)


def _ours(tree: ast.Module) -> Iterator[str]:
    """Modules of our rooms that are imported anywhere in a file."""
    for node in ast.walk(tree):
        for name in _names(node):
            if name.partition(".")[0] in _ROOMS and _file(name).exists():
                yield name


def _foreign(tree: ast.Module) -> Iterator[str]:
    """Packages that are imported with the file itself."""
    for node in tree.body:
        for name in _names(node):
            package = name.partition(".")[0]
            if package not in _ROOMS and package not in sys.stdlib_module_names:
                yield package


def _names(node: ast.AST) -> list[str]:
    """What an import statement may name; in ``from a import b``, b may be a module or not."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _file(module: str) -> Path:
    room, *parts = module.split(".")
    path = _ROOMS[room].joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _place(module: str, file: Path) -> Path:
    path = Path(*module.split("."))
    return path / file.name if file.name == "__init__.py" else path.with_suffix(".py")
