"""Which URLs can be those of a server: a host that can be looked up, and a port that can be. Pure.

Knows nothing of who asks there, and imports little: the command line is to start at once.
"""

import re
from ipaddress import IPv4Address
from urllib.parse import quote, urlsplit

# Of a name as it is looked up; ":" and "%" are an IPv6 address's.
_HOST = re.compile(r"[0-9A-Za-z_.:%-]+")
_IN_PATHS = "/%~!$&'()*+,;=:@"


def is_http(url: str) -> bool:
    """Whether a request can be sent there."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        if re.fullmatch(r"[0-9.]+", host):
            IPv4Address(host)
        has_port = parts.port != 0
    except ValueError:  # a port or an address that is none, a label that is empty or too long
        return False
    return parts.scheme in {"http", "https"} and bool(_HOST.fullmatch(host)) and has_port


def path_of(url: str) -> str:
    """Its path as it is sent; what no path may hold is quoted."""
    return quote(urlsplit(url).path, safe=_IN_PATHS, errors="surrogateescape")
