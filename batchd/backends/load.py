"""What a model server says of its own load, and how batchd makes way for others on that server.

Owns the reading of a server's load, the bound that follows from it (``Politeness``, pure), and the
loop that looks (``LoadWatch``). Does not know HTTP: ``fetch`` is handed in.

A guest is a request on the server that is not ours: what runs and waits there, less the most that
we had in flight about then. That errs on the side of no guest: one of ours that is on its way there
or back hides one. It can err on the other side where a server goes on counting a request of ours
that has ended, so a guest that does not wait is believed when two looks in a row show it. Once way
is made, one look is enough to keep it, and looks are more frequent: short requests slip between
them, and a guest that was missed meets a full server.

What is in flight when a guest comes is not taken back: it waits for those at worst. Two polite
daemons on one server are each other's guests, and stay at the floor for as long as both have work.

llama.cpp's ``/slots`` does not say who waits: a guest behind a full house is not seen at all. Where
that is all that is told, one of the server's places is left free, so that a guest can take it.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

log = logging.getLogger(__name__)

LOOK_EVERY = 0.25  # seconds, while polite and there is work
LOOK_EVERY_YIELDING = 0.1  # so that few short requests slip between the looks
LOOK_EVERY_IDLE = 1.0
ASK_AGAIN = 60.0  # a server that does not tell

_FETCH_TIMEOUT = 5.0
_LOOKS_TO_BELIEVE = 2
_MOST = 1e9  # requests; more is no count

_RUNNING = (
    b"vllm:num_requests_running",
    b"llamacpp:requests_processing",
    b"sglang:num_running_reqs",
)
_WAITING = (b"vllm:num_requests_waiting", b"llamacpp:requests_deferred", b"sglang:num_queue_reqs")
_NAMES = _RUNNING + _WAITING
# The name, its labels if any, the value, and perhaps a timestamp.
_SAMPLE = re.compile(rb"([a-z_:]+)(?:\{.*\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*")


class Load(msgspec.Struct, frozen=True):
    """How many requests a server works on, and how many wait there, if it tells that.

    ``places``: how many it can work on at once, where nothing but that is told of the waiting.
    """

    running: int
    waiting: int
    places: int | None = None
    tells_waiting: bool = True


class _Slot(msgspec.Struct, frozen=True):
    is_processing: bool


_decode_slots = msgspec.json.Decoder(list[_Slot]).decode


def parse_load(content_type: str, body: bytes) -> Load | None:
    """The load in the metrics of vLLM, llama.cpp or SGLang, or in llama.cpp's slots.

    None if ``body`` is neither.
    """
    if "json" in content_type:
        return _load_of_slots(body)
    counts = [(name in _WAITING, _count(text)) for name, text in _samples(body)]
    running = waiting = 0
    for waits, count in counts:
        if count is None:
            return None
        if waits:
            waiting += count
        else:
            running += count
    tells_waiting = any(waits for waits, _ in counts)
    return Load(running, waiting, tells_waiting=tells_waiting) if counts else None


def _samples(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The names and values that matter here; a busy server tells thousands of others."""
    for line in body.splitlines():
        if line.startswith(_NAMES):
            sample = _SAMPLE.fullmatch(line)
            if sample is not None and sample[1] in _NAMES:
                yield sample[1], sample[2]


