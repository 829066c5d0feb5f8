"""The real app in this process, asked over a real socket: SQLite, spool and files are real too.

Every answer is held against the contract's schemas. Only the clock is a test's own. What the engine
would do to a batch, tests do through ``Batches``; with ``validating`` the real validator runs.
"""

import asyncio
import contextlib
import io
import json
import re
import secrets
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Self, cast

import msgspec
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from batchd import ids
from batchd.api.app import make_app
from batchd.api.auth import Keys
from batchd.api.parts import BATCHES, FILES
from batchd.backends.caller import Caller, opened_caller
from batchd.backends.pool import Pool, opened_pool
from batchd.bell import Bell
from batchd.config import BackendConfig, BatchesConfig, Config, ServerConfig
from batchd.damage import Damage
from batchd.disk import Disk
from batchd.engine.validator import Validator
from batchd.memory import Memory
from batchd.metrics import Metrics
from batchd.room import Room
from batchd.spool import Spool
from batchd.store.database import Database
from batchd.use_cases import UseCases
from tests.integration.api.multipart import Form, field, file, form, in_pieces
from tests.support.onwire import check_response
from tests.support.waiting import until

START = 1_800_000_000
CHAT = "/v1/chat/completions"
NO_FIELDS: Mapping[str, str] = {}


class Clock:
    """Stands still until turned."""

    def __init__(self) -> None:
        self.instant = float(START)

    def __call__(self) -> float:
        return self.instant

    def turn(self, seconds: float) -> None:
        self.instant += seconds


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """How an app is set up for a test."""

    backend: str = "http://127.0.0.1:9/v1"
    server: ServerConfig = ServerConfig()
    batches: BatchesConfig = BatchesConfig()
    keys_file: Path | None = None
    reserve: int = 0
    validating: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """One app; opened with ``async with Api.opened(…)``."""

    def __init__(
        self, client: TestClient[Any, Any], spool: Spool, room: Room, clock: Clock
    ) -> None:
        self.client = client
        self.spool = spool
        self.room = room
        self.clock = clock
        self.files = client.app[FILES]
        self.batches = client.app[BATCHES]

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, directory: Path, setup: Setup) -> AsyncGenerator[Self]:
        spool = Spool(directory / "state", Disk())
        await asyncio.to_thread(spool.prepare)
        room = Room(spool.disk, spool.directory, reserve=setup.reserve)
        keys = await asyncio.to_thread(Keys.read, setup.keys_file)
        clock, bell = Clock(), Bell()
        async with contextlib.AsyncExitStack() as stack:
            database = await stack.enter_async_context(
                Database.opened(spool.database, _fatal, room.make_room)
            )
            pool = await stack.enter_async_context(_pool(setup.backend, clock))
            config = Config(server=setup.server, batches=setup.batches)
            use_cases = UseCases.over(
                database,
                spool,
                config,
                room=room,
                damage=Damage(Metrics()),
                now=clock,
                draw=secrets.token_bytes,
                ring=bell.ring,
            )
            files, batches = use_cases.files, use_cases.batches
            if setup.validating:
                validator = Validator(batches, files, spool, room, pool, setup.batches, bell)
                await stack.enter_async_context(_running(validator, bell))
            app = make_app(
                config,
                use_cases,
                pool,
                keys,
                secrets.token_bytes,
                room=room,
                metrics=Metrics(),
            )
            client = await stack.enter_async_context(TestClient(TestServer(app)))
            yield cls(client, spool, room, clock)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        data: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, its path sent as it is written; the answer fits the contract's schemas."""
        # aiohttp warns of raw bytes above a mebibyte.
        sent = io.BytesIO(data) if isinstance(data, bytes) else data
        target = URL(f"{self.url}{path}", encoded=True)
        async with self.client.session.request(
            method, target, json=json, data=sent, headers=headers, allow_redirects=False
        ) as response:
            body = await response.read()
        answer = Answer(response.status, response.headers, body)
        check_answer(method, path.partition("?")[0], answer)
        return answer

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def post(self, path: str, body: object) -> Answer:
        return await self.ask("POST", path, json=body)

    async def send_form(self, sent: Form, *, chunked: bool = False) -> Answer:
        """Upload a body as it is; in pieces, and with no Content-Length, if ``chunked``."""
        data = in_pieces(sent.body) if chunked else sent.body
        headers = {"Content-Type": sent.content_type}
        return await self.ask("POST", "/v1/files", data=data, headers=headers)

    async def upload(
        self,
        content: bytes = b"{}\n",
        *,
        filename: str = "in.jsonl",
        purpose: str = "batch",
        fields: Mapping[str, str] = NO_FIELDS,
    ) -> Answer:
        more = [field(name, text) for name, text in fields.items()]
        return await self.send_form(form(field("purpose", purpose), file(content, filename), *more))

    async def file_id(
        self,
        content: bytes = b"{}\n",
        *,
        filename: str = "in.jsonl",
        purpose: str = "batch",
        fields: Mapping[str, str] = NO_FIELDS,
    ) -> str:
        """The id of a file that was just uploaded."""
        answer = await self.upload(content, filename=filename, purpose=purpose, fields=fields)
        assert answer.status == 200, answer.body
        return str(answer.json["id"])

    async def batch_id(self, input_file_id: str | None = None, endpoint: str = CHAT) -> str:
        """The id of a batch that was just created."""
        given = input_file_id or await self.file_id()
        answer = await self.post("/v1/batches", wish(given, endpoint=endpoint))
        assert answer.status == 200, answer.body
        return str(answer.json["id"])

    async def validated(
        self, content: bytes, endpoint: str = CHAT, *, within: float = 10
    ) -> dict[str, Any]:
        """The batch object for this input once it is no longer validating."""
        batch_id = await self.batch_id(await self.file_id(content), endpoint)
        return await self.settled(batch_id, within=within)

    async def settled(self, batch_id: str, *, within: float = 10) -> dict[str, Any]:
        """The batch object once it is no longer validating."""
        async with asyncio.timeout(within):
            while (await self.batches.get("local", batch_id)).status == "validating":  # noqa: ASYNC110 - the row is what is waited for
                await asyncio.sleep(0.002)
        return cast("dict[str, Any]", (await self.get(f"/v1/batches/{batch_id}")).json)

    @contextlib.asynccontextmanager
    async def upload_under_way(self) -> AsyncGenerator[asyncio.StreamWriter]:
        """An upload whose first half has come; a raw connection, to go on or to break off."""
        sent = form(field("purpose", "batch"), file(b'{"a": "' + b"x" * 300_000))
        _, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
        head = (
            f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {sent.content_type}\r\n"
            f"Content-Length: {2 * len(sent.body)}\r\n\r\n"
        )
        writer.write(head.encode() + sent.body[:-100])
        await writer.drain()
        await until(lambda: any(path.stat().st_size for path in self.incoming()))
        try:
            yield writer
        finally:
            writer.close()
            await until(lambda: not self.incoming())

    def incoming(self) -> list[Path]:
        """The uploads being written."""
        return list(self.spool.incoming("-").parent.iterdir())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.client.port}"

    async def see_room(self) -> None:
        """Look at the disk, as is done every few seconds."""
        await asyncio.to_thread(self.room.look)

    def spooled(self) -> list[str]:
        """The names of everything that lies in the spool as an upload or as a file."""
        files = self.spool.file("-").parent.iterdir()
        return sorted(path.name for path in (*self.incoming(), *files))


