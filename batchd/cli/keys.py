"""``batchd keys``: API keys. A key is shown once; what batchd keeps is its hash."""

import hashlib
import re
import secrets

import click

from batchd.cli.options import with_json
from batchd.cli.show import echo_json

_KEY_BYTES = 32
_MAX_UID = 2**32 - 2  # the one above it means nobody at all
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"


@click.group()
def keys() -> None:
    """Make API keys."""


@keys.command()
@click.argument("name")
@click.option(
    "--uid",
    type=click.IntRange(0, _MAX_UID),
    help="The Unix user who is the same owner, with `unix_owners = true`.",
)
@with_json
def new(name: str, uid: int | None, *, as_json: bool) -> None:
    """Make a key for NAME, and the line that lets the daemon know it."""
    if not re.fullmatch(_NAME, name):
        raise click.UsageError(
            f"{name!r} is not a name for a key: use up to 64 letters, digits and . _ @ -"
        )
    key = f"bd-{secrets.token_urlsafe(_KEY_BYTES)}"
    line = f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    if uid is not None:
        line += f" uid={uid}"
    if as_json:
        echo_json({"name": name, "key": key, "line": line})
        return
    click.echo(f"key   {key}")
    click.echo(f"line  {line}")
    click.echo(
        "\nGive the key to the client: it is not kept and not shown again (BATCHD_API_KEY=…).\n"
        "Add the line to the file that `keys_file` names in the configuration:\n"
        "  [auth]\n"
        '  keys_file = "/etc/batchd/keys"',
        err=True,
    )
