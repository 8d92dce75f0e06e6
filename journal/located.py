"""YAML whose values know their lines, and mistakes that say where they stand: all are collected, then raised."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from journal.errors import Misconfigured

Steps = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes of sequences."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A YAML file that was read.

    Attributes:
        name: The file's name, as mistakes spell it.
        value: What it holds, as plain mappings, sequences and scalars.
        lines: The line of every value, counted from 1.
    """

    name: str
    value: Any
    lines: Mapping[Steps, int]

    def place(self, *steps: str | int) -> str:
        """``file:line`` of a value; of the nearest one around it when there is no such value."""
        while steps and steps not in self.lines:
            steps = steps[:-1]
        return f"{self.name}:{self.lines.get(steps, 1)}"


class Mistakes:
    """What is wrong with a folder, gathered until all of it is known."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, place: str, text: str) -> None:
        """Note one mistake; ``place`` is a file or ``file:line``."""
        self.found.append(f"{place}: {text}")

    def raise_all(self, what: str, fix: str) -> None:
        """Raise `Misconfigured` with every mistake, a line each; do nothing when there is none."""
        if self.found:
            number = f"{len(self.found)} mistake{'s' if len(self.found) > 1 else ''} in {what}"
            raise Misconfigured(which="\n  ".join([number, *self.found]), fix=fix)


def read_document(path: Path, mistakes: Mistakes) -> Document | None:
    """Read a YAML file; None, with the mistake noted, when it is not YAML or not a mapping."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        value = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        mistakes.add(f"{path.name}:{line}", f"not YAML: {error.problem}")
        return None
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        mistakes.add(path.name, f"not readable as YAML: {type(error).__name__}")
        return None
    if node is None or not isinstance(value, dict):
        mistakes.add(f"{path.name}:1", "not a mapping of keys to values")
        return None
    for line, key in _repeated_keys(node):
        mistakes.add(f"{path.name}:{line}", f"key {key!r} stands here twice")
    return Document(name=path.name, value=value, lines=dict(_lines(node, ())))


class _Loader(yaml.SafeLoader):
    """YAML without aliases: each value stands where it is read, and a small file cannot unfold into a large one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            message = "aliases are not read here: write the value out"
            mark: yaml.Mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem=message, problem_mark=mark)
        return super().compose_node(parent, index)


def _children(node: yaml.Node) -> Sequence[tuple[str | int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        return [(key.value, value) for key, value in node.value]
    return list(enumerate(node.value)) if isinstance(node, yaml.SequenceNode) else ()


def _lines(node: yaml.Node, steps: Steps) -> Iterator[tuple[Steps, int]]:
    yield steps, node.start_mark.line + 1
    for step, child in _children(node):
        yield from _lines(child, (*steps, step))


def _repeated_keys(node: yaml.Node) -> Iterator[tuple[int, str]]:
    seen: set[str | int] = set()
    for step, child in _children(node):
        if step in seen:
            yield child.start_mark.line + 1, str(step)
        seen.add(step)
        yield from _repeated_keys(child)
