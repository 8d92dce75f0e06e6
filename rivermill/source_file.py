"""A pipeline's own files: settings read with their lines, Python loaded under names of its own."""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from journal.clock import parse_span, parse_time
from journal.errors import Misconfigured
from journal.located import Document, Mistakes, Steps

T = TypeVar("T")


class Section:
    """A mapping of a document that remembers which of its entries were asked for."""

    def __init__(self, document: Document, mistakes: Mistakes, steps: Steps = ()) -> None:
        self._document, self._mistakes, self._steps = document, mistakes, steps
        self._asked: set[str] = set()
        value: Any = document.value
        for step in steps:
            value = value.get(step) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            self._note(steps, "must be a mapping of settings")
        self._entries: dict[str, Any] = value if isinstance(value, dict) else {}

    def text(self, name: str, *, default: str | None = None, among: tuple[str, ...] = ()) -> str:
        """A string, one of ``among`` if given."""
        value = self._read(name, str, default, "")
        if among and value not in among:
            self.wrong(name, f"is {value!r}, not one of: {', '.join(among)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        return self._read(name, _texts, (), ())

    def number(self, name: str, *, default: float | None = None) -> float:
        """A number."""
        return self._read(name, float, default, 0.0)

    def whole(self, name: str) -> int:
        """A whole number."""
        return self._read(name, _whole, None, 0)

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false."""
        return self._read(name, _flag, default, default)

    def span(self, name: str) -> int:
        """A span such as ``36h``, in microseconds."""
        return self._read(name, lambda value: parse_span(str(value)), None, 1)

    def moment(self, name: str) -> int:
        """A time with its UTC offset, in microseconds."""
        return self._read(name, lambda value: parse_time(_as_rfc3339(value)), None, 0)

    def section(self, name: str) -> "Section":
        """A mapping inside this one."""
        self._asked.add(name)
        return Section(self._document, self._mistakes, (*self._steps, name))

    def has(self, name: str) -> bool:
        """Whether the entry is there at all."""
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """The names of all entries, in order."""
        return tuple(self._entries)

    @property
    def entries(self) -> dict[str, Any]:
        """Every entry as it stands, for a reader that judges them itself."""
        return dict(self._entries)

    def wrong(self, name: str, what: str) -> None:
        """Note a mistake at one of the entries."""
        self._note((*self._steps, name), what)

    def finish(self) -> None:
        """Note every entry that nobody asked for."""
        for name in self._entries:
            if name not in self._asked:
                self.wrong(name, "is not a setting")

    def _read(self, name: str, parse: Callable[[Any], T], default: T | None, fallback: T) -> T:
        """Parse one entry. ``fallback`` is only there to go on with, until all mistakes are reported."""
        self._asked.add(name)
        if name not in self._entries:
            if default is None:
                self.wrong(name, "is missing")
            return fallback if default is None else default
        try:
            return parse(self._entries[name])
        except (ValueError, TypeError) as error:
            self.wrong(name, str(error))
            return fallback

    def _note(self, steps: Steps, what: str) -> None:
        self._mistakes.add(self._document.place(*steps), f"{'.'.join(map(str, steps)) or 'this file'} {what}")


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        message = "must be a list of strings"
        raise TypeError(message)
    return tuple(value)


def _whole(value: Any) -> int:
    if type(value) is not int or value <= 0:
        message = f"is {value!r}, not a whole number above 0"
        raise ValueError(message)
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        message = f"is {value!r}, neither true nor false"
        raise ValueError(message)
    return value


def _as_rfc3339(value: Any) -> str:
    # YAML reads an unquoted 2013-01-01T00:00:00Z as a datetime, which prints its offset, if it has one.
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def load_module(pipeline: str, path: Path, mistakes: Mistakes) -> ModuleType | None:
    """Run one of a pipeline's Python files under a module name of its own; what it raises is a mistake too."""
    name = f"rivermill_pipeline_{pipeline}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        mistakes.add(path.name, "this file is missing")
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Misconfigured as error:
        mistakes.add(f"{path.name}:{_line_in(path, error)}", error.which)
        return None
    except Exception as error:  # a pipeline's own code may raise anything
        mistakes.add(f"{path.name}:{_line_in(path, error)}", f"{type(error).__name__}: {error}")
        return None
    return module


def _line_in(path: Path, error: BaseException) -> int:
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines and lines[-1] else 1
