"""Validations that the disk did not let be done: each is tried again, ever more rarely. Pure."""

from collections.abc import Container

import msgspec

POSTPONED, LONGEST_POSTPONED = 10.0, 120.0  # seconds, twice as many each time


class _Later(msgspec.Struct, frozen=True):
    """When a batch is looked at again. ``since``: when it was postponed."""

    at: float
    delay: float
    since: float


class Postponed:
    """Which batches, and until when. ``now`` is of a clock that is not set."""

    def __init__(self) -> None:
        self._batches: dict[str, _Later] = {}
        self._full_since: float | None = None

    def note(self, batch_id: str, now: float) -> None:
        """It could not be validated just now."""
        before = self._batches.get(batch_id)
        delay = min(2 * before.delay, LONGEST_POSTPONED) if before else POSTPONED
        self._batches[batch_id] = _Later(now + delay, delay, now)

    def keep(self, batch_ids: Container[str]) -> None:
        """Forget all others."""
        self._batches = {key: later for key, later in self._batches.items() if key in batch_ids}

    def follow(self, now: float, *, is_full: bool) -> None:
        """With a pause for room over, what was postponed before it need not wait any longer.

        What was postponed in it does: it may be why there was no room.
        """
        if is_full:
            self._full_since = now if self._full_since is None else self._full_since
        elif self._full_since is not None:
            full_since, self._full_since = self._full_since, None
            for key, later in self._batches.items():
                if later.since < full_since:
                    self._batches[key] = msgspec.structs.replace(later, at=now)

    def waits(self, batch_id: str, now: float) -> bool:
        later = self._batches.get(batch_id)
        return later is not None and later.at > now

    def rest(self, now: float) -> float | None:
        """Seconds until the next one that waits waits no more."""
        rests = (later.at - now for later in self._batches.values())
        return min((rest for rest in rests if rest > 0), default=None)
