"""The configuration of a run: a daemon's, with what is of no use to one file lifted or replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from batchd.config import LARGEST_UPLOAD, BackendConfig, Config
from batchd.settings import Size

_MOST = (1 << 32) - 1  # what the line index can number


def with_backend(config: Config, url: str, key_env: str | None) -> Config:
    """``config`` with this one server instead of its own. ``ValueError`` if it cannot be one."""
    backend = BackendConfig(name="backend", base_url=url, api_key_env=key_env)
    return msgspec.structs.replace(config, local=False, backends=(backend,))


def with_width(config: Config, max_in_flight: int | Literal["auto"]) -> Config:
    """``config`` with so many requests in flight at each server."""
    backends = tuple(
        msgspec.structs.replace(backend, max_in_flight=max_in_flight) for backend in config.backends
    )
    return msgspec.structs.replace(config, backends=backends)


def for_one_file(config: Config, directory: Path) -> Config:
    """``config`` for a run whose state is in ``directory``.

    The limits on an input are there to share a daemon. The ballast lets a full disk's daemon be
    told to cancel; nobody tells a run anything, and it should not cost 16 MiB.
    """
    replace = msgspec.structs.replace
    return replace(
        config,
        storage=replace(config.storage, directory=directory, ballast=Size(0)),
        server=replace(config.server, max_upload_size=Size(LARGEST_UPLOAD)),
        batches=replace(config.batches, max_requests=_MOST, max_embedding_inputs=1 << 62),
    )


def state_directory(environment: Mapping[str, str]) -> Path:
    """Where runs keep their state that have no output file to keep it beside."""
    state = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "batchd" / "run"
