"""A full disk is a pause, not an error: loops say so and come again."""

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
        log.error("disk_full", extra={"waiting": work})  # noqa: TRY400 - no fault of the program
