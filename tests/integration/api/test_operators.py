"""What operators ask for: the health, and the metrics."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from batchd.api.parts import POOL
from batchd.backends.rates import Rates
from batchd.config import BackendConfig
from batchd.disk import Disk
from batchd.model import Failure, FailureKind, LineError
from batchd.retry import LineState, Park, Settle
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


async def test_the_metrics_tell_of_each_backend_and_its_busiest_models(api: Api) -> None:
    (backend,) = api.client.app[POOL].backends
    for number in range(60):
        for _ in range(1 + number % 60):
            backend.lane(f"model-{number:02}").take(0.0)
    backend.park(Park(60.0, "rate_limited", LineState()))
    backend.lanes.rates = Rates(requests_per_minute=30)
    backend.came_to(Failure(FailureKind.TIMEOUT), Settle(), 1.0)
    found = numbers(await api.get("/metrics"))
    lanes = {name for name in found if name.startswith("batchd_backend_limit")}
    assert len(lanes) == 50
    assert found['batchd_backend_requests_in_flight{backend="backend",model="model-59"}'] == 60
    assert found['batchd_backend_limit{backend="backend",model="model-59"}'] == 16
    assert found['batchd_backend_throughput{backend="backend",model="model-59"}'] == 0
    assert 'batchd_backend_limit{backend="backend",model="model-09"}' not in lanes
    states = {
        state: f'{{backend="backend",state="{state}"}}' for state in ("ok", "waiting", "gone")
    }
    told = {state: found["batchd_backend_state" + labels] for state, labels in states.items()}
    assert told == {"ok": 0, "waiting": 1, "gone": 0}
    assert found['batchd_backend_requests_per_minute{backend="backend"}'] == 30
    assert 'batchd_backend_tokens_per_minute{backend="backend"}' not in found
    assert found['batchd_backend_attempts_total{backend="backend",outcome="timeout"}'] == 1


async def test_a_scrape_counts_nothing_twice_and_forgets_backends_that_left(api: Api) -> None:
    pool = api.client.app[POOL]
    pool.backends[0].came_to(Failure(FailureKind.TIMEOUT), Settle(), 1.0)
    name = 'batchd_backend_attempts_total{backend="backend",outcome="timeout"}'
    for _ in range(3):
        assert numbers(await api.get("/metrics"))[name] == 1
    await pool.replace([BackendConfig(name="other", base_url="http://127.0.0.1:9/v1")])
    found = numbers(await api.get("/metrics"))
    assert name not in found
    assert found['batchd_backend_state{backend="other",state="ok"}'] == 1


async def test_where_keys_are_asked_for_the_metrics_need_one_too(guarded: Api) -> None:
    refused(await guarded.get("/metrics"), 401, NO_KEY)
    key = {"Authorization": "Bearer right-key-of-anna"}
    assert numbers(await guarded.ask("GET", "/metrics", headers=key))["batchd_disk_full"] == 0
    assert (await guarded.get("/healthz")).status == 200
