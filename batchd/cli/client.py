"""The API's verbs, as the commands use them. Wire details are ``http``'s and ``multipart``'s."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import quote, urlencode

from batchd.cli.errors import NOT_FOUND, CommandFailed, Refused
from batchd.cli.http import Http
from batchd.cli.multipart import FileForm, Span, open_file
from batchd.cli.objects import Backend, Batch, File, Limits

_PAGE = {"/v1/batches": 100, "/v1/files": 1000}
_KEY = "Idempotency-Key"


class Terms(NamedTuple):
    """On which terms a batch is to run."""

    window: str = "24h"
    metadata: Mapping[str, str] = {}
    priority: int = 0


class Again(NamedTuple):
    """How lines that came to nothing are to be run again; None: as the first time."""

    codes: Sequence[str] = ()
    window: str | None = None
    metadata: Mapping[str, str] | None = None
    priority: int | None = None


class Results(NamedTuple):
    """Results there are. ``cursor``: where to go on; ``has_more``: whether there may be more."""

    cursor: str
    has_more: bool
    pieces: Iterator[bytes]


def new_key() -> str:
    """A name for one wish: what is sent again under it is granted once."""
    return os.urandom(16).hex()


class Client:
    """A daemon's files, batches and backends."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.url = http.url

    def healthy(self) -> None:
        """Raise unless the daemon answers."""
        self._http.call("GET", "/healthz")

    def batch(self, batch_id: str) -> Batch:
        return self._batch("GET", batch_id)

    def cancel(self, batch_id: str) -> Batch:
        return self._batch("POST", batch_id, "/cancel")

    def pause(self, batch_id: str) -> Batch:
        return self._batch("POST", batch_id, "/pause")

    def resume(self, batch_id: str) -> Batch:
        return self._batch("POST", batch_id, "/resume")

    def set_priority(self, batch_id: str, priority: int) -> Batch:
        return self._batch("POST", batch_id, "/priority", {"priority": priority})

    def retry(self, batch_id: str, again: Again, key: str) -> Batch:
        """A new batch of the lines that came to nothing."""
        wishes = {
            "codes": list(again.codes) or None,
            "completion_window": again.window,
            "metadata": again.metadata,
            "priority": again.priority,
        }
        asked = {name: wish for name, wish in wishes.items() if wish is not None}
        return self._batch("POST", batch_id, "/retry", asked, {_KEY: key})

    @contextmanager
    def results(
        self, batch_id: str, status: str, *, after: str | None = None, with_input: bool = False
    ) -> Generator[Results]:
        """The results with this status that are there behind a cursor."""
        query = {"status": status}
        query |= {"after": after} if after else {}
        query |= {"include": "input"} if with_input else {}
        path = f"/v1/batches/{_id(batch_id)}/results?{urlencode(query, errors='surrogateescape')}"
        with self._http.opened(path) as answer:
            cursor = answer.header("x-next-cursor")
            if cursor is None:
                raise CommandFailed(f"{self.url} answered, but not with results: is it batchd?")
            yield Results(cursor, answer.header("x-has-more") == "true", answer.pieces)

    def limits(self) -> Limits | None:
        """None where the daemon does not tell them."""
        try:
            return cast("Limits", self._object("limits", "GET", "/v1/limits"))
        except Refused as error:
            if error.status != NOT_FOUND:
                raise
            return None

    def create(self, file_id: str, endpoint: str, terms: Terms, key: str) -> Batch:
        asked: dict[str, object] = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": terms.window,
            "metadata": dict(terms.metadata) if terms.metadata else None,
        }
        if terms.priority:
            asked["priority"] = terms.priority
        return cast("Batch", self._object("batch", "POST", "/v1/batches", asked, {_KEY: key}))

    def batches(self, limit: int | None) -> tuple[list[Batch], bool]:
        """The newest ``limit`` batches (None: all), and whether there are more."""
        listed, has_more = self._list("/v1/batches", limit)
        return cast("list[Batch]", listed), has_more

    def newest_first(self) -> Iterator[Batch]:
        """Every batch, a page at a time: who has seen enough stops asking."""
        after, has_more = None, True
        while has_more:
            page, has_more = self._page("/v1/batches", _PAGE["/v1/batches"], after)
            yield from cast("list[Batch]", page)
            after = page[-1]["id"] if page else None

    def backends(self) -> list[Backend]:
        return cast("list[Backend]", self._object("list", "GET", "/v1/backends")["data"])

    def resume_backend(self, name: str) -> Backend:
        path = f"/v1/backends/{_id(name)}/resume"
        return cast("Backend", self._object("backend", "POST", path))

    def files(self, limit: int | None) -> tuple[list[File], bool]:
        listed, has_more = self._list("/v1/files", limit)
        return cast("list[File]", listed), has_more

    def upload(
        self, path: Path, name: str, on_sent: Callable[[int], None], span: Span | None = None
    ) -> File:
        """Upload a batch's input, or a part of it; ``on_sent`` is told the size of each piece."""
        form = FileForm(path, "batch", name, span)
        with open_file(path) as file:
            pieces = _counted(form.pieces(file), on_sent)
            answer = self._http.upload("/v1/files", pieces, form.size(file), form.content_type)
        return cast("File", self._checked("file", answer))

    def download(self, file_id: str) -> Iterator[bytes]:
        return self._http.download(f"/v1/files/{_id(file_id)}/content")

    def delete_file(self, file_id: str) -> dict[str, object]:
        return self._object("file", "DELETE", f"/v1/files/{_id(file_id)}")

    def _list(self, path: str, limit: int | None) -> tuple[list[dict[str, object]], bool]:
        found: list[dict[str, object]] = []
        after, has_more = None, True
        while has_more and (limit is None or len(found) < limit):
            most = _PAGE[path] if limit is None else min(limit - len(found), _PAGE[path])
            page, has_more = self._page(path, most, after)
            found += page
            after = page[-1]["id"] if page else None
        return found, has_more

    def _page(self, path: str, most: int, after: object) -> tuple[list[dict[str, object]], bool]:
        query = {"limit": most} | ({"after": after} if after else {})
        answer = self._object("list", "GET", f"{path}?{urlencode(query)}")
        listed = cast("list[dict[str, object]]", answer["data"])
        return listed, bool(answer.get("has_more")) and bool(listed)

    def _batch(
        self,
        method: str,
        batch_id: str,
        verb: str = "",
        payload: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Batch:
        path = f"/v1/batches/{_id(batch_id)}{verb}"
        try:
            return cast("Batch", self._object("batch", method, path, payload, headers))
        except Refused as error:
            raise error.advised("`batchd list` shows what there is", NOT_FOUND) from None

    def _object(
        self,
        kind: str,
        method: str,
        path: str,
        payload: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, object]:
        return self._checked(kind, self._http.call(method, path, payload, headers))

    def _checked(self, kind: str, answer: object) -> dict[str, object]:
        """The answer, if it is the kind of object that was asked for."""
        found = cast("dict[str, object]", answer) if isinstance(answer, dict) else {}
        if found.get("object") != kind:
            raise CommandFailed(f"{self.url} answered, but not with a {kind}: is it batchd?")
        return found


def _id(text: str) -> str:
    """An id inside a path; anything may stand there, since a person typed it."""
    return quote(text, safe="", errors="surrogateescape") or "%20"


def _counted(pieces: Iterator[bytes], on_sent: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        on_sent(len(piece))
