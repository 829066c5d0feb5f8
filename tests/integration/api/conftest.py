"""Apps for tests of the REST door."""

import contextlib
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
