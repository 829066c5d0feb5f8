"""Which URLs can be those of a server: a host that can be looked up, and a port that can be. Pure.

Knows nothing of who asks there, and imports little: the command line is to start at once.
"""

import re
from ipaddress import IPv6Address
from urllib.parse import quote, urlsplit

# Of a name as it is looked up.
_NAME = re.compile(r"[0-9A-Za-z_.-]+")
_NUMBERS = re.compile(r"[0-9.]+")
_IN_BRACKETS = re.compile(r"\[[^\[\]]+\](:[0-9]*)?")
_BYTES, _VALUES = 4, 256  # of an address, and of each of these
_IN_PATHS = "/%~!$&'()*+,;=:@"


def is_http(url: str) -> bool:
    """Whether a request can be sent there."""
    try:
        parts = urlsplit(url)
        has_host = _is_host(parts.netloc.rpartition("@")[2], parts.hostname or "")
        has_port = parts.port != 0
    except ValueError:  # a port or an address that is none, a label that is empty or too long
        return False
    return parts.scheme in {"http", "https"} and has_host and has_port


def _is_host(place: str, host: str) -> bool:
    """``place``: with the port. Also ``ValueError`` if not."""
    if "[" in place or "]" in place:
        return bool(_IN_BRACKETS.fullmatch(place) and IPv6Address(host))
    name = host.encode("idna").decode()
    return _is_address(name) if _NUMBERS.fullmatch(name) else bool(_NAME.fullmatch(name))


def _is_address(text: str) -> bool:
    """As ``inet_aton`` has it: the last number fills what is left, a leading 0 means octal."""
    numbers = [int(part, 8 if part.startswith("0") else 10) for part in text.split(".")]
    *leading, last = numbers
    left = _BYTES - len(leading)
    return left > 0 and max(leading, default=0) < _VALUES and last < _VALUES**left


def path_of(url: str) -> str:
    """Its path as it is sent; what no path may hold is quoted."""
    return quote(urlsplit(url).path, safe=_IN_PATHS, errors="surrogateescape")
