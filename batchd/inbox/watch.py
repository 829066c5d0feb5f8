"""What the kernel tells about the inbox: a hint to look, and which names are complete.

Lost events (a full queue, a filesystem that tells nothing) cost time only: the look at the whole
directory, now and then, is the guarantee.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator

from asyncinotify import Inotify, Mask

from batchd.inbox.folder import Folder
from batchd.inbox.settling import Told

log = logging.getLogger(__name__)

# Made and touched only hint: a link or a pipe is never closed, and a file whose second name goes
# becomes acceptable by that.
_MASK = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.CREATE | Mask.ATTRIB | Mask.ONLYDIR
_CACHED_EVENTS = 64

Tell = Callable[[str, Told], None]


@contextlib.contextmanager
def watching(folder: Folder) -> Generator[Inotify | None]:
    """Watch a directory from here on; None where the kernel has no watch to give."""
    try:
        inotify = Inotify(cache_size=_CACHED_EVENTS)
    except OSError as error:
        log.warning("inbox_not_watched", extra={"reason": error.strerror})
        yield None
        return
    with inotify:
        try:
            # By descriptor: whatever has the name now, this is the directory that is looked at.
            path = f"/proc/self/fd/{folder.descriptor}"
            inotify.add_watch(path, _MASK)  # pyright: ignore[reportUnknownMemberType] - its PathLike has no type argument
        except OSError as error:
            log.warning("inbox_not_watched", extra={"reason": error.strerror})
        yield inotify


async def listen(inotify: Inotify | None, tell: Tell, ring: Callable[[], None]) -> None:
    """Pass on what is told, until cancelled."""
    if inotify is None:
        await asyncio.Event().wait()
        return
    async for event in inotify:
        if event.name is not None:
            if event.mask & Mask.MOVED_TO:
                tell(str(event.name), Told.MOVED)
            elif event.mask & Mask.CLOSE_WRITE:
                tell(str(event.name), Told.CLOSED)
        ring()
