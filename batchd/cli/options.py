"""Options that commands share: where the daemon is, and who reads the answer."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from batchd.cli.client import Client
from batchd.cli.http import Http

# The first listen address of the default configuration (importing it would cost msgspec).
DEFAULT_URL = "http://127.0.0.1:8400"


def _client(_context: click.Context, _option: click.Parameter, url: str) -> Client:
    return Client(Http(url, os.environ.get("BATCHD_API_KEY")))


def pairs(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> object:
    """The values of an option that is given as KEY=VALUE, any number of times."""
    found = [pair.partition("=") for pair in given]
    if not all(key and equals for key, equals, _ in found):
        raise click.BadParameter("write KEY=VALUE")
    return {key: value for key, _, value in found}


with_client = click.option(
    "--url",
    "client",
    default=DEFAULT_URL,
    envvar="BATCHD_URL",
    show_default=True,
    callback=_client,
    metavar="URL",
    help="Where batchd is, or unix:/PATH; also $BATCHD_URL. The key comes from $BATCHD_API_KEY.",
)

with_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")

with_config = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, readable=False),
    metavar="FILE",
    help="The configuration. Default: $BATCHD_CONFIG, /etc/batchd/config.toml, else defaults.",
)
