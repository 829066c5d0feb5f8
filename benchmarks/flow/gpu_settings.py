"""What can be set on a virtual GPU server, and what it counts. Seconds, tokens, requests."""

from typing import Literal

import msgspec


class GpuSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server behaves. A rate of zero means no limit."""

    slots: int = 8  # requests served at the same time; 0: all wait until there are some
    mean: float = 0.05  # of the service times
    sigma: float = 1.0  # of their lognormal distribution; 0: all take ``mean``
    seed: int = 1
    completion_tokens: float = 20  # the mean; each answer has half to one and a half times that
    models: tuple[str, ...] = ("test-model",)

    cache: Literal["none", "slot", "shared"] = "none"  # whose cache of prompt prefixes it is
    cached_prefixes: int = 1  # that one cache holds
    prefill: float = 0  # more service time when the prefix is not in the cache

    requests_per_window: int = 0
    tokens_per_window: int = 0
    window: float = 60
    rate_kind: Literal["sliding", "bucket", "fixed"] = "sliding"
    rate_headers: bool = False  # x-ratelimit-* on every answer
    retry_after: Literal["none", "seconds", "ms", "date"] = "seconds"  # how a 429 says its wait
    refused_share: float = 0  # of the requests, at random, whatever the rate
    refused_for: float = 2

    on_term: Literal["exit", "drain"] = "exit"


class GpuCounts(msgspec.Struct, kw_only=True):
    """``in_flight`` are ``serving`` and ``waiting`` together."""

    arrived: int = 0
    answered: int = 0
    refused: int = 0
    aborted: int = 0
    serving: int = 0
    waiting: int = 0
    most_in_flight: int = 0
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def in_flight(self) -> int:
        return self.serving + self.waiting
