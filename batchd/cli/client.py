"""The API's verbs, as the commands use them. Wire details are ``http``'s and ``multipart``'s."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import quote, urlencode

from batchd.cli.errors import CommandFailed, Refused
from batchd.cli.http import Http
from batchd.cli.multipart import FileForm, open_file
from batchd.cli.objects import Backend, Batch, File

_PAGE = {"/v1/batches": 100, "/v1/files": 1000}


class Terms(NamedTuple):
    """On which terms a batch is to run."""

    window: str = "24h"
    metadata: Mapping[str, str] = {}
    priority: int = 0


class Client:
    """A daemon's files, batches and backends."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self.url = http.url

    def healthy(self) -> None:
        """Raise unless the daemon answers."""
        self._http.call("GET", "/healthz")

    def batch(self, batch_id: str) -> Batch:
        return cast("Batch", self._object("batch", "GET", f"/v1/batches/{_id(batch_id)}"))

    def cancel(self, batch_id: str) -> Batch:
        return cast("Batch", self._object("batch", "POST", f"/v1/batches/{_id(batch_id)}/cancel"))

    def create(self, file_id: str, endpoint: str, terms: Terms) -> Batch:
        asked: dict[str, object] = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": terms.window,
            "metadata": dict(terms.metadata) if terms.metadata else None,
        }
        if terms.priority:
            asked["priority"] = terms.priority
        return cast("Batch", self._object("batch", "POST", "/v1/batches", asked))

    def batches(self, limit: int | None) -> tuple[list[Batch], bool]:
        """The newest ``limit`` batches (None: all), and whether there are more."""
        listed, has_more = self._list("/v1/batches", limit)
        return cast("list[Batch]", listed), has_more

    def backends(self) -> list[Backend]:
        return cast("list[Backend]", self._object("list", "GET", "/v1/backends")["data"])

    def resume_backend(self, name: str) -> Backend:
        path = f"/v1/backends/{_id(name)}/resume"
        return cast("Backend", self._object("backend", "POST", path))

    def files(self, limit: int | None) -> tuple[list[File], bool]:
        listed, has_more = self._list("/v1/files", limit)
        return cast("list[File]", listed), has_more

    def upload(self, path: Path, on_sent: Callable[[int], None]) -> File:
        """Upload a batch's input; ``on_sent`` is told the size of each piece."""
        form = FileForm(path, "batch")
        with open_file(path) as file:
            pieces = _counted(form.pieces(file), on_sent)
            answer = self._http.upload("/v1/files", pieces, form.size(file), form.content_type)
        return cast("File", self._checked("file", answer))

    def download(self, file_id: str) -> Iterator[bytes]:
        return self._http.download(f"/v1/files/{_id(file_id)}/content")

    def delete_file(self, file_id: str) -> dict[str, object]:
        return self._object("file", "DELETE", f"/v1/files/{_id(file_id)}")

    def submit(
        self,
        path: Path,
        endpoint: str,
        terms: Terms,
        on_sent: Callable[[int], None],
    ) -> Batch:
        """Upload and create. An upload whose batch is refused is taken back."""
        file = self.upload(path, on_sent)
        try:
            return self.create(file["id"], endpoint, terms)
        except Refused:
            with suppress(CommandFailed):
                self.delete_file(file["id"])
            raise

    def _list(self, path: str, limit: int | None) -> tuple[list[dict[str, object]], bool]:
        found: list[dict[str, object]] = []
        after, has_more = None, True
        while has_more and (limit is None or len(found) < limit):
            page = _PAGE[path] if limit is None else min(limit - len(found), _PAGE[path])
            query = {"limit": page} | ({"after": after} if after else {})
            answer = self._object("list", "GET", f"{path}?{urlencode(query)}")
            listed = cast("list[dict[str, object]]", answer["data"])
            found += listed
            has_more = bool(answer.get("has_more")) and bool(listed)
            after = listed[-1]["id"] if listed else None
        return found, has_more

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
    return quote(text, safe="") or "%20"


def _counted(pieces: Iterator[bytes], on_sent: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        on_sent(len(piece))
