"""Which checkpoints to keep: many of the near past, few of the far one."""

from collections.abc import Iterable


def ladder(offsets: Iterable[int], newest: int) -> frozenset[int]:
    """The checkpoints to keep: the newest, and the oldest of each stretch that is twice as long as the one before.

    The oldest of a stretch is kept, and not its newest, since only that one lives to enter the next stretch: pruned
    again and again, the ladder reaches back to the first checkpoint without a wide gap.

    Args:
        offsets: Where checkpoints stand.
        newest: The last of them; later ones are kept as well.

    Returns:
        At most one checkpoint per power of two of the distance from the newest, and those from the newest on.
    """
    oldest: dict[int, int] = {}
    kept = set[int]()
    for offset in offsets:
        if offset >= newest:
            kept.add(offset)
            continue
        stretch = (newest - offset).bit_length()
        oldest[stretch] = min(offset, oldest.get(stretch, offset))
    return frozenset(kept.union(oldest.values()))
