"""The command lines of OpenAI's documentation, as people paste them, with another address."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.acceptance.conftest import Service, StartService
from tests.acceptance.scripts.asking import CHAT, ENDED, jsonl, line
from tests.support.waiting import wait_until

AS_JSON = ("-H", "Content-Type: application/json")
KEY = ("-H", "Authorization: Bearer any")
LIMIT = 4 << 20


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class Curl:
    """``curl("files", "-F", …)`` asks for a path under the base URL."""

    def __init__(self, program: str, service: Service) -> None:
        self._program = program
        self._service = service

    def __call__(self, path: str, *args: str) -> Answer:
        told = ("-sS", "--max-time", "10", "-w", "%{stderr}%{http_code}")
        done = subprocess.run(  # noqa: S603 - curl with our own arguments
            [self._program, *told, f"{self._service.base_url}/{path}", *KEY, *args],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return Answer(int(done.stderr), done.stdout)

    def upload(self, path: Path, *more: str) -> Answer:
        return self("files", "-F", "purpose=batch", "-F", f"file=@{path}", *more)

    def create(self, file_id: str, **more: str) -> Answer:
        given = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **more}
        return self("batches", *AS_JSON, "-d", json.dumps(given))

    def ended(self, batch_id: str) -> dict[str, Any]:
        path = f"batches/{batch_id}"
        wait_until(lambda: self(path, *AS_JSON).json["status"] in ENDED, within=10)
        return self(path, *AS_JSON).json


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Service:
    return start_service(server={"max_upload_size": LIMIT})


@pytest.fixture(scope="module")
def curl(service: Service) -> Curl:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("there is no curl on PATH")
    return Curl(program, service)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "mydata.jsonl"
    path.write_bytes(jsonl(line("a"), line("b")))
    return path


def test_upload_create_look_and_download(curl: Curl, prompts: Path) -> None:
    file = curl.upload(prompts).json
    assert (file["filename"], file["bytes"]) == ("mydata.jsonl", prompts.stat().st_size)
    batch = curl.create(file["id"])
    assert batch.status == 200
    assert batch.json["status"] == "validating"
    ended = curl.ended(batch.json["id"])
    assert ended["status"] == "completed"
    output = curl(f"files/{ended['output_file_id']}/content")
    assert {json.loads(text)["custom_id"] for text in output.body.splitlines()} == {"a", "b"}
    assert curl(f"files/{file['id']}/content").body == prompts.read_bytes()


def test_an_expiry_in_bracketed_form_fields(curl: Curl, prompts: Path) -> None:
    expiry = ("expires_after[anchor]=created_at", "expires_after[seconds]=7200")
    file = curl.upload(prompts, "-F", expiry[0], "-F", expiry[1]).json
    assert file["expires_at"] == file["created_at"] + 7200


@pytest.mark.parametrize("head", [AS_JSON, ()], ids=["as JSON", "bare"])
def test_cancel_has_no_body_and_no_length(
    curl: Curl, tmp_path: Path, service: Service, head: tuple[str, ...]
) -> None:
    path = tmp_path / "slow.jsonl"
    path.write_bytes(jsonl(line("slow", behave="timeout")))
    batch_id = curl.create(curl.upload(path).json["id"]).json["id"]
    cancelled = curl(f"batches/{batch_id}/cancel", *head, "-X", "POST")
    assert (cancelled.status, cancelled.json["status"]) == (200, "cancelling")
    assert "content-length" not in service.proxy.seen[-1].request.headers
    assert curl.ended(batch_id)["status"] == "cancelled"
    again = curl(f"batches/{batch_id}/cancel", *head, "-X", "POST")
    assert (again.status, again.json["status"]) == (200, "cancelled")


def test_lists_and_their_query(curl: Curl, prompts: Path) -> None:
    ids = [curl.create(curl.upload(prompts).json["id"]).json["id"] for _ in range(3)]
    page = curl("batches?limit=2", *AS_JSON).json
    assert [batch["id"] for batch in page["data"]] == ids[:0:-1]
    assert page["has_more"]
    following = curl(f"batches?limit=1&after={page['last_id']}").json
    assert following["first_id"] == ids[0]
    assert curl("files?purpose=batch&limit=1&order=asc").json["has_more"]


def test_delete_and_gone(curl: Curl, prompts: Path) -> None:
    file_id = curl.upload(prompts).json["id"]
    assert curl(f"files/{file_id}", "-X", "DELETE").json == {
        "id": file_id,
        "object": "file",
        "deleted": True,
    }
    gone = curl(f"files/{file_id}/content")
    assert gone.status == 404
    assert gone.json["error"]["message"] == f"No such File object: {file_id}"


def test_a_large_upload_asks_first_and_arrives_whole(
    curl: Curl, tmp_path: Path, service: Service
) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(jsonl(line("a" * 700_000)))
    file = curl.upload(path).json
    assert file["bytes"] == path.stat().st_size
    assert service.proxy.seen[-1].request.headers["expect"] == "100-continue"


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
def test_an_upload_over_the_limit_is_refused(curl: Curl, tmp_path: Path, *, chunked: bool) -> None:
    path = tmp_path / "too-large.jsonl"
    path.write_bytes(jsonl(line("a" * (LIMIT + 1))))
    more = ("-H", "Transfer-Encoding: chunked") if chunked else ()
    refused = curl.upload(path, *more)
    assert refused.status == 413
    assert refused.json["error"]["param"] == "file"


@pytest.mark.parametrize(
    ("path", "args", "status", "text"),
    [
        ("none", (), 404, "Invalid URL (GET /v1/none)"),
        ("uploads", ("-X", "POST"), 404, "Invalid URL (POST /v1/uploads)"),
        ("batches/batch_none", (), 404, "No batch found with id 'batch_none'."),
        ("batches/batch_none", ("-X", "DELETE"), 405, "Not allowed to DELETE"),
        ("batches", ("-d", "{"), 400, "could not parse the JSON body"),
        ("batches", ("-d", "{}"), 400, "Missing required parameter: 'input_file_id'."),
        ("batches?limit=x", (), 400, "'limit'"),
        ("files?limit=0", (), 400, "'limit'"),
        ("files", ("-F", "purpose=batch"), 400, "'file'"),
        ("files", ("-d", "{}"), 400, ""),
        ("models/none/none", (), 404, "The model 'none/none' does not exist"),
    ],
)
def test_every_refusal_is_json_that_says_why(
    curl: Curl, path: str, args: tuple[str, ...], status: int, text: str
) -> None:
    answer = curl(path, *args)
    assert answer.status == status
    assert text in answer.json["error"]["message"]


def test_a_range_beyond_the_end_is_refused_as_json(curl: Curl, prompts: Path) -> None:
    file_id = curl.upload(prompts).json["id"]
    answer = curl(f"files/{file_id}/content", "-H", "Range: bytes=999999-")
    assert answer.status == 416
    assert answer.json["error"]["type"] == "invalid_request_error"
