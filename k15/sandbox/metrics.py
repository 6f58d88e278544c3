"""What the service counts, in Prometheus' text format at /metrics. One registry a service, so that tests can have several."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters and gauges of one service; `waiting`, `busy` and `sessions` are asked for when they are read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter("k15_sandbox_answers", "HTTP answers", ["route", "status"], registry=self.registry)
        self.verdicts = Counter("k15_sandbox_verdicts", "verdicts", ["language", "verdict"], registry=self.registry)
        self.failures = Counter("k15_sandbox_failures", "requests that ended without an answer", ["kind"], registry=self.registry)
        self.recovered = Counter("k15_sandbox_recovered", "accepted requests that a restart ran again", registry=self.registry)
        self.seconds = Histogram(
            "k15_sandbox_seconds", "time in a worker", ["kind", "language"], registry=self.registry, buckets=_SECONDS
        )

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A value that is read when somebody asks."""
        Gauge(f"k15_sandbox_{name}", what, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
