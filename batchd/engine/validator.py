"""Moves batches out of ``validating``: to ``in_progress``, or to ``failed`` with every fault.

The input hold comes first (a hard link), then the inspection, then one transaction that also
requires the file's row to be live still. A crash before it leaves a hold, an index and an order
that the next start writes anew. Nothing is sent unless the whole file is valid.
"""

import asyncio
import contextlib
import logging
from typing import Protocol

from batchd.backends.models import KnownModels
from batchd.batches import Batches
from batchd.bell import Bell
from batchd.closing import missing_input
from batchd.config import BatchesConfig
from batchd.engine.inspection import Inspection, Places, Rules, Stopped, Verdict
from batchd.errors import FileCorrupt, InvalidRequest, NoRoom
from batchd.files import Files
from batchd.model import BatchRecord, Control, LineError
from batchd.room import Room
from batchd.spool import Spool
from batchd.states import BatchStatus

log = logging.getLogger(__name__)

_LOOK_AGAIN = 5.0
_AT_ONCE = 4
_UNFORESEEN = "batchd failed to validate this file; its log says why."
_POSTPONED = 10.0  # seconds


class Models(Protocol):
    """Who knows the models that lines may name."""

    async def known_models(self) -> KnownModels | None: ...


class Validator:
    """Validates several batches at once, so that a small one need not wait for a large one."""

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
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Validate until ``stop``; an inspection under way is then given up."""
        self._stop = stop
        async with asyncio.TaskGroup() as validations:
            while not stop.is_set():
                controls = await self._batches.controls()
                self._stop_unwanted(controls)
                for batch_id, control in controls.items():
                    if len(self._running) >= _AT_ONCE or self._room.is_full:
                        break
                    if control.status is BatchStatus.VALIDATING and batch_id not in self._running:
                        self._running[batch_id] = None
                        validations.create_task(
                            self._validate(batch_id), name=f"validate-{batch_id}"
                        )
                await self._bell.wait(at_most=_LOOK_AGAIN)
            for inspection in self._running.values():
                if inspection is not None:
                    inspection.stop()

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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POSTPONED):
                    await self._stop.wait()
        finally:
            del self._running[batch_id]
            self._bell.ring()

    async def _validate_record(self, record: BatchRecord) -> None:
        fault = await self._take_hold(record)
        verdict = Verdict(0, None, [fault]) if fault else await self._inspect(record)
        if verdict.errors:
            ended = await self._batches.rejected(record.id, verdict.errors)
        else:
            ended = await self._batches.validated(
                record.id, total=verdict.total, model=verdict.model
            )
        self._log(ended)
        if ended is None or ended.status is BatchStatus.FAILED:
            await self._spool.disk.run(self._spool.release, record.id)

    async def _take_hold(self, record: BatchRecord) -> LineError | None:
        """Link the input, if this owner has such a file; else why not."""
        try:
            # Its size is looked at: a file that was cut at a line's end would lose lines unseen.
            await self._files.find_bytes(record.owner, record.input_file_id)
            await self._spool.disk.run(self._spool.hold, record.input_file_id, record.id)
        except FileCorrupt as error:
            return LineError("file_corrupt", str(error), "file_id")
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
