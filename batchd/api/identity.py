"""What is known of a request before its handler runs."""

import socket
import struct
from collections.abc import Callable

from aiohttp import web

NEW_ID = web.AppKey[Callable[[], str]]("new_id")
REQUEST_ID = web.RequestKey("request_id", str)
OWNER = web.RequestKey("owner", str)

# Whoever is behind a proxy, the kernel knows the proxy's user only.
PROXIED = -1
_PROXIES_SAY = ("Forwarded", "X-Forwarded-For", "Via")

_CREDENTIALS = struct.Struct("iII")  # pid, uid, gid: the kernel's struct ucred


def is_unix(request: web.Request) -> bool:
    """Whether it came by a Unix socket."""
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str)


def peer_uid(request: web.Request) -> int | None:
    """The user at the other end of a Unix socket, by the kernel's word; None for any other.

    ``PROXIED`` if somebody else may be behind that one.
    """
    if request.transport is None:
        raise ConnectionResetError("the client has gone, and with it whose request this is")
    if not is_unix(request):
        return None
    if any(name in request.headers for name in _PROXIES_SAY):
        return PROXIED
    connection = request.transport.get_extra_info("socket")
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    return int(uid)
