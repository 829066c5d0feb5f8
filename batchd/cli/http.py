"""One HTTP request to the daemon, over TCP or a Unix socket, and its failures as sentences.

Owns the address, the key and the translation of errors; knows nothing of batches and files.
Each request has a connection of its own, so that a daemon that restarted in between is no special
case. (http.client, because importing aiohttp costs more than a whole `batchd list` may.)
"""

import json
import re
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import NamedTuple
from urllib.parse import urlsplit

from batchd.cli.errors import NOT_ACCEPTED, CommandFailed, Refused, Unreachable
from batchd.urls import is_http, path_of

_JSON_TYPE = "application/json"
_CONNECT_SECONDS = 10
# The longest silence: a large upload is answered only when all of it is on disk.
_ANSWER_SECONDS = 300
_ERROR_SIZE = 64 * 1024
_CHUNK = 256 * 1024

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (FileNotFoundError, "there is no such socket"),
    (PermissionError, "no permission to use the socket"),
    (TimeoutError, "no answer in time"),
    (socket.gaierror, "unknown host name"),
    (ConnectionError, "the connection broke off"),
    (IncompleteRead, "the connection broke off"),
)
_NOT_RUNNING = (ConnectionRefusedError, FileNotFoundError)


class Download(NamedTuple):
    """An answer whose body comes in pieces. ``header`` finds one by its name, in any case."""

    header: Callable[[str], str | None]
    pieces: Iterator[bytes]


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket; ``path`` is the socket's."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._patience = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._patience)
        self.sock.connect(self._path)


class Http:
    """Requests to the daemon at ``url``: ``http://host:port`` or ``unix:/path``.

    ``within``: how long a silence may be, in seconds, where nobody can be asked to wait.
    """

    def __init__(self, url: str, key: str | None = None, *, within: float | None = None) -> None:
        self.url = url
        self._connect_seconds = within or _CONNECT_SECONDS
        self._answer_seconds = within or _ANSWER_SECONDS
        self._unix = url.removeprefix("unix:") if url.startswith("unix:/") else None
        if self._unix is None and not is_http(url):
            raise CommandFailed(
                f"{url!r} is not an address of batchd: write http://HOST:PORT or unix:/PATH"
            )
        self._parts = urlsplit(url)
        self._prefix = path_of(url).rstrip("/").removesuffix("/v1")
        if key and not re.fullmatch(r"[!-~]+", key):
            raise CommandFailed(
                "$BATCHD_API_KEY holds a blank, a line break or another character that no key has"
            )
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def call(
        self,
        method: str,
        path: str,
        payload: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> object:
        """Send ``payload`` as JSON, and return the JSON of the answer."""
        body = None if payload is None else json.dumps(payload).encode()
        kind = {} if body is None else {"Content-Type": _JSON_TYPE}
        with self._connected() as connection:
            with self._translated():
                connection.request(method, self._path(path), body, self._with(kind, headers))
            return self._json(connection)

    @contextmanager
    def opened(self, path: str) -> Generator[Download]:
        """The answer, once its head is there; its pieces raise ``Unreachable`` if it ends early."""
        with self._connected() as connection:
            with self._translated():
                connection.request("GET", self._path(path), headers=self._headers)
            response = self._response(connection)
            yield Download(response.headers.get, self._pieces(response))

    def download(self, path: str) -> Iterator[bytes]:
        """The answer in pieces."""
        with self.opened(path) as answer:
            yield from answer.pieces

    def _pieces(self, response: HTTPResponse) -> Iterator[bytes]:
        expected, received = response.length, 0
        while True:
            with self._translated():
                piece = response.read(_CHUNK)
            if not piece:
                break
            received += len(piece)
            yield piece
        if expected is not None and received != expected:
            raise Unreachable(f"the download from {self.url} broke off; try again")

    def upload(self, path: str, pieces: Iterable[bytes], size: int, content_type: str) -> object:
        """Send ``pieces``, ``size`` bytes in all, and return the JSON of the answer."""
        kind = {"Content-Type": content_type, "Content-Length": str(size)}
        with self._connected() as connection:
            with self._translated():
                connection.putrequest("POST", self._path(path))
                for name, value in self._with(kind).items():
                    connection.putheader(name, value)
                connection.endheaders()
            if self._send(connection, pieces):
                return self._json(connection)
            # Refused half-way. The answer, if it still arrives, says why.
            with suppress(Unreachable):
                return self._json(connection)
        raise Unreachable(
            f"{self.url} closed the connection before the upload was complete; "
            "is the file larger than its server.max_upload_size?"
        )

    def _send(self, connection: HTTPConnection, pieces: Iterable[bytes]) -> bool:
        """Send all pieces, or say that the other side did not want them all."""
        for piece in pieces:
            try:
                connection.send(piece)
            except ConnectionError:
                return False
            except OSError as error:
                raise self._unreachable(error) from None
        return True

    @contextmanager
    def _connected(self) -> Generator[HTTPConnection]:
        connection = self._connection()
        try:
            with self._translated():
                connection.connect()
                connection.sock.settimeout(self._answer_seconds)
            yield connection
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        if self._unix is not None:
            return _UnixConnection(self._unix, self._connect_seconds)
        host = self._parts.hostname or ""
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        return kind(host, self._parts.port, timeout=self._connect_seconds)

    def _path(self, path: str) -> str:
        """``path`` under the prefix of the URL. One that ends in /v1 is taken as it is meant."""
        return path if self._unix is not None else self._prefix + path

    def _with(
        self, kind: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        return {**self._headers, **kind, **(headers or {})}

    def _response(self, connection: HTTPConnection) -> HTTPResponse:
        with self._translated():
            response = connection.getresponse()
            if response.status != 200:  # noqa: PLR2004 - the only success there is (contract 1)
                raise self._refused(response)
        return response

    def _json(self, connection: HTTPConnection) -> object:
        response = self._response(connection)
        with self._translated():
            text = response.read()
        try:
            return json.loads(text)
        except ValueError:
            raise self._stranger() from None

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: OSError | HTTPException) -> CommandFailed:
        if not isinstance(error, OSError | IncompleteRead):
            return self._stranger()
        reason = next((text for kind, text in _REASONS if isinstance(error, kind)), str(error))
        advice = (
            "start it with `batchd serve`, or name its address with --url or $BATCHD_URL"
            if isinstance(error, _NOT_RUNNING)
            else "is it running there, and is the address right (--url or $BATCHD_URL)?"
        )
        return Unreachable(f"cannot reach the daemon at {self.url} ({reason}): {advice}")

    def _refused(self, response: HTTPResponse) -> Refused:
        status, text = response.status, response.read(_ERROR_SIZE)
        message = _message(text) or f"{self.url} answered {status}, and not as batchd does"
        if status == NOT_ACCEPTED:
            message = f"{message.rstrip('.')}. Put the key in $BATCHD_API_KEY."
        if message.startswith("Invalid URL"):  # as batchd says it, so that the host is right
            message += f": leave out what follows the host in {self.url}"
        retriable = response.headers.get("x-should-retry") != "false"
        return Refused(message, status=status, retriable=retriable)

    def _stranger(self) -> CommandFailed:
        return CommandFailed(
            f"what answers at {self.url} is not batchd: check --url or $BATCHD_URL"
        )


def _message(text: bytes) -> str | None:
    """What the error envelope (contract 1.1) says."""
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, TypeError, KeyError):
        return None
    return message if isinstance(message, str) else None
