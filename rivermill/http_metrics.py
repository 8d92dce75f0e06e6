"""What the HTTP process counts, in Prometheus' text format."""

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

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
