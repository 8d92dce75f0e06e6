"""River's data set Phishing as the events of a tiny pipeline: a page is visited, and reported an hour and a half later.

The data set has no clock; this one is made up. One visit per minute; each tenth page is never reported, so that its
prediction expires. At equal time reports come before visits: what answers precedes what asks.
"""

import heapq
from collections.abc import Iterator
from math import inf
from typing import Any

import orjson

from journal.clock import DAY, MINUTE, format_time, parse_time

START = parse_time("2020-01-01T00:00:00Z")
"""The first visit, in microseconds."""

STREAMS = ("reports", "visits")
"""In the order that they take at equal time."""

REPORTED_AFTER_MINUTES = 90
NEVER_REPORTED = 10
"""Each page whose number this divides is never reported."""

_Timed = tuple[int, int, str, dict[str, Any]]


def events(weeks: int | None = None) -> Iterator[bytes]:
    """Yield each event as one line of JSON (a structured CloudEvent 1.0), in order; no network is asked.

    Args:
        weeks: How many weeks from `START` on; None for all. The whole recording lasts a day.
    """
    from river.datasets import Phishing  # noqa: PLC0415 - a second that only this pipeline pays

    pages = [(number, traits, bool(outcome)) for number, (traits, outcome) in enumerate(Phishing(), start=1)]
    visits = (_visit(number, traits) for number, traits, _ in pages)
    reports = (_report(number, traits, found) for number, traits, found in pages if number % NEVER_REPORTED)
    end = inf if weeks is None else START + weeks * 7 * DAY
    for time, stream, page, data in heapq.merge(reports, visits, key=lambda event: event[:3]):
        if time >= end:
            return
        yield _line(time, STREAMS[stream], page, {"page": page, **data})


def _visit(number: int, traits: dict[str, Any]) -> _Timed:
    return START + (number - 1) * MINUTE, 1, _page(number), traits


def _report(number: int, traits: dict[str, Any], found: bool) -> _Timed:
    time = START + (number - 1 + REPORTED_AFTER_MINUTES) * MINUTE
    return time, 0, _page(number), {"phishing": found, "ip_in_url": traits["ip_in_url"]}


def _page(number: int) -> str:
    return f"page-{number:04d}"


def _line(time: int, stream: str, page: str, data: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": f"{stream}/{page}",
            "source": "/web/pages",
            "type": stream,
            "time": format_time(time),
            "datacontenttype": "application/json",
            "data": data,
        }
    )
