"""One look over a storage directory for whoever asks, whether a daemon runs on it or not."""

from collections.abc import Callable
from pathlib import Path

from batchd.disk import Disk
from batchd.errors import ConfigError
from batchd.findings import DamageKind
from batchd.spool import Spool
from batchd.store.readonly import DatabaseDamaged, ReadOnly
from batchd.upkeep.examination import Examination
from batchd.upkeep.steps import Step, Stepwise


def fsck(
    storage: Path, *, quick: bool, orphan_age: float, now: Callable[[], float]
) -> Stepwise[None]:
    """Look at everything; at names, rows and sizes only if ``quick``.

    ``ConfigError`` if there is nothing to look at, or this user or program cannot.
    """
    spool = Spool(storage, Disk())
    try:
        if not storage.is_dir():
            raise ConfigError(f"there is no storage directory {storage}")
        with ReadOnly.opened(spool.database) as database:
            look = Examination(spool, database, now=now, orphan_age=orphan_age)
            yield from look.database()
            yield from look.surface()
            if not quick:
                yield from look.depth()
    except DatabaseDamaged as error:
        if error.kind is DamageKind.DATABASE_MISSING and not spool.holds_anything():
            raise ConfigError(f"{storage} has no batchd.db: batchd has never run on it") from None
        yield Step(findings=(error.finding,))
    except OSError as error:
        raise ConfigError(
            f"the storage directory {storage} cannot be looked at: {error.strerror}"
        ) from None
