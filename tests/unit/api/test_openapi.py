"""The description of the API: valid, complete, and of the same mind as what judges requests."""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from batchd.api import dashboard
from batchd.api.messages import FILE, json_of, parameter
from batchd.api.openapi import document
from batchd.api.route import Body, Route
from batchd.api.routes import ROUTES
from batchd.config import BatchesConfig, Config
from batchd.errors import InvalidRequest
from batchd.wire import params, wishes
from batchd.wire.objects import BatchObject, FileObject

CONFIG = Config(
    batches=BatchesConfig(endpoints=("/v1/odd", "/v1/even"), completion_windows=("24h", "30m"))
)
DOCUMENT = cast("dict[str, Any]", json.loads(document(ROUTES, CONFIG)))
SCHEMAS = cast("dict[str, Any]", DOCUMENT["components"]["schemas"])
OPERATIONS = [
    (f"{method} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def operation(name: str) -> dict[str, Any]:
    return next(found for _, found in OPERATIONS if found["operationId"] == name)


def answers_of(described: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The answers of an operation by status, references looked up."""
    responses = DOCUMENT["components"]["responses"]
    return {
        int(status): responses[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
        for status, answer in described["responses"].items()
    }


def test_it_is_an_openapi_document() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    assert DOCUMENT["openapi"] == "3.1.0"


def test_every_schema_is_one() -> None:
    for schema in SCHEMAS.values():
        jsonschema_rs.meta.validate(schema)


def test_every_route_is_in_it_under_a_name_of_its_own() -> None:
    names = [described["operationId"] for _, described in OPERATIONS]
    assert len(set(names)) == len(names)
    assert sorted(names) == sorted(route.name for route in ROUTES)


@pytest.mark.parametrize(("label", "described"), OPERATIONS)
def test_a_route_says_what_it_does_and_how_it_ends(label: str, described: dict[str, Any]) -> None:
    assert described["summary"].endswith("."), label
    answers = answers_of(described)
    assert 200 in answers
    assert {403, 415, 500} <= set(answers)
    for status, answer in answers.items():
        assert answer["description"]
        assert "x-request-id" in answer["headers"]
        if status >= 400:
            (content,) = answer["content"].items()
            envelope = {"schema": {"$ref": "#/components/schemas/ErrorObject"}}
            assert content == ("application/json", envelope)


def test_a_key_is_asked_for_but_where_nothing_is_anybodys() -> None:
    open_ones = {label for label, described in OPERATIONS if described.get("security") == []}
    assert open_ones == {
        "get /healthz",
        "get /openapi.json",
        "get /dashboard",
        "get /dashboard/{name}",
    }
    for label, described in OPERATIONS:
        assert (401 in answers_of(described)) == (label not in open_ones)


def test_what_is_configured_is_what_can_be_asked_for() -> None:
    wish = SCHEMAS["CreateBatch"]["properties"]
    assert wish["endpoint"]["enum"] == ["/v1/odd", "/v1/even"]
    assert wish["completion_window"]["enum"] == ["24h", "30m"]
    assert SCHEMAS["BatchRequestInput"]["properties"]["url"]["enum"] == ["/v1/odd", "/v1/even"]


def test_the_purposes_are_those_that_an_upload_can_have() -> None:
    purposes = SCHEMAS["UploadFile"]["properties"]["purpose"]["enum"]
    assert sorted(purposes) == ["assistants", "batch", "fine-tune", "user_data", "vision"]


def test_an_answer_has_every_member_that_is_described() -> None:
    for name in ("FileObject", "BatchObject", "FileList", "BatchList", "LineError", "ErrorDetail"):
        schema = SCHEMAS[name]
        assert schema["required"] == list(schema["properties"]), name
    lane = SCHEMAS["LaneStatus"]
    assert set(lane["properties"]) - set(lane["required"]) == {
        "requests_per_minute",
        "tokens_per_minute",
    }


def test_statuses_and_purposes_are_told_one_by_one() -> None:
    assert len(SCHEMAS["BatchStatus"]["enum"]) == 8
    assert "batch_output" in SCHEMAS["Purpose"]["enum"]


def test_an_id_leads_to_whatever_can_be_done_with_it() -> None:
    links = answers_of(operation("createBatch"))[200]["links"]
    assert links["retryBatch"] == {
        "operationId": "retryBatch",
        "parameters": {"batch_id": "$response.body#/id"},
    }
    assert set(links) == {
        described["operationId"] for label, described in OPERATIONS if "{batch_id}" in label
    }


def test_the_files_of_the_dashboard_are_named() -> None:
    (name,) = operation("getDashboardFile")["parameters"]
    files = {f"/dashboard/{file}" for file in name["schema"]["enum"]}
    assert files | {"/dashboard"} == dashboard.PATHS


def test_it_is_written_for_people() -> None:
    assert "``" not in json.dumps(DOCUMENT)
    assert "\\n    " not in json.dumps(DOCUMENT)


async def _nothing(request: web.Request) -> web.Response:
    return web.Response(text=request.path)


NOTHING = Route(
    name="doNothing",
    method="post",
    path="/x",
    handler=_nothing,
    summary="Do nothing.",
    answers=json_of(FileObject, "Nothing."),
)


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/x/{file_id}", ()),
        ("/x", (FILE,)),
        ("/x/{other}", (FILE,)),
        ("/x/{file_id}", (parameter("query", "file_id", str, "Elsewhere."),)),
    ],
)
def test_a_part_of_a_path_that_is_not_described_is_an_error(
    path: str, parameters: tuple[object, ...]
) -> None:
    with pytest.raises(ValueError, match="doNothing does not describe what its path has"):
        document([replace(NOTHING, path=path, parameters=parameters)], Config())


def test_a_type_that_is_sent_and_answered_is_an_error() -> None:
    body = Body(media_type="application/json", kind=BatchObject, required=True)
    route = replace(NOTHING, body=body, answers=json_of(BatchObject, "The same."))
    with pytest.raises(ValueError, match="both sent and answered"):
        document([route], Config())


# What is described against what is accepted: schemas against ``params`` and ``wishes``.

# Which characters there are is not the same for all versions of Unicode; 7.0 is an integer to JSON
# Schema alone.
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=4)
_FRACTIONS = st.floats(-20, 20).filter(lambda number: not number.is_integer())
_ANY: st.SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-20, 20),
    _FRACTIONS,
    _TEXT,
    st.lists(st.integers(), max_size=1),
    st.dictionaries(_TEXT, st.integers(), max_size=1),
)


def _long(*lengths: int) -> st.SearchStrategy[str]:
    return st.sampled_from([length * "k" for length in lengths])


def _pairs(count: int) -> dict[str, str]:
    return {str(number): "v" for number in range(count)}


_METADATA = st.one_of(
    _ANY,
    st.sampled_from([_pairs(16), _pairs(17)]),
    st.dictionaries(_long(0, 64, 65) | _TEXT, _long(0, 512, 513) | _ANY, max_size=2),
)
_PRIORITY = _ANY | st.sampled_from([-11, -10, 10, 11, 1 << 70])
_KEY = _ANY | _long(0, 1, 255, 256)
_WINDOW = _ANY | st.sampled_from(["24h", "30m", "24H"])
_EXPIRES = st.fixed_dictionaries(
    {},
    optional={
        "anchor": _ANY | st.just("created_at"),
        "seconds": _ANY | st.sampled_from([3599, 3600, 2592000, 2592001]),
        "more": _ANY,
    },
)
_MORE = {"metadata": _METADATA, "priority": _PRIORITY, "idempotency_key": _KEY, "unknown": _ANY}
_CODES = st.sampled_from([["x"] * 100, ["x"] * 101]) | st.lists(_ANY, max_size=2)

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
Object = Mapping[str, object]


def _create(body: Object) -> None:
    wish = params.new_batch(
        body, endpoints=CONFIG.batches.endpoints, windows=CONFIG.batches.windows
    )
    wishes.repeatable(wish, {}, body)


def _agrees(schema: str, body: Object, accept: Callable[[Object], object]) -> bool:
    """Whether both say the same of a body; and what they say."""
    whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
    described = jsonschema_rs.Draft202012Validator(whole).is_valid(body)
    try:
        accept(params.json_object(msgspec.json.encode(body)))
    except InvalidRequest:
        assert not described, body
    else:
        assert described, body
    return described


@UNHURRIED
@given(
    st.fixed_dictionaries(
        {"endpoint": st.sampled_from(["/v1/odd", "/v1/even"]) | _ANY},
        optional={"output_expires_after": _EXPIRES | _ANY, **_MORE},
    ),
    st.fixed_dictionaries({}, optional={"input_file_id": _TEXT}),
    _WINDOW,
)
def test_a_create_is_described_as_it_is_judged(body: Object, file: Object, window: object) -> None:
    _agrees("CreateBatch", {**body, **file, "completion_window": window}, _create)


@UNHURRIED
@given(st.fixed_dictionaries({}, optional={"codes": _CODES | _ANY, **_MORE}))
def test_a_retry_is_described_as_it_is_judged(body: Object) -> None:
    _agrees("RetryBatch", body, lambda given: wishes.retry({}, given))


@UNHURRIED
@given(st.fixed_dictionaries({}, optional={"priority": _PRIORITY, "unknown": _ANY}))
def test_a_priority_is_described_as_it_is_judged(body: Object) -> None:
    _agrees("SetPriority", body, wishes.priority_of)


GOOD: dict[str, object] = {
    "input_file_id": "file-x",
    "endpoint": "/v1/odd",
    "completion_window": "30m",
}


@pytest.mark.parametrize(
    ("more", "is_good"),
    [
        ({}, True),
        ({"metadata": _pairs(16)}, True),
        ({"metadata": _pairs(17)}, False),
        ({"metadata": {"k" * 64: "v" * 512}}, True),
        ({"metadata": {"k" * 65: "v"}}, False),
        ({"metadata": {"k": "v" * 513}}, False),
        ({"priority": 10}, True),
        ({"priority": 11}, False),
        ({"output_expires_after": {"seconds": 3599}}, False),
        ({"output_expires_after": None, "unknown": [1]}, True),
        ({"idempotency_key": "é 語"}, True),
        ({"idempotency_key": "a\n"}, False),
        ({"idempotency_key": "a\u00a0"}, False),
        ({"completion_window": "1h"}, False),
    ],
)
def test_bounds_are_in_the_description(more: dict[str, object], *, is_good: bool) -> None:
    assert _agrees("CreateBatch", GOOD | more, _create) is is_good
