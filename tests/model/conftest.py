"""The real daemon with its real local model, and what came of each endpoint's prompts by each door.

Every prompt is sent once by each door in a session, when a test first asks for it: that takes
minutes. Some of the answers are shown at the end, for people to look at.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from openai import OpenAI

from batchd.backends.local import installed_program
from batchd.errors import ConfigError
from tests.acceptance.proxy import RecordingProxy
from tests.model.prompts import EMBEDDINGS, input_file, prompts
from tests.support import onwire
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import Account
from tests.support.waiting import wait_until

DOORS = ("api", "inbox")

_STARTED_WITHIN = 90.0
_ENDED_WITHIN = 200.0
_POLL_EVERY = 0.2
_TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
_SHOWN = 10

_SUMMARY = pytest.StashKey[list[str]]()


class Run(msgspec.Struct, frozen=True):
    """One endpoint's prompts by one door: the account, the answers by custom_id, and how long."""

    account: Account
    answers: dict[str, dict[str, Any]]
    seconds: float


class Runs:
    """Sends the prompts through batchd; each endpoint and door once."""

    def __init__(self, batchd: BatchdProcess, client: OpenAI, inbox: Path) -> None:
        self._batchd = batchd
        self._client = client
        self._inbox = inbox
        self._done: dict[tuple[str, str], Run] = {}

    def run(self, door: str, endpoint: str) -> Run:
        key = (door, endpoint)
        if key not in self._done:
            send = self._by_api if door == "api" else self._by_inbox
            started = time.monotonic()
            account = send(endpoint)
            self._done[key] = Run(account, _answers(account), time.monotonic() - started)
        return self._done[key]

    def summary(self) -> list[str]:
        return [
            text
            for (door, endpoint), run in self._done.items()
            for text in (_pace(door, endpoint, run), *_examples(endpoint, run))
        ]

    def _by_api(self, endpoint: str) -> Account:
        data = input_file(endpoint)
        file = self._client.files.create(file=data, purpose="batch")
        batch = self._client.batches.create(
            input_file_id=file.id, endpoint=cast("Any", endpoint), completion_window="24h"
        )
        deadline = time.monotonic() + _ENDED_WITHIN
        while batch.status not in _TERMINAL:
            assert time.monotonic() < deadline, f"still {batch.request_counts}"
            time.sleep(_POLL_EVERY)
            batch = self._client.batches.retrieve(batch.id)
        output, errors = (
            None if file_id is None else self._client.files.content(file_id).content
            for file_id in (batch.output_file_id, batch.error_file_id)
        )
        return Account(input=data, output=output, errors=errors, batch=batch.to_dict(mode="json"))

    def _by_inbox(self, endpoint: str) -> Account:
        data = input_file(endpoint)
        name = endpoint.removeprefix("/v1/").replace("/", "-")
        (self._inbox / f".{name}").write_bytes(data)
        (self._inbox / f".{name}").rename(self._inbox / f"{name}.jsonl")
        outbox = self._inbox / "outbox"
        status = outbox / f"{name}.status.json"
        wait_until(
            lambda: status.exists() and json.loads(status.read_bytes())["status"] in _TERMINAL,
            within=_ENDED_WITHIN,
        )
        batch = json.loads(status.read_bytes())
        onwire.check_batch(batch)
        output, errors = (
            path.read_bytes() if path.exists() else None
            for path in (outbox / f"{name}.output.jsonl", outbox / f"{name}.errors.jsonl")
        )
        return Account(input=data, output=output, errors=errors, batch=batch)


@pytest.fixture(scope="session")
def runs(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Runs]:
    """The daemon with ``local = true`` and an inbox, and a witness of what clients are sent."""
    try:
        installed_program()
    except ConfigError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("model")
    inbox = directory / "inbox"
    settings = {"local": True, "inbox": {"directory": str(inbox)}}
    batchd = BatchdProcess(directory / "batchd", settings=settings)
    with contextlib.ExitStack() as running:
        running.callback(batchd.kill)
        batchd.start(within=_STARTED_WITHIN)
        proxy = running.enter_context(RecordingProxy(batchd.port).running())
        client = running.enter_context(
            OpenAI(base_url=proxy.base_url, api_key="any", _strict_response_validation=True)
        )
        runs = Runs(batchd, client, inbox)
        yield runs
        request.config.stash[_SUMMARY] = runs.summary()
        assert proxy.faults() == [], "answers that break the contract"
        assert batchd.terminate() == 0


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines: list[str] = []
    for text in config.stash.get(_SUMMARY, lines):
        terminalreporter.write_line(text)


def answer_text(answer: dict[str, Any]) -> str:
    """What a chat or a completion says."""
    choice = answer["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def _answers(account: Account) -> dict[str, dict[str, Any]]:
    """The answers by custom_id, each line held against the contract."""
    lines = [json.loads(line) for line in (account.output or b"").split(b"\n")[:-1]]
    for line in lines:
        onwire.check_output_line(line)
    return {line["custom_id"]: line["response"]["body"] for line in lines}


def _pace(door: str, endpoint: str, run: Run) -> str:
    usage = run.account.batch["usage"] or {"input_tokens": 0, "output_tokens": 0}
    tokens = (usage["input_tokens"], usage["output_tokens"])
    rates = ", ".join(f"{count / run.seconds:.0f}" for count in tokens)
    return (
        f"{endpoint} by {door}: {len(run.answers)} answers in {run.seconds:.1f} s, "
        f"{tokens[0]} tokens in and {tokens[1]} out ({rates} a second)"
    )


def _examples(endpoint: str, run: Run) -> list[str]:
    if endpoint == EMBEDDINGS:
        return []
    asked = prompts(endpoint)
    return [
        f"  {prompt.text!r}: {answer_text(run.answers[prompt.custom_id])!r}"
        for prompt in asked[:: len(asked) // _SHOWN]
        if prompt.custom_id in run.answers
    ]
