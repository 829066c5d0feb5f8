"""How many requests a backend is given at once: a number, or found out from how it answers.

Most model servers never say that they have enough: they queue. Too many in flight then cost no
throughput, too few cost it at once. So `Auto` errs upward while it knows little, then comes down to
what is enough and a fifth more:

- ramp: one more for each answer, until answers wait, or twice as many in flight bring no more.
- track: window by window. By how much the quickest answers are slower than they were without a
  queue, times the answers a second, is how many requests wait (Little's law). If too many do, it
  comes down; if none does, it goes up.
- trial: what answers take "without a queue" changes with the prompts, and a server that batches
  answers slower the more it has although nothing waits. So each decrease is a trial, and now and
  then one is made for its own sake: with a queue, fewer in flight make *every* answer come sooner
  by what the fewer had to wait. If that is not seen, the limit goes back.
- overload (429, 5xx, timeout): one decrease for all that was in flight, and a roof for a while.

Nothing is concluded while slots are free. Pure bookkeeping over a time that is handed in; bounded
memory; a small sort once per window. Units: seconds.
"""

import math

from batchd.backends.ramp import Pace, Ramp
from batchd.backends.roof import Roof
from batchd.backends.samples import Fullness, Level, Opening, Reading, Window
from batchd.backends.trial import Trial, with_spare

_MANY, _MANY_OF_FEW = 0.4, 0.27  # of the limit waiting: come down; few slots show less of it
_NONE = 0.08  # of the limit waiting counts as nothing
_LEAST_LEFT = 0.4  # of the limit, after one decrease
_STEP = 1.125
_STEPS_BEFORE_RAMP = 2
_RISE, _RISE_FROM = 1.1, 64  # of throughput, at least, for twice as many in flight

_CRUDE, _SMALL, _LARGE, _LONGEST = 16, 64, 128, 1024  # answers in a window
_TRIAL, _DEEP_TRIAL = 0.75, 0.5  # of the limit
_DEEP_BELOW, _DEEP_BELOW_AT_FIRST = 16, 64  # small steps show nothing in small limits
_FEW = 32  # below this limit the windows of an uneven server differ by luck
_AS_IT_WAS = 0.9, 1.05  # a trial that leaves the limit within these has settled it
_TRIAL_EVERY, _TRIAL_AT_MOST_EVERY = 12, 48  # windows
_SMALLEST_TRIAL = 3


