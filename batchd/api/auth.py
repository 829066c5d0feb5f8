"""Who asks: API keys, and what a browser may not do.

Keys are 256 random bits, so a plain SHA-256 of each is kept, one line a key: ``NAME sha256:HEX``.
Without a keys file any token and none are accepted, and everybody is the owner ``local``; the
configuration allows that only where no other machine can reach. A page in a browser on this
machine can reach it too: foreign Host and Origin headers are refused.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from batchd.errors import ConfigError, Forbidden, Unauthorized
from batchd.model import LOCAL_OWNER

_KEY_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})")
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SHOWN = 4


class Keys:
    """The accepted keys and whose they are; none at all means that no key is asked for."""

    def __init__(self, owners: dict[bytes, str] | None) -> None:
        self._owners = owners

    @classmethod
    def read(cls, path: Path | None) -> "Keys":
        """The keys of a file. ``ConfigError`` names what is wrong with it."""
        if path is None:
            return cls(None)
        try:
            text = path.read_text(encoding="utf-8")
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"auth.keys_file {path} cannot be read") from None
        if mode & 0o002:
            raise ConfigError(f"auth.keys_file {path} is writable by everybody: chmod o-w it")
        owners: dict[bytes, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _KEY_LINE.fullmatch(line.strip())
            if match is None:
                raise ConfigError(
                    f"auth.keys_file {path}, line {number}: write 'NAME sha256:HEX' (batchd keys "
                    "new NAME prints such a line)"
                )
            owners[bytes.fromhex(match["digest"])] = match["name"]
        if not owners:
            raise ConfigError(f"auth.keys_file {path} has no key (batchd keys new NAME makes one)")
        return cls(owners)

    def replace(self, others: "Keys") -> None:
        """From now on accept those of ``others`` instead."""
        self._owners = others._owners  # noqa: SLF001 - another of the same

    def owner(self, authorization: str | None) -> str:
        """Whose request this is. ``Unauthorized`` without a valid key."""
        if self._owners is None:
            return LOCAL_OWNER
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized
        given = hashlib.sha256(token.strip().encode(errors="surrogateescape")).digest()
        for digest, name in self._owners.items():
            if hmac.compare_digest(given, digest):
                return name
        raise Unauthorized(
            f"Incorrect API key provided: {_masked(token.strip())}. Ask whoever runs this batchd "
            "for a key.",
            code="invalid_api_key",
        )


def _masked(token: str) -> str:
    printable = "".join(letter for letter in token if letter.isprintable() and letter.isascii())
    return f"{printable[:_SHOWN]}***" if len(printable) > 2 * _SHOWN else "***"


class Guard:
    """Refuses what only a browser under somebody else's control would send."""

    def __init__(self, allowed_hosts: Sequence[str]) -> None:
        self._hosts = _LOOPBACK_HOSTS | {host.lower() for host in allowed_hosts}
        self._any = "*" in allowed_hosts

    def check(self, request: web.Request) -> None:
        """``Forbidden`` for a foreign Host (DNS rebinding) or Origin (a page's request)."""
        if self._any or _is_unix(request):
            return
        host = request.headers.get("Host", "")
        if _without_port(host) not in self._hosts:
            raise Forbidden(
                f"This batchd does not answer for the host '{host[:128]}': add it to "
                "server.allowed_hosts if it should.",
                code="invalid_host",
            )
        origin = request.headers.get("Origin")
        if origin is not None and _without_port(origin.partition("://")[2]) not in self._hosts:
            raise Forbidden(
                "Requests from web pages of other origins are refused.", code="invalid_origin"
            )
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            raise Forbidden(
                "Requests from web pages of other origins are refused.", code="invalid_origin"
            )


def _without_port(host: str) -> str:
    return re.sub(r":\d+$", "", host.lower())


def _is_unix(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str)
