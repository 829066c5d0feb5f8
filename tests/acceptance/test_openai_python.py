"""The newest openai-python, with strict validation of every answer, against the real program."""

import hashlib
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from tests.acceptance.conftest import Service, StartService
from tests.acceptance.scripts.asking import create, jsonl, line, poll
from tests.acceptance.scripts.lifecycle import STEPS, Step

KEY = "a-key-that-nobody-guesses"


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
def test_the_newest_openai_python(step: Step, client: OpenAI, tmp_path: Path) -> None:
    step(client, tmp_path)


def test_a_refused_cancel_is_asked_once(client: OpenAI, service: Service) -> None:
    """Clients repeat a 409 twice unless they are told not to."""
    batch = poll(client, create(client, jsonl(line("a"))), "completed")
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    assert service.proxy.paths(409).count(f"/v1/batches/{batch.id}/cancel") == 1


def test_the_witness_reads_what_clients_are_sent(client: OpenAI, service: Service) -> None:
    """Else no fault would only mean that nobody looked."""
    before = service.proxy.checked
    client.models.list()
    assert service.proxy.checked == before + 1


@pytest.fixture(scope="module")
def keyed(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service that asks for a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice sha256:{hashlib.sha256(KEY.encode()).hexdigest()}\n")
    keys.chmod(0o600)
    return start_service(auth={"keys_file": str(keys)})


def test_a_key_opens_what_it_is_for(keyed: Service) -> None:
    with OpenAI(base_url=keyed.base_url, api_key=KEY) as alice:
        assert alice.batches.list().data == []


def test_a_wrong_key_is_refused_and_not_repeated_in_full(keyed: Service) -> None:
    wrong = "sk-wrong-wrong-wrong"
    with (
        OpenAI(base_url=keyed.base_url, api_key=wrong) as stranger,
        pytest.raises(openai.AuthenticationError, match="Incorrect API key") as refused,
    ):
        stranger.batches.list()
    assert refused.value.code == "invalid_api_key"
    assert (refused.value.request_id or "").startswith("req_")
    assert wrong not in str(refused.value)


def test_a_missing_key_is_refused(keyed: Service) -> None:
    without = {"Authorization": openai.Omit()}
    with (
        OpenAI(base_url=keyed.base_url, api_key="none") as nobody,
        pytest.raises(openai.AuthenticationError, match="provide an API key"),
    ):
        nobody.files.list(extra_headers=without)
