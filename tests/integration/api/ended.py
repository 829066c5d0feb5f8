"""Batches that have ended, or are on their way, as the engine would leave them."""

from batchd import ids
from batchd.closing import Closing
from batchd.jsonl import BOM
from batchd.model import (
    NO_USAGE,
    BatchRecord,
    Counts,
    Failure,
    FailureKind,
    Progress,
    Reply,
    RequestLine,
)
from batchd.states import Event
from batchd.wire.lines import CANCELLED, failure_line, never_run_line, reply_line, request_line
from tests.integration.api.harness import Api
from tests.integration.api.lines import line

OK = Reply(status_code=200, request_id="r", body=b'{"ok":true}')
BUSY = Reply(status_code=503, request_id="r", body=b'{"error":{"code":"busy"}}')
ODD = Reply(status_code=401, request_id="r", body=b'{"error":"Unauthorized"}')
LATE = Failure(FailureKind.TIMEOUT)
NEVER = "never"
Fate = Reply | Failure | str


class Played:
    """A batch whose lines, named a, b, c, … have come to what was said, in this order."""

    def __init__(self, api: Api, record: BatchRecord, fates: list[Fate], data: bytes) -> None:
        self.api = api
        self.id = record.id
        self.record = record
        tag = ids.batch_tag(record.id)
        texts = [text for text in data.removeprefix(BOM).splitlines() if text.strip()]
        lines = [request_line(index, text) for index, text in enumerate(texts)]
        written = [_result(tag, *pair) for pair in zip(lines, fates, strict=False)]
        kept = list(zip(written, fates, strict=False))
        self.output = b"".join(text for text, fate in kept if fate is OK)
        self.errors = b"".join(text for text, fate in kept if fate is not OK)
        good = sum(fate is OK for fate in fates)
        never = sum(fate is NEVER for fate in fates)
        self.counts = Counts(len(lines), good, len(fates) - good - never)
        for file_id, content in (
            (record.output_file_id, self.output),
            (record.error_file_id, self.errors),
        ):
            if content:
                api.spool.file(str(file_id)).write_bytes(content)

    def runs(self) -> None:
        """It is under way: so far it has come to this."""
        progress = Progress(self.counts, output_end=len(self.output), error_end=len(self.errors))
        self.api.batches.live.follow(self.id, lambda: progress)

    async def ends(self, event: Event = Event.PUBLISHED) -> "Played":
        before = Event.CANCEL if event is Event.PUBLISHED and self._has_never else Event.LINES_DONE
        await self.api.batches.advance(self.id, before)
        closing = Closing(
            counts=self.counts,
            usage=NO_USAGE,
            output_bytes=len(self.output),
            error_bytes=len(self.errors),
        )
        ended = await self.api.batches.finished(self.id, event, closing)
        assert ended is not None
        self.record = ended
        await self.api.spool.disk.run(self.api.spool.release, self.id)
        return self

    @property
    def _has_never(self) -> bool:
        return self.counts.completed + self.counts.failed < self.counts.total


def named(*names: str) -> bytes:
    return b"".join(line(name) for name in names)


async def played(api: Api, fates: list[Fate], data: bytes | None = None) -> Played:
    """A batch that was validated, of as many lines as there are fates unless it is given."""
    content = named(*"abcdefgh"[: len(fates)]) if data is None else data
    batch = await api.validated(content)
    assert batch["status"] == "in_progress", batch
    record = await api.batches.get("local", batch["id"])
    return Played(api, record, fates, content)


def _result(tag: bytes, request: RequestLine, fate: Fate) -> bytes:
    if isinstance(fate, Reply):
        return reply_line(tag, request, fate)
    if isinstance(fate, Failure):
        return failure_line(tag, request, fate)
    return never_run_line(tag, request.index, request.custom_id, CANCELLED)
