"""What ``batchd results`` was asked for: which lines, where to, and what is said at the end."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import click

from batchd.cli.client import Client
from batchd.cli.errors import DONE, FAILED
from batchd.cli.objects import Batch, is_finished
from batchd.cli.results import Target, Targets
from batchd.cli.show import counts, echo_json, outcome, status_word
from batchd.cli.watch import url_option


class Asked(TypedDict):
    """The options of ``results``, as click hands them over."""

    output: Path | None
    errors: Path | None
    force: bool
    failed: bool
    completed: bool
    with_input: bool
    follow: bool
    after: str | None
    merged: bool
    as_json: bool


class Wanted(NamedTuple):
    """Which lines go where. ``places``: a status, and the place for lines with it."""

    asked: Asked
    targets: Targets
    places: list[tuple[str, Target]]

    @classmethod
    def of(cls, ids: Sequence[str], asked: Asked) -> "Wanted":
        """What the options mean together; a usage error if they mean nothing."""
        _check_usage(ids, asked)
        output, errors = asked["output"], asked["errors"]
        if output is None and errors is None:
            output = Path("-")
        appends = asked["after"] is not None
        targets = Targets.at(output, errors, force=asked["force"], appends=appends)
        if asked["as_json"] and any(target.is_stdout for target in targets.wanted):
            raise click.UsageError("with --json the results must go to a file: name it with -o")
        places: list[tuple[str, Target]] = []
        if targets.output and (asked["completed"] or not asked["failed"]):
            places.append(("completed", targets.output))
        if targets.output and asked["failed"]:
            places.append(("failed", targets.output))
        if targets.errors:
            places.append(("failed", targets.errors))
        return cls(asked, targets, places)

    @property
    def is_plain(self) -> bool:
        """Whether the batch's two files, as they are, are what was asked for."""
        asked = self.asked
        return not (asked["failed"] or asked["completed"] or asked["with_input"] or asked["after"])

    def statuses(self, target: Target) -> list[str]:
        return [status for status, place in self.places if place == target]

    def told(
        self,
        client: Client,
        batches: Sequence[Batch],
        written: Sequence[Target],
        cursors: Mapping[str, str | None],
    ) -> int:
        """Say what was fetched; the exit code."""
        for batch in batches:
            if self.asked["as_json"]:
                echo_json(
                    {
                        "batch": batch,
                        **self.paths(written),
                        "next_cursor": cursors.get(batch["id"]),
                        "has_more": not is_finished(batch),
                    }
                )
            elif is_finished(batch):
                click.echo("\n".join(outcome(batch, url=url_option(client))), err=True)
            else:
                click.echo(f"{batch['id']} {status_word(batch)}: {counts(batch)} so far", err=True)
        if not self.asked["as_json"]:
            for place in self.targets.told(written):
                click.echo(place, err=True)
        return DONE if written else FAILED

    def paths(self, written: Sequence[Target]) -> dict[str, str | None]:
        """Where the results are, for machines."""
        named = {"output": self.targets.output, "errors": self.targets.errors}
        return {
            name: str(target.path) if target and target in written else None
            for name, target in named.items()
        }

    def go_on(self, client: Client, batch_id: str, cursor: str | None, *, follow: bool) -> str:
        """The command that goes on behind ``cursor`` with the same lines to the same places."""
        # Without a cursor there is a file already, and nothing in it.
        force = cursor is None and bool(self.asked["output"] or self.asked["errors"])
        again = _Again(cursor, follow=follow, force=force)
        return self._command(client, batch_id, again, self.targets.wanted)

    def missing(self, client: Client, batch_id: str, written: Sequence[Target]) -> str:
        """The command that was given, without the places that were written."""
        again = _Again(self.asked["after"], force=self.asked["force"])
        missing = [target for target in self.targets.wanted if target not in written]
        return self._command(client, batch_id, again, missing)

    def behind(
        self, client: Client, batch_id: str, cursor: str | None, written: Sequence[Target]
    ) -> str:
        """The command that goes on behind ``cursor``, only where something was written."""
        return self._command(client, batch_id, _Again(cursor), written)

    def _command(
        self, client: Client, batch_id: str, again: "_Again", targets: Sequence[Target]
    ) -> str:
        asked = self.asked
        to_output, to_errors = (target in targets for target in self.targets)
        words = {
            "--follow": again.follow,
            f"--after {shlex.quote(again.after or '')}": again.after is not None,
            "--failed": asked["failed"] and to_output,
            "--completed": asked["completed"] and to_output,
            "--with-input": asked["with_input"],
            f"-o {shlex.quote(str(asked['output']))}": asked["output"] and to_output,
            f"--errors {shlex.quote(str(asked['errors']))}": asked["errors"] and to_errors,
            "--force": again.force,
        }
        given = " ".join(["", *(word for word, is_given in words.items() if is_given)])
        return f"batchd results {batch_id}{given}{url_option(client)}"


class _Again(NamedTuple):
    """How results are asked for again."""

    after: str | None
    follow: bool = False
    force: bool = False


def _check_usage(ids: Sequence[str], asked: Asked) -> None:
    alone = [f"--{name}" for name in ("follow", "merged", "after") if asked[name]]
    if alone and len(ids) > 1:
        raise click.UsageError(f"{alone[0]} is for one batch")
    if asked["merged"] and len(alone) > 1:
        raise click.UsageError("--merged goes with neither --follow nor --after")
    if asked["merged"] and (asked["failed"] or asked["completed"]):
        raise click.UsageError("with --merged, -o has the answers and --errors what failed")
    if asked["failed"] and asked["errors"]:
        raise click.UsageError("the failed lines can go to one place: --failed or --errors")
