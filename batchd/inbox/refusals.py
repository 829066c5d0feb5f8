"""Why a dropped file is not taken, or its batch cannot start, in words for who dropped it. Pure.

The same refusal makes the same bytes, by which a report that is there already is recognized.
"""

import errno
import re
from collections.abc import Sequence

import msgspec

from batchd.errors import BatchdError, InvalidRequest
from batchd.inbox.settling import Seen
from batchd.model import InboxClaim, LineError

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}\.jsonl")
_SIDECAR_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}\.toml")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 128
_LONGEST_MESSAGE = 1000
_MAX_REPORTED = 1000

_DROP_AGAIN = "Correct it and drop the file again."


class Refused(BatchdError):
    """This file is not taken; its owner has to do something first."""

    def __init__(
        self,
        code: str,
        message: str,
        what_to_do: str = _DROP_AGAIN,
        *,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.message = message
        self.what_to_do = what_to_do
        self.line = line
        self.key = key


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``NAME.error.json``. The first five are always there."""

    file: str
    code: str | None
    message: str
    line: int | None
    what_to_do: str
    key: str | None = None
    batch: str | None = None
    errors: Sequence[LineError] = ()

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"


def refusal_report(name: str, refused: Refused) -> bytes:
    return Report(
        file=shown(name),
        code=refused.code,
        message=refused.message,
        line=refused.line,
        what_to_do=refused.what_to_do,
        key=refused.key,
    ).encode()


def failure_report(claim: InboxClaim, errors: Sequence[LineError]) -> bytes:
    """Why the batch that a file became could not start."""
    first = errors[0] if errors else LineError("failed", "The batch could not start.")
    return Report(
        file=claim.name,
        code=first.code,
        message=first.message,
        line=first.line,
        what_to_do=_DROP_AGAIN,
        batch=claim.batch_id,
        errors=errors[:_MAX_REPORTED],
    ).encode()


def not_a_file() -> Refused:
    return Refused(
        "not_a_file",
        "This is not an ordinary file but a directory, a link or the like.",
        "Drop a copy of the file itself.",
    )


def check(seen: Seen) -> None:
    """``Refused`` if a complete file is not to be taken, whatever it holds."""
    if not seen.is_regular:
        raise not_a_file()
    if not is_name(seen.name):
        raise Refused(
            "invalid_name",
            "Only names of letters, digits, '.', '_' and '-' that end in .jsonl are taken.",
            "Rename the file, to requests.jsonl for example, and drop it again.",
        )
    if seen.links != 1:
        raise Refused(
            "hard_link",
            "The file has a second name elsewhere, through which it could still be changed.",
            "Drop a copy of the file.",
        )


def unreadable(error: OSError) -> Refused | None:
    """What a failed open means; None if it may work later."""
    if error.errno in {errno.EACCES, errno.EPERM}:
        return Refused(
            "unreadable",
            "batchd may not read the file.",
            "Let batchd's group read it (chmod g+r) and drop it again.",
        )
    if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
        return not_a_file()
    return None


def unacceptable(error: InvalidRequest) -> Refused:
    """What is wrong with the contents, as an upload would have been told."""
    code = error.code or ("file_too_large" if error.http_status == 413 else "invalid_file")  # noqa: PLR2004 - HTTP's number
    return Refused(code, str(error))


def over_share(size: int, most: int) -> Refused:
    """A file that alone is more than its user may have on the way at once."""
    return Refused(
        "file_too_large",
        f"The file has {size} bytes; a user's files may have {most} at once.",
        "Split it into smaller files and drop those.",
    )


def bad_sidecar(name: str, what: str, *, key: str | None = None) -> Refused:
    """The options beside a file are none; ``key`` says which."""
    return Refused(
        "invalid_sidecar",
        f"{name}: {what}"[:_LONGEST_MESSAGE],
        f"Correct {name} and drop both files again, {name} first.",
        key=None if key is None else key[:_LONGEST],
    )


def unknown_endpoint(line: int, endpoints: Sequence[str]) -> Refused:
    """The url of the first request decides the endpoint, and this one has none that will do."""
    return Refused(
        "invalid_url",
        f"The first request's 'url' must be one of: {', '.join(endpoints)}.",
        line=line,
    )


def is_name(name: str) -> bool:
    """Whether a file of this name is taken."""
    return _NAME.fullmatch(name) is not None


def is_sidecar_name(name: str) -> bool:
    """Whether this can be the name of options for a file that is taken."""
    return _SIDECAR_NAME.fullmatch(name) is not None


def shown(name: str) -> str:
    """A name as text, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def safe_name(name: str) -> str:
    """A name of allowed characters for what has a bad one; a good name as it is."""
    if is_name(name):
        return name
    return _UNSAFE.sub("_", shown(name)).lstrip(".")[:_LONGEST] or "unnamed"
