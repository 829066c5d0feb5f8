"""``batchd files``: what the daemon keeps."""

import time
from pathlib import Path

import click

from batchd.cli.client import Client
from batchd.cli.completion import file_ids
from batchd.cli.errors import DONE, FAILED, Refused
from batchd.cli.options import with_client, with_json
from batchd.cli.results import Target, target_type
from batchd.cli.show import echo_json, file_table, page, printable, table_width


@click.group()
def files() -> None:
    """List, download and delete files."""


@files.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, metavar="N")
@click.option("--all", "every", is_flag=True, help="All of them, however many.")
@with_json
@with_client
def list_(client: Client, limit: int, *, every: bool, as_json: bool) -> None:
    """List files, newest first."""
    listed, has_more = client.files(None if every else limit)
    if as_json:
        echo_json(page(listed, has_more=has_more))
        return
    if listed:
        click.echo(file_table(listed, time.time(), table_width()))
    if has_more or not listed:
        click.echo("There are more: --limit N or --all." if has_more else "No files.", err=True)


@files.command()
@click.argument("file_id", metavar="ID", shell_complete=file_ids())
@click.option(
    "-o", "--output", type=target_type, default="-", help="Where to. Default: standard output."
)
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@with_json
@with_client
def get(client: Client, file_id: str, output: Path, *, force: bool, as_json: bool) -> None:
    """Download a file."""
    target = Target(output, force=force)
    if as_json and target.is_stdout:
        raise click.UsageError("with --json the content must go to a file: name it with -o")
    target.check()
    target.write(client.download(file_id))
    if as_json:
        echo_json({"id": file_id, "output": str(output)})
    elif not target.is_stdout:
        click.echo(f"{printable(file_id)} is in {printable(str(output))}", err=True)


@files.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=file_ids())
@with_json
@with_client
def delete(client: Client, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Delete files. A batch that has begun keeps its own hold on its input."""
    code = DONE
    for file_id in ids:
        try:
            deleted = client.delete_file(file_id)
        except Refused as error:
            click.echo(f"batchd: {printable(str(error))}", err=True)
            code = FAILED
            continue
        if as_json:
            echo_json(deleted)
        else:
            click.echo(f"deleted {printable(file_id)}")
    return code
