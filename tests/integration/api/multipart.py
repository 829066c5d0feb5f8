"""multipart/form-data written by hand, so that every odd form of it can be sent."""

from collections.abc import AsyncIterator

import msgspec

BOUNDARY = b"boundary-of-a-test"


class Form(msgspec.Struct, frozen=True):
    """A body and the Content-Type it is sent with."""

    body: bytes
    content_type: str = f"multipart/form-data; boundary={BOUNDARY.decode()}"


def part(head: bytes, content: bytes) -> bytes:
    """One part with any header lines, those without the last line end."""
    return head + b"\r\n\r\n" + content


def field(name: str, text: str) -> bytes:
    return part(b'Content-Disposition: form-data; name="%b"' % name.encode(), text.encode())


def file(content: bytes, filename: str = "in.jsonl") -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="%b"' % filename.encode()
    return part(head + b"\r\nContent-Type: application/octet-stream", content)


def form(*parts: bytes, closed: bool = True) -> Form:
    """A body of these parts; without its final boundary if not ``closed``."""
    body = b"".join(b"--%b\r\n%b\r\n" % (BOUNDARY, each) for each in parts)
    return Form(body + (b"--%b--\r\n" % BOUNDARY if closed else b""))


async def in_pieces(body: bytes, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


PURPOSE = field("purpose", "batch")
FILE = file(b"{}\n")
