"""The names of things: how ids look, and which strings can be one.

Pure: the randomness is handed in. Ids are opaque to clients. Forms after contract sections 2, 3
and 7; file ids carry 131 random bits, batch ids 96 behind their creation time.
"""

import re

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FILE_ID_DIGITS = 22

FILE_ID_BYTES = 17
BATCH_ID_BYTES = 12
REQUEST_ID_BYTES = 16

_FILE_ID = re.compile(r"file-[0-9A-Za-z]{22}")
_BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")


def file_id(randomness: bytes) -> str:
    """``file-`` and 22 base62 digits, from ``FILE_ID_BYTES`` random bytes."""
    number = int.from_bytes(randomness, "big")
    digits: list[str] = []
    for _ in range(_FILE_ID_DIGITS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "file-" + "".join(digits)


def batch_id(created_at: int, randomness: bytes) -> str:
    """``batch_`` and 32 hex digits, the first eight of which are ``created_at``."""
    return f"batch_{created_at & 0xFFFFFFFF:08x}{randomness.hex()}"


def request_id(randomness: bytes) -> str:
    return "req_" + randomness.hex()


def batch_tag(id_of_batch: str) -> bytes:
    """The eight characters that each result line of this batch carries in its id."""
    return id_of_batch[-8:].encode()


def is_file_id(text: str) -> bool:
    return _FILE_ID.fullmatch(text) is not None


def is_batch_id(text: str) -> bool:
    return _BATCH_ID.fullmatch(text) is not None
