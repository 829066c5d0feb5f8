"""What can be done with files and batches, put together once for every door and the engine."""

from collections.abc import Callable
from typing import NamedTuple, Self

from batchd.again import Again
from batchd.batches import Batches
from batchd.config import Config
from batchd.damage import Damage
from batchd.files import Files
from batchd.results import Results
from batchd.room import Room
from batchd.spool import Spool
from batchd.steering import Steering
from batchd.store.database import Database


class UseCases(NamedTuple):
    """One of each, over the same rows and bytes."""

    files: Files
    batches: Batches
    steering: Steering
    again: Again
    results: Results

    @classmethod
    def over(  # noqa: PLR0913 - what they work on, and time and chance from outside
        cls,
        database: Database,
        spool: Spool,
        config: Config,
        *,
        room: Room,
        damage: Damage,
        now: Callable[[], float],
        draw: Callable[[int], bytes],
        ring: Callable[[], None],
    ) -> Self:
        """``ring`` is called when a row has changed."""
        files = Files(
            database,
            spool,
            max_size=config.server.max_upload_size,
            room=room,
            damage=damage,
            lifetime=int(config.retention.input_files),
            now=now,
            draw=draw,
        )
        batches = Batches(database, files, room=room, now=now, draw=draw, ring=ring)
        return cls(
            files,
            batches,
            Steering(database, batches, now=now, ring=ring),
            Again(files, batches, spool.disk, config.batches.windows),
            Results(files, batches, spool),
        )
