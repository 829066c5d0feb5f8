"""The description of the API that is served at ``/openapi.json``: an OpenAPI 3.1 document.

It is made of the list of routes, of the types of what is sent and answered, and of the
configuration, once, when the application is made; nothing of a request or an owner is in it. What
every route has (its id in a header, errors of keys and hosts) is added here.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from typing import Any, cast

import msgspec
from aiohttp import web

from batchd.api.route import Answer, Body, Header, Parameter, Route
from batchd.config import Config
from batchd.errors import BatchdError, Forbidden, Unauthorized, UnsupportedEncoding
from batchd.model import Purpose
from batchd.wire.objects import BatchObject, ErrorObject, FileObject
from batchd.wire.requests import (
    BatchRequestInput,
    BatchRequestOutput,
    CompletionWindow,
    Endpoint,
    FileBytes,
    UploadPurpose,
)

Json = dict[str, Any]

DOCUMENT = web.AppKey("document", bytes)

_ABOUT = (
    "OpenAI's Files and Batch API for model servers of one's own. Errors have OpenAI's envelope. "
    "What is sent beyond what is described here (members, parameters, headers) is ignored, and so "
    "is the Content-Type of a JSON body. A route that takes GET takes HEAD too."
)
_REF = "#/components/schemas/{name}"
_EVERY_ROUTE = (Forbidden, UnsupportedEncoding, BatchdError)
_ALWAYS = (
    Header(name="x-request-id", kind=str, description="Names this request.", is_certain=True),
    Header(
        name="openai-processing-ms",
        kind=int,
        description="Milliseconds from the request to the answer's head.",
        is_certain=True,
    ),
    Header(name="openai-version", kind=str, description="Of OpenAI's API.", is_certain=True),
)
_OF_ERRORS = (
    Header(
        name="x-should-retry",
        kind=str,
        description="`false` tells SDKs that the same request will fare no better.",
        is_certain=False,
    ),
    Header(name="retry-after", kind=int, description="Seconds.", is_certain=False),
)
_VERSION = version("batchd")  # read from disk, so while nothing is served yet
# What an object's id is called in the paths of other routes.
_CALLED: Mapping[type[msgspec.Struct] | None, str] = {
    FileObject: "file_id",
    BatchObject: "batch_id",
}


async def description(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


def document(routes: Iterable[Route], config: Config) -> bytes:
    """The whole description, as JSON."""
    listed = list(routes)
    schemas = _Schemas(config)
    paths: dict[str, Json] = {}
    for route in listed:
        described = _operation(route, schemas, _links(route, listed))
        paths.setdefault(_path(route), {})[route.method] = described
    for lines in (BatchRequestInput, BatchRequestOutput):
        schemas.sent(lines)
    components = {
        "schemas": schemas.components,
        "responses": schemas.responses,
        "headers": {header.name: _header(header, schemas) for header in (*_ALWAYS, *_OF_ERRORS)},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    whole: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "batchd",
            "version": _VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        # Keys can be set and taken away while this is served.
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": components,
    }
    return msgspec.json.encode(whole)


class _Schemas:
    """The JSON schemas of types; what is configured stands in them. Those with a name are apart."""

    def __init__(self, config: Config) -> None:
        self.components: dict[str, Json] = {}
        self.responses: dict[str, Json] = {}
        self._configured: Mapping[type, Json] = {
            Endpoint: _enum(config.batches.endpoints),
            CompletionWindow: _enum(config.batches.completion_windows),
            UploadPurpose: _enum([item for item in Purpose if item is not Purpose.BATCH_OUTPUT]),
            FileBytes: {"type": "string", "format": "binary"},
        }

    def sent(self, kind: object) -> Json:
        """What clients send: members that are not known are ignored."""
        return self._of(kind, more=True)

    def answered(self, kind: object) -> Json:
        """What clients get: a member that has a default is there all the same."""
        return self._of(kind, more=False)

    def refused(self, kinds: Sequence[type[BatchdError]]) -> Json:
        """The answer to what fails in one of these ways, which have one status."""
        name = ".".join(kind.__name__ for kind in kinds)
        if name not in self.responses:
            self.responses[name] = {
                "description": " Or: ".join(_doc(kind) for kind in kinds),
                "headers": _references((*_ALWAYS, *_OF_ERRORS)),
                "content": {"application/json": {"schema": self.answered(ErrorObject)}},
            }
        return {"$ref": f"#/components/responses/{name}"}

    def _of(self, kind: object, *, more: bool) -> Json:
        (schema,), found = msgspec.json.schema_components(
            [kind], schema_hook=self._configured.__getitem__, ref_template=_REF
        )
        for name, component in found.items():
            prepared = _open(component) if more else _always_whole(component)
            if self.components.setdefault(name, prepared) != prepared:
                raise ValueError(f"two types are called {name}, or one is both sent and answered")
        return schema


def _enum(items: Iterable[str]) -> Json:
    return {"type": "string", "enum": [str(item) for item in items]}


def _open(component: Json) -> Json:
    described = _described(component)
    if "properties" in described:
        described["additionalProperties"] = True
    return described


def _always_whole(component: Json) -> Json:
    described = _described(component)
    required = set(described.get("required", ()))
    for name, member in described.get("properties", {}).items():
        if "default" in member:
            del member["default"]
            required.add(name)
    if "properties" in described:
        described["required"] = [name for name in described["properties"] if name in required]
    return described


def _described(component: Json) -> Json:
    """Its docstring as Markdown."""
    if "description" in component:
        component["description"] = _markdown(component["description"])
    return component


def _markdown(docstring: str) -> str:
    return inspect.cleandoc(docstring).replace("``", "`")


def _path(route: Route) -> str:
    """The path without the patterns that aiohttp wants in it."""
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)


def _operation(route: Route, schemas: _Schemas, links: Json) -> Json:
    named = set(re.findall(r"\{(\w+)\}", _path(route)))
    if named != {item.name for item in route.parameters if item.place == "path"}:
        raise ValueError(f"{route.name} does not describe what its path has: {route.path}")
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [_tag(route)],
        "parameters": [_parameter(item, schemas) for item in route.parameters],
        "responses": {
            **{str(answer.status): _answer(answer, schemas, links) for answer in route.answers},
            **_errors(route, schemas),
        },
    }
    if route.description is not None:
        operation["description"] = route.description
    if route.body is not None:
        operation["requestBody"] = _body(route.body, schemas)
    if route.is_open:
        operation["security"] = []
    return operation


def _tag(route: Route) -> str:
    """The noun of OpenAI's API that it is about; operators' routes have none."""
    found = re.match(r"/v1/(files|batches|models)\b", route.path)
    return found[1] if found else "operation"


def _parameter(item: Parameter, schemas: _Schemas) -> Json:
    return {
        "name": item.name,
        "in": item.place,
        "required": item.place == "path",
        "description": item.description,
        "schema": schemas.sent(item.kind),
    }


def _body(body: Body, schemas: _Schemas) -> Json:
    return {
        "required": body.required,
        "content": {body.media_type: {"schema": schemas.sent(body.kind)}},
    }


def _answer(answer: Answer, schemas: _Schemas, links: Json) -> Json:
    content: Json = {}
    if answer.kind is not None:
        content["schema"] = schemas.answered(answer.kind)
    if answer.lines is not None:
        content["x-line-schema"] = schemas.sent(answer.lines)
    described: Json = {
        "description": answer.description,
        "headers": _references(_ALWAYS)
        | {header.name: _header(header, schemas) for header in answer.headers},
        "content": dict.fromkeys(answer.media_types, content),
    }
    if links:
        described["links"] = links
    return described


def _header(header: Header, schemas: _Schemas) -> Json:
    return {
        "description": header.description,
        "required": header.is_certain,
        "schema": schemas.answered(header.kind),
    }


def _references(headers: Iterable[Header]) -> Json:
    return {header.name: {"$ref": f"#/components/headers/{header.name}"} for header in headers}


def _errors(route: Route, schemas: _Schemas) -> Json:
    kinds = (*route.errors, *(() if route.is_open else (Unauthorized,)), *_EVERY_ROUTE)
    by_status = groupby(sorted(kinds, key=_status), key=_status)
    return {str(status): schemas.refused(list(same)) for status, same in by_status}


def _status(kind: type[BatchdError]) -> int:
    return kind.http_status


def _doc(kind: type[BatchdError]) -> str:
    return " ".join(_markdown(cast("str", kind.__doc__)).split())


def _links(route: Route, routes: Iterable[Route]) -> Json:
    """Where the id of what is answered can be used."""
    name = next((_CALLED[answer.kind] for answer in route.answers if answer.kind in _CALLED), None)
    return {
        other.name: {"operationId": other.name, "parameters": {name: "$response.body#/id"}}
        for other in routes
        if name is not None and name in {item.name for item in other.parameters}
    }
