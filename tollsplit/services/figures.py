"""Figures of a running service, for Prometheus; no label names a device or an account."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Figures:
    """What is counted."""

    def __init__(self, streams: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._calls = Counter(
            "tollsplit_calls", "Calls answered, by operation, status and kind of refusal.",
            ("operation", "status", "refusal"), registry=self.registry)
        self._seconds = Histogram(
            "tollsplit_call_seconds", "How long calls take.", ("operation",), buckets=SECONDS,
            registry=self.registry)
        Gauge(
            "tollsplit_streams", "Streams of notices that are open.", registry=self.registry
        ).set_function(streams)

    def count(self, operation: str, status: int, refusal: str, took_s: float) -> None:
        """Count a call. Whatever is in a label is one of few."""
        self._calls.labels(operation, str(status), refusal).inc()
        self._seconds.labels(operation).observe(took_s)
