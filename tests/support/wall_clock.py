"""A clock on the wall that a test sets while a program runs, by way of libfaketime.

Timers are not touched: only what asks for the time of day is told another.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest

_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
_NAME = "faketime/libfaketimeMT.so.1"


class WallClock:
    """Skips the test where libfaketime is missing. ``set("+2d")``: two days ahead from now on."""

    def __init__(self, directory: Path) -> None:
        self._library = _library()
        self._file = directory / "clock"
        self.set("+0")

    @property
    def environment(self) -> Mapping[str, str]:
        """What the program must be started with."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Without this, every wait of a thread with a limit becomes a loop.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "NO_FAKE_STAT": "1",
        }

    def set(self, offset: str) -> None:
        draft = self._file.with_suffix(".new")
        draft.write_text(offset + "\n")
        draft.rename(self._file)


def _library() -> Path:
    for folder in _LIBRARIES:
        for path in (*Path(folder).glob(_NAME), *Path(folder).glob(f"*/{_NAME}")):
            return path
    pytest.skip("libfaketime is not installed")
