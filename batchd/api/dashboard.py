"""Handlers of ``/dashboard``: one page that asks the API like any client.

The page is the same for everybody and shows nothing by itself, so it is given without a key. It
may run and load nothing but its own two files.
"""

from pathlib import Path

from aiohttp import web

from batchd.api.parts import CONFIG
from batchd.api.sending import send_file
from batchd.errors import NotFound

_STATIC = Path(__file__).parent / "static"
_PAGE = "/dashboard"
_PAGES = {
    _PAGE: ("dashboard.html", "text/html"),
    f"{_PAGE}/dashboard.css": ("dashboard.css", "text/css"),
    f"{_PAGE}/dashboard.js": ("dashboard.js", "text/javascript"),
}
PATHS = frozenset(_PAGES)

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def page(request: web.Request) -> web.StreamResponse:
    """The page or one of its two files."""
    if request.path not in _PAGES or not request.app[CONFIG].dashboard.enabled:
        raise NotFound(f"Invalid URL ({request.method} {request.path})")
    name, kind = _PAGES[request.path]
    content_type = {"Content-Type": f"{kind}; charset=utf-8"}
    return await send_file(request, _STATIC / name, {**_HEADERS, **content_type})
