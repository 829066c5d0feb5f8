"""`batchd serve` as a process behind a proxy that holds every answer against the contract."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest
from openai import OpenAI

from tests.acceptance.proxy import RecordingProxy
from tests.support.batchd_process import BatchdProcess
from tests.support.model_process import ModelProcess
from tests.support.model_settings import Settings

MODELS = ("test-model", "meta/llama")

# Windows that end while a test watches, and a grace in which closing batches can be looked at.
QUICK: dict[str, object] = {
    "batches": {"completion_windows": ["24h", "2s"], "finish_grace": "1s"},
}


class Service(msgspec.Struct, frozen=True, eq=False):
    """What a test talks to: ``proxy.base_url`` is batchd's, with a witness."""

    batchd: BatchdProcess
    model: ModelProcess
    proxy: RecordingProxy

    @property
    def base_url(self) -> str:
        return self.proxy.base_url


StartService = Callable[..., Service]


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Starts a model server, batchd and the proxy; settings are merged over the quick ones."""
    with ExitStack() as running:

        def start(**settings: object) -> Service:
            directory = tmp_path_factory.mktemp("service")
            model = running.enter_context(ModelProcess(directory, settings=Settings(models=MODELS)))
            batchd = running.enter_context(
                BatchdProcess(directory, backend=model.base_url, settings={**QUICK, **settings})
            )
            proxy = running.enter_context(RecordingProxy(batchd.port).running())
            service = Service(batchd, model, proxy)
            started.append(service)
            return service

        started: list[Service] = []
        yield start
        faults = [fault for service in started for fault in service.proxy.faults()]
        assert faults == [], "answers that break the contract"


@pytest.fixture(scope="module")
def service(start_service: StartService) -> Service:
    """One service for all tests of a module."""
    return start_service()


@pytest.fixture(autouse=True)
def answers_keep_the_contract(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test in which a client was sent something that the contract does not allow."""
    yield
    if "service" in request.fixturenames:
        watched: Service = request.getfixturevalue("service")
        assert watched.proxy.faults() == []


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[OpenAI]:
    """The newest openai-python, as strict as it can be."""
    with OpenAI(
        base_url=service.base_url, api_key="any", _strict_response_validation=True
    ) as strict:
        yield strict
