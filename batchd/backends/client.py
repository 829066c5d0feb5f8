"""One request to a model server, and what it came to: a ``Reply`` or a ``Failure``.

The body goes out byte for byte. The answer is read in pieces under a cap, within split timeouts:
connect, first byte, idle between pieces, and always a total (a server that drips a byte now and
then would never trip the others). Redirects are not followed: the prompt would go elsewhere.
A reused connection that dies before any byte of an answer was stale, not a fault: the request is
sent again at once on a new one, which cannot be stale. Exceptions never leave with prompts,
answers or headers in them.
"""

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace

import aiohttp
import msgspec

from batchd.backends.hints import quota, wait_hint
from batchd.config import BackendConfig
from batchd.memory import Memory, Reading
from batchd.model import NO_USAGE, Failure, FailureKind, Outcome, Reply, RequestLine, Usage
from batchd.wire.lines import one_line
from batchd.wire.usage import answer_usage

_KEEPALIVE = 4.0  # below the 5 s after which uvicorn and llama.cpp close an idle connection
_FIRST_STATUS = 200
_SUCCESS = range(200, 300)
_OFFLOAD = 1 << 18  # bytes; judging more JSON than this would hold the loop up
_LARGE_BODY = 1 << 20  # bytes; aiohttp wants a file object for more
_WRAPPED = 4096
_REQUEST_ID = re.compile(r"[!-~]{1,128}")

_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


class _TooLarge(Exception):
    """The answer passed the cap."""


class _Detail(msgspec.Struct, frozen=True):
    code: object = None
    type: object = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Detail


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


class Connections(msgspec.Struct, frozen=True):
    """Two ways to one backend: over connections that are kept, or a fresh one each time."""

    kept: aiohttp.ClientSession
    fresh: aiohttp.ClientSession


@contextlib.asynccontextmanager
async def connections(config: BackendConfig) -> AsyncGenerator[Connections]:
    """Connections to one backend; no cookies, no proxies from the environment."""
    keep = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE, ttl_dns_cache=10)
    close = aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=10)
    async with _session(config, keep) as kept, _session(config, close) as fresh:
        yield Connections(kept, fresh)


def _session(config: BackendConfig, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout),
        headers={"Accept-Encoding": "identity", "User-Agent": "batchd"},
        trace_configs=[trace],
        trust_env=False,
    )


