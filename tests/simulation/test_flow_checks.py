"""The checks of flow can fail: each bug of these is seen in histories that are well without it."""

import contextlib
import math
from collections.abc import Callable, Generator

import pytest

from batchd.attempts import Attempts
from batchd.backends.capacity import Capacity
from batchd.backends.listing import Listing
from batchd.backends.load import Politeness
from batchd.backends.meter import Meter
from batchd.backends.parking import Parking
from batchd.backends.pulse import Pulse
from batchd.engine.rounds import Rounds
from tests.simulation.database import opened_store
from tests.simulation.history import run_history
from tests.simulation.many import run_chunk
from tests.simulation.scripts import SCRIPTS

pytestmark = pytest.mark.allow_blocking(reason="its loop is virtual, and waits for nobody")

Broken = tuple[type, str, object]


def _long_ago(*_: object) -> float:
    return -math.inf


def _yes(*_: object) -> bool:
    return True


def _no(*_: object, **__: object) -> bool:
    return False


def _nothing(*_: object) -> None:
    return None


SEEDS = range(60)
IN_HISTORIES: dict[str, Broken] = {
    "asked to wait": (Parking, "park", _yes),
    "too soon for its rate": (Meter, "ready_at", _long_ago),
    "lines at once": (Capacity, "is_free", _yes),
    "is asked for": (Listing, "was_asked", True),
}
IN_SCRIPTS: dict[str, tuple[str, Broken]] = {
    "crowd": ("waits behind", (Rounds, "served", _nothing)),
    "beside guests": ("beside 30 guests", (Politeness, "bound", _nothing)),
    "hung": ("hung at server-0", (Pulse, "wants_look", _no)),
    "failing for ever": ("are forgotten", (Attempts, "append", _nothing)),
}


def _broken(what: Broken) -> Callable[[], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def alter() -> Generator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*what)
            yield

    return alter


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("complaint", IN_HISTORIES)
def test_a_planted_bug_is_seen_in_histories(complaint: str) -> None:
    told = run_chunk(SEEDS, _broken(IN_HISTORIES[complaint]))
    seen = [one.violation for one in told if one.violation is not None]
    assert [text for text in seen if complaint in text]


@pytest.mark.parametrize("name", IN_SCRIPTS)
def test_a_planted_bug_is_seen_in_a_script(name: str) -> None:
    complaint, what = IN_SCRIPTS[name]
    script = SCRIPTS[name]()
    with _broken(what)(), opened_store() as store:
        violation = run_history(script.plan, store, script.meddle).violation
    assert complaint in (violation or "")
