"""What a batch says of an input file as a whole: its size, its ids, its models (contract 5)."""

from collections.abc import Awaitable, Callable

import pytest

from batchd.config import BatchesConfig
from tests.integration.api.harness import Api, Setup
from tests.integration.api.lines import (
    EMBEDDINGS,
    body,
    duplicate,
    error,
    errors_of,
    invalid_json,
    line,
    started,
)
from tests.support.model_server import ModelServer

StartApi = Callable[[Setup], Awaitable[Api]]

EMPTY = "The input file is empty. Please ensure that the batch contains at least one request."


async def test_at_most_a_hundred_errors_are_told_the_first_ones(judge: Api) -> None:
    batch = await judge.validated(line("a") + b"x\n" * 150 + line("a"))
    assert errors_of(batch) == [invalid_json(number) for number in range(2, 102)]


async def test_a_batch_with_a_hundred_errors_keeps_them_in_order_of_lines(judge: Api) -> None:
    content = line("a") + line("a") + b"x\n" + line("b") + line("a")
    assert errors_of(await judge.validated(content)) == [
        duplicate("a", 2),
        invalid_json(3),
        duplicate("a", 5),
    ]


async def test_a_custom_id_is_compared_by_its_characters(judge: Api) -> None:
    written = line("a\u00fc\u2028").replace("ü".encode(), b"\\u00fc")
    batch = await judge.validated(line("A") + line("aü\u2028") + written + line("au\u0308\u2028"))
    assert errors_of(batch) == [duplicate("aü\u2028", 3)]


async def test_duplicates_are_found_through_the_disk_too(judge: Api) -> None:
    """Some thousand times more ids than fit the buckets in memory."""
    content = [line(f"r{number}") for number in range(70_000)]
    content[69_000], content[500] = line("r17"), line("r499")
    rules = Setup(validating=True, batches=BatchesConfig(max_requests=100_000))
    assert rules.batches.max_requests > len(content)
    batch = await judge.validated(b"".join(content[:49_000]) + line("r17") + line("r48000"))
    assert errors_of(batch) == [
        duplicate("r499", 501),
        duplicate("r17", 49_001),
        duplicate("r48000", 49_002),
    ]


async def test_a_file_with_no_requests_is_told(judge: Api) -> None:
    """Uploads refuse such a file; one that is there all the same fails its batch."""
    file_id = await judge.file_id()
    judge.spool.file(file_id).write_bytes(b"\n\r\n")  # of the size that its row has
    batch = await judge.settled(await judge.batch_id(file_id))
    assert errors_of(batch) == [error("empty_file", EMPTY, None, None)]


async def limited(start_api: StartApi, **batches: int | bool) -> Api:
    return await start_api(
        Setup(validating=True, batches=BatchesConfig(**batches))  # pyright: ignore[reportArgumentType] - settings by name
    )


async def test_too_many_requests_are_told_once(start_api: StartApi) -> None:
    api = await limited(start_api, max_requests=3)
    text = "The input file has more than 3 requests, the most allowed."
    found = [error("too_many_tasks", text, None, None)]
    good = b"".join(line(name) for name in "abcde")
    assert errors_of(await api.validated(good)) == found
    batch = await api.validated(line("a") + b"x\n" + good[len(line("a")) :])
    assert errors_of(batch) == [*found, invalid_json(2)]
    started(await api.validated(b"\n" + line("a") + line("b") + line("c")), 3)


