"""What a virtual GPU server says before it serves a request: rates, their headers, random 429s."""

import email.utils
import math
import random
from collections.abc import Iterator

import msgspec

from benchmarks.flow.gpu_settings import GpuSettings
from benchmarks.flow.rate_limits import RateLimit, rate_limit


class Refusal(msgspec.Struct, frozen=True):
    """A 429. ``told`` is how long the client is told to wait; 0 if nothing is said."""

    told: float
    headers: dict[str, str]


class GpuGate:
    """``now`` is a monotonic time; ``epoch`` the same instant as the calendar has it."""

    def __init__(self, settings: GpuSettings) -> None:
        self._settings = settings
        self._chance = random.Random(settings.seed)  # noqa: S311 - whom to refuse, no secret
        self._requests = _limit(settings, settings.requests_per_window)
        self._tokens = _limit(settings, settings.tokens_per_window)

    def admit(self, tokens: int, now: float, epoch: float) -> Refusal | None:
        """Charge the limits; or refuse, and charge nothing."""
        share = self._settings.refused_share
        if share and self._chance.random() < share:
            return self._refuse(self._settings.refused_for, epoch)
        costs = list(self._costs(tokens))
        wait = max((limit.wait(cost, now) for limit, cost in costs), default=0.0)
        if wait > 0:
            return self._refuse(wait, epoch)
        for limit, cost in costs:
            limit.charge(cost, now)
        return None

    def headers(self, now: float) -> dict[str, str]:
        """OpenAI's six headers, of the limits there are."""
        if not self._settings.rate_headers:
            return {}
        said: dict[str, str] = {}
        for name, limit in (("requests", self._requests), ("tokens", self._tokens)):
            if limit is not None:
                said[f"x-ratelimit-limit-{name}"] = f"{limit.limit:.0f}"
                said[f"x-ratelimit-remaining-{name}"] = f"{math.floor(limit.remaining(now))}"
                said[f"x-ratelimit-reset-{name}"] = go_duration(limit.reset(now))
        return said

    def _costs(self, tokens: int) -> Iterator[tuple[RateLimit, float]]:
        if self._requests is not None:
            yield self._requests, 1
        if self._tokens is not None:
            yield self._tokens, tokens

    def _refuse(self, wait: float, epoch: float) -> Refusal:
        match self._settings.retry_after:
            case "none":
                return Refusal(0, {})
            case "seconds":
                told = math.ceil(wait)
                return Refusal(told, {"retry-after": f"{told}"})
            case "ms":
                told = math.ceil(wait * 1000)
                return Refusal(told / 1000, {"retry-after-ms": f"{told}"})
            case "date":
                at = math.ceil(epoch + wait)
                date = email.utils.formatdate(at, usegmt=True)
                return Refusal(at - epoch, {"retry-after": date})


def go_duration(seconds: float) -> str:
    """As OpenAI writes it: "1m3.25s", "250ms"."""
    milliseconds = max(0, math.ceil(seconds * 1000))
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"


def _limit(settings: GpuSettings, limit: int) -> RateLimit | None:
    return rate_limit(settings.rate_kind, limit, settings.window) if limit else None
