"""Takes a changed configuration while the daemon runs, at SIGHUP: all of it or nothing.

Backends, their limits and keys, the API keys and the log's level are swapped; no line is lost by
it: what is in flight goes on where it is. What cannot change in a running daemon (where it listens,
where it stores) is refused by name, as is anything that is wrong, and the old configuration stays.
Other settings take effect at the next start, and the log says which.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from batchd.api.auth import Keys
from batchd.backends.pool import Pool
from batchd.bell import Bell
from batchd.config import Config
from batchd.errors import ConfigError

log = logging.getLogger(__name__)

_LOOK_AGAIN = 60.0
_FIXED = ("local", "server.listen", "storage.directory")
_SWAPPED = frozenset({"backends", "auth.keys_file", "logging.level", "logging.format"})


class Reloader:
    """``config``: what the daemon was started with; ``bell`` is rung by the signal; ``load`` reads
    the configuration anew and blocks."""

    def __init__(  # noqa: PLR0913 - what it reads, and what it swaps
        self,
        config: Config,
        load: Callable[[], Config],
        *,
        bell: Bell,
        pool: Pool,
        keys: Keys,
        configure_log: Callable[[Config], None],
        say: Callable[[str], None],
    ) -> None:
        self._started = config
        self._load = load
        self._bell = bell
        self._pool = pool
        self._keys = keys
        self._configure_log = configure_log
        self._say = say

    async def run(self, stop: asyncio.Event) -> None:
        """Reload when rung, until ``stop``."""
        while not stop.is_set():
            if await self._bell.wait(at_most=_LOOK_AGAIN) and not stop.is_set():
                await self.reload()

    async def reload(self) -> None:
        """Take the configuration as it is now, or say why not and keep the old one."""
        try:
            fresh = await asyncio.to_thread(self._load)
            later = await self._swap(fresh)
        except ConfigError as error:
            log.error("config_refused", extra={"reason": str(error)})  # noqa: TRY400 - no fault of the program
            self._say(f"the changed configuration was refused, the old one stays: {error}")
        else:
            log.info("config_reloaded", extra={"at_next_start": ", ".join(later) or "nothing"})
            self._say("configuration reloaded")

    async def _swap(self, fresh: Config) -> Sequence[str]:
        """The settings that have changed and wait for the next start."""
        fresh.require_backend()
        changed = changes(self._started, fresh)
        for name in _FIXED:
            if name in changed:
                raise ConfigError(f"{name} cannot be changed while batchd runs: restart it")
        keys = await asyncio.to_thread(Keys.read, fresh.auth.keys_file)
        if not fresh.local:
            await self._pool.replace(fresh.backends)
        self._keys.replace(keys)
        self._configure_log(fresh)
        return [name for name in changed if name not in _SWAPPED]


def changes(old: Config, new: Config) -> list[str]:
    """The settings that differ, as ``section.name``."""
    found: list[str] = []
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    for name, section in after.items():
        if isinstance(section, msgspec.Struct):
            fields = msgspec.structs.asdict(section)
            others: Mapping[str, object] = msgspec.structs.asdict(before[name])
            found += [f"{name}.{key}" for key, value in fields.items() if others[key] != value]
        elif before[name] != section:
            found.append(name)
    return found
