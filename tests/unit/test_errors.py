"""Every error says which answer it gives, in a sentence for people."""

import inspect

import pytest

from batchd import errors
from batchd.errors import BatchdError, Unauthorized

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_its_answer(kind: type[BatchdError]) -> None:
    assert issubclass(kind, BatchdError)
    error = kind()
    assert str(error)
    assert "\n" not in str(error)
    assert 400 <= error.http_status < 600
    client = error.http_status < 500
    assert error.error_type == ("invalid_request_error" if client else "server_error")
    assert str(kind("This is so.")) == "This is so."


def test_an_error_can_name_its_param_and_code() -> None:
    error = errors.InvalidRequest("No.", param="purpose", code="invalid_value")
    assert (error.param, error.code) == ("purpose", "invalid_value")
    assert errors.InvalidRequest.code is None
    assert errors.NoRoom().code == "insufficient_storage"
    assert Unauthorized(code="invalid_api_key").code == "invalid_api_key"


def test_what_must_not_be_repeated_says_so() -> None:
    assert errors.Conflict.retriable is False
    assert errors.NoRoom.retriable is False
    assert errors.Busy().retry_after == 2
