"""A sidecar: the options of a dropped file's batch, ``NAME.toml`` beside ``NAME.jsonl``.

It is read as safely as the file itself, and strictly: a key that is not known or a value that will
not do rejects both. What is of another user than the file is nobody's sidecar.
"""

import tomllib
from collections.abc import Mapping

import msgspec

from batchd.config import BatchesConfig
from batchd.errors import InvalidRequest
from batchd.inbox import refusals
from batchd.inbox.folder import Dropped, Folder
from batchd.inbox.settling import Seen
from batchd.model import NewBatch
from batchd.settings import Duration
from batchd.wire import params

SIDECAR = ".toml"
MAX_SIZE = 1 << 16
_MAX_BITS = 64  # what TOML promises; the parser has no bound of its own
_MAX_DOTS = 2000  # a key of ten thousands of parts takes the parser half a minute

_KEYS = ("completion_window", "endpoint", "metadata", "output_expires_after", "priority")


class Options(msgspec.Struct, frozen=True):
    """What a batch is to be like; its input file, and the endpoint if None, are still to come."""

    wish: NewBatch
    endpoint: str | None


def find(folder: Folder, stem: str, uid: int) -> Seen | None:
    """What is the sidecar of this user's file ``stem``; it may be no file at all. Blocks."""
    seen = folder.look(stem + SIDECAR)
    return seen if seen is not None and seen.uid == uid else None


def read(folder: Folder, seen: Seen) -> bytes | None:
    """What a sidecar holds; None if it is being changed. ``Refused`` if it is a trap. Blocks."""
    name = seen.name
    if not seen.is_regular:
        raise refusals.bad_sidecar(name, "this is not an ordinary file but a link or the like.")
    try:
        dropped = folder.open(name)
    except FileNotFoundError:
        return None
    except OSError as error:
        if refusals.unreadable(error) is None:
            raise
        raise refusals.bad_sidecar(name, "batchd may not read it (chmod g+r).") from None
    try:
        return _contents(dropped, seen)
    finally:
        dropped.close()


def _contents(dropped: Dropped, seen: Seen) -> bytes | None:
    if dropped.seen != seen or dropped.has_writer():
        return None
    if seen.links != 1:
        raise refusals.bad_sidecar(seen.name, "the file has a second name elsewhere.")
    if seen.size > MAX_SIZE:
        raise refusals.bad_sidecar(seen.name, f"more than {MAX_SIZE} bytes.")
    text = dropped.read(0, MAX_SIZE)
    return text if dropped.look() == seen and len(text) == seen.size else None


def options(name: str, text: bytes, rules: BatchesConfig) -> Options:
    """What the sidecar ``name`` asks for; empty, it asks for the defaults. ``Refused`` if it can't
    be granted."""
    table = _table(name, text)
    for key, value in table.items():
        if key not in _KEYS:
            known = ", ".join(_KEYS)
            raise refusals.bad_sidecar(name, f"unknown key {key!r}; there are: {known}.", key=key)
        if isinstance(value, int) and value.bit_length() >= _MAX_BITS:
            # Its digits may be too many to be printed.
            what = f"{key} is a number of more than {_MAX_BITS} bits."
            raise refusals.bad_sidecar(name, what, key=key)
    try:
        wish = params.new_batch(
            _body(table, rules), endpoints=rules.endpoints, windows=rules.windows
        )
    except InvalidRequest as error:
        raise refusals.bad_sidecar(name, str(error), key=error.param) from None
    except ValueError as error:
        raise refusals.bad_sidecar(
            name, f"output_expires_after: {error}.", key="output_expires_after"
        ) from None
    return Options(
        msgspec.structs.replace(wish, source="inbox"),
        wish.endpoint if "endpoint" in table else None,
    )


def _table(name: str, text: bytes) -> dict[str, object]:
    if text.count(b".") > _MAX_DOTS:
        raise refusals.bad_sidecar(name, f"more than {_MAX_DOTS} dots.")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise refusals.bad_sidecar(name, f"not valid TOML: {error}.") from None
    except (ValueError, RecursionError):
        # Not UTF-8, a number of thousands of digits, brackets in brackets.
        raise refusals.bad_sidecar(name, "not valid TOML in UTF-8.") from None


def _body(table: Mapping[str, object], rules: BatchesConfig) -> dict[str, object]:
    """The same as the body of a create has it, for the same checks and the same words."""
    body: dict[str, object] = {
        "input_file_id": "",
        "endpoint": rules.endpoints[0],
        "completion_window": rules.completion_windows[0],
        **table,
    }
    if "output_expires_after" in table:
        seconds = int(Duration.parse(table["output_expires_after"]))
        body["output_expires_after"] = {"seconds": seconds}
    return body
