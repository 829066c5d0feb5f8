"""The errors of single fields and parameters, to the letter (contract 1.3)."""

import urllib.parse

import pytest

from tests.integration.api.harness import Api, refused, wish

Case = tuple[dict[str, object], str, str, str]  # changed fields, message, code, param


def missing(field_: str) -> Case:
    text = f"Missing required parameter: '{field_}'."
    return {field_: None}, text, "missing_required_parameter", field_


def wrong_type(changed: dict[str, object], path: str, expected: str, got: str) -> Case:
    text = f"Invalid type for '{path}': expected {expected}, but got {got} instead."
    return changed, text, "invalid_type", path


def out_of_range(seconds: int) -> Case:
    side, sign, bound = ("above", "<=", 2592000) if seconds > 3600 else ("below", ">=", 3600)
    edge = "maximum" if side == "above" else "minimum"
    path = "output_expires_after.seconds"
    text = (
        f"Invalid '{path}': integer {side} {edge} value. Expected a value {sign} {bound}, but got "
        f"{seconds} instead."
    )
    changed: dict[str, object] = {"output_expires_after": {"seconds": seconds}}
    return changed, text, f"integer_{side}_{edge[:3]}_value", path


ENDPOINTS = "'/v1/chat/completions', '/v1/completions', and '/v1/embeddings'"
FAULTS: list[Case] = [
    missing("input_file_id"),
    missing("endpoint"),
    missing("completion_window"),
    wrong_type({"input_file_id": 7}, "input_file_id", "a string", "an integer"),
    wrong_type({"endpoint": ["/v1"]}, "endpoint", "a string", "an array"),
    wrong_type({"completion_window": 24.5}, "completion_window", "a string", "a decimal number"),
    wrong_type({"metadata": []}, "metadata", "an object", "an array"),
    wrong_type({"metadata": "x"}, "metadata", "an object", "a string"),
    wrong_type({"metadata": {"tags": ["a"]}}, "metadata.tags", "a string", "an array"),
    wrong_type({"metadata": {"on": True}}, "metadata.on", "a string", "a boolean"),
    wrong_type({"metadata": {"k": None}}, "metadata.k", "a string", "null"),
    wrong_type({"metadata": {"k": {}}}, "metadata.k", "a string", "an object"),
    wrong_type({"output_expires_after": 3600}, "output_expires_after", "an object", "an integer"),
    wrong_type(
        {"output_expires_after": {"seconds": "3600"}},
        "output_expires_after.seconds",
        "an integer",
        "a string",
    ),
    wrong_type(
        {"output_expires_after": {"seconds": True}},
        "output_expires_after.seconds",
        "an integer",
        "a boolean",
    ),
    wrong_type(
        {"output_expires_after": {"anchor": 1}},
        "output_expires_after.anchor",
        "a string",
        "an integer",
    ),
    wrong_type({"priority": "high"}, "priority", "an integer", "a string"),
    wrong_type({"priority": 1.0}, "priority", "an integer", "a decimal number"),
    (
        {"priority": 11},
        (
            "Invalid 'priority': integer above maximum value. Expected a value <= 10, but got 11 "
            "instead."
        ),
        "integer_above_max_value",
        "priority",
    ),
    (
        {"priority": -11},
        (
            "Invalid 'priority': integer below minimum value. Expected a value >= -10, but got -11 "
            "instead."
        ),
        "integer_below_min_value",
        "priority",
    ),
    (
        {"endpoint": "/v1/x"},
        f"Invalid value: '/v1/x'. Supported values are: {ENDPOINTS}.",
        "invalid_value",
        "endpoint",
    ),
    (
        {"output_expires_after": {"anchor": "last_active_at"}},
        "Invalid value: 'last_active_at'. Supported values are: 'created_at'.",
        "invalid_value",
        "output_expires_after.anchor",
    ),
    out_of_range(3599),
    out_of_range(-1),
    out_of_range(2592001),
    (
        {"metadata": {f"k{number}": "v" for number in range(17)}},
        (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 "
            "properties, but got an object with 17 properties instead."
        ),
        "object_above_max_properties",
        "metadata",
    ),
    (
        {"metadata": {"k" * 65: "v"}},
        (
            f"Invalid 'metadata': property name '{'k' * 64}…' too long. Expected a property name "
            "with maximum length 64, but got one with length 65 instead."
        ),
        "property_name_above_max_length",
        "metadata",
    ),
    (
        {"metadata": {"k": "v" * 600}},
        (
            "Invalid 'metadata.k': string too long. Expected a string with maximum length 512, but "
            "got a string with length 600 instead."
        ),
        "string_above_max_length",
        "metadata.k",
    ),
]


@pytest.mark.parametrize(("changed", "message", "code", "param"), FAULTS)
async def test_a_fault_in_a_create_is_named(
    api: Api, changed: dict[str, object], message: str, code: str, param: str
) -> None:
    answer = await api.post("/v1/batches", wish("file-x", **changed))
    refused(answer, 400, message, code=code, param=param)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"k": ""},
        {"k" * 64: "v" * 512},
        {"ключ" * 16: "🦆" * 512},
        {f"k{number}": "v" for number in range(16)},
    ],
)
async def test_metadata_within_the_limits_is_echoed(
    api: Api, metadata: dict[str, str] | None
) -> None:
    answer = await api.post("/v1/batches", wish("file-x", metadata=metadata))
    assert answer.status == 200
    assert answer.json["metadata"] == metadata


@pytest.mark.parametrize("priority", [None, -10, 0, 10])
async def test_a_priority_is_told_in_the_extension(api: Api, priority: int | None) -> None:
    answer = await api.post("/v1/batches", wish("file-x", priority=priority))
    assert answer.status == 200
    assert answer.json["batchd"]["priority"] == (priority or 0)


@pytest.mark.parametrize(
    "seconds", [{}, {"seconds": 3600}, {"seconds": 2592000, "anchor": "created_at"}]
)
async def test_output_expires_after_may_lack_its_members(
    api: Api, seconds: dict[str, object]
) -> None:
    answer = await api.post("/v1/batches", wish("file-x", output_expires_after=seconds))
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("given", ["", "x", "1.5", "1e2", "+1", " 1", "٣", "0x10", "9" * 5000])
async def test_a_limit_that_is_no_integer_is_refused(api: Api, path: str, given: str) -> None:
    answer = await api.get(f"{path}?limit={urllib.parse.quote(given)}")
    message = f"Invalid type for 'limit': expected an integer, but got '{given[:64]}' instead."
    refused(answer, 400, message, code="invalid_type", param="limit")


@pytest.mark.parametrize(("path", "most"), [("/v1/files", 10_000), ("/v1/batches", 100)])
async def test_a_limit_out_of_range_is_refused(api: Api, path: str, most: int) -> None:
    refused(
        await api.get(f"{path}?limit={most + 1}"),
        400,
        f"Invalid 'limit': integer above maximum value. Expected a value <= {most}, but got "
        f"{most + 1} instead.",
        code="integer_above_max_value",
        param="limit",
    )
    for low in (0, -5):
        refused(
            await api.get(f"{path}?limit={low}"),
            400,
            "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got "
            f"{low} instead.",
            code="integer_below_min_value",
            param="limit",
        )
    assert (await api.get(f"{path}?limit={most}")).status == 200
