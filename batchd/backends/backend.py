"""A model server as batchd sees it: its lanes, rates and parks, whether it lives, what it has.

It never waits: it says when a request may go, and what keeps it from going. It outlives a change
of its settings; how it is reached (``caller``) and the clocks come from outside.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping

from batchd.backends.caller import Caller
from batchd.backends.calls import Calls
from batchd.backends.lane import Lane
from batchd.backends.lanes import Lanes
from batchd.backends.listing import Listing
from batchd.backends.load import Load, LoadWatch, Politeness, load_urls
from batchd.backends.models import ListedModel
from batchd.backends.parking import OUTAGES, REFUSALS, Parking, waiting_note
from batchd.backends.pulse import Pulse
from batchd.config import BackendConfig
from batchd.model import Outcome, Reply
from batchd.retry import (
    NOT_FOUND,
    RATE_LIMITED,
    SIGNS_OF_LIFE,
    TOO_MANY_REQUESTS,
    Decision,
    LineState,
    Park,
    clamp,
    is_fault,
    kind_of,
)

log = logging.getLogger(__name__)


class Backend:
    """One model server.

    ``kept``: the limits that an earlier life found, by model; ``ceiling``: the most that measuring
    may find. ``ring`` is called when something may go that could not.
    """

    def __init__(  # noqa: PLR0913 - its settings, its server, its past, and time from outside
        self,
        config: BackendConfig,
        caller: Caller,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        ring: Callable[[], None],
        kept: Mapping[str, int],
        ceiling: int,
    ) -> None:
        self.config = config
        self.caller = caller
        self.monotonic = monotonic
        self.parking = Parking(config.name)
        self.pulse = Pulse()
        self.calls = Calls()
        self.lanes = Lanes(self, config, kept, ceiling)
        self.in_flight = 0
        self.attempts: Counter[str] = Counter()  # by what they came to
        self.listing = Listing(config, caller, monotonic)
        self.note: str | None = None  # why nothing is sent right now, for people
        self.politeness: Politeness | None = None
        self.load: Load | None = None  # when it was last told
        self._now = now
        self._ring = ring
        self._load_task: asyncio.Task[None] | None = None
        self._load_config: BackendConfig | None = None
        self._probe: object | None = None  # the request that goes first after a park
        self.configure(config, caller)

    def configure(self, config: BackendConfig, caller: Caller) -> None:
        """Take new settings; what is in flight, what was learned and what was found stays."""
        self.politeness = self._politeness_of(config)
        self.config, self.caller = config, caller
        self.listing.configure(config, caller)
        self.lanes.configure(config)
        if self.parking.reason in REFUSALS:
            self.parking.end_refusal(self.monotonic())  # the key may be another one now

    def _politeness_of(self, config: BackendConfig) -> Politeness | None:
        """As the settings say; one that has seen somebody goes on, if they say the same."""
        if not config.polite:
            return None
        said, before = (
            (of.polite_floor, of.polite_hold, of.load_url) for of in (config, self.config)
        )
        if self.politeness is not None and said == before:
            return self.politeness
        return Politeness(floor=config.polite_floor, hold=config.polite_hold)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def weight(self) -> float:
        return self.config.weight

    # -- what goes to it

    def lane(self, model: str) -> Lane:
        """This model's lane, made when it is first asked for."""
        return self.lanes.of(model)

    def takes_lines(self, now: float) -> bool:
        """Whether it may be sent anything, but for slots, rates and parks."""
        if self.pulse.is_suspect and not self.pulse.wants_line:
            return False
        if self._probe is not None and self.parking.is_half_open:
            return False
        bound = self.politeness.bound(now) if self.politeness else None
        return bound is None or self.in_flight < bound

    def is_open(self, now: float) -> bool:
        """Whether any of its lanes may be sent anything now."""
        return self.takes_lines(now) and not self.parking.is_parked(now)

    def opens_at(self, now: float) -> float:
        """When it may be again: infinity if something else must happen first."""
        return self.parking.until() if self.takes_lines(now) else math.inf

    def is_well(self, now: float) -> bool:
        """Whether its lines go, sooner or later, without anything else to happen first."""
        makes_way = self.politeness is not None and self.politeness.bound(now) == 0
        return not (makes_way or self.pulse.is_suspect or self.parking.is_parked(now))

    def taken(self) -> object | None:
        """A slot was taken; what tells it from others if it is the one that goes first."""
        if not self.in_flight:
            self.pulse.began(self.monotonic())
        if self.pulse.is_suspect:
            self.pulse.line_went(self.monotonic())
        self.in_flight += 1
        if not self.parking.is_half_open:
            return None
        self._probe = object()
        return self._probe

    def given_back(self, probe: object | None) -> None:
        """A slot is free again; ``probe``: what ``taken`` said of it."""
        self.in_flight -= 1
        if probe is self._probe:
            self._probe = None

    # -- what comes back

    def came_to(self, outcome: Outcome, decision: Decision, took: float) -> None:
        """An attempt came to this, and this was decided of it."""
        self.attempts[kind_of(outcome)] += 1
        if isinstance(decision, Park):
            if not (self.pulse.is_gone and decision.reason == "unreachable"):
                self.park(decision)
            return
        if isinstance(outcome, Reply) and outcome.status_code == TOO_MANY_REQUESTS and outcome.hint:
            # Its line has come to its end; the server asks to wait all the same.
            self.park(Park(clamp(outcome.hint), RATE_LIMITED, LineState()))
            return
        if isinstance(outcome, Reply) and outcome.status_code == NOT_FOUND:
            self.listing.doubt()
        if isinstance(outcome, Reply) or outcome.kind in SIGNS_OF_LIFE:
            self.pulse.answered(self.monotonic(), took, is_fault=is_fault(outcome))
            self._answered(ok=isinstance(outcome, Reply) and outcome.ok)
        else:
            self.pulse.failed()

    def _answered(self, *, ok: bool) -> None:
        now = self.monotonic()
        self.parking.answered(now, ok=ok)
        if not self.parking.is_parked(now):
            self._is_back()

    def park(self, park: Park) -> None:
        """Send nothing for a while, and say so where people look."""
        self._probe = None  # sent before this, it will tell nothing about it
        if self.parking.park(park, self.monotonic()) or self.note is None:
            self._say(park)

    def _say(self, park: Park) -> None:
        self.note = waiting_note(self.config, park.reason, self._now())
        log.warning(
            "backend_parked",
            extra={"backend": self.name, "reason": park.reason, "seconds": round(park.delay, 1)},
        )

    def _is_back(self) -> None:
        if self.note is not None:
            self.note = None
            log.info("backend_back", extra={"backend": self.name})

    def resume(self) -> None:
        """Somebody says that what it waits for is over: try at once."""
        self._probe = None
        self.pulse.looked(self.monotonic(), is_alive=True)
        self.parking.end()
        self._ring()

    # -- what it has

    @property
    def listed(self) -> list[ListedModel] | None:
        """What it last said that it has; None before it was ever reached."""
        return self.listing.listed

    def serves(self, model: str) -> bool | None:
        """Whether it has this model; None if only trying can tell."""
        return self.listing.serves(model)

    # -- what it says of its load

    def watch_load(self, tasks: asyncio.TaskGroup) -> None:
        """Have its load looked at again and again, if the settings as they are now say so."""
        config = self.config
        if self._load_config is config:
            return
        self.leave_load()
        self._load_config = config
        url = config.load_url or ("auto" if config.polite else None)
        if url is not None:
            watch = LoadWatch(
                self.name,
                load_urls(config.base_url, url),
                self.caller.fetch,
                politeness=self.politeness,
                ours=lambda: self.in_flight,
                has_work=lambda: self.in_flight > 0 or self._yields(),
                told=self._load_told,
            )
            self._load_task = tasks.create_task(watch.run(), name=f"load-{self.name}")

    def leave_load(self) -> None:
        """Look at it no more."""
        if self._load_task is not None:
            self._load_task.cancel()
        self._load_task, self._load_config = None, None

    def _yields(self) -> bool:
        return self.politeness is not None and self.politeness.yields(self.monotonic())

    def _load_told(self, load: Load) -> None:
        self.load = load
        busy = [lane for lane in self.lanes.by_model.values() if lane.in_flight]
        if load.tells_waiting and len(busy) == 1 and not self._yields():
            # With one model, and no guest, it is ours that wait there.
            busy[0].capacity.concurrency.queued(self.monotonic(), load.waiting)
        self._ring()

    # -- whether it lives

    async def look(self) -> None:
        """Every second: ask for another key, or whether the server lives, if there is cause."""
        now = self.monotonic()
        if self.parking.reason in REFUSALS and await self.caller.reload_key():
            self.parking.end_refusal(self.monotonic())
            self._ring()
        if not self.pulse.wants_look(now, in_flight=len(self.calls)):
            await self._look_whether_back(now)
            return
        was_gone = self.pulse.is_gone
        is_alive = await self.caller.is_alive()
        if not self.pulse.is_suspect:
            return  # an answer has come meanwhile
        self.pulse.looked(self.monotonic(), is_alive=is_alive)
        self._break_off(now, was_gone=was_gone)
        if is_alive or self.pulse.wants_line:
            self._ring()

    def _break_off(self, now: float, *, was_gone: bool) -> None:
        """What hangs on it after a look that showed it gone, or back."""
        if self.pulse.is_gone:
            if not was_gone:
                self._is_gone(now)
            if not self.pulse.is_tried(now):
                self.calls.abort()  # again, too: a request may have been on its way out
        elif was_gone:
            self._probe = None
            self.calls.abort()  # the line that was tried, perhaps over a dead connection

    def _is_gone(self, now: float) -> None:
        gone = Park(0.0, "gone", LineState())
        self._probe = None
        self.parking.park(gone, now)
        self._say(gone)  # even where it is parked for longer: this is news

    async def _look_whether_back(self, now: float) -> None:
        """Its lines may all have gone elsewhere: then none will tell."""
        if self.note is None or self.in_flight or self.pulse.is_suspect:
            return
        if self.parking.reason in OUTAGES:
            if await self.caller.is_alive() and not self.in_flight:
                self._is_back()
                self.resume()
        elif self.parking.reason == RATE_LIMITED and not self.parking.is_parked(now):
            self._is_back()
