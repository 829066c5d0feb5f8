"""Apps for tests of the REST door."""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.integration.api.harness import Api, Setup

StartApi = Callable[[Setup], Awaitable[Api]]


@pytest.fixture
async def start_api(tmp_path: Path) -> AsyncIterator[StartApi]:
    """Opens any number of apps, each on a directory of its own."""
    async with contextlib.AsyncExitStack() as stack:
        opened: list[Api] = []

        async def start(setup: Setup) -> Api:
            directory = tmp_path / f"api-{len(opened)}"
            opened.append(await stack.enter_async_context(Api.opened(directory, setup)))
            return opened[-1]

        yield start


@pytest.fixture
async def api(start_api: StartApi) -> Api:
    """An app with the defaults; nothing validates or runs its batches."""
    return await start_api(Setup())


@pytest.fixture
async def judge(start_api: StartApi) -> Api:
    """An app with its validator; its model server cannot be asked for its models."""
    return await start_api(Setup(validating=True))


@pytest.fixture
async def guarded(start_api: StartApi, tmp_path: Path) -> Api:
    """An app that asks for a key; there is one, ``right-key-of-anna``."""
    keys = tmp_path / "keys"
    digest = hashlib.sha256(b"right-key-of-anna").hexdigest()
    keys.write_text(f"# who may\nanna sha256:{digest}\n")
    keys.chmod(0o600)
    return await start_api(Setup(keys_file=keys))
