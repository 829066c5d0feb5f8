"""What the description of an API cannot say: schemathesis loads this and obeys it.

It draws ids and takes it for a fault when something is refused that fits the description. So a part
of its ids becomes those of real objects, and what the contract refuses all the same is put right
before it is sent. What is meant to be refused is left as it is.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, cast

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.core import NotSet
from schemathesis.core.parameters import ParameterLocation

from tests.support.jobs import ENDPOINT, Jobs, request_line

AnyCase = Case[Any]

_VARIABLE = "FUZZED_OBJECTS"

_LINES = request_line("good") + request_line("bad", "400") + request_line("slow", "slow:0.2")
_NEVER = request_line("never", "slow:3600")


def settings(jobs: Jobs) -> dict[str, str]:
    """The environment in which schemathesis finds its hooks, and what they lean on."""
    file = jobs.upload(_LINES)
    ended = str(jobs.create(file)["id"])
    jobs.wait(ended)
    objects = {
        "file": file,
        "ended": ended,
        "running": jobs.start(_NEVER),
        "cancelled": jobs.start(_NEVER),
    }
    return {"SCHEMATHESIS_HOOKS": __name__, _VARIABLE: json.dumps(objects)}


@schemathesis.hook  # pyright: ignore[reportUnknownMemberType] - it is typed in part only
def before_call(context: HookContext, case: AnyCase, kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - the names are schemathesis's
    if case.meta is None or _leaves_out_its_body(case):
        return
    is_linked = case.meta.phase.name.value == "stateful"
    if not is_linked and not case.meta.is_negative_at(ParameterLocation.PATH):
        _name_something_real(case)
    if not case.meta.generation.mode.is_negative:
        _put_right(case)


def _leaves_out_its_body(case: AnyCase) -> bool:
    """One that may be left out: with any change schemathesis takes it for one that must not be."""
    return case.media_type is not None and isinstance(case.body, NotSet)


def _put_right(case: AnyCase) -> None:
    _give_a_cursor(case)
    if case.media_type == "multipart/form-data":
        _give_lines(case)
    if case.media_type == "application/json":
        case.body = cast("Any", _without_decimals(case.body))
        _give_a_file(case)
        _give_a_name(case)


def _name_something_real(case: AnyCase) -> None:
    """Every other id becomes that of something that is in the right state."""
    operation, path = case.operation, case.path_parameters
    if _is_chosen(path.get("batch_id")):
        path["batch_id"] = _batch_for(operation.path.rpartition("/")[2])
    if _is_chosen(path.get("file_id")) and operation.method != "delete":
        path["file_id"] = _objects()["file"]


def _give_a_file(case: AnyCase) -> None:
    """Every other batch gets an input that there is."""
    if isinstance(case.body, dict) and _is_chosen(case.body.get("input_file_id")):
        case.body |= {"input_file_id": _objects()["file"], "endpoint": ENDPOINT}


def _give_a_name(case: AnyCase) -> None:
    """Which characters there are to be printed is not the same for all versions of Unicode."""
    if isinstance(case.body, dict) and isinstance(key := case.body.get("idempotency_key"), str):
        case.body["idempotency_key"] = "".join(filter(str.isprintable, key)) or "k"


def _is_chosen(drawn: object) -> bool:
    return isinstance(drawn, str) and sum(map(ord, drawn)) % 2 == 0


def _batch_for(verb: str) -> str:
    """A batch with which there is something to do."""
    kinds = {"retry": "ended", "results": "ended", "cancel": "cancelled"}
    return _objects()[kinds.get(verb, "running")]


def _give_a_cursor(case: AnyCase) -> None:
    """A cursor is an id that was listed, or what an answer said, and nothing else."""
    if "after" in case.query:
        case.query["after"] = {
            "/v1/files": _objects()["file"],
            "/v1/batches": _objects()["ended"],
            "/v1/batches/{batch_id}/results": "0-0",
        }[case.operation.path]


def _give_lines(case: AnyCase) -> None:
    """A file for a batch is lines of JSON, and the name of a part is what a header can carry."""
    if not isinstance(case.body, dict):
        return
    unsendable = [name for name in case.body if not (name.isascii() and name.isprintable())]
    if unsendable or case.body.get("purpose") == "batch":
        kept = {name: case.body[name] for name in case.body if name not in unsendable}
        case.body = kept | {"file": _LINES.decode()}


def _without_decimals(value: object) -> object:
    """JSON Schema takes 7.0 for an integer; the contract says that a decimal number is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        return {name: _without_decimals(member) for name, member in members.items()}
    if isinstance(value, list):
        return [_without_decimals(member) for member in cast("list[object]", value)]
    return value


def _objects() -> Mapping[str, str]:
    return json.loads(os.environ[_VARIABLE])
