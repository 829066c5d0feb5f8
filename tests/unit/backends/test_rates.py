"""The pace against servers that count, each in its own way. All in virtual time."""

import heapq
import itertools
import math
import random
from collections import deque
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.backends.rates import Rates, estimated_tokens
from batchd.model import Quota, Window

Kind = Literal["sliding", "bucket", "fixed"]
KINDS: tuple[Kind, ...] = ("sliding", "bucket", "fixed")
SLOTS = 50
JITTER = 0.02
MINUTES = 4


class Count:
    """What a server has counted of one resource in the minute."""

    def __init__(self, kind: Kind, limit: float, reset: float | None = None) -> None:
        self.kind, self.limit, self._reset = kind, limit, reset
        self._used = 0.0
        self._at = -math.inf
        self._entries = deque[tuple[float, float]]()

    def used(self, now: float) -> float:
        if self.kind == "sliding":
            while self._entries and self._entries[0][0] <= now - 60:
                self._used -= self._entries.popleft()[1]
        elif self.kind == "bucket":
            self._used = max(self._used - (now - self._at) * self.limit / 60, 0.0)
        elif (now + 17) // 60 != (self._at + 17) // 60:
            self._used = 0.0
        self._at = now
        return self._used

    def add(self, now: float, amount: float) -> None:
        self.used(now)
        self._used += amount
        if self.kind == "sliding":
            self._entries.append((now, amount))

    def window(self, now: float) -> Window:
        used = self.used(now)
        reset = {
            "sliding": self._entries[0][0] + 60 - now if self._entries else 0.0,
            "bucket": used / self.limit * 60,
            "fixed": 60 - (now + 17) % 60,
        }[self.kind]
        left = max(self.limit - used, 0.0)
        return Window(self.limit, left, reset if self._reset is None else self._reset)


class Work(msgspec.Struct, frozen=True):
    """How long requests take and what they come to."""

    tokens: float = 500.0  # in the mean
    sigma: float = 0.5
    prompt_share: float = 0.8
    latency: float = 1.5


class Result(msgspec.Struct):
    sent: int = 0
    refused: int = 0
    served: float = 0.0  # requests or tokens, in the minutes after the first


class World:
    """Fifty slots that are always wanted, a server, and what lies between."""

    def __init__(
        self,
        rates: Rates,
        work: Work,
        *,
        requests: Count | None,
        tokens: Count | None,
        seed: int = 7,
    ) -> None:
        self.rates, self.work = rates, work
        self.requests, self.tokens = requests, tokens
        self.charge_at = "start"
        self.headers = False
        self.result = Result()
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self._free = SLOTS
        self._timer = False

    def run(self, minutes: int) -> Result:
        self._later(0.0, "go")
        now = 0.0
        while now < minutes * 60:
            now, _, name, what = heapq.heappop(self._events)
            getattr(self, f"_{name}")(now, *what)
        return self.result

    def _later(self, at: float, name: str, *what: object) -> None:
        heapq.heappush(self._events, (at, next(self._order), name, what))

    def _tokens(self, mean: float) -> float:
        sigma = self.work.sigma
        return self._chance.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)

    def _go(self, now: float) -> None:
        while self._free:
            at = self.rates.ready_at(now)
            if at > now:
                if not self._timer:
                    self._timer = True
                    self._later(at + self._chance.random() * 0.004, "wake")
                return
            self._free -= 1
            self.result.sent += 1
            prompt = self._tokens(self.work.tokens * self.work.prompt_share)
            answer = self._tokens(self.work.tokens * (1 - self.work.prompt_share))
            charged = self.rates.take(now)
            charged = self.rates.sized(charged, estimated_tokens(int(prompt * 5), 2000))
            self._later(now + self._chance.random() * JITTER, "arrive", charged, prompt, answer)

    def _wake(self, now: float) -> None:
        self._timer = False
        self._go(now)

    def _arrive(self, now: float, charged: float, prompt: float, answer: float) -> None:
        if self._is_full(now, prompt + answer):
            self.result.refused += 1
            self._later(now + JITTER, "back", charged, None, self._quota(now))
            return
        if self.requests:
            self.requests.add(now, 1.0)
        if self.tokens and self.charge_at == "start":
            self.tokens.add(now, prompt + answer)
        mean = self.work.tokens * (1 - self.work.prompt_share)
        latency = self.work.latency * (0.3 + 0.7 * answer / mean)
        self._later(now + latency, "answer", charged, prompt + answer)

    def _is_full(self, now: float, tokens: float) -> bool:
        if self.requests and self.requests.used(now) + 1 > self.requests.limit:
            return True
        if not self.tokens:
            return False
        asked = tokens if self.charge_at == "start" else 0.0
        return self.tokens.used(now) + asked > self.tokens.limit

    def _answer(self, now: float, charged: float, tokens: float) -> None:
        if self.tokens and self.charge_at == "end":
            self.tokens.add(now, tokens)
        if now >= 60:
            self.result.served += tokens if self.tokens else 1.0
        back = now + self._chance.random() * JITTER
        self._later(back, "back", charged, tokens, self._quota(now))

    def _quota(self, now: float) -> Quota:
        counts = (self.requests, self.tokens)
        return Quota(*(count.window(now) if count else None for count in counts))

    def _back(self, now: float, charged: float, actual: float | None, quota: Quota) -> None:
        self._free += 1
        self.rates.came_to(now, charged, actual)
        if self.headers:
            self.rates.told(quota, now)
        self._go(now)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rpm", [60, 1200])
