"""What operators ask for: the health, and the metrics."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from batchd.disk import Disk
from batchd.model import LineError
from tests.integration.api.harness import Answer, Api, refused

NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
)
NOTE = "the disk of the storage directory is full: sending is paused until there is room"


def numbers(answer: Answer) -> Mapping[str, float]:
    """The values of an answer of ``/metrics``, by name and labels."""
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_a_full_disk_degrades_the_health_until_there_is_room(api: Api) -> None:
    assert (await api.get("/healthz")).json == {"status": "ok"}
    api.room.note_full()
    assert (await api.get("/healthz")).json == {"status": "degraded"}
    await api.see_room()
    assert (await api.get("/healthz")).json == {"status": "ok"}


async def test_an_unfinished_batch_says_that_it_waits_for_room(api: Api) -> None:
    ended = await api.batch_id()
    assert (await api.batches.rejected(ended, [LineError("empty_file", "It is.")])) is not None
    waits = await api.batch_id()
    api.room.note_full()
    assert await notes(api, waits) == [NOTE]
    assert await notes(api, ended) == []
    listed = (await api.get("/v1/batches")).json["data"]
    assert [batch["batchd"]["notes"] for batch in listed] == [[NOTE], []]
    await api.see_room()
    assert await notes(api, waits) == []


async def notes(api: Api, batch_id: str) -> object:
    return (await api.get(f"/v1/batches/{batch_id}")).json["batchd"]["notes"]


async def test_a_batch_can_be_cancelled_while_the_disk_is_full(api: Api) -> None:
    batch_id = await api.batch_id()
    api.room.note_full()
    answer = await api.post(f"/v1/batches/{batch_id}/cancel", {})
    assert answer.json["status"] == "cancelling"


async def test_the_metrics_are_what_they_say(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def free(_disk: Disk, _path: Path) -> int:
        return 12345

    monkeypatch.setattr(Disk, "free", free)
    await api.batch_id()
    await api.batches.validated(await api.batch_id(), total=1, model=None)
    found = numbers(await api.get("/metrics"))
    assert found["batchd_disk_full"] == 0
    assert found["batchd_disk_free_bytes"] == 12345
    assert found["batchd_requests_in_flight"] == 0
    assert found["batchd_backend_waiting"] == 0
    assert {name: value for name, value in found.items() if "unfinished" in name} == {
        'batchd_unfinished_batches{status="validating"}': 1,
        'batchd_unfinished_batches{status="in_progress"}': 1,
        'batchd_unfinished_batches{status="finalizing"}': 0,
        'batchd_unfinished_batches{status="cancelling"}': 0,
    }
    api.room.note_full()
    assert numbers(await api.get("/metrics"))["batchd_disk_full"] == 1


async def test_where_keys_are_asked_for_the_metrics_need_one_too(guarded: Api) -> None:
    refused(await guarded.get("/metrics"), 401, NO_KEY)
    key = {"Authorization": "Bearer right-key-of-anna"}
    assert numbers(await guarded.ask("GET", "/metrics", headers=key))["batchd_disk_full"] == 0
    assert (await guarded.get("/healthz")).status == 200
