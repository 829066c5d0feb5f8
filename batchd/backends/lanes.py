"""The lanes of one backend, made when their models are first asked for, and what bounds them.

Where the limit is a number it is the whole backend's; where it is measured it is each lane's.
Rates are the backend's, some models', and those that the server itself tells, model by model. All
of it outlives a change of the settings as far as they say the same.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchd.backends.capacity import Capacity
from batchd.backends.concurrency import Auto, Fixed
from batchd.backends.lane import Lane
from batchd.backends.models import matches
from batchd.backends.rates import Rates
from batchd.config import BackendConfig, ModelLimits

if TYPE_CHECKING:
    from batchd.backends.backend import Backend

_MOST = 256  # models are named by clients; lanes that do nothing are let go beyond it
_MOST_KEPT = 1000  # limits of lanes that were let go


class Lanes:
    """``kept``: the limits that an earlier life found; ``ceiling``: the most that may be found."""

    def __init__(
        self, backend: "Backend", config: BackendConfig, kept: Mapping[str, int], ceiling: int
    ) -> None:
        self.by_model: dict[str, Lane] = {}
        self.rates = _rates(config)
        self._backend = backend
        self._config = config
        self._kept = dict(kept)
        self._ceiling = ceiling
        self._whole: Capacity | None = None
        self._model_rates: dict[ModelLimits, Rates] = {}

    def configure(self, config: BackendConfig) -> None:
        """Take new settings; what is in flight, what was learned and what was found stays."""
        old, self._config = self._config, config
        if _rates_of(old) != _rates_of(config):
            self.rates = _rates(config)
        known = self._model_rates
        self._model_rates = {
            limits: known.get(limits) or _rates(limits) for limits in config.limits
        }
        self._configure_capacity(config)
        for lane in self.by_model.values():
            lane.rates = [lane.learned, *self._rates_for(lane.model)]

    def _configure_capacity(self, config: BackendConfig) -> None:
        if config.max_in_flight == "auto":
            if self._whole is not None:
                self._whole = None
                for lane in self.by_model.values():
                    lane.move(self._capacity(lane.model))
        elif self._whole is None:
            self._kept |= self.found_limits()
            self._whole = Capacity(Fixed(config.max_in_flight))
            for lane in self.by_model.values():
                lane.move(self._whole)
        else:
            self._whole.concurrency = Fixed(config.max_in_flight)

    def of(self, model: str) -> Lane:
        """This model's lane."""
        lane = self.by_model.get(model)
        if lane is None:
            if len(self.by_model) >= _MOST:
                self._let_go()
            rates, capacity = self._rates_for(model), self._capacity(model)
            lane = self.by_model[model] = Lane(self._backend, model, capacity, rates)
        return lane

    def _capacity(self, model: str) -> Capacity:
        if self._whole is not None:
            return self._whole
        return Capacity(Auto(ceiling=self._ceiling, kept=self._kept.get(model)))

    def _rates_for(self, model: str) -> list[Rates]:
        own = (
            rates for limits, rates in self._model_rates.items() if matches(model, limits.models)
        )
        return [rates for rates in (self.rates, *own) if rates.limits.are_any]

    def _let_go(self) -> None:
        found = {**self._kept, **self.found_limits()}
        self._kept = dict(list(found.items())[-_MOST_KEPT:])
        self.by_model = {model: lane for model, lane in self.by_model.items() if lane.unsettled}

    def found_limits(self) -> dict[str, int]:
        """The limits that measuring has settled on, by model: for the next life."""
        return {
            model: lane.capacity.concurrency.to_keep
            for model, lane in self.by_model.items()
            if self._whole is None and lane.capacity.concurrency.is_settled
        }

    @property
    def have_known_slots(self) -> bool:
        """Whether the limit is a number that somebody gave."""
        return self._whole is not None

    @property
    def have_room(self) -> bool:
        """Whether there may be a free slot at all."""
        return self._whole is None or self._whole.is_free()


def _rates_of(config: BackendConfig | ModelLimits) -> tuple[float, float]:
    return config.requests_per_minute, config.tokens_per_minute


def _rates(config: BackendConfig | ModelLimits) -> Rates:
    requests, tokens = _rates_of(config)
    return Rates(requests_per_minute=requests, tokens_per_minute=tokens)
