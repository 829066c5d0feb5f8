"""The standard streams where one is closed, or where nobody is at its other end any longer.

What is printed may decide an exit code; what is told on standard error decides nothing.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Generator
from io import BufferedWriter, FileIO, TextIOWrapper
from typing import TextIO

import click

_IN, _OUT, _ERR = 0, 1, 2


def open_what_is_closed() -> None:
    """Let nothing else get the number of a standard stream, and be written to in its place."""
    # In this order: what is opened gets the lowest number that is free. Standard output not for
    # writing: who prints there is told that it cannot be.
    for number, mode in ((_IN, os.O_RDONLY), (_OUT, os.O_RDONLY), (_ERR, os.O_WRONLY)):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, mode), True)
    # None is what each is when it was closed; who reads standard input says that it is.
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - as above
        sys.stdout = _writer(_OUT)
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - as above
        sys.stderr = _writer(_ERR)


def end(stream: TextIO) -> None:
    """Write what is left, or forget it: the interpreter would try again at its end."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def if_heard() -> Generator[None]:
    """For the last words on standard error: where nobody hears them, that is all."""
    try:
        yield
    except OSError:
        end(sys.stderr)


def tell(text: str) -> None:
    """A last sentence on standard error."""
    with if_heard():
        click.echo(text, err=True)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError as error:
        if error.errno == errno.EBADF:
            return False
        raise
    return True


def _writer(number: int) -> TextIOWrapper:
    return TextIOWrapper(BufferedWriter(FileIO(number, "wb", closefd=False)))
