"""Handlers of ``/v1/files``: contract section 2."""

import urllib.parse

from aiohttp import web

from batchd.api.identity import OWNER
from batchd.api.parts import FILES, UPLOADS, answer
from batchd.api.sending import send_file
from batchd.unreadable import corrupt_if_unreadable
from batchd.wire import params
from batchd.wire.objects import FileDeleted, FileObject, ListObject

_MAX_LIMIT = 10_000


async def create(request: web.Request) -> web.Response:
    return answer(FileObject.of(await request.app[UPLOADS].receive(request)))


async def index(request: web.Request) -> web.Response:
    records, has_more = await request.app[FILES].page(
        request[OWNER],
        purpose=request.query.get("purpose"),
        after=request.query.get("after"),
        limit=params.limit(request.query, default=_MAX_LIMIT, maximum=_MAX_LIMIT),
        ascending=params.order(request.query) == "asc",
    )
    return answer(ListObject.of([FileObject.of(record) for record in records], has_more=has_more))


async def retrieve(request: web.Request) -> web.Response:
    file_id = request.match_info["file_id"]
    return answer(FileObject.of(await request.app[FILES].get(request[OWNER], file_id)))


async def delete(request: web.Request) -> web.Response:
    file_id = request.match_info["file_id"]
    await request.app[FILES].delete(request[OWNER], file_id)
    return answer(FileDeleted(id=file_id))


async def content(request: web.Request) -> web.StreamResponse:
    """The bytes as stored; ``Range`` is honoured."""
    files, owner, file_id = request.app[FILES], request[OWNER], request.match_info["file_id"]
    record, path = await files.find_bytes(owner, file_id)
    kind = (
        "application/jsonl; charset=utf-8"
        if record.purpose in ("batch", "batch_output")
        else "application/octet-stream"
    )
    headers = {"Content-Type": kind, "Content-Disposition": _disposition(record.filename)}
    try:
        with corrupt_if_unreadable(f"File {file_id}"):
            return await send_file(request, path, headers)
    except FileNotFoundError:
        await files.find_bytes(owner, file_id)  # says what has become of it meanwhile
        raise


def _disposition(filename: str) -> str:
    plain = "".join(
        letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_"
        for letter in filename
    )
    encoded = urllib.parse.quote(filename, safe="")
    suffix = "" if plain == filename else f"; filename*=UTF-8''{encoded}"
    return f'attachment; filename="{plain}"{suffix}'
