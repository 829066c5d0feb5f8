"""The run of one file: open the parts, begin or go on, follow the batch to its end, close.

What begins is a batch like any other, in a storage directory of its own. The commit is its row,
then ``run.json``; the engine starts after that, so what is not begun has sent nothing. From there
on every ending, however sudden, is what a restart is to a daemon. No sweeper runs: the completion
window is written down because a batch has one, and nothing closes it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import uvloop

from batchd import logs
from batchd.batches import Batches
from batchd.bell import Bell
from batchd.config import Config
from batchd.core import Core, Parts
from batchd.errors import SpoolError
from batchd.files import Files
from batchd.model import LOCAL_OWNER, BatchRecord, FileRecord, NewBatch, Progress, Purpose
from batchd.oneshot.place import Begun, Place, RunRefused
from batchd.oneshot.source import Source
from batchd.process import favour_the_loop, handle_signals, raise_descriptor_limit
from batchd.spool import Spool
from batchd.wire.objects import BatchObject

_LOOK_EVERY = 0.25
_PIECE = 1 << 18
_THREADS = 16
_DAYS = 3650


class Standing(NamedTuple):
    """How far a run is. ``progress`` is what is known beyond the row."""

    record: BatchRecord
    progress: Progress | None

    @property
    def batch(self) -> BatchObject:
        return BatchObject.of(self.record, self.progress)


class Onlooker(Protocol):
    """Who is told how it goes. On the loop: must not block."""

    def show(self, standing: Standing) -> None:
        """So far it is now."""
        ...

    def stopping(self) -> None:
        """A signal came: what is in flight may finish."""
        ...


class Job:
    """One life of a run. ``check`` raises if results could not be handed over at its end."""

    def __init__(  # noqa: PLR0913 - what is run, how, where, and who looks on
        self,
        config: Config,
        environment: Mapping[str, str],
        place: Place,
        source: Source,
        endpoint: str,
        *,
        check: Callable[[], None],
        onlooker: Onlooker,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._place = place
        self._source = source
        self._endpoint = endpoint
        self._check = check
        self._onlooker = onlooker
        self._stop = asyncio.Event()
        self._row_bell = Bell()
        self._core = Core(config, environment, bells=[self._row_bell], on_fatal=on_fatal)
        self._batches: Batches | None = None
        self._record: BatchRecord | None = None

    def run(self) -> Standing | None:
        """Run until the batch has ended or a signal came. None if nothing was begun by then."""
        favour_the_loop()
        raise_descriptor_limit()
        with (
            contextlib.suppress(asyncio.CancelledError),  # a second signal: left at once
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(self._run())
        if self._record is None or self._batches is None:
            return None
        return Standing(self._record, self._batches.progress(self._record))

    @property
    def spool(self) -> Spool:
        """Where its bytes are."""
        return self._core.spool

    async def _run(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        with handle_signals(self._stop):
            async with self._core.opened() as parts:
                self._batches = parts.use_cases.batches
                self._record = await self._begun(parts.use_cases.files, self._batches)
                if not self._record.is_terminal:
                    await self.spool.disk.run(self._check)
                    await self._follow_engine(parts, self._record.id)

    # -- begin, or go on

    async def _begun(self, files: Files, batches: Batches) -> BatchRecord:
        disk = self._core.spool.disk
        begun = await disk.run(self._place.begun)
        if begun is not None:
            found = await batches.find(begun.batch_id)
            if found is None:
                raise SpoolError(
                    f"{self._place.directory} has lost the run that it was for: remove it to begin "
                    "anew"
                )
            return found
        file = await self._take_in(files)
        wish = NewBatch(
            input_file_id=file.id,
            endpoint=self._endpoint,
            completion_window=f"{_DAYS}d",
            window=_DAYS * 86400,
            output_expires_after=_DAYS * 86400,
            source="run",
        )
        record = await batches.create(LOCAL_OWNER, wish)
        word = Begun(
            batch_id=record.id,
            input_file_id=file.id,
            input=self._source.name,
            sha256=self._source.sha256,
            endpoint=self._endpoint,
        )
        await disk.run(self._place.begin, word)
        return record

    async def _take_in(self, files: Files) -> FileRecord:
        """Copy the input: the one it came from may change while this runs."""
        source, disk = self._source, self._core.spool.disk
        files.check_size(source.size)
        await disk.run(source.file.seek, 0)
        async with files.receive(source.size) as upload:
            while piece := await disk.run(source.file.read, _PIECE):
                await upload.write(piece)
                if self._stop.is_set():
                    raise RunRefused("interrupted before anything was sent")
            if upload.sha256 != source.sha256:
                raise RunRefused(f"{source.name} changed while it was read: run it again")
            return await files.create(
                LOCAL_OWNER,
                upload,
                filename=source.name,
                purpose=Purpose.BATCH.value,
                expires_after=_DAYS * 86400,
            )

    # -- run

    async def _follow_engine(self, parts: Parts, batch_id: str) -> None:
        await parts.engine.recover()
        batches, stop = parts.use_cases.batches, self._stop
        async with asyncio.TaskGroup() as loops:
            parts.engine.start(loops, stop)
            for loop in parts.loops:
                loops.create_task(loop(stop))
            standing = await self._until_stopped(batches, batch_id)
            if not standing.record.is_terminal:
                self._onlooker.stopping()
            stop.set()
            self._core.bells.ring()
        self._record = await self._found(batches, batch_id)  # it may have ended in the drain

    async def _until_stopped(self, batches: Batches, batch_id: str) -> Standing:
        while True:
            self._record = await self._found(batches, batch_id)
            standing = Standing(self._record, batches.progress(self._record))
            self._onlooker.show(standing)
            if self._record.is_terminal or self._stop.is_set():
                return standing
            await self._row_bell.wait(at_most=_LOOK_EVERY)

    async def _found(self, batches: Batches, batch_id: str) -> BatchRecord:
        record = await batches.find(batch_id)
        if record is None:
            raise SpoolError(f"{self._place.directory} has lost its batch")
        return record


@contextlib.contextmanager
def logging_to(path: Path, config: Config) -> Generator[None]:
    """Everything that is logged goes to a file: standard error is for people here."""
    with path.open("a", encoding="utf-8") as stream:
        logs.configure(config.logging.level, "plain", stream)
        try:
            yield
        finally:
            logging.basicConfig(force=True, handlers=[logging.NullHandler()])
