"""Runs one history: life after life, until every batch of its plan has come to its end."""

import contextlib
import errno
import hashlib
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Generator

import msgspec

from batchd.process import leaves
from tests.simulation.client import Client
from tests.simulation.database import Store
from tests.simulation.disk import Crash
from tests.simulation.life import Life, Meddle
from tests.simulation.loop import Deadlock, Endless
from tests.simulation.plan import EndKind, Plan, Rot
from tests.simulation.seen import NOTHING
from tests.simulation.world import World, Wrong

MOST_LIVES = 40
_SEVERAL = 4
_CUT_AFTER_DEATH = 0.3
# What may end batchd: a disk that fails.
_ENDS_IT = frozenset({errno.EIO})
_NOT_FACTS = frozenset(vars(logging.makeLogRecord({})))


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a history came to. ``violation`` is None if nothing was wrong."""

    seed: int
    violation: str | None
    lines: int
    crashes: int
    trace: str  # a hash of everything that happened, in its order
    tally: dict[str, int]


def run_history(
    plan: Plan,
    store: Store,
    meddle: Meddle | None = None,
    *,
    tell: Callable[[str], None] | None = None,
) -> Told:
    """All lives of one machine. ``tell`` is told everything; the store is left to the next."""
    store.empty()
    world = World(plan, store)
    with _watched_log(world), contextlib.suppress(Wrong):
        _live_on(world, meddle)
    if tell is not None:
        for event in world.trace:
            tell(" ".join(str(part) for part in event))
    on_the_way = sum(server.on_the_way for server in world.servers.by_name.values())
    world.seen.tally["lines on their way into a wait"] += on_the_way
    world.seen.tally["faults on record at a start"] += world.budgets.kept
    world.seen.tally["faults that were not on record any more"] += world.budgets.lost
    world.seen.tally[f"histories with {_SEVERAL} in flight or more"] += (
        world.answers.most_in_flight >= _SEVERAL
    )
    tallies = (world.seen.tally, world.faults.tally, world.endings.tally, world.answers.tally)
    return Told(
        seed=plan.seed,
        violation=world.violation,
        lines=plan.line_count,
        crashes=world.endings.crashes,
        trace=hashlib.blake2b(repr(world.trace).encode(), digest_size=8).hexdigest(),
        tally=dict(sum(tallies, Counter[str]())),
    )


def _live_on(world: World, meddle: Meddle | None) -> None:
    world.begin()
    clients = [Client(world, batch) for batch in world.plan.batches]
    for _ in range(MOST_LIVES):
        life = Life(world, clients, meddle)
        _live(world, life)
        if life.is_over:
            return
        _count(world, life)
        _come_back(world)
    world.wrong(f"{MOST_LIVES} lives were not enough")


def _live(world: World, life: Life) -> None:
    """One life, to its end or its crash."""
    world.endings.begin_life(life.stop)
    try:
        world.loop.run_until_complete(life.live())
    except Wrong:
        raise
    except Crash:
        pass
    except (Deadlock, Endless) as error:
        world.wrong(str(error))
    except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - whatever ends the daemon
        _fell(world, error)
    finally:
        world.disk.dead = True
        world.loop.bury()


def _fell(world: World, error: BaseException) -> None:
    """An error ended batchd, which is right only for some of the disk's."""
    for reason in leaves(error):
        if not (isinstance(reason, OSError) and reason.errno in _ENDS_IT):
            world.wrong(f"batchd ended of {type(reason).__name__}: {reason} ({_path_of(reason)})")
    world.seen.tally["deaths of an error"] += 1
    world.endings.fell()


def _path_of(error: BaseException) -> str:
    """Through which functions of batchd an error came, the innermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/batchd/" in frame.filename]
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(ours))


def _count(world: World, life: Life) -> None:
    """What the life ended in the midst of."""
    tally = world.seen.tally
    if not life.has_recovered:
        tally["ends before all was read back"] += 1
    for status in {batch.status for batch in world.seen.unfinished}:
        tally[f"ends while {status}"] += 1


def _come_back(world: World) -> None:
    """The machine as the next life finds it."""
    ending = world.endings.end_life()
    ended_at = world.loop.time()
    died = ending.kind is EndKind.DEATH
    is_strict = not (world.faults.may_have_dropped() or died)
    kind = ending.kind
    if kind is EndKind.POWER or (died and world.chance.random() < _CUT_AFTER_DEATH):
        kind = EndKind.POWER
        world.disk.power_cut()
    else:
        world.disk.kill()
    world.store.lose_transaction()
    lost = world.checks.life_ended(kind, ended_at, is_strict=is_strict)
    world.steering.life_ended()
    world.servers.forget_life()
    world.note(ending.kind, *lost)
    world.seen.tally["lines in flight at an end"] += len(lost)
    if ending.then_rot is not None:
        _rot(world, ending.then_rot)
    if ending.then_bad_sync:
        world.faults.fail_next_sync()
    world.loop.advance(world.chance.uniform(0.01, 0.5))


def _rot(world: World, how: Rot) -> None:
    """Damage a result file of a batch that has not ended: what it held may be lost, no more."""
    running = world.seen.unfinished
    if running:
        batch = world.chance.choice(running)
        if world.faults.rot(world.chance.choice([batch.output, batch.error]), how):
            world.note(how, batch.number)
            batch.shown, batch.was_damaged = NOTHING, True


class _LogWatch(logging.Handler):
    """Reads every log record of batchd."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        facts = {name: fact for name, fact in vars(record).items() if name not in _NOT_FACTS}
        error = record.exc_info[1] if record.exc_info else ""
        text = f"{record.getMessage()} {facts} {error!r}"
        self._world.note("log", record.msg)
        self._world.checks.log_record(text)


@contextlib.contextmanager
def _watched_log(world: World) -> Generator[None]:
    logger = logging.getLogger("batchd")
    before, propagates = logger.level, logger.propagate
    handler = _LogWatch(world)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = propagates
