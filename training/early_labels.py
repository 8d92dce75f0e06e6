"""Labels that found nothing, under the rules that join at once: the answer to a question before one may yet come."""

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from journal.checkpoint import FoldFile
from training.unanswered import Unanswered

_SPACE = "early"


class Early(NamedTuple):
    """A label that found nothing: until when it is kept, its outcome and offset, and the counters that it raised."""

    until: int
    outcome: bool
    label: int
    counted: tuple[str, ...]


_pack = msgspec.msgpack.Encoder(order="deterministic").encode
_unpack = msgspec.msgpack.Decoder(tuple[Early, ...]).decode


class EarlyLabels:
    """By key, each key's in the journal's order.

    Attributes:
        of: The key to its labels.
        dropping: Until when each is kept, and its key; may name what was taken since. Both are for reading alone.
    """

    def __init__(self) -> None:
        self.of: dict[str, tuple[Early, ...]] = {}
        self.dropping: deque[tuple[int, str]] = deque()
        self._touched: set[str] = set()

    def keep(self, key: str, early: Early) -> None:
        """Keep one more; they come in the journal's order."""
        self.of[key] = (*self.of.get(key, ()), early)
        self.dropping.append((early.until, key))
        self._touched.add(key)

    def first_behind(self, key: str, question: int) -> Early | None:
        """The first label of a key that stands behind a question."""
        return next((early for early in self.of.get(key, ()) if question < early.label), None)

    def take(self, key: str, taken: Early) -> None:
        """Let go of one."""
        left = tuple(early for early in self.of[key] if early is not taken)
        if left:
            self.of[key] = left
        else:
            del self.of[key]
        self._touched.add(key)

    def drop(self, at: int, unanswered: Unanswered) -> None:
        """Let go of those whose time is over at ``at``, up to the first that a question before it may still need."""
        while self.dropping and self.dropping[0][0] <= at:
            until, key = self.dropping[0]
            for early in self.of.get(key, ()):
                if early.until == until:
                    if unanswered.precede(early.label):
                        return
                    self.take(key, early)
            self.dropping.popleft()

    def items(self) -> Iterable[tuple[str, tuple[Early, ...]]]:
        """All of them, by key, in the keys' order."""
        return sorted(self.of.items())

    def load(self, file: FoldFile) -> None:
        """Read what `save` wrote."""
        self.of = {key.decode(): _unpack(value) for key, value in file.scan(_SPACE)}
        self.dropping.extend(sorted((early.until, key) for key, kept in self.of.items() for early in kept))

    def save(self, file: FoldFile) -> None:
        """Write what was touched since the last save."""
        touched = sorted(self._touched)
        file.put(_SPACE, ((key.encode(), _pack(self.of[key])) for key in touched if key in self.of))
        file.delete(_SPACE, (key.encode() for key in touched if key not in self.of))
        self._touched.clear()
