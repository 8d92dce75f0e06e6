"""Lanes: bounded queues side by side, each with its share of every group (a bulkhead)."""

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from journal.errors import Busy

MOST_PER_GROUP = 2_000
MOST_BYTES_PER_GROUP = 512 * 1024
"""What comes behind waits for the next group, so that nobody waits long for what others send."""


class Sized(Protocol):
    """What can wait in a lane."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


ItemT = TypeVar("ItemT", bound=Sized)


class Lane(Generic[ItemT]):
    """A queue that is bounded by count and by bytes."""

    def __init__(self, name: str, most: int, most_bytes: int) -> None:
        """Name it as its refusals shall, and bound it."""
        self._name, self._most, self._most_bytes = name, most, most_bytes
        self._items: deque[ItemT] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._items)

    def put(self, item: ItemT) -> Busy | None:
        """Let an item wait, or say why it cannot."""
        if len(self._items) >= self._most or self._bytes + item.size > self._most_bytes:
            return Busy(which=f"{len(self._items)} {self._name} wait already", fix="Send it again in a second")
        self._items.append(item)
        self._bytes += item.size
        return None

    def take(self, most: int, most_bytes: int) -> list[ItemT]:
        """What has waited longest, up to both bounds; the last one taken may pass the bound in bytes."""
        taken: list[ItemT] = []
        size = 0
        while self._items and len(taken) < most and size < most_bytes:
            taken.append(self._items.popleft())
            size += taken[-1].size
        self._bytes -= size
        return taken

    def drain(self) -> list[ItemT]:
        """Everything that waits."""
        return self.take(len(self._items), self._bytes + 1)


def next_group(lanes: Sequence[Lane[ItemT]]) -> list[ItemT]:
    """What is committed next: an equal share of each lane, in the lanes' order; what one leaves, the next may use."""
    group: list[ItemT] = []
    size = 0
    for left, lane in zip(range(len(lanes), 0, -1), lanes, strict=True):
        share = lane.take((MOST_PER_GROUP - len(group)) // left, max(MOST_BYTES_PER_GROUP - size, 1) // left + 1)
        group += share
        size += sum(item.size for item in share)
    return group
