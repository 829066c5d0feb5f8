"""Finds code that blocks the event loop.

While it watches, a blocking call with a running loop below it and a frame of the watched package
above raises BlockingError there and then. Where the package catches that error itself, as the guard
around a loop's pass does, the call is still told at the end.
"""

import contextlib
import traceback
from collections.abc import Generator

import pytest
from blockbuster import BlockBuster, BlockingError, blockbuster
from blockbuster.blockbuster import BlockBusterFunction

# What BlockBuster leaves out and a daemon that keeps files would do.
ALSO_BLOCKING = (
    "fcntl.flock",
    "os.fdatasync",
    "os.fsync",
    "os.ftruncate",
    "os.open",
    "os.posix_fallocate",
    "os.pread",
    "os.pwrite",
    "os.truncate",
    "os.writev",
)


class LoopGuard:
    def __init__(self, package: str) -> None:
        self._package = package
        self._detector = BlockBuster(package)
        for name in ALSO_BLOCKING:
            function = BlockBusterFunction(None, name, scanned_modules=package)
            self._detector.functions[name] = function
        for function in self._detector.functions.values():
            # A log line is written where it is said; pytest's handlers write it to files besides.
            function.can_block_in("logging/__init__.py", "handle")

    @contextlib.contextmanager
    def watching(self) -> Generator[list[str], None, None]:
        """Yields the calls that blocked, as they come, each with where it was made."""
        blocked: list[str] = []
        package = f"/{self._package}/"

        class Told(BlockingError):
            def __init__(self, function: str) -> None:
                super().__init__(function)
                frames = [frame for frame in traceback.extract_stack() if package in frame.filename]
                places = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
                blocked.append(f"{function} from " + " from ".join(reversed(places)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blockbuster, "BlockingError", Told)
            self._detector.activate()
            try:
                yield blocked
            finally:
                self._detector.deactivate()