def wish(file_id: str, **more: object) -> dict[str, object]:
    """The body of a create."""
    return {
        "input_file_id": file_id,
        "endpoint": CHAT,
        "completion_window": "24h",
        **more,
    }


def check_answer(method: str, path: str, answer: Answer) -> None:
    """The rules of every answer: request id, JSON called JSON, the schema of the route."""
    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers.get("x-request-id", ""))
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["openai-processing-ms"].isdigit()
    if method == "HEAD" or answer.status == 206:
        return
    if check_response(method, path, answer.status, answer.body) is not None:
        kind = answer.headers["Content-Type"].partition(";")[0]
        assert kind == "application/json"


def refused(  # noqa: PLR0913 - the columns of the contract's tables
    answer: Answer,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    kind: str = "invalid_request_error",
) -> None:
    """The answer is this row of an error table, to the letter."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    assert (answer.status, answer.json) == (status, {"error": error})


def _pool(url: str, clock: Clock) -> contextlib.AbstractAsyncContextManager[Pool]:
    def open_caller(config: BackendConfig) -> contextlib.AbstractAsyncContextManager[Caller]:
        return opened_caller(
            config,
            {},
            memory=Memory(1 << 20),
            now=clock,
            new_request_id=lambda: ids.request_id(secrets.token_bytes(ids.REQUEST_ID_BYTES)),
        )

    pool = Pool(
        open_caller,
        now=clock,
        monotonic=asyncio.get_running_loop().time,
        kept={},
        ceiling=256,
    )
    return opened_pool(pool, [BackendConfig(base_url=url)])


@contextlib.asynccontextmanager
async def _running(validator: Validator, bell: Bell) -> AsyncGenerator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as loops:
        loops.create_task(validator.run(stop), name="validator")
        try:
            yield
        finally:
            stop.set()
            bell.ring()


def _fatal(reason: str) -> None:
    raise AssertionError(f"the database failed: {reason}")
