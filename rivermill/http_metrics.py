"""What the HTTP process counts, in Prometheus' text format."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from journal.clock import SECOND
from serving.live import LiveService

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class HttpMetrics:
    """Requests by route and status, and how the answers of each pipeline fared."""

    def __init__(self, services: Mapping[str, LiveService]) -> None:
        self._services = services
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rivermill_http_requests", "Requests by route and status", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "rivermill_http_seconds", "Seconds per request", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._registry.register(self)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def collect(self) -> Iterator[Any]:
        """Called by the registry: the answers of each pipeline, as they are now."""
        answers = CounterMetricFamily("rivermill_answers", "Answers by fate", labels=["pipeline", "fate"])
        clock = GaugeMetricFamily("rivermill_journal_clock_seconds", "The journal's now", labels=["pipeline"])
        champion = GaugeMetricFamily(
            "rivermill_champion_info", "The line that answers, and under which decision", labels=["pipeline", "line"]
        )
        for name, live in sorted(self._services.items()):
            counters = live.counters
            for fate in ("answered", "recorded", "repeated", "unrecorded", "pending", "degraded", "failed"):
                answers.add_metric([name, fate], getattr(counters, fate))
            clock.add_metric([name], live.now / SECOND)
            served = live.answering.champion.served
            champion.add_metric([name, served.line], served.control)
        return iter((answers, clock, champion))

    def text(self) -> bytes:
        """Everything, for a scrape."""
        return generate_latest(self._registry)
