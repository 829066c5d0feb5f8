"""Numbers for names that are taken: ``stem``, ``stem.2``, ``stem.3``, … Pure."""

from collections.abc import Callable, Iterator
from itertools import count


def numbered(stem: str) -> Iterator[str]:
    """All of them, from the first."""
    return (_name(stem, number) for number in count(1))


def numbered_from_free(stem: str, is_free: Callable[[str], bool]) -> Iterator[str]:
    """As ``numbered``, from a free one whose forerunner is taken.

    Of a name that comes all the time the numbers are taken one after the other: the end of them is
    found in steps that double, and then halve. Where numbers are missing it may be another end.
    """
    taken, free = 0, 1
    while not is_free(_name(stem, free)):
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        if is_free(_name(stem, middle)):
            free = middle
        else:
            taken = middle
    return (_name(stem, number) for number in count(free))


def _name(stem: str, number: int) -> str:
    return stem if number == 1 else f"{stem}.{number}"
