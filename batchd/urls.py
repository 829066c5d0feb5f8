"""Which URLs can be those of a server: a host that can be looked up, and a port that can be. Pure.

Knows nothing of who asks there, and imports little: the command line is to start at once.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, urlsplit

# Of a name as it is looked up.
_NAME = re.compile(r"[0-9A-Za-z_.-]+")
_NUMBERS = re.compile(r"[0-9.]+")
_IN_BRACKETS = re.compile(r"\[[^\[\]]+\](:[0-9]*)?")
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
    if _NUMBERS.fullmatch(name):  # the HTTP library takes no other spelling of an address
        return bool(IPv4Address(name))
    return bool(_NAME.fullmatch(name))


def path_of(url: str) -> str:
    """Its path as it is sent; what no path may hold is quoted."""
    return quote(urlsplit(url).path, safe=_IN_PATHS, errors="surrogateescape")
