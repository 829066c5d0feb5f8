"""The loops beside the engine, made of the daemon's parts: sweeper, scrubber, inbox."""

from collections.abc import Callable
from pathlib import Path

from batchd.api.auth import Keys
from batchd.batches import Batches
from batchd.bell import Bell
from batchd.config import Config
from batchd.damage import Damage
from batchd.files import Files
from batchd.inbox.door import Inbox
from batchd.spool import Spool
from batchd.store.database import Database
from batchd.sweeper import Sweeper
from batchd.upkeep.scrubber import Scrubber


class Loops:
    """Each is made when it is asked for; its ``bell`` says that rows have changed."""

    def __init__(
        self,
        config: Config,
        files: Files,
        batches: Batches,
        *,
        keys: Keys,
        now: Callable[[], float],
    ) -> None:
        self._config = config
        self._keys = keys
        self._files = files
        self._batches = batches
        self._now = now

    def sweeper(self, spool: Spool, bell: Bell) -> Sweeper:
        retention = self._config.retention
        return Sweeper(
            self._batches,
            self._files,
            spool,
            bell,
            sweep_every=retention.sweep_every,
            orphan_age=retention.orphan_age,
            now=self._now,
        )

    def scrubber(self, spool: Spool, damage: Damage) -> Scrubber:
        storage = self._config.storage
        return Scrubber(
            spool,
            self._batches,
            damage,
            rate=storage.scrub_rate,
            every=storage.scrub_every,
            orphan_age=self._config.retention.orphan_age,
            now=self._now,
        )

    async def inbox(self, place: Path, database: Database, bell: Bell) -> Inbox:
        """``ConfigError`` if the directory cannot be used."""
        inbox = Inbox(
            place,
            self._config.inbox,
            self._config.batches,
            database=database,
            files=self._files,
            batches=self._batches,
            bell=bell,
            owner_of=self._keys.owner_of_user,
            now=self._now,
        )
        await inbox.check()
        return inbox
