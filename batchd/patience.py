"""A full disk is a pause, not an error: loops leave what found no room and come again.

That the disk is full is ``room``'s to say, once a pause.
"""

import contextlib
import logging
from collections.abc import Generator

from batchd.errors import NoRoom

log = logging.getLogger(__name__)


@contextlib.contextmanager
def patient(work: str) -> Generator[None]:
    """Leave ``work`` for the next pass if there was no room for it."""
    try:
        yield
    except NoRoom:
        log.debug("step_waits", extra={"step": work})
