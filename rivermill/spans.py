"""Spans for people: two units, and no more than they can use."""

from journal.clock import DAY, HOUR, MINUTE, SECOND

_UNITS = (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1_000), ("us", 1))


def rough_span(micros: int) -> str:
    """The largest unit that fits and the one below it, rounded down: ``1d 4h``, ``54m 59s``, ``0s``."""
    place = next((place for place, (_, size) in enumerate(_UNITS) if micros >= size), None)
    if place is None:
        return "0s"
    name, size = _UNITS[place]
    parts = [f"{micros // size}{name}"]
    if place + 1 < len(_UNITS):
        lesser, lesser_size = _UNITS[place + 1]
        rest = micros % size // lesser_size
        parts += [f"{rest}{lesser}"] if rest else []
    return " ".join(parts)
