"""Times and spans as integers: microseconds since 1970-01-01 UTC, and microseconds.

Nothing here reads the wall clock: time comes from records.
"""

import re
from datetime import UTC, datetime, timedelta

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_UNITS = {"us": 1, "ms": 1_000, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_SPAN = re.compile(r"(\d+)(us|ms|s|m|h|d|w)")


def parse_span(text: str) -> int:
    """Microseconds of a span such as ``36h``, ``14d`` or ``5m``; raises ValueError on anything else."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a span; write a whole number and a unit, such as 36h, 14d or 5m"
        raise ValueError(message)
    return int(match[1]) * _UNITS[match[2]]


def format_span(micros: int) -> str:
    """The shortest exact spelling: ``36h`` for 129600000000."""
    for unit, size in sorted(_UNITS.items(), key=lambda item: -item[1]):
        if micros % size == 0 and (unit != "w"):
            return f"{micros // size}{unit}"
    return f"{micros}us"


def parse_time(text: str) -> int:
    """Microseconds of an RFC 3339 time; raises ValueError when it is malformed or has no offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is no time; write 2013-01-01T05:00:00Z"
        raise ValueError(message) from None
    if moment.tzinfo is None:
        message = f"{text!r} has no UTC offset; write 2013-01-01T05:00:00Z"
        raise ValueError(message)
    return micros_of(moment)


def micros_of(moment: datetime) -> int:
    """Exact microseconds of an aware datetime (no float in between)."""
    return (moment - EPOCH) // MICROSECOND


def datetime_of(micros: int) -> datetime:
    """The aware UTC datetime of a time in microseconds."""
    return EPOCH + timedelta(microseconds=micros)


def format_time(micros: int) -> str:
    """RFC 3339 in UTC, with as many fractional digits as it needs."""
    return datetime_of(micros).isoformat().replace("+00:00", "Z")
