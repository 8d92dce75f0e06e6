"""What the HTTP process counts, in Prometheus' text format.

The numbers are our own and only their format is the library's: whether its counters are shared between all that runs in
a process depends on which library was imported first.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from journal.clock import SECOND
from serving.live import LiveService

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_FATES = ("answered", "recorded", "repeated", "unrecorded", "degraded", "failed")
_GAUGES = {
    "answers_pending": "Answers that are out and not yet recorded",
    "journal_clock_seconds": "The journal's now",
    "journal_end": "Offset of the last record that serving has taken up",
    "features_age_seconds": "How far behind the journal's now the newest row became known that any answer has read",
}


class _Timed:
    """How long the requests of one route took."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.total = 0.0

    def count(self, seconds: float) -> None:
        self.buckets[bisect_left(_SECONDS, seconds)] += 1
        self.total += seconds


class HttpMetrics:
    """Requests by route and status, and how the answers of each pipeline fared."""

    def __init__(self, services: Mapping[str, LiveService]) -> None:
        self._services = services
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, _Timed] = defaultdict(_Timed)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests[route, status] += 1
        self._seconds[route].count(seconds)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry: requests, and the answers of each pipeline, as they are now."""
        yield from self._of_requests()
        yield from self._of_answers()

    def _of_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "rivermill_http_requests", "Requests by route and status", labels=["route", "status"]
        )
        for (route, status), count in sorted(self._requests.items()):
            requests.add_metric([route, str(status)], count)
        seconds = HistogramMetricFamily("rivermill_http_seconds", "Seconds per request", labels=["route"])
        for route, timed in sorted(self._seconds.items()):
            bounds = [*map(str, _SECONDS), "+Inf"]
            seconds.add_metric([route], list(zip(bounds, accumulate(timed.buckets), strict=True)), timed.total)
        return iter((requests, seconds))

    def _of_answers(self) -> Iterator[Metric]:
        answers = CounterMetricFamily("rivermill_answers", "Answers by fate", labels=["pipeline", "fate"])
        champion = GaugeMetricFamily(
            "rivermill_champion_info", "The line that answers, and under which decision", labels=["pipeline", "line"]
        )
        gauges = {
            name: GaugeMetricFamily(f"rivermill_{name}", text, labels=["pipeline"]) for name, text in _GAUGES.items()
        }
        for name, live in sorted(self._services.items()):
            for fate in _FATES:
                answers.add_metric([name, fate], getattr(live.counters, fate))
            for gauge, value in _measured(live).items():
                gauges[gauge].add_metric([name], value)
            served = live.answering.champion.served
            champion.add_metric([name, served.line], served.control)
        return iter((answers, champion, *gauges.values()))

    def text(self) -> bytes:
        """Everything, for a scrape."""
        return generate_latest(self._registry)


def _measured(live: LiveService) -> dict[str, float]:
    """The gauges of one pipeline; the features' age is none before its first answer."""
    age = live.features_age
    return {
        "answers_pending": live.counters.pending,
        "journal_clock_seconds": live.now / SECOND,
        "journal_end": live.end,
        **({} if age is None else {"features_age_seconds": age / SECOND}),
    }
