"""What can be set on a model server, and what it counts."""

from typing import Literal

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the whole server behaves. Zero means no limit, or at once."""

    behave: str = "ok"
    delay: float = 0  # seconds to each answer; the median when ``sigma`` is not 0
    sigma: float = 0  # of the lognormal distribution of delays
    seed: int = 0
    slots: int = 0  # answered at the same time; further requests wait silently
    rate: int = 0  # requests in each ``rate_window``; further ones get a 429
    rate_window: float = 60
    rate_hint: bool = True  # say in the 429 when to come back
    models: tuple[str, ...] = ("test-model",)
    models_status: int = 200  # anything else: what GET /v1/models fails with
    api_key: str = ""
    answer_size: int = 0  # characters added to each answer
    on_connect: Literal["accept", "reset", "close"] = "accept"
    keep_alive: float = 0  # seconds a connection may be idle
    requests_per_connection: int = 0


class Counts(msgspec.Struct, kw_only=True):
    connections: int = 0
    arrived: int = 0
    ended: int = 0
    aborted: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    statuses: dict[int, int] = {}
