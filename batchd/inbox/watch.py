"""What the kernel tells about the inbox: a hint to look, and which names are complete.

Lost events (a full queue, a filesystem that tells nothing) cost time only: the look at the whole
directory, now and then, is the guarantee.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Generator

from asyncinotify import Inotify, Mask

from batchd.inbox import refusals
from batchd.inbox.folder import Folder
from batchd.inbox.listing import is_dropped
from batchd.inbox.settling import Told

log = logging.getLogger(__name__)

# Made and touched only hint: a link or a pipe is never closed, and a file whose second name goes
# becomes acceptable by that.
_MASK = Mask.MOVED_TO | Mask.CLOSE_WRITE | Mask.CREATE | Mask.ATTRIB | Mask.ONLYDIR
_CACHED_EVENTS = 64
# Events come as fast as anybody can rename a file: after so many the loop is others' for a while.
_BURST = 256
_PAUSE = 0.01

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
            inotify.add_watch(folder.path, _MASK)  # pyright: ignore[reportUnknownMemberType] - its PathLike has no type argument
        except OSError as error:
            log.warning("inbox_not_watched", extra={"reason": error.strerror})
        yield inotify


async def listen(inotify: Inotify | None, tell: Tell, ring: Callable[[], None]) -> None:
    """Pass on what is told, until cancelled."""
    if inotify is None:
        await asyncio.Event().wait()
        return
    heard = 0
    async for event in inotify:
        name = str(event.name or "")
        if is_dropped(name) and not refusals.is_sidecar_name(name):
            if event.mask & Mask.MOVED_TO:
                tell(name, Told.MOVED)
            elif event.mask & Mask.CLOSE_WRITE:
                tell(name, Told.CLOSED)
        ring()
        heard += 1
        if heard % _BURST == 0:
            await asyncio.sleep(_PAUSE)
