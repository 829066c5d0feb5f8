"""Lists: order, limits and cursors (contract 4)."""

from typing import Any

import pytest

from tests.integration.api.harness import Api, refused

KINDS = ["files", "batches"]


async def some(api: Api, kind: str, number: int) -> list[str]:
    """The ids of this many new objects, oldest first, all of one second."""
    if kind == "files":
        return [await api.file_id() for _ in range(number)]
    return [await api.batch_id("file-x") for _ in range(number)]


async def page(api: Api, kind: str, query: str = "") -> dict[str, Any]:
    answer = await api.get(f"/v1/{kind}{query}")
    assert answer.status == 200, answer.body
    return answer.json


def ids(listed: dict[str, Any]) -> list[str]:
    return [item["id"] for item in listed["data"]]


@pytest.mark.parametrize("kind", KINDS)
async def test_an_empty_list_has_no_ends(api: Api, kind: str) -> None:
    assert await page(api, kind) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_the_newest_comes_first_within_one_second_too(api: Api, kind: str) -> None:
    made = await some(api, kind, 5)
    listed = await page(api, kind)
    assert ids(listed) == made[::-1]
    assert (listed["first_id"], listed["last_id"]) == (made[-1], made[0])


@pytest.mark.parametrize("kind", KINDS)
async def test_has_more_is_true_only_when_something_follows(api: Api, kind: str) -> None:
    made = await some(api, kind, 3)
    assert [(await page(api, kind, f"?limit={n}"))["has_more"] for n in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
    assert (await page(api, kind, f"?limit=2&after={made[2]}"))["has_more"] is False


async def test_twenty_batches_are_a_page(api: Api) -> None:
    await some(api, "batches", 21)
    listed = await page(api, "batches")
    assert (len(listed["data"]), listed["has_more"]) == (20, True)


async def test_files_can_be_listed_oldest_first(api: Api) -> None:
    made = await some(api, "files", 4)
    assert ids(await page(api, "files", "?order=asc")) == made
    assert ids(await page(api, "files", f"?order=asc&limit=2&after={made[0]}")) == made[1:3]
    refused(
        await api.get("/v1/files?order=sideways"),
        400,
        "Invalid value: 'sideways'. Supported values are: 'asc' and 'desc'.",
        code="invalid_value",
        param="order",
    )


async def test_files_can_be_listed_by_purpose(api: Api) -> None:
    batch, data = await api.file_id(), await api.file_id(purpose="user_data")
    assert ids(await page(api, "files", "?purpose=batch")) == [batch]
    assert ids(await page(api, "files", "?purpose=user_data")) == [data]
    for none in ("anything", "", "%00", "%ff", "%ed%a0%80"):
        assert ids(await page(api, "files", f"?purpose={none}")) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", ["", "file-x", "batch_x", "%00", "%F0%9F%A6%86", "../x"])
async def test_a_cursor_that_never_was_an_id_is_refused(api: Api, kind: str, after: str) -> None:
    await some(api, kind, 1)
    shown = {"%00": "\x00", "%F0%9F%A6%86": "🦆"}.get(after, after)
    message = f"Invalid 'after': no object with id '{shown}' was ever listed here."
    answer = await api.get(f"/v1/{kind}?after={after}")
    refused(answer, 400, message, code="invalid_value", param="after")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", ["%ff", "%ed%a0%80", "%"])
async def test_a_cursor_that_is_not_utf8_is_refused(api: Api, kind: str, after: str) -> None:
    answer = await api.get(f"/v1/{kind}?after={after}")
    error = answer.json["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "invalid_value", "after")


async def test_every_file_can_be_deleted_while_paging(api: Api) -> None:
    made = await some(api, "files", 5)
    seen: list[str] = []
    listed = await page(api, "files", "?limit=2")
    while listed["data"]:
        for file_id in ids(listed):
            assert (await api.ask("DELETE", f"/v1/files/{file_id}")).status == 200
        seen += ids(listed)
        listed = await page(api, "files", f"?limit=2&after={seen[-1]}")
    assert seen == made[::-1]


async def test_an_expired_file_is_a_cursor_still(api: Api) -> None:
    old = await api.file_id(purpose="user_data")
    short = {"expires_after[seconds]": "3600"}
    expired = await api.file_id(fields=short)
    api.clock.turn(3600)
    assert ids(await page(api, "files", f"?after={expired}")) == [old]


async def test_what_is_created_while_paging_is_not_seen_twice(api: Api) -> None:
    made = await some(api, "batches", 3)
    first = await page(api, "batches", "?limit=2")
    await some(api, "batches", 2)
    second = await page(api, "batches", f"?limit=2&after={first['last_id']}")
    assert ids(first) + ids(second) == made[::-1]


@pytest.mark.parametrize("kind", KINDS)
async def test_pages_of_any_size_put_together_are_the_list(api: Api, kind: str) -> None:
    made = (await some(api, kind, 7))[::-1]
    for limit in range(1, 9):
        seen: list[str] = []
        query = f"?limit={limit}"
        while (listed := await page(api, kind, query))["has_more"]:
            seen += ids(listed)
            query = f"?limit={limit}&after={listed['last_id']}"
        assert seen + ids(listed) == made
