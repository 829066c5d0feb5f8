"""Signs of life of one backend: when silence or faults in a row ask for a look at it. Pure.

Health comes from real answers. Only when they stop, or when nothing but faults comes, is the server
itself asked, with a small request beside the lines: one that does not answer that twice is gone,
and what hangs on it is broken off. A server that is only slow answers it, or goes on answering
lines meanwhile: then nobody asks. Some do lines and answer no such request: after several looks in
vain one line may go with each further one, and what it comes to is believed.
"""

import math

_SILENCE = 3.0  # seconds at least; a server whose answers take long may be silent for longer
_LONGEST_TIMES = 3.0
_LONGEST_AT_FIRST = 20.0  # is taken for it before the first answer
_MOST_LEARNED = 600.0
_FADE = 0.98  # of the longest answer, with each answer
_FAULTS = 10  # in a row, without any other answer between
_GONE_AFTER = 2  # looks in vain
_TRY_AFTER = 4
_LOOKS = (1.0, 1.0, 2.0, 4.0, 8.0)  # seconds between looks


class Pulse:
    """``is_suspect``: send nothing until it was looked at. ``is_gone``: it did not answer that.

    ``wants_line``: send one line all the same, since no look brings anything.
    """

    def __init__(self) -> None:
        self.is_suspect = False
        self.wants_line = False
        self._tried_until = -math.inf
        self._silent_since = 0.0
        self._longest: float | None = None
        self._faults = 0
        self._strikes = 0
        self._look_at = 0.0

    @property
    def is_gone(self) -> bool:
        return self._strikes >= _GONE_AFTER

    def began(self, now: float) -> None:
        """A request went while none was in flight."""
        self._silent_since = now

    def answered(self, now: float, took: float, *, is_fault: bool) -> None:
        """Something came back over HTTP, a good answer or a fault."""
        self._silent_since = now
        self._longest = max(took, (self._longest or 0.0) * _FADE)
        self._faults = self._faults + 1 if is_fault else 0
        if not is_fault:
            self._lives()

    def _lives(self) -> None:
        self.is_suspect, self.wants_line = False, False
        self._strikes, self._tried_until = 0, -math.inf

    def failed(self) -> None:
        """An attempt brought nothing back: a timeout, a broken connection."""
        self._faults += 1

    def wants_look(self, now: float, *, in_flight: int) -> bool:
        """Whether the server should be asked now; from then on it is suspect."""
        if not self.is_suspect:
            self.is_suspect = self._faults >= _FAULTS or self._is_silent(now, in_flight)
            self._look_at = now
        return self.is_suspect and now >= self._look_at

    def _is_silent(self, now: float, in_flight: int) -> bool:
        return in_flight > 0 and now - self._silent_since > self._allowed_silence

    @property
    def _allowed_silence(self) -> float:
        longest = _LONGEST_AT_FIRST if self._longest is None else self._longest
        return max(_SILENCE, _LONGEST_TIMES * longest)

    def line_went(self, now: float) -> None:
        """The line that was wanted is on its way."""
        self.wants_line = False
        self._tried_until = now + self._allowed_silence

    def is_tried(self, now: float) -> bool:
        """Whether a line that was wanted may still be answered."""
        return now < self._tried_until

    def looked(self, now: float, *, is_alive: bool) -> None:
        """What the look came to."""
        if is_alive:
            self._lives()
            self._faults = 0
            self._silent_since = now
        else:
            self._look_at = now + _LOOKS[min(self._strikes, len(_LOOKS) - 1)]
            self._strikes += 1
            self.wants_line = self._strikes >= _TRY_AFTER
            if self._strikes == _GONE_AFTER:
                # Perhaps it was only too busy for a look: then it may be silent for longer.
                silence = min(now - self._silent_since, _MOST_LEARNED)
                self._longest = max(silence, self._longest or 0.0)
