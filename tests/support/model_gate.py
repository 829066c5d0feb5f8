"""What a model server says before it looks at a line: keys, rates, delays, and its side pages."""

import math
import random
from collections import deque
from collections.abc import Callable

import msgspec

from tests.support import answers
from tests.support.answers import Answer
from tests.support.model_protocol import Request
from tests.support.model_settings import Counts, Settings


class Gate:
    """Obeys ``settings``, which may be replaced at any time. ``now`` is a monotonic clock."""

    def __init__(self, settings: Settings, counts: Counts, now: Callable[[], float]) -> None:
        self.settings = settings
        self._counts = counts
        self._now = now
        self._recent: deque[float] = deque()
        self._random = random.Random(settings.seed)  # noqa: S311 - delays, not secrets

    def set(self, **changes: object) -> None:
        known = msgspec.structs.asdict(self.settings) | changes
        self.settings = msgspec.convert(known, Settings)

    def delay(self) -> float:
        delay, sigma = self.settings.delay, self.settings.sigma
        return self._random.lognormvariate(math.log(delay), sigma) if delay and sigma else delay

    def refuse(self, request: Request, nonce: str) -> Answer | None:
        """The refusal of a wrong key or of a request too many; None when it may pass."""
        key = self.settings.api_key
        if key and request.header("authorization") != f"Bearer {key}":
            return refusal(401, nonce, "invalid_api_key")
        if self.settings.rate and (wait := self._too_soon()) is not None:
            hint = {"retry-after": f"{math.ceil(wait)}"} if self.settings.rate_hint else {}
            return refusal(429, nonce, "rate_limit_exceeded", hint)
        return None

    def side_page(self, path: str, request: Request) -> Answer:
        """Everything that is not a line: models, counts and settings."""
        if path == "/_counts":
            return _page(self._counts)
        if path == "/_settings":
            if request.body:
                self.set(**msgspec.json.decode(request.body, type=dict[str, object]))
            return _page(self.settings)
        if path.endswith("/models") and request.method == "GET":
            status = self.settings.models_status
            if status == 200:
                return Answer(status=200, wire=answers.models(self.settings.models))
            return refusal(status)
        return refusal(404, "", "unknown_url")

    def _too_soon(self) -> float | None:
        """Seconds until there is room in the window; None when there is room now."""
        now, window = self._now(), self.settings.rate_window
        while self._recent and self._recent[0] <= now - window:
            self._recent.popleft()
        if len(self._recent) >= self.settings.rate:
            return self._recent[0] + window - now
        self._recent.append(now)
        return None


def refusal(
    status: int, nonce: str = "", code: str | None = None, headers: dict[str, str] | None = None
) -> Answer:
    return Answer(status=status, wire=answers.error(status, nonce, code=code, headers=headers))


def _page(record: msgspec.Struct) -> Answer:
    return Answer(status=200, wire=answers.http(200, msgspec.json.encode(record)))
