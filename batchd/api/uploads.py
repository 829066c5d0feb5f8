"""An upload: multipart/form-data, streamed to disk in bounded memory.

Parts come in any order, so the bytes are spooled first and judged at the end. Sizes are enforced
while reading, since a stream has no Content-Length. A body that stalls or drips is given up.
"""

from collections.abc import AsyncIterator, Callable

from aiohttp import BodyPartReader, MultipartReader, web

from batchd.api.identity import OWNER
from batchd.api.reading import Patience
from batchd.config import ServerConfig
from batchd.errors import Busy, InvalidRequest
from batchd.files import Files, Upload
from batchd.model import FileRecord
from batchd.wire import params

_PIECE = 1 << 18
_READ = 1 << 16
_MAX_PARTS = 16
_MAX_FIELD = 4096
_ENVELOPE = 1 << 16  # bytes that a body may have beyond its file

_FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})


class Uploads:
    """Takes uploads, a bounded number at once: each holds a descriptor and some hundred KiB."""

    def __init__(self, files: Files, config: ServerConfig, now: Callable[[], float]) -> None:
        self._files = files
        self._config = config
        self._now = now
        self._open = 0

    async def receive(self, request: web.Request) -> FileRecord:
        """Take one upload and make it a file. ``Busy`` if there are too many already."""
        if self._open >= self._config.max_uploads:
            raise Busy
        self._open += 1
        try:
            patience = Patience(self._config.upload_timeout, self._now)
            return await _receive(request, self._files, patience)
        finally:
            self._open -= 1


async def _receive(request: web.Request, files: Files, patience: Patience) -> FileRecord:
    if not request.content_type.startswith("multipart/form-data"):
        raise InvalidRequest(
            "Send the file as multipart/form-data, with the parts 'file' and 'purpose'."
        )
    if request.content_length is not None:
        files.check_size(max(0, request.content_length - _ENVELOPE))
    async with files.receive(request.content_length) as upload:
        form = _Form(upload, files, patience)
        try:
            await form.read(await request.multipart())
        except (ValueError, AssertionError, LookupError):
            raise InvalidRequest(
                "The multipart body of your request could not be parsed."
            ) from None
        fields = form.fields
        if form.filename is None:
            raise InvalidRequest("'file' is a required property", param="file")
        if "purpose" not in fields:
            raise InvalidRequest("'purpose' is a required property", param="purpose")
        return await files.create(
            request[OWNER],
            upload,
            filename=form.filename,
            purpose=fields["purpose"],
            expires_after=params.file_expires_after(
                fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
            ),
        )


class _Form:
    """The parts of one upload, as they come."""

    def __init__(self, upload: Upload, files: Files, patience: Patience) -> None:
        self._upload = upload
        self._files = files
        self._patience = patience
        self.filename: str | None = None
        self.fields: dict[str, str] = {}

    async def read(self, reader: MultipartReader) -> None:
        for _ in range(_MAX_PARTS):
            async with self._patience.waiting():
                part = await reader.next()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise InvalidRequest("Nested multipart bodies are not supported.")
            await self._take(part)
        raise InvalidRequest(f"The request has more than {_MAX_PARTS} parts.")

    async def _take(self, part: BodyPartReader) -> None:
        name = part.name
        if name is None:
            raise InvalidRequest("Every part of the request needs a name.")
        if name == "file":
            if self.filename is not None:
                raise InvalidRequest("Send exactly one part named 'file'.", param="file")
            self.filename = part.filename or "upload"
            await self._take_file(part)
            return
        text = await self._field(part)
        if name in _FIELDS:
            if name in self.fields:
                raise InvalidRequest(f"Send exactly one part named '{name}'.", param=name)
            self.fields[name] = text

    async def _take_file(self, part: BodyPartReader) -> None:
        pending = bytearray()
        async for data in self._pieces(part):
            pending += data
            self._files.check_size(self._upload.size + len(pending))
            if len(pending) >= _PIECE:
                await self._upload.write(bytes(pending))
                pending.clear()
        if pending:
            await self._upload.write(bytes(pending))

    async def _field(self, part: BodyPartReader) -> str:
        text = bytearray()
        async for data in self._pieces(part):
            text += data
            if len(text) > _MAX_FIELD:
                raise InvalidRequest(f"The part '{part.name}' is too long.", param=part.name)
        return text.decode(errors="replace")

    async def _pieces(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        while True:
            async with self._patience.waiting():
                data = await part.read_chunk(_READ)
            if not data:
                return
            self._patience.came(len(data))
            yield data
