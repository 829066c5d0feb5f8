"""A route and all that is said of it: what it is called by, what it takes, what it answers.

Nothing here has a default that could stand for "not described": what a route may leave out is what
it does not have.
"""

from typing import Literal

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from batchd.errors import BatchdError

Method = Literal["get", "post", "delete"]
Place = Literal["path", "query", "header"]

_DEFINE = {"get": web.get, "post": web.post, "delete": web.delete}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the path, or what may be sent beside it. ``kind``: a type, with what bounds it."""

    name: str
    place: Place
    kind: object
    description: str


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A header of an answer; ``is_certain``: it is always there."""

    name: str
    kind: object
    description: str
    is_certain: bool


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What a request carries."""

    media_type: Literal["application/json", "multipart/form-data"]
    kind: type[msgspec.Struct]
    required: bool


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a request succeeds. ``kind``: the type of a JSON answer, None for others.

    ``lines``: the type of each line, where the answer is JSON lines.
    """

    description: str
    media_types: tuple[str, ...]
    kind: type[msgspec.Struct] | None
    status: int = 200
    lines: type[msgspec.Struct] | None = None
    headers: tuple[Header, ...] = ()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One URL with a method. ``errors``: those of its own; ``openapi`` adds those of every route.

    ``name`` is what client libraries call it; ``is_open``: no key is asked for.
    """

    name: str
    method: Method
    path: str
    handler: Handler
    summary: str
    answers: tuple[Answer, ...]
    description: str | None = None
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    errors: tuple[type[BatchdError], ...] = ()
    is_open: bool = False

    @property
    def definition(self) -> web.RouteDef:
        """The route as the application takes it."""
        return _DEFINE[self.method](self.path, self.handler)