async def _note_reuse(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    if context.trace_request_ctx is not None:  # None for the question after the models
        context.trace_request_ctx.reused = True


class Client:
    """Sends requests to one backend over kept-alive connections."""

    def __init__(  # noqa: PLR0913 - what it is, and what it is handed
        self,
        opened: Connections,
        config: BackendConfig,
        *,
        key: Callable[[], str | None],
        memory: Memory,
        now: Callable[[], float],
        new_request_id: Callable[[], str],
    ) -> None:
        self._connections = opened
        self._config = config
        self._base = config.base_url.rstrip("/")
        self._key = key
        self._memory = memory
        self._now = now
        self._new_request_id = new_request_id

    async def send(self, endpoint: str, line: RequestLine) -> Outcome:
        """Send one line once and say what it came to; only cancellation is raised."""
        url = self._base + endpoint.removeprefix("/v1")
        for session in (self._connections.kept, self._connections.fresh):
            outcome = await self._try(session, url, line.body)
            if outcome is not None:
                return outcome
        return Failure(FailureKind.RESET)

    async def _try(self, session: aiohttp.ClientSession, url: str, body: bytes) -> Outcome | None:
        """One exchange; None if its connection was stale."""
        trace = SimpleNamespace(reused=False, answered=False)
        try:
            async with asyncio.timeout(self._config.total_timeout) as total:
                return await self._exchange(session, url, body, trace, total)
        except (aiohttp.ClientError, OSError, ValueError, _TooLarge) as error:
            kind = _failure_kind(error)
            stale = kind is FailureKind.RESET and trace.reused and not trace.answered
            return None if stale else Failure(kind)

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        url: str,
        body: bytes,
        trace: SimpleNamespace,
        total: asyncio.Timeout,
    ) -> Outcome:
        async with asyncio.timeout(self._config.first_byte_timeout):
            response = await session.post(
                url,
                data=body if len(body) < _LARGE_BODY else io.BytesIO(body),
                headers=self._headers(),
                allow_redirects=False,
                trace_request_ctx=trace,
            )
        async with response:
            trace.answered = True
            return await self._answer(response, total)

    async def _answer(self, response: aiohttp.ClientResponse, total: asyncio.Timeout) -> Outcome:
        with self._memory.reading() as reading:
            answer = await self._read(response, reading, total)
            if len(answer) < _OFFLOAD:
                return self._judge(response, answer)
            return await asyncio.to_thread(self._judge, response, answer)

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    async def _read(
        self, response: aiohttp.ClientResponse, reading: Reading, total: asyncio.Timeout
    ) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while True:
            piece = await self._piece(response.content)
            if not piece:
                return b"".join(pieces)
            size += len(piece)
            if size > self._config.max_answer_size:
                raise _TooLarge
            if not reading.take_at_once(len(piece)):
                await _room_for(reading, len(piece), total)
            pieces.append(piece)

    async def _piece(self, content: aiohttp.StreamReader) -> bytes:
        if content.is_eof():
            return await content.readany()  # all of it is here already: no wait, no timer
        async with asyncio.timeout(self._config.idle_timeout):
            return await content.readany()

    def _judge(self, response: aiohttp.ClientResponse, body: bytes) -> Outcome:
        status = response.status
        usage = _object_usage(body)
        if status < _FIRST_STATUS:
            return Failure(FailureKind.NOT_HTTP)
        if status in _SUCCESS and usage is None:
            return Failure(FailureKind.NOT_JSON)
        request_id = response.headers.get("x-request-id", "")
        return Reply(
            status_code=status,
            request_id=request_id if _REQUEST_ID.fullmatch(request_id) else self._new_request_id(),
            body=_wrapped(body) if usage is None else one_line(body),
            usage=usage or NO_USAGE,
            error_code=None if status in _SUCCESS else _error_code(body),
            hint=None if status in _SUCCESS else wait_hint(response.headers, self._now()),
            quota=quota(response.headers, self._now()),
        )


async def _room_for(reading: Reading, size: int, total: asyncio.Timeout) -> None:
    """Wait for memory of our own: that is not the server's time."""
    now = asyncio.get_running_loop().time
    left = (total.when() or 0.0) - now()
    total.reschedule(None)
    await reading.take(size)
    total.reschedule(now() + left)


def _failure_kind(error: Exception) -> FailureKind:
    if isinstance(error, (*_UNREACHABLE, aiohttp.InvalidURL)):  # no answer, and nothing was sent
        return FailureKind.UNREACHABLE
    if isinstance(error, TimeoutError):
        return FailureKind.TIMEOUT
    if isinstance(error, _TooLarge):
        return FailureKind.TOO_LARGE
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | OSError):
        return FailureKind.RESET
    return FailureKind.NOT_HTTP


def _object_usage(body: bytes) -> Usage | None:
    """The usage of an answer that is a JSON object in UTF-8; None if it is not one."""
    try:
        if not body.isascii():
            body.decode()
        return answer_usage(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _wrapped(body: bytes) -> bytes:
    """An error answer that is no JSON object, as one in OpenAI's shape."""
    text = body[:_WRAPPED].decode(errors="replace")
    detail = {"message": text, "type": "server_error", "param": None, "code": None}
    return one_line(msgspec.json.encode({"error": detail}))


def _error_code(body: bytes) -> str | None:
    try:
        detail = _decode_error(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for name in (detail.code, detail.type):
        if isinstance(name, str):
            return name
    return None