class Auto:
    """The limit of one (backend, model). `kept`: what it was in an earlier life, to begin with."""

    def __init__(self, *, start: int = 16, ceiling: int = 4096, kept: int | None = None) -> None:
        self._ceiling = ceiling
        self._limit = max(1, min(kept or start, ceiling))
        self._reason = "start" if kept is None else "as it was before"
        self._throughput = 0.0
        self._is_settled = False
        self._fullness = Fullness()
        self._opening = Opening(self._limit)
        self._base: Level | None = None
        self._is_even = False  # the first answers took all the same
        self._usual: Level | None = None
        hold_at = self._limit + self._limit // 4
        self._ramp = Ramp(self._limit, hold_at=hold_at) if kept is None else None
        self._after_ramp = False
        self._window = Window(max(_SMALL, self._limit + self._limit // 4))
        self._trial: Trial | None = None
        self._trial_every = _TRIAL_EVERY
        self._until_trial = 0
        self._is_known = False
        self._growths = 0
        self._proved = (self._limit, 0.0)
        self._roof = Roof(ceiling)
        self._told_waiting: int | None = None

    @property
    def limit(self) -> int:
        """The most that may be in flight now; at least 1."""
        return self._limit

    @property
    def to_keep(self) -> int:
        """The limit for a next life: not the one that a trial happens to be at."""
        return self._trial.limit if self._trial else self._limit

    @property
    def reason(self) -> str:
        """Why the limit last moved, or did not."""
        return self._reason

    @property
    def throughput(self) -> float:
        """Answers a second in the last window; 0.0 before the first."""
        return self._throughput

    @property
    def is_settled(self) -> bool:
        """Whether it was tried that fewer would be too few, and the limit stands still."""
        return self._is_settled

    def sent(self, now: float, in_flight: int) -> None:
        """A request went; `in_flight` counts it."""
        if in_flight < self._limit:
            return
        if not self._fullness.sent(now):
            self._measure_again()
        self._window.begin(now)

    def answered(self, now: float, took: float, in_flight: int) -> None:
        """A useful answer came after `took`; `in_flight` is without it."""
        if self._roof.answered(self._limit, now - took):
            self._ramp = Ramp(self._limit)
            self._move(self._limit, "doubling: it answers again")
        if self._window.began_at is None:
            return
        if not self._fullness.answered(now, took, in_flight, self._limit):
            self._measure_again()
            return
        if self._base is None:
            self._base = self._opening.add(took)
            self._is_even = self._base is not None and self._base.mean < math.inf
        if self._ramp is not None:
            self._climb(self._ramp, now, took)
        elif self._window.add(now, took) and self._base is not None:
            self._judge(self._window.read(now), self._base)

    def overloaded(self, now: float, in_flight: int, *, refused: bool = False) -> None:
        """429, 5xx, timeout, reset; `in_flight` is without it.

        `refused`: the server said that it was too much (429), and is believed at once. Of the rest
        a few in a hundred may be lines that it can never answer, which no decrease would help.
        """
        lowered = self._roof.overload(now, self._limit, in_flight, refused=refused)
        if lowered is None:
            return
        self._ramp, self._trial = None, None
        self._unsettle()
        self._move(lowered, "fewer: the server is overloaded")

    def queued(self, now: float, waiting: int) -> None:
        """The server itself says how many requests wait in its queue."""
        del now
        self._told_waiting = waiting

    @property
    def _is_noisy(self) -> bool:
        return self._limit <= _FEW and not self._is_even

    def _measure_again(self) -> None:
        self._window = Window(self._window.size)
        if self._ramp is not None:
            self._ramp.interrupt(self._limit)

    def _unsettle(self) -> None:
        self._is_settled = self._is_known = False
        self._growths, self._until_trial, self._trial_every = 0, 0, _TRIAL_EVERY

    def _move(self, limit: float, reason: str, *, size: int | None = None) -> None:
        """Set the limit, and measure anew what comes of it."""
        new = max(1, min(round(limit), self._ceiling, self._roof.height))
        if new != self._limit:
            self._usual = None
        self._limit, self._reason = new, reason
        least = _LARGE if self._is_known else _SMALL
        self._window = Window(size or max(least, min(new + new // 4, _LONGEST)))

    def _climb(self, ramp: Ramp, now: float, took: float) -> None:
        match ramp.answered(now, took, self._window, self._limit, self._base):
            case Pace.GROW if self._limit < min(self._ceiling, self._roof.height):
                self._limit += 1
                self._reason = "doubling: throughput still rises"
            case Pace.GROW:
                self._end_ramp("held: no more may be in flight")
            case Pace.QUEUE:
                self._after_ramp = True
                self._end_ramp("enough: requests wait")
            case Pace.FLAT:
                self._end_ramp("enough: throughput rises no more")
            case Pace.WAIT:
                pass

    def _end_ramp(self, reason: str) -> None:
        self._ramp = None
        self._move(self._limit, reason, size=max(_CRUDE, self._limit // 2))

    def _judge(self, reading: Reading, base: Level) -> None:
        self._throughput = reading.rate
        self._roof.quiet()
        trial, self._trial = self._trial, None
        if trial is not None:
            self._conclude(trial, reading, base)
            return
        self._base = base = base.toward(base.floor(reading.level), 0.5)
        self._usual = self._usual.toward(reading.level, 0.3) if self._usual else reading.level
        told, self._told_waiting = self._told_waiting, None
        seen = reading._replace(level=self._usual) if self._is_noisy else reading
        waiting = seen.rate * seen.wait(base) if told is None else told
        if told is not None:
            self._is_known, self._until_trial = True, _TRIAL_EVERY
        self._weigh(waiting, reading, is_told=told is not None)

    def _weigh(self, waiting: float, reading: Reading, *, is_told: bool) -> None:
        """Go where the number of waiting requests leads."""
        limit = self._limit
        after_ramp, self._after_ramp = self._after_ramp, False
        self._until_trial -= 1
        if waiting > (_MANY_OF_FEW if self._is_noisy else _MANY) * limit + 1:
            self._come_down(waiting, reading, is_certain=is_told)
        elif waiting < _NONE * limit + 0.5:
            self._go_up(reading.rate, at_once=after_ramp)
        elif self._until_trial <= 0 and limit >= _SMALLEST_TRIAL:
            self._try_fewer(reading)
        else:
            self._growths, self._is_settled = 0, self._is_known
            self._move(limit, "steady: few wait")

    def _come_down(self, waiting: float, reading: Reading, *, is_certain: bool) -> None:
        limit = self._limit
        self._unsettle()
        if not is_certain:
            self._trial = self._trial_of(reading, is_decrease=True)
        self._move(max(_LEAST_LEFT * limit, with_spare(limit - waiting)), "fewer: many wait")

    def _try_fewer(self, reading: Reading) -> None:
        before = reading._replace(level=self._usual or reading.level)
        self._trial = self._trial_of(before, is_decrease=False)
        below = _DEEP_BELOW if self._is_known else _DEEP_BELOW_AT_FIRST
        deep = self._limit <= below and not self._is_even
        self._move((_DEEP_TRIAL if deep else _TRIAL) * self._limit, "trying fewer")

    def _trial_of(self, before: Reading, *, is_decrease: bool) -> Trial:
        return Trial(self._limit, before, is_decrease, self._is_noisy, self._is_even)

    def _go_up(self, rate: float, *, at_once: bool) -> None:
        limit = self._limit
        self._growths += 1
        self._compare_with_half(rate)
        if (at_once or self._growths > _STEPS_BEFORE_RAMP) and limit < self._roof.height:
            self._is_settled = False
            self._ramp = Ramp(limit)
            self._move(limit, "doubling: nothing waits")
            return
        self._move(_STEP * limit + 1, "more: nothing waits")
        self._is_settled = self._limit == limit

    def _compare_with_half(self, rate: float) -> None:
        """Go no higher where twice as many in flight have not brought more answers."""
        limit, (proved_limit, proved_rate) = self._limit, self._proved
        if limit < 2 * proved_limit:
            return
        if limit >= _RISE_FROM and rate < _RISE * proved_rate:
            self._roof.lower(round(_STEP * proved_limit))
        else:
            self._proved = (limit, rate)

    def _conclude(self, trial: Trial, reading: Reading, base: Level) -> None:
        gain = trial.gain(self._limit, reading)
        refuted = trial.refutes(gain)
        if refuted:
            share = 0.5 if trial.is_noisy and not trial.is_decrease else 1.0
            self._base = base.toward(reading.level, share)
        else:
            self._base = base.floor(reading.level)
        if not trial.is_decrease:
            self._settle(trial, gain, reading, base)
        elif refuted:
            self._move(trial.limit, "back: nothing had waited")
        else:
            self._move(self._limit, "enough: fewer wait now")

    def _settle(self, trial: Trial, gain: float, reading: Reading, base: Level) -> None:
        """Choose the limit after a trial; it is known if it is about what it was."""
        if trial.surprises(self._limit, gain, base):
            self._unsettle()
            if self._limit < _SMALLEST_TRIAL:
                self._is_known, self._until_trial = True, _TRIAL_EVERY
            self._move(self._limit, "enough: fewer wait now")
            return
        enough = trial.enough(self._limit, reading, gain, base)
        least, most = (share * trial.limit for share in _AS_IT_WAS)
        if least <= enough and (trial.is_noisy or enough <= most + 1):
            self._is_known = True
            self._until_trial = self._trial_every
            self._trial_every = min(2 * self._trial_every, _TRIAL_AT_MOST_EVERY)
        else:
            self._unsettle()
        self._move(enough, "enough: fewer would be too few")


class Fixed:
    """A limit that was given, with the same face."""

    reason = "as configured"
    throughput = 0.0
    is_settled = True

    def __init__(self, limit: int) -> None:
        self.limit = self.to_keep = limit

    def sent(self, now: float, in_flight: int) -> None: ...
    def answered(self, now: float, took: float, in_flight: int) -> None: ...
    def overloaded(self, now: float, in_flight: int, *, refused: bool = False) -> None: ...
    def queued(self, now: float, waiting: int) -> None: ...
