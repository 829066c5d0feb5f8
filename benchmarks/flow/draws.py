"""What each request costs a virtual GPU server, and the best makespan that these costs allow.

A draw depends on the seed and the request's nonce alone, so each run over the same lines has the
same service times, in whatever order the lines come.
"""

import heapq
import math
import random
from collections.abc import Iterable

import msgspec

from benchmarks.flow.gpu_settings import GpuSettings


class Draw(msgspec.Struct, frozen=True):
    service: float  # seconds
    completion_tokens: int


def draw(settings: GpuSettings, nonce: str) -> Draw:
    chance = random.Random(f"{settings.seed} {nonce}")  # noqa: S311 - the same in each run
    # The mean of a lognormal distribution is exp(mu + sigma^2 / 2).
    mu = math.log(settings.mean) - settings.sigma**2 / 2
    service = chance.lognormvariate(mu, settings.sigma)
    return Draw(service, max(1, round(settings.completion_tokens * chance.uniform(0.5, 1.5))))


def best_makespan(slots: int, services: Iterable[float]) -> float:
    """Of a client without latency that sends in this order, a line whenever a slot is free.

    No client that does not know the service times beforehand can plan for better.
    """
    free_at = [0.0] * slots
    for service in services:
        heapq.heapreplace(free_at, free_at[0] + service)
    return max(free_at)