def test_configured_requests_are_met_and_never_refused(kind: Kind, rpm: int) -> None:
    work = Work(latency=0.5)
    world = World(Rates(requests_per_minute=rpm), work, requests=Count(kind, rpm), tokens=None)
    result = world.run(MINUTES)
    assert result.refused == 0
    assert result.served >= 0.97 * rpm * (MINUTES - 1)


@pytest.mark.parametrize("reset", [None, 60.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rpm", [60, 600])
def test_a_request_limit_is_learned_from_headers(kind: Kind, rpm: int, reset: float | None) -> None:
    world = World(Rates(), Work(), requests=Count(kind, rpm, reset), tokens=None)
    world.headers = True
    result = world.run(MINUTES)
    assert result.refused < 0.005 * result.sent
    assert result.served >= 0.97 * rpm * (MINUTES - 1)
    assert world.rates.limits.source == "learned"
    assert world.rates.limits.requests_per_minute == rpm


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("charge_at", ["start", "end"])
@pytest.mark.parametrize("tpm", [300_000, 600_000])
def test_configured_tokens_are_met_and_never_refused(kind: Kind, charge_at: str, tpm: int) -> None:
    world = World(Rates(tokens_per_minute=tpm), Work(), requests=None, tokens=Count(kind, tpm))
    world.charge_at = charge_at
    result = world.run(MINUTES)
    assert result.refused == 0
    assert result.served >= 0.97 * tpm * (MINUTES - 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("charge_at", ["start", "end"])
def test_a_token_limit_is_learned_from_headers(kind: Kind, charge_at: str) -> None:
    world = World(Rates(), Work(), requests=None, tokens=Count(kind, 600_000))
    world.charge_at, world.headers = charge_at, True
    result = world.run(MINUTES)
    assert result.refused < 0.005 * result.sent
    assert result.served >= 0.97 * 600_000 * (MINUTES - 1)


@pytest.mark.parametrize("charge_at", ["start", "end"])
def test_few_are_refused_even_if_sizes_vary_tenfold(charge_at: str) -> None:
    work = Work(sigma=1.0)
    tokens = Count("sliding", 600_000)
    world = World(Rates(tokens_per_minute=600_000), work, requests=None, tokens=tokens)
    world.charge_at = charge_at
    result = world.run(MINUTES)
    assert result.refused < 0.005 * result.sent
    assert result.served >= 0.97 * 600_000 * (MINUTES - 1)


def sent_in(rates: Rates, now: float, seconds: float, tokens: float = 100.0) -> int:
    end, sent = now + seconds, 0
    while (now := max(now, rates.ready_at(now))) < end:
        charged = rates.sized(rates.take(now), tokens)
        rates.came_to(now, charged, tokens)
        sent += 1
    return sent


def test_an_idle_hour_does_not_allow_a_burst() -> None:
    by_requests = Rates(requests_per_minute=600)
    by_tokens = Rates(tokens_per_minute=60_000)
    for rates in (by_requests, by_tokens):
        sent_in(rates, 0.0, 30.0)
        assert sent_in(rates, 3600.0, 1.0) <= 17


def test_a_request_that_came_to_more_delays_the_next() -> None:
    rates = Rates(tokens_per_minute=60_000)
    charged = rates.sized(rates.take(0.0), 100.0)
    rates.came_to(0.0, charged, 10_000.0)
    assert rates.ready_at(0.0) == pytest.approx(10_000 / 990, abs=0.6)


def test_a_charge_that_became_a_plain_number_still_counts() -> None:
    rates = Rates(tokens_per_minute=60_000)
    charged = float(rates.take(0.0))
    rates.came_to(0.0, charged, 10_000.0)
    assert rates.ready_at(0.0) == pytest.approx(10_000 / 990, abs=0.6)


def test_estimates_come_out_right_in_the_mean() -> None:
    rates, charged, now = Rates(tokens_per_minute=1_000_000), 0.0, 0.0
    for _ in range(300):
        now = rates.ready_at(now)
        charged = rates.sized(rates.take(now), 3000.0)
        rates.came_to(now + 1, charged, 150.0)
        now += 1
    assert charged == pytest.approx(150, rel=0.1)


def test_nothing_left_holds_until_the_reset_and_five_minutes_at_most() -> None:
    for reset, held in ((7.0, 7.0), (1e7, 300.0), (None, 0.0)):
        rates = Rates()
        rates.told(Quota(tokens=Window(None, 0.0, reset)), 10.0)
        assert rates.ready_at(10.0) == 10.0 + held


def test_the_lower_of_two_limits_holds_and_a_later_word_counts() -> None:
    rates = Rates(requests_per_minute=100)
    assert rates.limits.source == "configured"
    for told, held in ((50.0, 50.0), (400.0, 100.0), (70.0, 70.0), (1e300, 100.0)):
        rates.told(Quota(requests=Window(told, told - 1, 1.0)), 0.0)
        assert rates.limits.requests_per_minute == held


@pytest.mark.parametrize(
    ("window", "per_minute"),
    [
        (Window(14_400, 14_370, 180.0), 10.0),  # a day's, which refills evenly
        (Window(200, 199, 432.0), 200 / 1440),
        (Window(600, 300, 3000.0), 10.0),  # an hour's, all at once
        (Window(600, 300, 30.0), 600.0),
        (Window(600, 599, 0.1), 600.0),
    ],
)
def test_a_limit_for_longer_than_a_minute_is_known_by_its_reset(
    window: Window, per_minute: float
) -> None:
    rates = Rates()
    for now in range(0, 400, 40):
        rates.told(Quota(requests=window), now)
    assert rates.limits.requests_per_minute == pytest.approx(max(per_minute, 0.2))


def test_what_others_use_of_a_limit_is_left_to_them() -> None:
    rates, now, sent = Rates(), 0.0, deque[float]()
    count = Count("sliding", 600)
    refused = 0
    while now < 300:
        now = max(now + 0.02, rates.ready_at(now))
        others = 0.4 * 600  # what another client has in the window at any time
        refused += count.used(now) + others >= 600
        count.add(now, 1)
        sent.append(now)
        rates.came_to(now, rates.take(now), None)
        left = max(600 - others - count.used(now), 1.0)
        rates.told(Quota(requests=Window(600.0, left, 30.0)), now)
    served = sum(at >= 120 for at in sent) / 3
    assert refused == 0
    assert 0.55 * 600 <= served <= 0.63 * 600


def test_a_limit_of_an_answer_that_nobody_can_count_to_is_an_estimate_like_others() -> None:
    most = estimated_tokens(100, 10**10)
    assert estimated_tokens(100, 10**400) == most < math.inf
    assert estimated_tokens(100, -(10**400)) == estimated_tokens(100, 0)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e6) | st.none()
windows = st.builds(Window, numbers, numbers, numbers)


@given(
    st.lists(st.tuples(st.floats(0, 100), windows, st.floats(0, 1e12), numbers), max_size=30),
    st.sampled_from([0, 0.01, 60, 1e9]),
)
def test_whatever_a_server_says_the_next_may_go_some_day(
    steps: list[tuple[float, Window, float, float | None]], limit: float
) -> None:
    rates, now = Rates(requests_per_minute=limit, tokens_per_minute=limit), 0.0
    for wait, window, estimate, actual in steps:
        now += wait
        charged = rates.sized(rates.take(now), estimate)
        rates.told(Quota(window, window), now)
        rates.came_to(now, charged, actual)
        assert now <= rates.ready_at(now) < math.inf
    if limit != 0.01:
        assert rates.ready_at(now) <= now + 60 * (len(steps) + 1) * 6


@given(
    st.lists(st.floats(0.1, 5000), max_size=20),
    st.floats(1, 5000),
    st.floats(0, 30),
    st.sampled_from([(60, 0), (0, 6000), (600, 60_000), (0, 0)]),
)
def test_putting_back_undoes_taking(
    taken: list[float], estimate: float, wait: float, limits: tuple[int, int]
) -> None:
    rates = Rates(requests_per_minute=limits[0], tokens_per_minute=limits[1])
    now = 0.0
    for tokens in taken:
        now = rates.ready_at(now)
        rates.came_to(now, rates.sized(rates.take(now), tokens), tokens)
    now += wait
    before = rates.ready_at(now)
    rates.put_back(rates.sized(rates.take(now), estimate))
    assert rates.ready_at(now) == pytest.approx(before, abs=1e-6)
