"""Sending inputs: upload and create, one batch after the other.

Each is told to the caller as soon as it is there. What is broken off says what goes on already.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from batchd.cli.client import Client, Terms
from batchd.cli.errors import CommandFailed, Refused
from batchd.cli.objects import Batch
from batchd.cli.parts import Part
from batchd.cli.progress import sentences
from batchd.cli.results import Targets
from batchd.cli.waiting import InDoubt, create_once

_WORTH_A_BAR = 4 * 1024**2
# OpenAI's longest value in metadata.
_LONGEST_VALUE = 512


class Job(NamedTuple):
    """One input, and where its results are to go. ``parts``: none if it is one batch."""

    path: Path
    endpoint: str
    targets: Targets
    name: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def called(self) -> str:
        """Text, which the name of a file need not be."""
        return self.name or os.fsencode(self.path.name).decode(errors="replace")


def submit_all(client: Client, jobs: Sequence[Job], terms: Terms) -> Iterator[tuple[Job, Batch]]:
    """Upload and create, one after the other; each as soon as it is there.

    A job in parts comes once for each of them.
    """
    begun: list[str] = []
    for job in jobs:
        of = len(job.parts)
        for count, part in enumerate(job.parts or (None,), 1):
            which = f"part {count} of {of} of {job.called}" if of > 1 else job.called
            try:
                batch = _submit_one(client, job, terms, (count, part))
            except KeyboardInterrupt:
                interrupted = f"interrupted before {which} was submitted"
                raise CommandFailed(interrupted + _so_far(begun)) from None
            except CommandFailed as error:
                if not begun:
                    raise
                if isinstance(error, InDoubt):
                    told = str(error).rstrip(".")
                    raise CommandFailed(f"{which}: {told}{_so_far(begun)}") from None
                raise CommandFailed(f"{which} was not submitted: {error}{_so_far(begun)}") from None
            begun.append(batch["id"])
            yield job, batch


def _so_far(begun: Sequence[str]) -> str:
    return f"; submitted before, and going on: {' '.join(begun)}" if begun else ""


def _submit_one(client: Client, job: Job, terms: Terms, numbered: tuple[int, Part | None]) -> Batch:
    """Upload and create. An upload is taken back if there is no batch of it for certain."""
    count, part = numbered
    name = "stdin.jsonl" if job.name else job.path.name
    if part and len(job.parts) > 1:
        of = len(job.parts)
        name = f"{name.removesuffix('.jsonl')}_part_{count}_of_{of}.jsonl"
        linked = {"batchd_part": f"{count}/{of}", "batchd_input": job.called[:_LONGEST_VALUE]}
        terms = terms._replace(metadata={**terms.metadata, **linked})
    with _uploading(job, name, part) as on_sent:
        file = client.upload(job.path, name, on_sent, part.span if part else None)
    try:
        return create_once(
            lambda key: client.create(file["id"], job.endpoint, terms, key), sentences()
        )
    except (Refused, KeyboardInterrupt):
        with suppress(CommandFailed):
            client.delete_file(file["id"])
        raise


@contextmanager
def _uploading(job: Job, name: str, part: Part | None) -> Generator[Callable[[int], None]]:
    """A bar for an upload that takes a while."""
    much = part.span.end - part.span.start if part else job.path.stat().st_size
    if much < _WORTH_A_BAR or not sys.stderr.isatty():
        yield lambda _sent: None
        return
    from batchd.cli.live import upload_bar  # noqa: PLC0415 - rich only on a terminal

    with upload_bar(name, much) as on_sent:
        yield on_sent
