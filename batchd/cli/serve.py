"""``batchd serve`` and ``batchd check``: the two commands that read the configuration."""

import os
from pathlib import Path

import click

from batchd.cli.errors import DONE, FAILED
from batchd.cli.options import with_config, with_json
from batchd.cli.show import echo_json, printable
from batchd.errors import ConfigError


@click.command()
@with_config
def serve(config_file: Path | None) -> int:
    """Run the daemon, until SIGTERM or Ctrl-C."""
    from batchd import config  # noqa: PLC0415 - imports more than any client command needs

    loaded = config.load(config_file, os.environ)
    loaded.require_backend()

    from batchd import daemon  # noqa: PLC0415 - heavy, and not needed to refuse

    return daemon.run(loaded, lambda: config.load(config_file, os.environ))


@click.command()
@with_config
@with_json
def check(config_file: Path | None, *, as_json: bool) -> int:
    """Validate the configuration and reach the model servers.

    Says what is wrong, a sentence each. Exits 0 when all is well, 1 when something cannot be
    reached or written, 78 when the configuration itself is wrong.
    """
    from batchd import config  # noqa: PLC0415 - imports more than any client command needs
    from batchd.cli.checks import findings  # noqa: PLC0415 - imports the above

    try:
        loaded = config.load(config_file, os.environ)
        loaded.require_backend()
    except ConfigError as error:
        if as_json:
            echo_json({"ok": False, "checks": [_as_json("configuration", str(error))]})
        raise
    found = [("configuration", None), *findings(loaded, os.environ)]
    wrong = [fault for _, fault in found if fault]
    if as_json:
        echo_json({"ok": not wrong, "checks": [_as_json(*finding) for finding in found]})
    for name, fault in () if as_json else found:
        mark = click.style("wrong", fg="red") if fault else click.style("ok", fg="green")
        click.echo(f"{mark}  {printable(fault or name)}")
    return FAILED if wrong else DONE


def _as_json(name: str, fault: str | None) -> dict[str, object]:
    return {"check": name, "ok": fault is None, "message": fault}
