"""How a batch begins: the row that a wish becomes, and by what an equal wish is known. Pure."""

import hashlib
from collections.abc import Callable

import msgspec

from batchd import ids
from batchd.errors import Conflict
from batchd.model import BatchRecord, NewBatch
from batchd.states import BatchStatus

# For so long an equal wish that its sender repeats is taken for the one that was granted: SDKs
# repeat what they got no answer to within seconds, and send no key (contract 1.2).
REPEATED_WITHIN = 60
_NOT_ASKED = ("idempotency_key", "is_repeated")


def new_record(
    owner: str, wish: NewBatch, *, now: int, draw: Callable[[int], bytes]
) -> BatchRecord:
    """The row of a new batch, in ``validating``."""
    return BatchRecord(
        id=ids.batch_id(now, draw(ids.BATCH_ID_BYTES)),
        owner=owner,
        status=BatchStatus.VALIDATING,
        endpoint=wish.endpoint,
        input_file_id=wish.input_file_id,
        completion_window=wish.completion_window,
        metadata=wish.metadata,
        output_expires_after=wish.output_expires_after,
        created_at=now,
        expires_at=now + wish.window,
        output_file_id=ids.file_id(draw(ids.FILE_ID_BYTES)),
        error_file_id=ids.file_id(draw(ids.FILE_ID_BYTES)),
        priority=wish.priority,
        parent_id=wish.parent_id,
        source=wish.source,
        idempotency_key=wish.idempotency_key,
        request_hash=request_hash(wish),
    )


def request_hash(wish: NewBatch) -> str:
    """Equal for wishes that ask for the same, whenever and however often."""
    # Only what is not the default: what a later version can ask for makes no old wish another one.
    asked = {
        field.name: value
        for field in msgspec.structs.fields(NewBatch)
        if (value := getattr(wish, field.name)) != field.default
    }
    for name in _NOT_ASKED:
        asked.pop(name, None)
    if wish.parent_id is not None:
        del asked["input_file_id"]  # the lines to run again are in a file made for each wish
    return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()


def check_same(earlier: BatchRecord, wish: NewBatch) -> BatchRecord:
    """``Conflict`` if a key was used for something else before."""
    if earlier.request_hash != request_hash(wish):
        raise Conflict(
            f"The idempotency key '{wish.idempotency_key}' was used before, for batch "
            f"{earlier.id}, which was asked for with other parameters. Use another key.",
            param="idempotency_key",
            code="idempotency_key_reused",
        )
    return earlier
