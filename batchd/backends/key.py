"""A backend's API key: from a file or from the environment, read again when it was refused."""

import asyncio
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from batchd.config import BackendConfig
from batchd.errors import ConfigError

log = logging.getLogger(__name__)

_KEY = re.compile(r"[!-~]+")


class Key:
    """``text`` is None where no key is configured."""

    def __init__(self, config: BackendConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._environment = environment
        self._complained = False
        self.text: str | None = None

    async def load(self) -> None:
        """Read the key. ``ConfigError`` if it is configured but not there."""
        config = self._config
        if config.api_key_env is not None:
            self.text = self._environment.get(config.api_key_env)
            if not self.text:
                raise ConfigError(
                    f"backend {config.name}: the environment variable "
                    f"{config.api_key_env} named by api_key_env is not set"
                )
        elif config.api_key_file is not None:
            self.text = await asyncio.to_thread(_read, config.name, config.api_key_file)

    async def reload(self) -> bool:
        """Read it again; whether it is another one now. An unreadable one keeps the old."""
        before = self.text
        try:
            await self.load()
        except ConfigError as error:
            if not self._complained:
                log.warning("backend_key_unreadable", extra={"reason": str(error)})
            self._complained = True
            self.text = before
        else:
            self._complained = False
        return self.text != before


def _read(name: str, path: Path) -> str:
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"backend {name}: the api_key_file {path} cannot be read") from None
    if _KEY.fullmatch(key) is None:
        raise ConfigError(f"backend {name}: the api_key_file {path} holds no usable key")
    return key
