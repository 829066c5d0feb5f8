"""The numbers that operators watch, in Prometheus' terms.

Labels never hold ids or prompts. The names in them are those of backends and of the models that
are sent there; ``/metrics`` bounds how many. One object a daemon owns, handed to whoever counts.
What is counted lives here; what only is at an instant (the gauges) is set by ``/metrics`` when it
is asked. docs/metrics.md lists them all.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_LANE = ("backend", "model")


class Metrics:
    """All instruments, on a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # when each counter began: as many lines again, read by nobody
        self.registry = CollectorRegistry()
        self.damage = self._counter(
            "batchd_damage", "Damage found in the storage directory since the start.", "kind"
        )
        self.lines = self._counter(
            "batchd_lines", "Result lines made durable since the start.", "file"
        )
        self.ledger_commits = Histogram(
            "batchd_ledger_commit_seconds",
            "How long it took to write and sync a group of result lines.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.unfinished_batches = self._gauge(
            "batchd_unfinished_batches", "Batches that have not ended.", "status"
        )
        self.requests_in_flight = self._gauge(
            "batchd_requests_in_flight", "Requests that the model servers work on."
        )
        self.backend_waiting = self._gauge(
            "batchd_backend_waiting", "1 while a model server is being waited for."
        )
        self.disk_full = self._gauge(
            "batchd_disk_full", "1 while batchd pauses for want of room on its disk."
        )
        self.disk_free = self._gauge(
            "batchd_disk_free_bytes", "Free bytes on the disk of the storage directory."
        )
        for file in ("output", "error"):
            self.lines.labels(file)
        self._add_backends()

    def _add_backends(self) -> None:
        self.backend_in_flight = self._gauge(
            "batchd_backend_requests_in_flight",
            "Requests that this backend works on.",
            *_LANE,
        )
        self.backend_limit = self._gauge(
            "batchd_backend_limit", "How many requests it is given at once.", *_LANE
        )
        self.backend_throughput = self._gauge(
            "batchd_backend_throughput", "Answers a second, as measured last.", *_LANE
        )
        self.backend_state = self._gauge(
            "batchd_backend_state", "1 for the state it is in, else 0.", "backend", "state"
        )
        self.backend_requests_rate = self._gauge(
            "batchd_backend_requests_per_minute",
            "The limit that is configured for all of it; absent where there is none.",
            "backend",
        )
        self.backend_tokens_rate = self._gauge(
            "batchd_backend_tokens_per_minute",
            "The limit that is configured for all of it; absent where there is none.",
            "backend",
        )
        self.backend_attempts = self._counter(
            "batchd_backend_attempts",
            "Attempts by what they came to, an HTTP status or a kind of failure.",
            "backend",
            "outcome",
        )

    def text(self) -> bytes:
        """Every metric in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)
