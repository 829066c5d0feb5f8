import json

import pytest

from batchd.cli.client import Client
from batchd.cli.errors import CommandFailed
from batchd.cli.http import Http
from batchd.cli.merge import Merged, family
from tests.unit.cli.fake_api import FakeApi, FakeResults

ASKED = {"endpoint": "/v1/embeddings", "input_file_id": "file-1", "completion_window": "24h"}


def line(custom_id: str, batch: str) -> bytes:
    return json.dumps({"id": f"batch_req_{batch}", "custom_id": custom_id}).encode() + b"\n"


@pytest.fixture
def client(url: str) -> Client:
    return Client(Http(url))


def add(api: FakeApi, answered: str, failed: str, parent: str | None = None) -> str:
    """A batch with these lines, named by their letters."""
    batch_id: str = api.add_batch(ASKED | {"parent_id": parent})["id"]
    lines = [[line(name, batch_id) for name in names] for names in (answered, failed)]
    api.results[batch_id] = FakeResults(*lines, more=False)
    return batch_id


def named(client: Client, batch_id: str) -> list[str]:
    return [member["id"] for member in family(client, client.batch(batch_id)).members]


def test_the_family_is_the_same_whoever_is_asked(api: FakeApi, client: Client) -> None:
    first = add(api, "ab", "cd")
    add(api, "x", "y")
    second = add(api, "c", "d", first)
    third = add(api, "d", "", second)
    other = add(api, "", "c", first)
    for batch_id in (first, second, third, other):
        assert named(client, batch_id) == [other, third, second, first]


def test_a_family_is_found_over_many_pages_and_no_further_than_its_first(
    api: FakeApi, client: Client
) -> None:
    for _ in range(250):
        add(api, "", "")
    first = add(api, "a", "b")
    for _ in range(150):
        add(api, "", "")
    second = add(api, "b", "", first)
    api.requests.clear()
    assert named(client, first) == [second, first]
    assert api.requests.count(("GET", "/v1/batches")) == 2


def test_a_parent_that_is_gone_is_told(api: FakeApi, client: Client) -> None:
    second = add(api, "c", "d", "batch_gone")
    found = family(client, client.batch(second))
    assert ([member["id"] for member in found.members], found.lost) == ([second], "batch_gone")


def texts(lines: list[bytes]) -> list[tuple[str, str]]:
    found = [json.loads(text) for text in lines]
    return sorted((each["custom_id"], each["id"].removeprefix("batch_req_")) for each in found)


def test_each_line_comes_once_an_answer_before_a_failure_and_a_newer_before_an_older(
    api: FakeApi, client: Client
) -> None:
    first = add(api, "ab", "cdefg")
    second = add(api, "cd", "ef", first)  # g was not retried
    third = add(api, "e", "f", second)
    fourth = add(api, "c", "d", first)  # answered before, and again
    merged = Merged(client, family(client, client.batch(first)).members, with_input=False)
    assert texts(list(merged.answers())) == [
        ("a", first),
        ("b", first),
        ("c", fourth),
        ("d", second),
        ("e", third),
    ]
    assert texts(list(merged.failures())) == [("f", third), ("g", first)]
    assert (merged.answered, merged.failed) == (5, 2)


def test_names_with_escapes_are_one_name(api: FakeApi, client: Client) -> None:
    first, second = add(api, "", ""), add(api, "", "", "batch_1")
    api.results[first].lines["failed"] = [b'{"id":"r","custom_id":"\\u00e9\\"","error":1}\n']
    api.results[second].lines["completed"] = ['{"custom_id":"é\\"", "id":"r"}\n'.encode()]
    merged = Merged(client, family(client, client.batch(first)).members, with_input=False)
    assert len(list(merged.answers())) == 1
    assert list(merged.failures()) == []


def test_results_that_are_gone_cannot_be_merged(api: FakeApi, client: Client) -> None:
    first = add(api, "a", "")
    api.refuse("GET /v1/batches/batch_1/results", 404, "The results were deleted.")
    merged = Merged(client, family(client, client.batch(first)).members, with_input=False)
    with pytest.raises(CommandFailed, match="batch_1 cannot be merged: The results were deleted"):
        list(merged.answers())
