"""``batchd run``: one file from here to its results, without a daemon.

Here is what is asked for; ``running`` does it, and is imported only then.
"""

import re
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import click

from batchd.cli.options import with_config, with_json
from batchd.cli.results import Targets

_target = click.Path(path_type=Path, allow_dash=True, readable=False)
_STDIO = Path("-")

Width = int | Literal["auto"]


class Asked(TypedDict):
    """The options of ``run``, as click hands them over."""

    output: Path | None
    errors: Path | None
    backend: str | None
    api_key_env: str | None
    max_in_flight: Width | None
    config_file: Path | None
    endpoint: str | None
    in_order: bool
    state: Path | None
    force: bool
    as_json: bool


def _width(_context: click.Context, _option: click.Parameter, given: str | None) -> Width | None:
    if given is None or given == "auto":
        return given
    if not given.isdecimal() or int(given) < 1:
        raise click.BadParameter("write a number from 1, or 'auto'")
    return int(given)


def _base_url(_context: click.Context, _option: click.Parameter, given: str | None) -> str | None:
    if given is not None and re.fullmatch(r"https?://[^/]+/?", given):
        raise click.BadParameter(f"it has no path: did you mean {given.rstrip('/')}/v1?")
    return given


@click.command()
@click.argument("source", metavar="INPUT.jsonl", type=_target)
@click.option(
    "-o",
    "--output",
    type=_target,
    metavar="FILE",
    help="Where the answers go ('-': standard output). Default: INPUT.output.jsonl; for standard "
    "input: standard output.",
)
@click.option(
    "--errors",
    type=_target,
    metavar="FILE",
    help="Where the failed lines go, if any. Default: the output's name with .errors.jsonl.",
)
@click.option(
    "--backend",
    metavar="URL",
    callback=_base_url,
    help="The model server's base URL, ending in /v1 as a rule. Without it: the configuration's.",
)
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="The environment variable with the API key for --backend. Default: no key is sent.",
)
@click.option(
    "--max-in-flight",
    metavar="N",
    callback=_width,
    help="How many requests at once, or 'auto': found by measuring. Default: the configuration's, "
    "else auto. Not for the built-in model, which has its own number.",
)
@click.option("--endpoint", metavar="PATH", help="Default: the url in the first line of the input.")
@click.option("--in-order", is_flag=True, help="Write the results in the order of the input.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    metavar="DIR",
    help="Where the state is kept until all is done. Default: the output's name with .batchd.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Overwrite result files that exist, and give up an unfinished run of another input.",
)
@with_config
@with_json
def run(source: Path, **asked: Unpack[Asked]) -> int:
    """Run one file of requests here, without a daemon.

    '-' reads standard input. Interrupted in any way, the same command goes on where it stopped:
    lines that have their result are not sent again. Exits 0 when every line has its result (failed
    lines are said), 1 when it was interrupted or the input is not valid, 2 for wrong usage, 78 for
    a wrong configuration.
    """
    _check_usage(source, asked)
    output = asked["output"] or default_output(source)
    errors = asked["errors"] or default_errors(source, output)
    _check_places(source, output, errors, as_json=asked["as_json"])

    from batchd.cli.running import Plan, carry_out  # noqa: PLC0415 - the engine, and aiohttp

    return carry_out(Plan(_path(source), _path(output), _path(errors)), asked)


def _check_usage(source: Path, asked: Asked) -> None:
    if asked["api_key_env"] and not asked["backend"]:
        raise click.UsageError("--api-key-env is for --backend; a configuration names its own")
    if source != _STDIO and source.is_dir():
        raise click.UsageError(f"{source} is a directory; name a file of requests")


def default_output(source: Path) -> Path:
    """Beside the input; standard output for standard input."""
    return _STDIO if source == _STDIO else Path(f"{_stem(source)}.output.jsonl")


def default_errors(source: Path, output: Path) -> Path:
    """Beside the answers; beside the input if those are not a file."""
    if output != _STDIO and (output.is_file() or not output.exists()):
        return Path(f"{_stem(output).removesuffix('.output')}.errors.jsonl")
    return Path("stdin.errors.jsonl" if source == _STDIO else f"{_stem(source)}.errors.jsonl")


def _stem(path: Path) -> str:
    return str(path).removesuffix(".jsonl")


def _check_places(source: Path, output: Path, errors: Path, *, as_json: bool) -> None:
    Targets.at(output, errors, force=False).check_apart()
    if source != _STDIO and source.resolve() in {output.resolve(), errors.resolve()}:
        raise click.UsageError(f"the results cannot go to the input, {source}")
    if as_json and _STDIO in {output, errors}:
        raise click.UsageError(
            "standard output cannot have both --json and results: name a file with -o"
        )


def _path(path: Path) -> Path | None:
    """None for standard input or output."""
    return None if path == _STDIO else path
