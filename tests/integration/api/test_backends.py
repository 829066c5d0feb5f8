"""What the backends are at, over the API; and the lines of a batch that have failed before."""

from batchd.api.parts import POOL
from batchd.model import TroubledLine
from batchd.retry import LineState, Park
from tests.integration.api.harness import Api, refused

KEY = {"Authorization": "Bearer right-key-of-anna"}
TROUBLED = TroubledLine(
    line=7,
    custom_id="seven",
    attempts=3,
    faults=2,
    last_failure="http_503",
    backend="backend",
    next_attempt_in=1.5,
)


async def test_the_backends_are_listed(api: Api) -> None:
    answer = await api.get("/v1/backends")
    assert answer.status == 200
    assert answer.json["object"] == "list"
    (backend,) = answer.json["data"]
    assert (backend["name"], backend["state"], backend["lanes"]) == ("backend", "ok", [])


async def test_a_backend_that_is_waited_for_is_resumed(api: Api) -> None:
    (backend,) = api.client.app[POOL].backends
    backend.park(Park(3600.0, "insufficient_quota", LineState()))
    (told,) = (await api.get("/v1/backends")).json["data"]
    assert told["state"] == "waiting"
    assert 3500 < told["tries_again_in"] <= 3600
    answer = await api.post("/v1/backends/backend/resume", {})
    assert answer.status == 200
    assert answer.json["object"] == "backend"
    assert answer.json["tries_again_in"] is None
    assert backend.is_well(backend.monotonic())


async def test_a_backend_that_is_not_there_is_named(api: Api) -> None:
    answer = await api.post("/v1/backends/no%20such/resume", {})
    refused(answer, 404, "No such backend: no such", param="name")


async def test_where_keys_are_asked_for_any_key_may_look_and_resume(guarded: Api) -> None:
    assert (await guarded.get("/v1/backends")).status == 401
    assert (await guarded.post("/v1/backends/backend/resume", {})).status == 401
    assert (await guarded.ask("GET", "/v1/backends", headers=KEY)).status == 200
    path = "/v1/backends/backend/resume"
    assert (await guarded.ask("POST", path, headers=KEY)).status == 200


async def test_a_page_of_another_origin_may_not_resume(api: Api) -> None:
    headers = {"Origin": "http://evil.example"}
    answer = await api.ask("POST", "/v1/backends/backend/resume", headers=headers)
    assert answer.status == 403


async def test_lines_that_failed_before_are_listed(api: Api) -> None:
    asked: list[tuple[str, int]] = []

    async def troubles(batch_id: str, limit: int) -> tuple[list[TroubledLine], bool]:
        asked.append((batch_id, limit))
        return [TROUBLED], True

    api.batches.live.ask_for_troubles(troubles)
    batch_id = await api.batch_id()
    answer = await api.get(f"/v1/batches/{batch_id}/attempts?limit=1")
    assert answer.status == 200
    assert answer.json == {
        "object": "list",
        "data": [
            {
                "line": 7,
                "custom_id": "seven",
                "attempts": 3,
                "faults": 2,
                "last_failure": "http_503",
                "backend": "backend",
                "next_attempt_in": 1.5,
            }
        ],
        "has_more": True,
    }
    await api.get(f"/v1/batches/{batch_id}/attempts")
    assert asked == [(batch_id, 1), (batch_id, 20)]


async def test_a_batch_that_does_not_run_has_no_such_lines(api: Api) -> None:
    answer = await api.get(f"/v1/batches/{await api.batch_id()}/attempts")
    assert answer.json == {"object": "list", "data": [], "has_more": False}


async def test_the_lines_of_a_batch_that_is_not_there_are_not_told(api: Api) -> None:
    answer = await api.get("/v1/batches/batch_x/attempts")
    refused(answer, 404, "No batch found with id 'batch_x'.")
    answer = await api.get(f"/v1/batches/{await api.batch_id()}/attempts?limit=101")
    assert answer.json["error"]["code"] == "integer_above_max_value"
