"""The results of a batch and of its retries as if it had been one: each line once.

The family of a batch is all that was made, by retry upon retry, of the first one. A line may have
results in several of its members: an answer stands before a failure, then a newer before an older.
Members are read newest first, so that only the ids of lines that were retried must be known.
"""

import json
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple, cast

from batchd.cli.client import Client
from batchd.cli.errors import NOT_FOUND, CommandFailed, Refused
from batchd.cli.follow import whole_lines
from batchd.cli.objects import Batch, parent_id

# How batchd begins a result line.
_CUSTOM_ID = re.compile(rb'\{"id":"[^"\\]*","custom_id":("(?:[^"\\]|\\.)*")')


class Family(NamedTuple):
    """The first batch and its retries, newest first. ``lost``: the id of a parent that is gone."""

    members: list[Batch]
    lost: str | None


def family(client: Client, batch: Batch) -> Family:
    """All batches that come from the same first one."""
    first, lost = _first(client, batch)
    retries: list[Batch] = []
    for listed in client.newest_first():
        if listed["created_at"] < first["created_at"]:
            break
        if parent_id(listed):
            retries.append(listed)
    known, members = {first["id"]}, list[Batch]()
    for listed in reversed(retries):  # a parent is older than what was made of it
        if parent_id(listed) in known:
            known.add(listed["id"])
            members.append(listed)
    return Family([*reversed(members), first], lost)


def _first(client: Client, batch: Batch) -> tuple[Batch, str | None]:
    """The oldest ancestor there is, and the id of its parent if that is gone."""
    while parent := parent_id(batch):
        try:
            batch = client.batch(parent)
        except Refused as error:
            if error.status != NOT_FOUND:
                raise
            return batch, parent
    return batch, None


class Merged:
    """The lines of a family. Ask for the answers first: a failure counts where there is none."""

    def __init__(self, client: Client, members: list[Batch], *, with_input: bool) -> None:
        self.answered = self.failed = 0
        self._client = client
        self._members = members
        self._with_input = with_input
        self._answered: set[str] = set()
        self._failed: set[str] = set()

    def answers(self) -> Iterator[bytes]:
        for line in self._newest("completed", self._answered, frozenset()):
            self.answered += 1
            yield line

    def failures(self) -> Iterator[bytes]:
        for line in self._newest("failed", self._failed, self._answered):
            self.failed += 1
            yield line

    def _newest(self, status: str, seen: set[str], beside: AbstractSet[str]) -> Iterator[bytes]:
        first = self._members[-1]["id"]
        for member in self._members:
            for line in self._lines(member["id"], status):
                custom_id = _custom_id(line)
                if custom_id in seen or custom_id in beside:
                    continue
                if member["id"] != first:
                    seen.add(custom_id)
                yield line

    def _lines(self, batch_id: str, status: str) -> Iterator[bytes]:
        try:
            with self._client.results(batch_id, status, with_input=self._with_input) as found:
                for block in whole_lines(found.pieces):
                    yield from block.splitlines(keepends=True)
        except Refused as error:
            if error.status != NOT_FOUND:
                raise
            raise CommandFailed(f"{batch_id} cannot be merged: {error}") from None


def _custom_id(line: bytes) -> str:
    found = _CUSTOM_ID.match(line)
    return cast("str", json.loads(found[1]) if found else json.loads(line)["custom_id"])
