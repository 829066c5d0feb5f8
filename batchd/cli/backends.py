"""``batchd backends``: the model servers, and what each is doing."""

import click
from click.core import ParameterSource

from batchd.cli.client import Client
from batchd.cli.completion import backend_names
from batchd.cli.options import with_client, with_json
from batchd.cli.show import backend_table, echo_json, printable, table_width

_GIVEN = ParameterSource.COMMANDLINE


@click.group(invoke_without_command=True)
@with_json
@with_client
@click.pass_context
def backends(context: click.Context, client: Client, *, as_json: bool) -> None:
    """Show the model servers, and what each is doing."""
    if context.invoked_subcommand:
        if any(context.get_parameter_source(name) is _GIVEN for name in context.params):
            raise click.UsageError(f"write options behind `{context.invoked_subcommand}`")
        return
    listed = client.backends()
    if as_json:
        echo_json({"object": "list", "data": listed})
    else:
        click.echo(backend_table(listed, table_width()))


@backends.command()
@click.argument("name", metavar="NAME", shell_complete=backend_names())
@with_json
@with_client
def resume(client: Client, name: str, *, as_json: bool) -> None:
    """Try a model server at once that is being waited for: a full quota, a new key."""
    backend = client.resume_backend(name)
    if as_json:
        echo_json(backend)
    else:
        click.echo(f"{printable(backend['name'])} is tried at once")
