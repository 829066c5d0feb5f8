"""HTTP/1.1 on one connection of the model server: requests in, prepared bytes out.

Knows framing and how a connection ends, not what is asked or answered: each request goes to the
Desk, which calls ``send`` with an Answer. One request at a time; what a client sends ahead waits.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from tests.support.answers import After, Answer, Flood

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: closing sends RST


class Request(msgspec.Struct, frozen=True):
    method: str
    path: str
    head: bytes  # request line and header lines, as they came
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header; empty when it is absent."""
        return _header(self.head, name.lower().encode()).decode("latin-1")


class Desk(Protocol):
    """Who answers."""

    def opened(self, connection: "Connection") -> None: ...
    def arrived(self, connection: "Connection", request: Request) -> None: ...
    def left(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    def __init__(self, desk: Desk, number: int) -> None:
        self.number = number
        self.served = 0
        self._desk = desk
        self._buffer = bytearray()
        self._busy = False
        self._lost = False
        self._pouring: Callable[[], None] | None = None
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._desk.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._lost = True
        self._stop_timer()
        self._desk.left(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def send(self, answer: Answer, sent: Callable[[], None]) -> None:
        """Send ``answer``; ``sent`` is called when all of it is out, and never if it gets stuck."""
        if self._lost:
            return
        if answer.drip:
            self._drip(answer, sent, at=0)
            return
        self._transport.write(answer.wire)
        if answer.flood is None:
            self._finish(answer, sent)
        else:
            self._pour(answer, answer.flood, sent, times=answer.flood.times)

    def reset(self) -> None:
        """End the connection with RST."""
        if not self._lost:
            raw = cast("socket.socket", self._transport.get_extra_info("socket"))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    def close_when_idle_for(self, seconds: float) -> None:
        """Hang up unless a request comes first. For the Desk to say after an answer."""
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def _advance(self) -> None:
        while not self._busy and (taken := _take(self._buffer)) is not None:
            request, size = taken
            del self._buffer[:size]
            self._busy = True
            self._stop_timer()
            self._desk.arrived(self, request)

    def _finish(self, answer: Answer, sent: Callable[[], None]) -> None:
        if answer.after is After.SILENCE:
            return
        self.served += 1
        self._busy = answer.after is not After.KEEP
        sent()
        match answer.after:
            case After.KEEP:
                if self._buffer:  # later, so that a client that sends ahead cannot nest us
                    asyncio.get_running_loop().call_soon(self._advance)
            case After.CLOSE:
                self.close()
            case After.RESET:
                self.reset()

    def _drip(self, answer: Answer, sent: Callable[[], None], *, at: int) -> None:
        if at == len(answer.wire):
            self._finish(answer, sent)
            return
        self._transport.write(answer.wire[at : at + 1])
        self._timer = asyncio.get_running_loop().call_later(
            answer.drip, lambda: self._drip(answer, sent, at=at + 1)
        )

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._pouring is not None:
            self._pouring()

    def _pour(self, answer: Answer, flood: Flood, sent: Callable[[], None], *, times: int) -> None:
        """Write one block, and the next when there is room for it."""
        if self._lost or self._transport.is_closing():
            return
        if times == 0:
            self._pouring = None
            self._transport.write(flood.tail)
            self._finish(answer, sent)
            return
        self._pouring = lambda: self._pour(answer, flood, sent, times=times - 1)
        self._transport.write(flood.block)
        if not self._paused:
            asyncio.get_running_loop().call_soon(self._pouring)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _take(buffer: bytearray) -> tuple[Request, int] | None:
    """The first whole request in ``buffer`` and its size; None when more bytes are needed."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, start = bytes(buffer[:end]), end + 4
    if _header(head, b"transfer-encoding").lower() == b"chunked":
        taken = _dechunk(buffer, start)
        if taken is None:
            return None
        body, size = taken
    else:
        size = start + int(_header(head, b"content-length") or 0)
        if len(buffer) < size:
            return None
        body = bytes(buffer[start:size])
    method, path, _ = head[: head.find(b"\r\n")].decode("latin-1").split(" ", 2)
    return Request(method, path, head, body), size


def _header(head: bytes, name: bytes) -> bytes:
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _dechunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    parts: list[bytes] = []
    while (line_end := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line_end].partition(b";")[0], 16)
        start = line_end + 2
        if len(buffer) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts), start + 2
        parts.append(bytes(buffer[start : start + size]))
        start += size + 2
    return None
