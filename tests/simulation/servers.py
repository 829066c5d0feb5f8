"""The truth about every model server: what it has, what it was sent, and what it asked for.

Held against it is what reaches a server: never more at once than it is configured for, not faster
than its rate, nothing for as long as it asked to wait, no model that another has and it has not.
All of that is of one life; a start knows nothing of what was told before.

A line that was given its slot before a server asked to wait counts as sent: it is being read.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Never

from tests.simulation.fleet import ServerPlan

Wrong = Callable[[str], Never]

# For so long at most a line that was given its slot is on its way to the server.
ON_THE_WAY = 0.05
_LATE = 0.1 + ON_THE_WAY  # seconds by which a request may make up for a late one
_ROUNDING = 1e-6
# Two looks at its load one after the other, the first after an idle second; and a tick before.
_NOTICED = 2.6


class Pace:
    """Requests a minute, as they arrive: what has run off is not saved up."""

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._level = 0.0
        self._at = 0.0

    def is_kept(self, now: float) -> bool:
        """Count a request; whether it was not too early."""
        if not self._per_second:
            return True
        self._level = max(0.0, self._level - (now - self._at) * self._per_second) + 1
        self._at = now
        return self._level <= 1 + _LATE * self._per_second + _ROUNDING


class Server:
    """One of them. ``plan`` is as configured last; it goes on while it is left out for a while."""

    def __init__(self, plan: ServerPlan, ceiling: int) -> None:
        self.name = plan.name
        self.lists = plan.lists
        self.on_the_way = 0  # lines that had their slot when it asked to wait, over all lives
        self.plan = plan
        self.in_flight: Counter[str] = Counter()  # by model
        self.arrivals: deque[float] = deque()
        self._ceiling = ceiling
        self.forget_life()

    def forget_life(self) -> None:
        """Whoever asks next knows nothing of what it said."""
        self.in_flight.clear()
        self.is_configured = False
        self.configured_at = 0.0
        self.has_answered = False
        self.hid_its_models = False  # was asked, and not there
        self.longest = 0.0  # that an answer took
        self._most = deque[tuple[float, int]]()  # until when so many were allowed
        self._told = deque[tuple[float, int]]()  # until when to wait, and since which event
        self._resets: dict[str, tuple[float, int]] = {}  # the same, by model
        self._pace = Pace(0)
        self._model_pace = Pace(0)
        self._paced_from = 0.0  # what comes before was given its slot under other rates

    @property
    def total(self) -> int:
        return self.in_flight.total()

    def configure(self, plan: ServerPlan, now: float) -> None:
        """batchd has taken this for it."""
        if not self.is_configured or _rates(plan) != _rates(self.plan):
            self._pace = Pace(plan.requests_per_minute)
        if not self.is_configured or plan.model_limit != self.plan.model_limit:
            self._model_pace = Pace(plan.model_limit[1] if plan.model_limit else 0)
        if self.is_configured:
            self._most.append((now + ON_THE_WAY, self._allowed()))
            self._paced_from = now + ON_THE_WAY
        self.plan = plan
        self.is_configured = True
        self.configured_at = now

    def closed(self) -> None:
        """Left out, and nothing of it is in flight: what it said is forgotten."""
        self._told.clear()
        self._resets.clear()

    def _allowed(self) -> int:
        return self.plan.most(self._ceiling)

    def most(self, now: float) -> int:
        """How many may be in flight, what was given a slot before a change included."""
        while self._most and self._most[0][0] < now:
            self._most.popleft()
        return max([self._allowed(), *(most for _, most in self._most)])

    # -- what it says

    def asks_to_wait(self, until: float, event: int) -> None:
        """With a 429."""
        self._told.append((until, event))

    def has_nothing_left(self, model: str, until: float, event: int) -> None:
        """With its limits in a header: they are a model's."""
        self._resets[model] = max(self._resets.get(model, (0.0, 0)), (until, event))

    # -- what reaches it

    def is_rude(self, now: float, guests_for: float) -> bool:
        """Whether more is sent to it beside others than it should be by now."""
        seconds = min(guests_for, now - self.configured_at)
        is_told = self.plan.polite and not self.hid_its_models
        return is_told and seconds > _NOTICED and self.total > 1

    def complaint(self, model: str, picked: int, now: float) -> str | None:
        """What is wrong with a request that arrives; it is counted. ``picked``: by which event."""
        self.in_flight[model] += 1
        while self._told and self._told[0][0] <= now:
            self._told.popleft()
        told = [*self._told, self._resets.get(model, (0.0, 0))]
        told = [(until, since) for until, since in told if now < until - _ROUNDING]
        self.on_the_way += bool(told)
        if any(since < picked for _, since in told):
            return f"is asked at {now:.3f} although it asked to wait until {max(told)[0]:.3f}"
        if self.total > self.most(now):
            return f"has {self.total} lines at once and takes {self.most(now)}"
        return self._pace_complaint(model, now)

    def _pace_complaint(self, model: str, now: float) -> str | None:
        if now < self._paced_from:
            return None
        kept = self._pace.is_kept(now)
        if self.plan.model_limit is not None and self.plan.model_limit[0] == model:
            kept = self._model_pace.is_kept(now) and kept
        return None if kept else "is asked too soon for its rate"

    def used(self, now: float) -> int:
        """Requests in the last minute, as it counts them; this one is counted."""
        self.arrivals.append(now)
        while self.arrivals[0] <= now - 60:
            self.arrivals.popleft()
        return len(self.arrivals)


