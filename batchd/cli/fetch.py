"""``batchd results``: results of batches that have ended, or so far, or as they come, or joined."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, product
from typing import Unpack

import click

from batchd.cli.client import Client
from batchd.cli.completion import batch_ids, is_any
from batchd.cli.errors import DONE, FAILED, CommandFailed
from batchd.cli.follow import Follower, Sink
from batchd.cli.merge import Family, Merged, family
from batchd.cli.objects import Batch, is_finished
from batchd.cli.options import with_client, with_json
from batchd.cli.progress import Display, make_display, sentences
from batchd.cli.results import Target, target_type
from batchd.cli.show import counts, echo_json, lines, number, printable, status_word
from batchd.cli.waiting import patiently
from batchd.cli.wanted import Asked, Wanted


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=batch_ids(is_any))
@click.option(
    "-o", "--output", type=target_type, help="Where the answers go. Default: standard output."
)
@click.option(
    "--errors", type=target_type, help="Where the failed lines go ('-' for standard output)."
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--failed", is_flag=True, help="The failed lines, in the place of the answers.")
@click.option("--completed", is_flag=True, help="With --failed: answers and failed lines alike.")
@click.option("--with-input", is_flag=True, help="Put its request into each line, as `input`.")
@click.option("--follow", is_flag=True, help="Write results as they come, until the batch ends.")
@click.option("--after", metavar="CURSOR", help="Only what is behind it; files are appended to.")
@click.option("--merged", is_flag=True, help="Join with what it is a retry of, and its retries.")
@with_json
@with_client
def results(client: Client, ids: tuple[str, ...], **asked: Unpack[Asked]) -> int:
    """Download results, while a batch runs and after.

    Those of several batches are joined. A batch that runs has the results that are there so far, or
    with --follow all of them as they come; Ctrl-C then says how to go on.

    With --errors alone only the failed lines are downloaded. With --merged each line comes once,
    however often it was retried: its newest answer, or in --errors what it failed with last.

    Exits 1 when there was nothing to download.
    """
    wanted = Wanted.of(ids, asked)
    wanted.targets.check()
    batches = [client.batch(batch_id) for batch_id in ids]
    if asked["merged"]:
        return _merged(client, family(client, batches[0]), wanted)
    if asked["follow"]:
        return _followed(client, batches[0], wanted)
    if wanted.is_plain and all(map(is_finished, batches)):
        return wanted.told(client, batches, wanted.targets.fetch(client, batches), {})
    return _so_far(client, batches, wanted)


def _so_far(client: Client, batches: Sequence[Batch], wanted: Wanted) -> int:
    """The results that are there now."""
    found = _Found(client, batches, wanted)
    written: list[Target] = []
    try:
        for target in wanted.targets.wanted:
            if _write_unless_empty(target, found.pieces(wanted.statuses(target))):
                written.append(target)
            found.keep()
    except (CommandFailed, KeyboardInterrupt, OSError):
        if written and len(batches) == 1:
            _tell_what_stays(client, batches[0]["id"], found, wanted, written)
        raise
    code = wanted.told(client, batches, written, found.cursors)
    if found.has_more and len(batches) == 1 and not wanted.asked["as_json"]:
        (batch_id,) = found.has_more
        later, on = (
            wanted.go_on(client, batch_id, found.cursors[batch_id], follow=follow)
            for follow in (False, True)
        )
        click.echo(
            f"There will be more. To go on, once or until the batch ends:\n  {later}\n  {on}",
            err=True,
        )
    return code


class _Found:
    """Results there are. ``cursors``: how far they stand where they were wanted."""

    def __init__(self, client: Client, batches: Sequence[Batch], wanted: Wanted) -> None:
        self._client = client
        self._with_input = wanted.asked["with_input"]
        self.cursors = {batch["id"]: wanted.asked["after"] for batch in batches}
        self._read = dict(self.cursors)
        self.has_more = set[str]()

    def pieces(self, statuses: Sequence[str]) -> Iterator[bytes]:
        for batch_id, status in product(self._read, statuses):
            with self._client.results(
                batch_id, status, after=self._read[batch_id], with_input=self._with_input
            ) as found:
                yield from found.pieces
                self._read[batch_id] = found.cursor
                if found.has_more:
                    self.has_more.add(batch_id)

    def keep(self) -> None:
        """All that was read is written: what has failed to be is taken back by its target."""
        self.cursors = dict(self._read)


def _tell_what_stays(
    client: Client, batch_id: str, found: _Found, wanted: Wanted, written: Sequence[Target]
) -> None:
    """Some of the files are written, and must not get the same lines again."""
    for place in wanted.targets.told(written):
        click.echo(place, err=True)
    if batch_id in found.has_more:
        on = wanted.behind(client, batch_id, found.cursors[batch_id], written)
        click.echo(f"To go on behind that:\n  {on}", err=True)
    click.echo(f"For what is missing:\n  {wanted.missing(client, batch_id, written)}", err=True)


def _write_unless_empty(target: Target, pieces: Iterator[bytes]) -> bool:
    first = next(pieces, b"")
    if first:
        target.write(chain([first], pieces))
    else:
        target.clear()
    return bool(first)


def _followed(client: Client, batch: Batch, wanted: Wanted) -> int:
    """Results as they come; when it stops before their end, how to go on."""
    batch_id, asked = batch["id"], wanted.asked
    follower = Follower(client, batch_id, after=asked["after"], with_input=asked["with_input"])
    shows = not any(target.is_stdout for target in wanted.targets.wanted)
    display = make_display({batch_id: batch_id}) if shows else sentences()
    try:
        written = _follow(follower, display, wanted, shows=shows)
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else ""
        again = "" if follower.is_exact else " (some lines come a second time)"
        on = wanted.go_on(client, batch_id, follower.cursor, follow=True)
        if reason:
            raise CommandFailed(
                f"the results cannot be written: {reason}. To go on{again}: {on}"
            ) from None
        told = f"Go on where it stopped{again}:\n  {on}"
        click.echo(f"\nDetached; the batch goes on. {told}", err=True)
        return FAILED
    ended = patiently(lambda: client.batch(batch_id), sentences())
    return wanted.told(client, [ended], written, {batch_id: follower.cursor})


def _follow(follower: Follower, display: Display, wanted: Wanted, *, shows: bool) -> list[Target]:
    """Where lines were written to."""
    with ExitStack() as open_:
        files = {target: open_.enter_context(target.growing()) for target in wanted.targets.wanted}
        sinks = {
            place: Sink(place[0], files[place[1]], is_ours=place[1].is_ours)
            for place in wanted.places
        }
        with display:
            follower.follow(list(sinks.values()), display, shows=shows)
    written = {target for (_, target), sink in sinks.items() if sink.lines}
    for target in wanted.targets.wanted:
        if target not in written:
            target.remove_empty()
    return [target for target in wanted.targets.wanted if target in written]


def _merged(client: Client, found: Family, wanted: Wanted) -> int:
    """The results of a batch and its retries, each line once."""
    merged = Merged(client, found.members, with_input=wanted.asked["with_input"])
    written: list[Target] = []
    for target, some in (
        (wanted.targets.output, merged.answers()),
        (wanted.targets.errors, merged.failures()),
    ):
        if target is None:
            for _ in some:  # for the sake of what they are counted for
                pass
        elif _write_unless_empty(target, some):
            written.append(target)
    if wanted.asked["as_json"]:
        echo_json(
            {
                "batches": [member["id"] for member in found.members],
                "lost_parent": found.lost,
                "answered": merged.answered,
                "failed": merged.failed,
                **wanted.paths(written),
            }
        )
    else:
        _tell_merged(found, merged, wanted)
        for place in wanted.targets.told(written):
            click.echo(place, err=True)
    return DONE if written else FAILED


def _tell_merged(found: Family, merged: Merged, wanted: Wanted) -> None:
    of = "1 batch" if len(found.members) == 1 else f"{number(len(found.members))} batches"
    told = f"{of} merged: {lines(merged.answered)} answered, {number(merged.failed)} not"
    if merged.failed and not wanted.targets.errors:
        told += " (--errors FILE has these)"
    click.echo(told, err=True)
    if found.lost:
        click.echo(
            f"{printable(found.lost)}, of which they are retries, is gone: what it had is missing",
            err=True,
        )
    for member in found.members:
        if not is_finished(member):
            click.echo(
                f"{member['id']} is {status_word(member)} ({counts(member)}): "
                "what it has not answered yet counts as it was before",
                err=True,
            )
