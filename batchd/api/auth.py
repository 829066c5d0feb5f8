"""Who asks: API keys, and what a browser may not do.

Keys are 256 random bits, so a plain SHA-256 of each is kept, one line a key: ``NAME sha256:HEX``,
and behind it ``uid=N`` if a Unix user is the same owner. Without a keys file any token and none are
accepted, and everybody is the owner ``local``; the configuration allows that only where no other
machine can reach. With ``unix_owners`` the kernel's word counts too: a client of a Unix socket that
shows no key, and a dropped file, belong to their user. A page in a browser on this machine can
reach it as well: foreign Host and Origin headers are refused.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiohttp import web

from batchd.api.identity import PROXIED, is_unix
from batchd.errors import ConfigError, Forbidden, Unauthorized
from batchd.model import LOCAL_OWNER

_KEY_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9._@-]{1,64})\s+sha256:(?P<digest>[0-9a-f]{64})(\s+uid=(?P<uid>[0-9]{1,10}))?"
)
_UNNAMED = re.compile(r"uid-[0-9]+")
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SHOWN = 4
_NOBODY: Mapping[int, str] = {}


class Keys:
    """The accepted keys and whose they are; none at all means that no key is asked for.

    ``users``: the owners that Unix users are, where a line says so. It is asked for only with
    ``unix_owners``; otherwise what is known by its user alone is ``local``.
    """

    def __init__(
        self,
        owners: dict[bytes, str] | None,
        users: Mapping[int, str] = _NOBODY,
        *,
        unix_owners: bool = False,
    ) -> None:
        self._owners = owners
        self._users = users
        self._unix_owners = unix_owners

    @classmethod
    def read(cls, path: Path | None, *, unix_owners: bool = False) -> "Keys":
        """The keys of a file. ``ConfigError`` names what is wrong with it."""
        if path is None:
            return cls(None, unix_owners=unix_owners)
        try:
            text = path.read_text(encoding="utf-8")
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"auth.keys_file {path} cannot be read") from None
        if mode & 0o002:
            raise ConfigError(f"auth.keys_file {path} is writable by everybody: chmod o-w it")
        owners, users = _parsed(text, f"auth.keys_file {path}")
        if not owners:
            raise ConfigError(f"auth.keys_file {path} has no key (batchd keys new NAME makes one)")
        return cls(owners, users, unix_owners=unix_owners)

    def replace(self, others: "Keys") -> None:
        """From now on accept those of ``others`` instead."""
        self._owners = others._owners  # noqa: SLF001 - another of the same
        self._users = others._users  # noqa: SLF001 - another of the same

    def owner_of_user(self, uid: int) -> str:
        """Whose is what is known to be this Unix user's."""
        if not self._unix_owners:
            return LOCAL_OWNER
        if uid == PROXIED:
            raise Forbidden(
                "This request came to the Unix socket through a proxy, so nobody knows whose it "
                "is: let the proxy use TCP, with a key.",
                code="proxied",
            )
        return self._users.get(uid, f"uid-{uid}")

    def owner(self, authorization: str | None, peer: int | None = None) -> str:
        """Whose request this is; ``peer`` is the user at the other end of a Unix socket.

        ``Unauthorized`` without a valid key, where one is needed.
        """
        if self._owners is None:
            return LOCAL_OWNER if peer is None else self.owner_of_user(peer)
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            if peer is not None and self._unix_owners:
                return self.owner_of_user(peer)
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


def _parsed(text: str, source: str) -> tuple[dict[bytes, str], dict[int, str]]:
    """The owners by the digests of their keys and by their uids."""
    owners: dict[bytes, str] = {}
    users: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _KEY_LINE.fullmatch(line.strip())
        fault = _fault(match, users)
        if match is None or fault is not None:
            raise ConfigError(f"{source}, line {number}: {fault}")
        owners[bytes.fromhex(match["digest"])] = match["name"]
        if match["uid"] is not None:
            users[int(match["uid"])] = match["name"]
    return owners, users


def _fault(line: re.Match[str] | None, users: Mapping[int, str]) -> str | None:
    """What is wrong with a line, beside what earlier ones say of users."""
    if line is None:
        return (
            "write 'NAME sha256:HEX' or 'NAME sha256:HEX uid=N' (batchd keys new NAME prints such "
            "a line)"
        )
    name, uid = line["name"], line["uid"]
    if _UNNAMED.fullmatch(name) and name != f"uid-{uid}":
        return f"{name} is what the user of that uid is called who has no name here: choose another"
    if uid is not None and users.get(int(uid), name) != name:
        return f"uid={uid} is {users[int(uid)]} in a line above: a user is one owner"
    return None


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
        if self._any:
            return
        host = request.headers.get("Host", "")
        if not is_unix(request) and _without_port(host) not in self._hosts:
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