def _rates(plan: ServerPlan) -> tuple[float, float]:
    return plan.requests_per_minute, plan.tokens_per_minute


class Servers:
    """All that a history has. ``configured`` is what batchd was told last."""

    def __init__(self, plans: Iterable[ServerPlan], ceiling: int, wrong: Wrong) -> None:
        self.by_name = {plan.name: Server(plan, ceiling) for plan in plans}
        self._ceiling = ceiling
        self._wrong = wrong
        self._unsettled_bound = 0
        self.now_configured: Sequence[ServerPlan] = ()
        self._joined: dict[str, float] = {}  # when, those that others were before

    def forget_life(self) -> None:
        self._joined.clear()
        self._unsettled_bound = 0
        self.now_configured = ()
        for server in self.by_name.values():
            server.forget_life()

    def configure(self, plans: Sequence[ServerPlan], now: float) -> None:
        """batchd has taken this configuration."""
        before, self.now_configured = self.now_configured, plans
        known = {plan.name for plan in before}
        self._joined.update((plan.name, now) for plan in plans if known and plan.name not in known)
        for plan in plans:
            self.by_name[plan.name].configure(plan, now)
        if list(before) != list(plans):
            # What was sent under the limits before may be on its way to disk for long.
            self._unsettled_bound += 2 * sum(plan.most(self._ceiling) for plan in plans)

    @property
    def unsettled_bound(self) -> int:
        """Lines sent and not yet durable: twice the slots of each configuration of this life."""
        return self._unsettled_bound

    def _settled(self, now: float) -> Iterable[ServerPlan]:
        """Those that were there when whatever arrives now was given its slot."""
        for plan in self.now_configured:
            if self._joined.get(plan.name, 0.0) <= now - ON_THE_WAY:
                yield plan

    def arrives(self, server: Server, model: str, picked: int, now: float) -> None:
        """A request for this model; ``picked``: the event at which it was given its slot."""
        complaint = server.complaint(model, picked, now)
        if complaint is not None:
            self._wrong(f"{server.name} {complaint}")
        total = sum(one.total for one in self.by_name.values())
        if total > self._ceiling:
            self._wrong(f"{total} lines are in flight, and {self._ceiling} may be")
        if model not in server.lists:
            others = [plan.name for plan in self._settled(now) if model in plan.lists]
            if others and not server.hid_its_models:
                self._wrong(f"{server.name} is asked for {model}, which {others[0]} has")