def _load_of_slots(body: bytes) -> Load | None:
    try:
        slots = _decode_slots(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if not slots:
        return None
    running = sum(slot.is_processing for slot in slots)
    return Load(running, 0, len(slots), tells_waiting=False)


def _count(text: bytes) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if 0 <= value <= _MOST else None


def load_urls(base_url: str, load_url: str) -> list[str]:
    """Where a server may tell its load, the best first."""
    if load_url != "auto":
        return [load_url]
    root = base_url.rstrip("/").removesuffix("/v1")
    return [f"{root}/metrics", f"{root}/slots"]


class Politeness:
    """How many requests of ours may be in flight beside others'. Pure."""

    def __init__(self, *, floor: int, hold: float) -> None:
        self._floor = floor
        self._hold = hold
        self._places: int | None = None
        self._ours = 0
        self._looks = 0  # in a row that showed a guest
        self._until: float | None = None

    def seen(self, now: float, load: Load, ours: int) -> None:
        """A look at the server. ``ours``: the most we had in flight while it was asked."""
        # Those of the look before count too: the server may be slow to forget one that has ended.
        others = load.running + load.waiting - max(ours, self._ours)
        self._ours = ours
        self._places = load.places
        if others <= 0:
            self._looks = 0
            return
        self._looks += 1
        if load.waiting or self._looks >= _LOOKS_TO_BELIEVE or self.yields(now):
            self._until = now + self._hold

    def yields(self, now: float) -> bool:
        """Whether a guest was seen lately."""
        return self._until is not None and now < self._until

    def bound(self, now: float) -> int | None:
        """At most so many may be in flight; None for no bound."""
        if self.yields(now):
            return self._floor
        if self._places is not None:
            return max(self._floor, self._places - 1, 1)
        return None

    def note(self, now: float) -> str | None:
        """Why less is sent than could be, as words for people; None if nothing is held back."""
        if self.yields(now):
            return f"makes way for others' requests: at most {self._floor} in flight"
        return None


# What a URL answered: its content type and body, both empty for a refusal. None if it could not be
# asked now: no answer in time, or a 503.
Fetch = Callable[[str], Awaitable[tuple[str, bytes] | None]]


class LoadWatch:
    """Looks at the load of one server again and again, and tells it."""

    def __init__(  # noqa: PLR0913 - whom to ask, how, and whom to tell
        self,
        name: str,
        urls: Sequence[str],
        fetch: Fetch,
        *,
        politeness: Politeness | None,
        ours: Callable[[], int],
        has_work: Callable[[], bool],
        told: Callable[[Load], None],
    ) -> None:
        """``ours``: our requests in flight; ``has_work``: whether there are any, or are to be."""
        self._name = name
        self._urls = urls
        self._fetch = fetch
        self._politeness = politeness
        self._ours = ours
        self._has_work = has_work
        self._told = told
        self._url: str | None = None
        self._is_said = False

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(max(0.0, began + await self._pass() - loop.time()))

    async def _pass(self) -> float:
        """Look once; how long after its beginning to look again."""
        try:
            may_tell = await self._look()
        except Exception:
            log.exception("load_watch_failed", extra={"backend": self._name})
            may_tell = False
        if not may_tell:
            return ASK_AGAIN
        if self._politeness is None or not self._has_work():
            return LOOK_EVERY_IDLE
        yields = self._politeness.yields(asyncio.get_running_loop().time())
        return LOOK_EVERY_YIELDING if yields else LOOK_EVERY

    async def _look(self) -> bool:
        """Ask where it was told last, else everywhere; False if the server tells it nowhere."""
        for url in self._urls if self._url is None else [self._url]:
            told = await self._ask(url)
            if told is None:
                return True  # it may tell when it can be asked
            if told:
                self._url, self._is_said = url, False
                return True
        if self._url is not None:
            self._url = None
            return True  # it told before: perhaps elsewhere now
        if not self._is_said:
            log.warning("load_not_told", extra={"backend": self._name})
            self._is_said = True
        return False

    async def _ask(self, url: str) -> bool | None:
        """Whether the load was told; None if that cannot be said now."""
        before = self._ours()
        answer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FETCH_TIMEOUT):
                answer = await self._fetch(url)
        if answer is None:
            return None
        load = parse_load(*answer)
        if load is None:
            return False
        if self._politeness is not None:
            now = asyncio.get_running_loop().time()
            self._politeness.seen(now, load, max(before, self._ours()))
        self._told(load)
        return True
