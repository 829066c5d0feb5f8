"""Who is let in, and what is said to those who are not (contract 1.3)."""

import pytest

from tests.integration.api.harness import Answer, Api, refused

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)
WRONG_KEY = "Incorrect API key provided: {}. Ask whoever runs this batchd for a key."


async def with_key(api: Api, authorization: str) -> Answer:
    return await api.ask("GET", "/v1/files", headers={"Authorization": authorization})


async def test_a_request_with_no_key_is_refused(guarded: Api) -> None:
    refused(await guarded.get("/v1/files"), 401, NO_KEY)


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer  ", "Basic YTpi", "right-key-of-anna"])
async def test_what_is_no_bearer_key_counts_as_none(guarded: Api, authorization: str) -> None:
    refused(await with_key(guarded, authorization), 401, NO_KEY)


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("wrong-key-of-bert", "wron***"),
        ("short", "***"),
        ("schlüssel-of-bert", "schl***"),
    ],
)
async def test_a_wrong_key_is_refused_and_not_repeated(guarded: Api, key: str, shown: str) -> None:
    refused(
        await with_key(guarded, f"Bearer {key}"),
        401,
        WRONG_KEY.format(shown),
        code="invalid_api_key",
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_right_key_is_let_in(guarded: Api, scheme: str) -> None:
    assert (await with_key(guarded, f"{scheme} right-key-of-anna")).status == 200


async def test_health_is_told_without_a_key(guarded: Api) -> None:
    assert (await guarded.get("/healthz")).json["status"] == "ok"


async def test_without_a_keys_file_any_key_and_none_are_accepted(api: Api) -> None:
    assert (await api.get("/v1/files")).status == 200
    assert (await with_key(api, "Bearer whatever")).status == 200
