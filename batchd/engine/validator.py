"""Moves batches out of ``validating``: to ``in_progress``, or to ``failed`` with every fault.

The input hold comes first (a hard link), then the inspection, then one transaction that also
requires the file's row to be live still. A crash before it leaves a hold, an index and an order
that the next start writes anew. Nothing is sent unless the whole file is valid.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import msgspec

from batchd.backends.models import KnownModels
from batchd.batches import Batches
from batchd.bell import Bell
from batchd.closing import missing_input
from batchd.config import BatchesConfig
from batchd.disk import is_full
from batchd.engine.inspection import Inspection, Places, Rules, Stopped, Verdict
from batchd.engine.postponed import Postponed
from batchd.errors import FileCorrupt, InvalidRequest, NoRoom
from batchd.files import Files
from batchd.model import BatchRecord, Control, LineError
from batchd.room import Room
from batchd.spool import Spool
from batchd.states import BatchStatus

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
_AT_ONCE = 4
_SMALL = 4 << 20  # bytes that are validated in less than a second
_UNFORESEEN = "batchd failed to validate this file; its log says why."


class Models(Protocol):
    """Who knows the models that lines may name."""

    async def known_models(self) -> KnownModels | None: ...


class _Input(msgspec.Struct, frozen=True):
    owner: str
    is_small: bool


class _Turns:
    """Which batch gets the next place: owners take turns, and of each the oldest is first."""

    def __init__(self) -> None:
        self._inputs: dict[str, _Input] = {}
        self._served: dict[str, int] = {}
        self._turn = 0

    def unknown(self, batch_ids: Iterable[str]) -> list[str]:
        return [batch_id for batch_id in batch_ids if batch_id not in self._inputs]

    def note(self, batch_id: str, given: _Input) -> None:
        self._inputs[batch_id] = given

    def keep(self, batch_ids: Collection[str]) -> None:
        """Forget all other batches, and the owners that have none of these."""
        self._inputs = {key: given for key, given in self._inputs.items() if key in batch_ids}
        owners = {given.owner for given in self._inputs.values()}
        self._served = {owner: turn for owner, turn in self._served.items() if owner in owners}

    def next(self, waiting: Sequence[str], running: Collection[str]) -> str | None:
        """One of those that wait, oldest first; None if there is no place for any of them."""
        if len(running) >= _AT_ONCE:
            return None
        # The last place is kept from large inputs, so that there is always one for small ones.
        large = sum(not self._inputs[batch_id].is_small for batch_id in running)
        is_open_to_all = large < _AT_ONCE - 1
        fit = [key for key in waiting if is_open_to_all or self._inputs[key].is_small]
        if not fit:
            return None
        chosen = min(fit, key=lambda key: self._served.get(self._inputs[key].owner, 0))
        self._turn += 1
        self._served[self._inputs[chosen].owner] = self._turn
        return chosen


class Validator:
    """Validates several batches at once: a small input waits for no large one, and the few of an
    owner do not wait for the many of another."""

    def __init__(  # noqa: PLR0913, PLR0917 - its parts
        self,
        batches: Batches,
        files: Files,
        spool: Spool,
        room: Room,
        models: Models,
        config: BatchesConfig,
        bell: Bell,
    ) -> None:
        self._batches = batches
        self._files = files
        self._spool = spool
        self._room = room
        self._models = models
        self._config = config
        self._bell = bell
        self._running: dict[str, Inspection | None] = {}
        self._turns = _Turns()
        self._postponed = Postponed()
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Validate until ``stop``; an inspection under way is then given up."""
        self._stop = stop
        async with asyncio.TaskGroup() as validations:
            while not stop.is_set():
                controls = await self._batches.controls()
                self._stop_unwanted(controls)
                await self._begin(controls, validations)
                await self._bell.wait(at_most=self._rest())
            for inspection in self._running.values():
                if inspection is not None:
                    inspection.stop()

    async def _begin(self, controls: dict[str, Control], validations: asyncio.TaskGroup) -> None:
        """Give away the places that are free."""
        waiting = [
            batch_id
            for batch_id, control in controls.items()
            if control.status is BatchStatus.VALIDATING and batch_id not in self._running
        ]
        self._turns.keep({*waiting, *self._running})
        self._postponed.keep(controls)
        for batch_id in self._turns.unknown(waiting):
            self._turns.note(batch_id, await self._input(batch_id))
        now = _monotonic()
        self._postponed.follow(now, is_full=self._room.is_full)
        due = [batch_id for batch_id in waiting if not self._postponed.waits(batch_id, now)]
        while not self._room.is_full:
            chosen = self._turns.next(due, self._running)
            if chosen is None:
                return
            due.remove(chosen)
            self._running[chosen] = None
            validations.create_task(self._validate(chosen), name=f"validate-{chosen}")

    async def _input(self, batch_id: str) -> _Input:
        record = await self._batches.find(batch_id)
        assert record is not None  # noqa: S101 - rows stay
        try:
            size = (await self._files.get(record.owner, record.input_file_id)).bytes
        except InvalidRequest:
            size = 0  # it will fail at once
        return _Input(record.owner, is_small=size <= _SMALL)

    def _rest(self) -> float:
        """Seconds until there may be something to begin, though nobody rings."""
        return min(self._postponed.rest(_monotonic()) or _LOOK_AGAIN, _LOOK_AGAIN)

    def _stop_unwanted(self, controls: dict[str, Control]) -> None:
        for batch_id, inspection in self._running.items():
            control = controls.get(batch_id)
            is_wanted = control is not None and control.status is BatchStatus.VALIDATING
            if inspection is not None and not is_wanted:
                inspection.stop()

    async def _validate(self, batch_id: str) -> None:
        try:
            record = await self._batches.find(batch_id)
            if record is not None and record.status is BatchStatus.VALIDATING:
                await self._validate_record(record)
        except Stopped:
            await self._spool.disk.run(self._spool.release, batch_id)
        except (OSError, NoRoom) as error:
            # A full disk as a rule. The batch stays as it is and is looked at again.
            log.warning("validation_postponed", extra={"batch": batch_id, "reason": str(error)})
            self._postponed.note(batch_id, _monotonic())
        finally:
            del self._running[batch_id]
            self._bell.ring()

    async def _validate_record(self, record: BatchRecord) -> None:
        verdict = await self._verdict(record)
        if verdict.errors:
            ended = await self._batches.rejected(record.id, verdict.errors)
        else:
            ended = await self._batches.validated(
                record.id, total=verdict.total, model=verdict.model
            )
        self._log(ended)
        if ended is None or ended.status is BatchStatus.FAILED:
            await self._spool.disk.run(self._spool.release, record.id)

    async def _verdict(self, record: BatchRecord) -> Verdict:
        try:
            fault = await self._take_hold(record)
            return Verdict(0, None, [fault]) if fault else await self._inspect(record)
        except OSError as error:
            # An input that cannot be read will not be readable later; other errors may pass.
            fault = None if is_full(error) else await self._unreadable(record)
            if fault is None:
                raise
            return Verdict(0, None, [fault])

    async def _unreadable(self, record: BatchRecord) -> LineError | None:
        try:
            await self._files.check_readable(record.owner, record.input_file_id)
        except FileCorrupt as error:
            return _corrupt(error)
        except InvalidRequest:
            return missing_input(record)
        return None

    async def _take_hold(self, record: BatchRecord) -> LineError | None:
        """Link the input, if this owner has such a file; else why not."""
        try:
            # Its size is looked at: a file that was cut at a line's end would lose lines unseen.
            await self._files.find_bytes(record.owner, record.input_file_id)
            await self._spool.disk.run(self._spool.hold, record.input_file_id, record.id)
        except FileCorrupt as error:
            return _corrupt(error)
        except (InvalidRequest, FileNotFoundError):
            return missing_input(record)
        return None

    async def _inspect(self, record: BatchRecord) -> Verdict:
        config, spool = self._config, self._spool
        inspection = Inspection(
            Places(
                input=spool.input(record.id),
                index=spool.index(record.id),
                order=spool.order(record.id),
                scratch=spool.scratch(record.id),
            ),
            Rules(
                endpoint=record.endpoint,
                max_requests=config.max_requests,
                max_embedding_inputs=config.max_embedding_inputs,
                mixed_models=config.mixed_models,
                order=config.order,
            ),
            await self._models.known_models() if config.check_models else None,
        )
        self._running[record.id] = inspection
        if self._stop.is_set():
            inspection.stop()
        disk, scratch = spool.disk, spool.scratch(record.id)
        await disk.run(disk.remove_directory, scratch)
        verdict = await self._judge(record, inspection)
        await disk.run(disk.remove_directory, scratch)
        await disk.run(disk.sync_directory, scratch.parent)
        return verdict

    async def _judge(self, record: BatchRecord, inspection: Inspection) -> Verdict:
        """No input may end the daemon: what nobody foresaw fails this one batch."""
        try:
            return await self._spool.disk.run(inspection.judge)
        except (Stopped, OSError):
            raise
        except Exception:
            log.exception("validation_failed", extra={"batch": record.id})
            return Verdict(0, None, [LineError("invalid_request", _UNFORESEEN)])

    def _log(self, record: BatchRecord | None) -> None:
        if record is not None:
            log.info(
                "batch_validated",
                extra={
                    "batch": record.id,
                    "status": record.status.value,
                    "total": record.counts.total,
                },
            )


def _corrupt(error: FileCorrupt) -> LineError:
    return LineError("file_corrupt", str(error), "file_id")


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