@pytest.mark.parametrize(
    ("inputs", "counted"),
    [
        (["text"] * 5, 5),
        (["a", ["b", "c"], [[1, 2], [3], [4, 5]], [1, 2, 3, 4, 5]], 1 + 2 + 3 + 1),
        ([["x"] * 5], 5),
        ([[[1, 2]] * 5], 5),
    ],
)
async def test_embedding_inputs_are_counted_over_the_file(
    start_api: StartApi, inputs: list[object], counted: int
) -> None:
    content = b"".join(
        line(str(number), url=EMBEDDINGS, body={"model": "m", "input": each})
        for number, each in enumerate(inputs)
    )
    api = await limited(start_api, max_embedding_inputs=counted - 1)
    text = (
        f"The input file has {counted} embedding inputs; at most {counted - 1} are allowed in one "
        "batch."
    )
    found = errors_of(await api.validated(content, EMBEDDINGS))
    assert found == [error("too_many_tasks", text, "body.input", None)]
    api = await limited(start_api, max_embedding_inputs=counted)
    started(await api.validated(content, EMBEDDINGS), len(inputs))


async def test_inputs_are_counted_for_embeddings_only(start_api: StartApi) -> None:
    api = await limited(start_api, max_embedding_inputs=1)
    started(await api.validated(line(body=body(input=["a", "b"]))), 1)


async def test_models_may_be_mixed_unless_forbidden(judge: Api, start_api: StartApi) -> None:
    content = b"".join(
        line(str(number), body=body(model=name)) for number, name in enumerate("mmxmy")
    )
    batch = await judge.validated(content)
    started(batch, 5)
    assert batch["model"] is None
    strict = await limited(start_api, mixed_models=False)
    texts = {
        name: f"The model '{name}' for this request does not match the rest of the batch. Each "
        "batch must contain requests for a single model."
        for name in "xy"
    }
    assert errors_of(await strict.validated(content)) == [
        error("mismatched_model", texts["x"], "body.model", 3),
        error("mismatched_model", texts["y"], "body.model", 5),
    ]
    batch = await strict.validated(line("a") + line("b"))
    started(batch, 2)
    assert batch["model"] == "m"


async def test_a_model_that_the_server_does_not_list_is_told(start_api: StartApi) -> None:
    async with ModelServer() as server:
        server.set(models=("m", "org/n"))
        api = await start_api(Setup(validating=True, backend=server.base_url))
        content = (
            line("a") + line("b", body=body(model="gpt")) + line("c", body=body(model="org/n"))
        )
        text = "The provided model 'gpt' is not supported by the Batch API."
        found = errors_of(await api.validated(content))
        assert found == [error("model_not_found", text, "body.model", 2)]


@pytest.mark.parametrize("settings", [{"models_status": 500}, {"models": ()}])
async def test_a_server_without_a_list_fails_no_batch(
    start_api: StartApi, settings: dict[str, object]
) -> None:
    async with ModelServer() as server:
        server.set(**settings)
        api = await start_api(Setup(validating=True, backend=server.base_url))
        started(await api.validated(line()), 1)


async def test_an_unreachable_server_fails_no_batch(start_api: StartApi) -> None:
    async with ModelServer(listening=False) as server:
        api = await start_api(Setup(validating=True, backend=server.base_url))
        started(await api.validated(line()), 1)


async def test_the_models_are_not_checked_when_told_so(start_api: StartApi) -> None:
    async with ModelServer() as server:
        rules = BatchesConfig(check_models=False)
        setup = Setup(validating=True, backend=server.base_url, batches=rules)
        started(await (await start_api(setup)).validated(line()), 1)


async def test_a_failed_batch_leaves_nothing_but_its_input(judge: Api) -> None:
    file_id = await judge.file_id(b"{}\n")
    batch = await judge.settled(await judge.batch_id(file_id))
    assert batch["status"] == "failed"
    assert judge.spooled() == [file_id]


async def test_an_input_deleted_before_validation_fails_the_batch(start_api: StartApi) -> None:
    api = await start_api(Setup())
    file_id = await api.file_id(line())
    batch_id = await api.batch_id(file_id)
    await api.ask("DELETE", f"/v1/files/{file_id}")
    await api.batches.validated(batch_id, total=1, model="m")
    batch = (await api.get(f"/v1/batches/{batch_id}")).json
    text = f"Cannot find file {file_id}, or organization local does not have access to it."
    assert errors_of(batch) == [error("invalid_request", text, "file_id", None)]
