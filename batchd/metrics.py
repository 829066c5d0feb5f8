"""The numbers that operators watch, in Prometheus' terms. Labels never hold ids, prompts or names.

One object a daemon owns, handed to whoever counts; ``text`` is what ``/metrics`` answers.
"""

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest


class Metrics:
    """All instruments, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.damage = Counter(
            "batchd_damage",
            "Damage found in the storage directory since the start.",
            ["kind"],
            registry=self.registry,
        )

    def text(self) -> bytes:
        """Every metric in Prometheus' text format."""
        return generate_latest(self.registry)
