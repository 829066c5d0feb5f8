"""The slots of a virtual GPU server and the silent queue before them.

Pure: instants are handed in, on a monotonic clock. A slot's next service starts when the one before
was due, not when somebody noticed, so late timers do not add up to lost capacity.
"""

from collections import deque
from typing import Literal

import msgspec


class Work(msgspec.Struct, kw_only=True, eq=False):
    """One request's stay; ``started`` and ``due`` are set once it has a slot."""

    arrived: float
    service: float
    prefix: int | None = None  # what its prompt shares with others; None: nothing
    started: float = 0
    due: float = 0
    hit: bool | None = None  # whether its prefix was cached; None: there was none to look for
    slot: "Slot | None" = None


class PrefixCache:
    """The last ``size`` prefixes, least recently used out first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[int, None] = {}  # in order of use

    def __contains__(self, prefix: int) -> bool:
        return prefix in self._held

    def use(self, prefix: int) -> bool:
        """Whether it was there. It is now."""
        hit = prefix in self._held
        self._held.pop(prefix, None)
        self._held[prefix] = None
        if len(self._held) > self._size:
            del self._held[next(iter(self._held))]
        return hit


class Slot(msgspec.Struct, eq=False):
    cache: PrefixCache | None
    free_since: float


class Slots:
    def __init__(
        self,
        count: int,
        *,
        cache: Literal["none", "slot", "shared"] = "none",
        cached_prefixes: int = 1,
        prefill: float = 0,
    ) -> None:
        self._kind = cache
        self._cached_prefixes = cached_prefixes
        self._shared = PrefixCache(cached_prefixes) if cache == "shared" else None
        self._prefill = prefill
        self._free: dict[Slot, None] = {}  # the one that is free longest comes first
        self._count = 0  # slots there shall be
        self._waiting: deque[Work] = deque()
        self.serving = 0
        self.resize(count, 0.0)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def arrive(self, work: Work) -> list[Work]:
        """Queue it; what starts now."""
        self._waiting.append(work)
        return self._start()

    def leave(self, work: Work, at: float) -> list[Work]:
        """Its service ended, or its client hung up, at ``at``; what starts now."""
        if work.slot is None:
            self._waiting.remove(work)
            return []
        self.serving -= 1
        work.slot.free_since = at
        if self.serving + len(self._free) < self._count:
            self._free[work.slot] = None
        work.slot = None
        return self._start()

    def resize(self, count: int, now: float) -> list[Work]:
        """Have ``count`` slots; what is being served beyond them is still served to its end."""
        self._count = count
        while self._free and self.serving + len(self._free) > count:
            del self._free[next(iter(self._free))]
        while self.serving + len(self._free) < count:
            cache = PrefixCache(self._cached_prefixes) if self._kind == "slot" else self._shared
            self._free[Slot(cache, now)] = None
        return self._start()

    def _start(self) -> list[Work]:
        started: list[Work] = []
        while self._waiting and self._free:
            work = self._waiting.popleft()
            work.slot = self._slot_for(work)
            del self._free[work.slot]
            self.serving += 1
            work.started = max(work.arrived, work.slot.free_since)
            work.due = work.started + work.service + self._prefill_of(work, work.slot)
            started.append(work)
        return started

    def _slot_for(self, work: Work) -> Slot:
        """One that has its prefix, as llama.cpp chooses; else the one that is free longest."""
        if self._kind == "slot" and work.prefix is not None:
            for slot in self._free:
                if slot.cache is not None and work.prefix in slot.cache:
                    return slot
        return next(iter(self._free))

    def _prefill_of(self, work: Work, slot: Slot) -> float:
        if slot.cache is None or work.prefix is None:
            return 0.0
        work.hit = slot.cache.use(work.prefix)
        return 0.0 if work.hit else self._prefill
