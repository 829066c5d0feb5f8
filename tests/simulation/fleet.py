"""The model servers of a history and what batchd's configuration says of them, drawn by chance.

A server goes by its name in all lives. Times are seconds of virtual time.
"""

import random
from collections.abc import Sequence

import msgspec

from batchd.backends.models import ANY
from batchd.config import BackendConfig, ModelLimits

MODELS = ("m", "n")
LEAST_SLOTS = 4


class ServerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A server, and how it is configured. ``slots``: None for as many as measuring finds.

    ``lists`` are the models that it has, ``routes`` what the configuration says of that.
    ``tells``: how its answers speak of its limits.
    """

    name: str
    lists: tuple[str, ...] = MODELS
    routes: tuple[str, ...] = (ANY,)
    weight: float = 1.0
    slots: int | None = 4
    requests_per_minute: float = 0
    tokens_per_minute: float = 0
    model_limit: tuple[str, float] | None = None  # requests a minute of one model
    polite: bool = False
    tells: str | None = None

    @property
    def config(self) -> BackendConfig:
        limits = ()
        if self.model_limit is not None:
            model, most = self.model_limit
            limits = (ModelLimits(models=(model,), requests_per_minute=most),)
        return BackendConfig(
            base_url=f"http://{self.name}/v1",
            name=self.name,
            models=self.routes,
            weight=self.weight,
            max_in_flight="auto" if self.slots is None else self.slots,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            limits=limits,
            load_url="auto" if self.polite else None,
            polite=self.polite,
        )

    def most(self, ceiling: int) -> int:
        """How many requests it may be given at once; measuring is done for each model."""
        return self.slots if self.slots is not None else ceiling * len(self.lists)


class Reload(msgspec.Struct, frozen=True):
    """The configuration changes. ``is_bad``: it is one that cannot be taken."""

    at: float
    servers: tuple[ServerPlan, ...]
    is_bad: bool = False


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """``ceiling``: the most that may be in flight, at all servers together.

    ``kept``: what measuring found at each in an earlier life.
    """

    servers: tuple[ServerPlan, ...]
    reloads: tuple[Reload, ...] = ()
    ceiling: int = 24
    kept: int | None = None

    @property
    def kept_limits(self) -> dict[tuple[str, str, str], int]:
        """By name, address and model, as batchd keeps them."""
        if self.kept is None:
            return {}
        return {
            (server.name, server.config.base_url, model): self.kept
            for server in self.servers
            for model in MODELS
        }

    def at(self, elapsed: float) -> tuple[ServerPlan, ...]:
        """What a start finds in the configuration."""
        good = [one.servers for one in self.reloads if one.at <= elapsed and not one.is_bad]
        return good[-1] if good else self.servers


_TELLS = (None, None, None, "plenty", "little", "closing")


def drawn_fleet(chance: random.Random) -> Fleet:
    count = chance.choice([1, 1, 2, 2, 3])
    servers = tuple(_server(chance, number) for number in range(count))
    return Fleet(
        servers=servers,
        reloads=tuple(_reloads(chance, servers)),
        ceiling=chance.choice([LEAST_SLOTS, 7, 12, 24]),
        kept=chance.choice([None, 3, 9]),
    )


def _server(chance: random.Random, number: int) -> ServerPlan:
    """The first takes whatever there is; the others may have one model only."""
    lists = MODELS if number == 0 else chance.choice([MODELS, ("m",), ("n",)])
    slots = chance.randint(LEAST_SLOTS, 8) if number == 0 else chance.randint(1, 6)
    server = ServerPlan(
        name=f"server-{number}",
        lists=lists,
        routes=chance.choice([(ANY,), lists]),
        weight=chance.choice([0.5, 1.0, 1.0, 2.0]),
        slots=None if chance.random() < 0.25 else slots,
        tells=chance.choice(_TELLS),
        polite=chance.random() < 0.15,
    )
    return _with_limits(chance, server)


def _with_limits(chance: random.Random, server: ServerPlan) -> ServerPlan:
    return msgspec.structs.replace(
        server,
        requests_per_minute=chance.choice([0, 0, 0, 0, 6000, 400]),
        tokens_per_minute=chance.choice([0, 0, 0, 0, 0, 100_000]),
        model_limit=(chance.choice(server.lists), 600.0) if chance.random() < 0.15 else None,
    )


def _reloads(chance: random.Random, servers: Sequence[ServerPlan]) -> list[Reload]:
    """Each changes something; the last leaves every server in its place."""
    if chance.random() < 0.6:
        return []
    times = sorted(chance.uniform(0.1, 3) for _ in range(chance.choice([1, 2, 2, 3])))
    found = [
        Reload(at, _changed(chance, servers), is_bad=chance.random() < 0.15) for at in times[:-1]
    ]
    return [*found, Reload(times[-1], tuple(_altered(chance, server) for server in servers))]


def _changed(chance: random.Random, servers: Sequence[ServerPlan]) -> tuple[ServerPlan, ...]:
    """One server at least: a configuration without any is none."""
    left = [_altered(chance, server) for server in servers if chance.random() < 0.6]
    return tuple(left or servers[-1:])


def _altered(chance: random.Random, server: ServerPlan) -> ServerPlan:
    match chance.randrange(4):
        case 0:
            return msgspec.structs.replace(server, slots=chance.choice([None, 2, 4, 7]))
        case 1:
            return _with_limits(chance, server)
        case 2:
            return msgspec.structs.replace(server, polite=not server.polite)
        case _:
            return server
