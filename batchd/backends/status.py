"""What each backend is doing, as structs that are shown to people as they are. Pure.

Everything is as of one instant. Names, addresses and models are the operator's; nothing of a
request is in here.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from batchd.backends.backend import Backend
from batchd.backends.lane import Lane
from batchd.backends.pool import Pool

Source = Literal["configured", "learned"]
State = Literal["ok", "waiting", "gone"]
STATES: tuple[State, ...] = ("ok", "waiting", "gone")


class RateStatus(msgspec.Struct, frozen=True):
    """A limit a minute, and who says so: the configuration, or the server in its headers."""

    limit: float
    source: Source


class LaneStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one backend. ``throughput``: answers a second.

    ``limit`` is found by measuring where ``auto`` is true; where it is not, it is the whole
    backend's. Rates are there only where the model has some of its own.
    """

    model: str
    in_flight: int
    limit: int
    auto: bool
    settled: bool
    reason: str
    throughput: float
    requests_per_minute: RateStatus | msgspec.UnsetType = msgspec.UNSET
    tokens_per_minute: RateStatus | msgspec.UnsetType = msgspec.UNSET


class BackendStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One backend. ``note``: why nothing, or less than could be, is sent; for people.

    ``tries_again_in``: seconds until the wait ends by itself, where it has an end. ``models``: what
    the server lists; None while it could not be asked.
    """

    object: Literal["backend"] = "backend"
    name: str
    base_url: str
    state: State
    note: str | None
    tries_again_in: float | None
    weight: float
    in_flight: int
    models: list[str] | None
    requests_per_minute: RateStatus | None
    tokens_per_minute: RateStatus | None
    lanes: list[LaneStatus]


def statuses(pool: Pool) -> list[BackendStatus]:
    """Of every backend, in the order of the configuration."""
    return [status_of(backend) for backend in pool.backends]


def status_of(backend: Backend) -> BackendStatus:
    config = backend.config
    limits = backend.lanes.rates.limits
    listed = backend.listed
    return BackendStatus(
        name=backend.name,
        base_url=config.base_url,
        state=_state(backend),
        note=_note(backend),
        tries_again_in=_wait(backend),
        weight=backend.weight,
        in_flight=backend.in_flight,
        models=None if listed is None else [model.id for model in listed],
        requests_per_minute=_rate(limits.requests_per_minute, config.requests_per_minute),
        tokens_per_minute=_rate(limits.tokens_per_minute, config.tokens_per_minute),
        lanes=[_lane(lane) for lane in backend.lanes.by_model.values()],
    )


def _state(backend: Backend) -> State:
    if backend.pulse.is_gone:
        return "gone"
    return "ok" if backend.note is None else "waiting"


def _note(backend: Backend) -> str | None:
    if backend.note is not None:
        return backend.note
    if backend.politeness and (note := backend.politeness.note(backend.monotonic())):
        return note
    return "has not answered yet which models it has" if backend.listed is None else None


def _wait(backend: Backend) -> float | None:
    wait = backend.parking.until() - backend.monotonic()
    return round(wait, 1) if wait > 0 else None


def _rate(limit: float, configured: float) -> RateStatus | None:
    """``limit`` is the lower of what is configured and what the server names; 0: none."""
    if not limit:
        return None
    return RateStatus(limit, "configured" if limit == configured else "learned")


def _lane(lane: Lane) -> LaneStatus:
    concurrency = lane.capacity.concurrency
    own = [rates.limits for rates in lane.rates if rates is not lane.backend.lanes.rates]
    return LaneStatus(
        model=lane.model,
        in_flight=lane.in_flight,
        limit=concurrency.limit,
        auto=lane.backend.config.max_in_flight == "auto",
        settled=concurrency.is_settled,
        reason=concurrency.reason,
        throughput=concurrency.throughput,
        requests_per_minute=_lowest((limits.requests_per_minute, limits.source) for limits in own),
        tokens_per_minute=_lowest((limits.tokens_per_minute, limits.source) for limits in own),
    )


def _lowest(limits: Iterable[tuple[float, Source]]) -> RateStatus | msgspec.UnsetType:
    lowest = min((limit for limit in limits if limit[0]), default=None)
    return msgspec.UNSET if lowest is None else RateStatus(*lowest)
