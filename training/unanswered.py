"""The questions that have no answer yet: while one stands before a label, that label may be its own."""

from collections import deque

from journal.checkpoint import FoldFile

_SPACE = "unanswered"
_OFFSET_BYTES = 8


class Unanswered:
    """Offsets of questions, oldest first. In lock-step there is at most one group of them."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        # May name what was answered since; that is passed over when its turn comes.
        self._oldest: deque[int] = deque()
        self._touched: set[int] = set()
        self._written: set[int] = set()

    def ask(self, offset: int) -> None:
        """A question stands here; offsets rise."""
        self._open.add(offset)
        self._oldest.append(offset)
        self._touched.add(offset)

    def answer(self, offset: int) -> None:
        """It is answered. So are those before it, or they never will be: answers come in the questions' order."""
        oldest = self._oldest
        if offset not in self._open:
            return
        while oldest and oldest[0] <= offset:
            before = oldest.popleft()
            self._open.discard(before)
            self._touched.add(before)

    def give_up(self, offset: int) -> None:
        """It never will be answered."""
        if offset in self._open:
            self._open.remove(offset)
            self._touched.add(offset)

    def precede(self, offset: int) -> bool:
        """Whether a question before this offset waits for its answer."""
        while self._oldest and self._oldest[0] not in self._open:
            self._oldest.popleft()
        return bool(self._oldest) and self._oldest[0] < offset

    def offsets(self) -> list[int]:
        """All of them, in order."""
        return sorted(self._open)

    def load(self, file: FoldFile) -> None:
        """Read what `save` wrote."""
        self._open = {int.from_bytes(key) for key, _ in file.scan(_SPACE)}
        self._written = set(self._open)
        self._oldest = deque(self.offsets())

    def save(self, file: FoldFile) -> None:
        """Write what was touched since the last save; what came and went in between costs nothing."""
        new, gone = self._touched & self._open, (self._touched & self._written) - self._open
        file.put(_SPACE, ((offset.to_bytes(_OFFSET_BYTES), b"") for offset in sorted(new)))
        file.delete(_SPACE, (offset.to_bytes(_OFFSET_BYTES) for offset in sorted(gone)))
        self._written = (self._written - gone) | new
        self._touched.clear()
