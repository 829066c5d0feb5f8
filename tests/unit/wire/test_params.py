"""What clients ask for; every message to the letter is in the integration tests of the API."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchd.errors import InvalidRequest
from batchd.model import NewBatch
from batchd.wire import params

WINDOWS = {"24h": 86400, "1h": 3600}
GOOD = {"input_file_id": "file-x", "endpoint": "/v1/a", "completion_window": "24h"}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


def new_batch(**changed: object) -> NewBatch:
    return params.new_batch({**GOOD, **changed}, endpoints=["/v1/a", "/v1/b"], windows=WINDOWS)


def fault_of(ask: Callable[[], object]) -> InvalidRequest | None:
    """The error that a call ends with, if it is one a client is told."""
    try:
        ask()
    except InvalidRequest as error:
        return error
    return None


def test_a_wish_with_only_what_is_required() -> None:
    assert new_batch() == NewBatch(
        input_file_id="file-x",
        endpoint="/v1/a",
        completion_window="24h",
        window=86400,
        metadata=None,
        output_expires_after=2592000,
    )


def test_a_window_is_turned_into_seconds() -> None:
    assert new_batch(completion_window="1h").window == 3600


def test_a_priority_is_within_ten_of_none() -> None:
    assert [new_batch(priority=given).priority for given in (None, -10, 0, 10)] == [0, -10, 0, 10]
    for wrong in (-11, 11, 10**30, True, 1.0, "1", [1]):
        with pytest.raises(InvalidRequest) as refused:
            new_batch(priority=wrong)
        assert refused.value.param == "priority"


def test_two_supported_values_need_no_comma() -> None:
    with pytest.raises(InvalidRequest) as refused:
        new_batch(endpoint="x")
    assert str(refused.value) == ("Invalid value: 'x'. Supported values are: '/v1/a' and '/v1/b'.")


@settings(max_examples=50)
@given(
    field=st.sampled_from([*GOOD, "metadata", "output_expires_after", "priority"]),
    value=anything,
)
def test_any_json_in_a_field_is_taken_or_refused_for_this_field(field: str, value: object) -> None:
    error = fault_of(lambda: new_batch(**{field: value}))
    if error is not None:
        assert (error.param or "").split(".")[0] == field
        assert error.code is not None
        assert error.http_status == 400


@given(value=st.dictionaries(st.text(max_size=70), st.text(max_size=520), max_size=18))
def test_metadata_is_refused_or_kept_as_it_is(value: dict[str, str]) -> None:
    fits = len(value) <= 16 and all(
        len(key) <= 64 and len(text) <= 512 for key, text in value.items()
    )
    try:
        assert params.metadata(value) == value
        assert fits
    except InvalidRequest:
        assert not fits


@given(text=st.text(max_size=8) | st.integers().map(str) | st.integers(0, 101).map(str))
def test_a_limit_is_a_number_in_range_or_an_error(text: str) -> None:
    error = fault_of(lambda: params.limit({"limit": text}, default=20, maximum=100))
    if error is None:
        assert text.isascii()
        assert 1 <= int(text) <= 100
    else:
        assert error.param == "limit"
        assert error.code in {"invalid_type", "integer_above_max_value", "integer_below_min_value"}


def test_limits_and_orders_have_defaults() -> None:
    assert params.limit({}, default=20, maximum=100) == 20
    assert params.order({}) == "desc"
    assert params.order({"order": "asc"}) == "asc"


@pytest.mark.parametrize(
    ("anchor", "seconds", "lifetime"),
    [
        (None, None, None),
        ("created_at", None, 2592000),
        (None, "3600", 3600),
        ("created_at", "2592000", 2592000),
    ],
)
def test_the_form_fields_of_expires_after(
    anchor: str | None, seconds: str | None, lifetime: int | None
) -> None:
    assert params.file_expires_after(anchor, seconds) == lifetime


@pytest.mark.parametrize(
    ("anchor", "seconds", "param"),
    [
        ("", "3600", "expires_after.anchor"),
        ("now", "3600", "expires_after.anchor"),
        ("created_at", "", "expires_after.seconds"),
        ("created_at", "-3600", "expires_after.seconds"),
        ("created_at", "3600.0", "expires_after.seconds"),
        ("created_at", "9" * 5000, "expires_after.seconds"),
    ],
)
def test_bad_form_fields_are_named(anchor: str, seconds: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        params.file_expires_after(anchor, seconds)
    assert refused.value.param == param


@given(body=st.binary(max_size=50))
def test_any_bytes_are_one_object_or_refused(body: bytes) -> None:
    error = fault_of(lambda: params.json_object(body))
    if error is not None:
        assert str(error).startswith("We could not parse the JSON body of your request. ")
    else:
        assert isinstance(json.loads(body), dict)
