"""The settings: each is written once, here, with its default.

``load`` finds and reads the TOML file. Every fault is a ``ConfigError`` of one sentence that names
the setting. ``config.example.toml`` shows every setting with its default; tests hold it to that.
Durations are numbers of seconds or strings such as "10m", sizes numbers of bytes or "200MiB".
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from batchd.errors import ConfigError
from batchd.settings import (
    Duration,
    Section,
    Size,
    at_least,
    converted,
    is_duration,
    more_than_zero,
    parse_address,
)
from batchd.urls import is_http

Order = Literal["prefix", "input"]  # in which a batch's lines are sent

SYSTEM_FILE = Path("/etc/batchd/config.toml")
SYSTEM_DIRECTORY = Path("/var/lib/batchd")
DEFAULT_LISTEN = "127.0.0.1:8400"
LARGEST_UPLOAD = 4 * 1024**3 - 1  # the line index gives a line's length 32 bits

_LOOPBACK = re.compile(r"(localhost|127\.\d+\.\d+\.\d+|\[::1\]):\d+")


class ServerConfig(Section, frozen=True):
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    max_upload_size: Size = Size(200 * 1024**2)
    max_uploads: int = 8
    upload_timeout: Duration = Duration(30)
    drain: Duration = Duration(25)
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for address in self.listen:
            parse_address(address)
        if self.max_upload_size > LARGEST_UPLOAD:
            raise ValueError("max_upload_size must be less than 4GiB")
        at_least(1, max_uploads=self.max_uploads)


class StorageConfig(Section, frozen=True):
    directory: Path = SYSTEM_DIRECTORY
    reserve: Size = Size(64 * 1024**2)
    ballast: Size = Size(16 * 1024**2)
    memory: Size = Size(64 * 1024**2)
    scrub_rate: Size = Size(8 * 1024**2)
    scrub_every: Duration = Duration(7 * 86400)

    def __post_init__(self) -> None:
        at_least(1, memory=self.memory)
        more_than_zero(scrub_every=self.scrub_every)


class ModelLimits(Section, frozen=True):
    """Rates of some models of a backend, beside those of the whole of it."""

    models: tuple[str, ...]
    requests_per_minute: float = 0
    tokens_per_minute: float = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models must name one model or glob at least")
        at_least(
            0,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )


class BackendConfig(Section, frozen=True):
    base_url: str
    name: str = "backend"
    models: tuple[str, ...] = ("*",)
    api_key_file: Path | None = None
    api_key_env: str | None = None
    weight: float = 1
    max_in_flight: int | Literal["auto"] = "auto"
    requests_per_minute: float = 0
    tokens_per_minute: float = 0
    limits: tuple[ModelLimits, ...] = ()
    load_url: str | None = None
    polite: bool = False
    polite_floor: int = 1
    polite_hold: Duration = Duration(10)
    connect_timeout: Duration = Duration(10)
    first_byte_timeout: Duration = Duration(600)
    idle_timeout: Duration = Duration(60)
    total_timeout: Duration = Duration(900)
    max_answer_size: Size = Size(32 * 1024**2)

    def __post_init__(self) -> None:
        _check_url(self.base_url, "base_url must start with http:// or https:// and a host")
        if "@" in self.base_url.split("/")[2]:
            raise ValueError("base_url must not hold a user or password: write api_key_file")
        if "?" in self.base_url or "#" in self.base_url:
            raise ValueError("base_url must not hold a query or a fragment: paths are added to it")
        if self.load_url not in (None, "auto"):
            _check_url(self.load_url, "load_url must be 'auto' or start with http:// or https://")
        if self.api_key_file and self.api_key_env:
            raise ValueError("give api_key_file or api_key_env, not both")
        if not self.models:
            raise ValueError("models must name one model or glob at least")
        if self.max_in_flight != "auto":
            at_least(1, max_in_flight=self.max_in_flight)
        at_least(
            0,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            polite_floor=self.polite_floor,
        )
        more_than_zero(
            weight=self.weight,
            connect_timeout=self.connect_timeout,
            first_byte_timeout=self.first_byte_timeout,
            idle_timeout=self.idle_timeout,
            total_timeout=self.total_timeout,
        )


def _check_url(url: str, rule: str) -> None:
    if not re.match(r"https?://[^/]+", url):
        raise ValueError(rule)
    if not is_http(url):
        place = url.split("/")[2].rpartition("@")[2]  # a password is not shown
        name = rule.partition(" ")[0]
        raise ValueError(f"{name} names {place!r}, which is no host and port")


class RetriesConfig(Section, frozen=True):
    fault_limit: int = 5
    first_delay: Duration = Duration(1)
    max_delay: Duration = Duration(60)
    refused_pause: Duration = Duration(300)
    quota_pause: Duration = Duration(3600)

    def __post_init__(self) -> None:
        at_least(1, fault_limit=self.fault_limit)
        more_than_zero(refused_pause=self.refused_pause, quota_pause=self.quota_pause)


class BatchesConfig(Section, frozen=True):
    endpoints: tuple[str, ...] = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
    completion_windows: tuple[str, ...] = ("24h",)
    max_requests: int = 50_000
    max_embedding_inputs: int = 50_000
    mixed_models: bool = True
    check_models: bool = True
    order: Order = "prefix"
    max_running: int = 0
    max_running_per_owner: int = 0
    finish_grace: Duration = Duration(30)

    def __post_init__(self) -> None:
        if not self.endpoints or not self.completion_windows:
            raise ValueError("endpoints and completion_windows must not be empty")
        for window in self.completion_windows:
            if not is_duration(window) or Duration.parse(window) < 1:
                raise ValueError(f"completion_windows has {window!r}: write '24h' or '30m'")
        at_least(1, max_requests=self.max_requests)
        at_least(0, max_running=self.max_running, max_running_per_owner=self.max_running_per_owner)
        if self.max_requests >= 1 << 32:
            raise ValueError("max_requests must be less than 4294967296")

    @property
    def windows(self) -> dict[str, int]:
        """The accepted ``completion_window`` strings and how long each is, in seconds."""
        return {window: int(Duration.parse(window)) for window in self.completion_windows}


class InboxConfig(Section, frozen=True):
    directory: Path | None = None
    settle: Duration = Duration(2)
    rescan_every: Duration = Duration(60)
    max_files_per_user: int = 1000
    max_bytes_per_user: Size = Size(4 * 1024**3)

    def __post_init__(self) -> None:
        at_least(0, max_files_per_user=self.max_files_per_user)


class RetentionConfig(Section, frozen=True):
    sweep_every: Duration = Duration(60)
    input_files: Duration = Duration(30 * 86400)
    orphan_age: Duration = Duration(86400)

    def __post_init__(self) -> None:
        more_than_zero(sweep_every=self.sweep_every)


class AuthConfig(Section, frozen=True):
    keys_file: Path | None = None
    unix_owners: bool = False


class DashboardConfig(Section, frozen=True):
    enabled: bool = True


class LoggingConfig(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "plain", "json"] = "auto"


class Config(Section, frozen=True):
    local: bool = False
    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    backends: tuple[BackendConfig, ...] = ()
    retries: RetriesConfig = RetriesConfig()
    batches: BatchesConfig = BatchesConfig()
    inbox: InboxConfig = InboxConfig()
    retention: RetentionConfig = RetentionConfig()
    auth: AuthConfig = AuthConfig()
    dashboard: DashboardConfig = DashboardConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        if self.local and self.backends:
            raise ValueError("write either local = true or [[backends]], not both")
        names = [backend.name for backend in self.backends]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two [[backends]] are called {name!r}: give each its own name")
        if self.retention.orphan_age <= self.server.upload_timeout:
            # The sweeper may only remove a temporary file that no upload can still own.
            raise ValueError("retention.orphan_age must exceed server.upload_timeout")
        if not self.auth.keys_file:
            for address in self.server.listen:
                if not (address.startswith("unix:") or _LOOPBACK.fullmatch(address)):
                    raise ValueError(
                        f"server.listen has {address}, which other machines can reach: set "
                        "auth.keys_file (batchd keys new NAME makes a key)"
                    )

    def require_backend(self) -> None:
        """``ConfigError`` unless there is something to send requests to."""
        if not self.backends and not self.local:
            raise ConfigError(
                "no model server is configured: write a [[backends]] table with its base_url in "
                "the configuration file, or local = true to try batchd with a small built-in model"
            )


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration: ``path``, else ``$BATCHD_CONFIG``, else the system's file, else defaults.

    A user who is not root gets the XDG state directory unless the file names one.
    """
    chosen = path or (Path(env["BATCHD_CONFIG"]) if env.get("BATCHD_CONFIG") else None)
    if chosen is None and SYSTEM_FILE.exists():
        chosen = SYSTEM_FILE
    text = _read(chosen) if chosen else ""
    config = parse(text, str(chosen) if chosen else "the defaults")
    if os.geteuid() != 0 and "directory" not in tomllib.loads(text).get("storage", {}):
        storage = msgspec.structs.replace(config.storage, directory=_user_directory(env))
        return msgspec.structs.replace(config, storage=storage)
    return config


def parse(text: str, name: str) -> Config:
    """The configuration in ``text``; ``name`` is what error messages call it."""
    try:
        return msgspec.convert(tomllib.loads(text), Config, dec_hook=converted)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not valid TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}") from None


def _user_directory(env: Mapping[str, str]) -> Path:
    """Where a daemon that is not root keeps its state: systemd's word, else the XDG directory."""
    if env.get("STATE_DIRECTORY"):
        return Path(env["STATE_DIRECTORY"].split(":")[0])
    state = env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "batchd"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"the configuration file {path} cannot be read: {reason}") from None
