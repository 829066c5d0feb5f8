"""What ``batchd check`` looks at: each check names its subject, and the fault if there is one.

Nothing is created or changed: a storage directory that is not there yet is judged by its parent.
"""

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from batchd.cli.client import Client
from batchd.cli.errors import CommandFailed
from batchd.cli.http import Http
from batchd.config import BackendConfig, Config
from batchd.errors import ConfigError
from batchd.settings import parse_address
from batchd.urls import path_of

_SECONDS = 5
_REFUSED_KEY = (401, 403)

Finding = tuple[str, str | None]


def findings(config: Config, env: Mapping[str, str]) -> Iterator[Finding]:
    yield f"storage directory {config.storage.directory}", _writable(config.storage.directory)
    if config.inbox.directory:
        yield f"inbox directory {config.inbox.directory}", _writable(config.inbox.directory)
    if config.auth.keys_file:
        yield f"keys file {config.auth.keys_file}", _keys(config.auth.keys_file)
    for address in config.server.listen:
        yield f"listen address {address}", _listenable(address)
    if config.local:
        yield "local model", _local()
    for backend in config.backends:
        yield f'backend "{backend.name}" at {backend.base_url}', _backend(backend, env)


def _writable(directory: Path) -> str | None:
    """Whether the directory can be written, or made."""
    if directory.exists() and not directory.is_dir():
        return f"{directory} is not a directory"
    standing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if os.access(standing, os.R_OK | os.W_OK | os.X_OK):
        return None
    doing = "written" if standing == directory else "made"
    return f"{directory} cannot be {doing}: this user may not write in {standing}"


def _keys(file: Path) -> str | None:
    """What the daemon would say of it."""
    from batchd.api.auth import Keys  # noqa: PLC0415 - heavy, seldom asked for

    try:
        Keys.read(file)
    except ConfigError as error:
        return str(error)
    return None


def _listenable(address: str) -> str | None:
    """Whether the address is free, or held by a batchd that runs already."""
    parsed = parse_address(address)
    if isinstance(parsed, Path):
        return None if parsed.parent.is_dir() else f"there is no directory {parsed.parent}"
    try:
        with socket.create_server(parsed, family=_family(parsed[0])):
            return None
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_batchd(*parsed):
            return None
        return f"{address} cannot be listened on: {error.strerror}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _is_batchd(host: str, port: int) -> bool:
    """Whether it is a running batchd that holds the address."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    name = f"[{here}]" if ":" in here else here
    try:
        Client(Http(f"http://{name}:{port}")).healthy()
    except CommandFailed:
        return False
    return True


def _local() -> str | None:
    from batchd.backends.local import installed_program  # noqa: PLC0415 - heavy, seldom asked for

    try:
        installed_program()
    except ConfigError as error:
        return str(error)
    return None


def _backend(backend: BackendConfig, env: Mapping[str, str]) -> str | None:
    name = f'the backend "{backend.name}" at {backend.base_url}'
    try:
        key = _key(backend, env)
    except (OSError, UnicodeDecodeError) as error:
        return f"{name} has an API key file that cannot be read: {error}"
    if backend.api_key_env and not key:
        return f"{name} takes its key from ${backend.api_key_env}, which is not set"
    if key and not re.fullmatch(r"[!-~]+", key):
        return f"{name} has an API key with a character that no key has"
    try:
        status = _models_status(backend.base_url, key)
    except (OSError, HTTPException, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or "no HTTP"
        return f"{name} cannot be reached: {reason}"
    if status in _REFUSED_KEY:
        return f"{name} does not accept {'this API key' if key else 'requests without an API key'}"
    return None if status == 200 else f"{name} answered {status} to GET /models"  # noqa: PLR2004 - HTTP's OK


def _key(backend: BackendConfig, env: Mapping[str, str]) -> str | None:
    if backend.api_key_file:
        return backend.api_key_file.read_text(encoding="utf-8").strip()
    return env.get(backend.api_key_env) if backend.api_key_env else None


def _models_status(base_url: str, key: str | None) -> int:
    parts = urlsplit(base_url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("GET", path_of(base_url).rstrip("/") + "/models", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
