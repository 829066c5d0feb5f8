"""Damage is said, not hidden: one place that logs a finding, counts it, and knows that it has.

What was found once is not said again in the same life of the daemon, however often it is met: by
the start, by a scrub, by each download that fails on it.
"""

import logging

from batchd.findings import DamageKind, Finding
from batchd.metrics import Metrics

log = logging.getLogger(__name__)

_FACTS = ("path", "batch", "line", "offset", "count", "expected", "found", "reason")


class Damage:
    """What this life of the daemon has found damaged. Lives on the loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        for kind in DamageKind:  # a series that is there from the start can be watched
            metrics.damage.labels(kind.value)
        self._told: set[Finding] = set()

    def tell(self, finding: Finding) -> bool:
        """Log and count a finding; False if that was done before."""
        if finding in self._told:
            return False
        self._told.add(finding)
        facts = {name: getattr(finding, name) for name in _FACTS}
        said = {name: fact for name, fact in facts.items() if fact is not None}
        log.error("damage_found", extra={"kind": finding.kind.value, **said})
        self._metrics.damage.labels(finding.kind.value).inc()
        return True
