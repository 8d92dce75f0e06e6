"""What a quality meter keeps between records: the numbers of its window, and values that it must know again."""

from collections.abc import Hashable
from typing import Any

import msgspec

from journal.checkpoint import FoldFile

_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack = msgspec.msgpack.Decoder().decode


class Numbers(msgspec.Struct):
    """What a window counted: records, what was looked at in them if not themselves, and how much of it was bad."""

    begins: int = 0
    ends: int = 0
    events: int = 0
    total: int = 0
    bad: int = 0
    in_breach: bool = False
    """Whether the last window with enough records was bad."""


class Memory:
    """Values that a meter remembers, each with a number, saved as they change."""

    def __init__(self, space: str) -> None:
        self.space = space
        self.known: dict[Any, int] = {}
        self._touched: set[Any] = set()

    def put(self, value: Hashable, number: int = 0) -> None:
        """Remember a value."""
        self.known[value] = number
        self._touched.add(value)

    def drop_below(self, number: int) -> None:
        """Forget every value whose number is less."""
        for value in [value for value, known in self.known.items() if known < number]:
            self.drop(value)

    def drop(self, value: Hashable) -> None:
        """Forget a value."""
        if self.known.pop(value, None) is not None:
            self._touched.add(value)

    def clear(self) -> None:
        """Forget everything."""
        self._touched.update(self.known)
        self.known.clear()

    def load(self, file: FoldFile) -> None:
        """Restore what the last commit saved."""
        self.known = {_unpack(key): int.from_bytes(value, signed=True) for key, value in file.scan(self.space)}

    def save(self, file: FoldFile) -> None:
        """Write what changed since."""
        known, touched = self.known, self._touched
        file.put(self.space, ((_pack(v), known[v].to_bytes(8, signed=True)) for v in touched if v in known))
        file.delete(self.space, (_pack(value) for value in touched if value not in known))
        touched.clear()

    def rows(self) -> list[tuple[bytes, int]]:
        """Canonical content."""
        return sorted((_pack(value), number) for value, number in self.known.items())
