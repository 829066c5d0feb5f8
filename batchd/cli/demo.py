"""``batchd demo``: the whole path on a real local model, with nothing to set up.

Writes prompts and a configuration, runs a daemon as its child, submits, shows some answers and
stops the daemon. The directory is the demo's own: it is used again only if a demo made it.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click

from batchd.cli.client import Client, Terms
from batchd.cli.errors import FAILED, CommandFailed
from batchd.cli.http import Http
from batchd.cli.prompts import ENDPOINT, index_of, prompt, request_line
from batchd.cli.results import Targets
from batchd.cli.show import printable
from batchd.cli.submit import Job, submit_all, wait_for
from batchd.errors import ConfigError

_HEAD = "# Written by `batchd demo`.\n"
_START_SECONDS = 90
_STOP_SECONDS = 30
# What ends the demo must end its daemon too, and so passes through ``finally``.
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)
_SHOWN = 5
_SHOWN_LENGTH = 300


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default="batchd-demo",
    show_default=True,
    metavar="DIR",
    help="Where prompts, answers and the daemon's state go.",
)
@click.option("--lines", type=click.IntRange(1), default=24, show_default=True, metavar="N")
@click.option("--keep", is_flag=True, help="Leave the daemon running until Ctrl-C, to try more.")
def demo(directory: Path, lines: int, *, keep: bool) -> int:
    """Run prompts through a small real model on this machine."""
    _require_model()
    url = f"http://127.0.0.1:{_free_port()}"
    prepare(directory, url, lines)
    with _daemon(directory, url) as client:
        code = _run(client, directory)
        _show(directory, lines)
        _say_where(directory, url, keep=keep)
        if keep:
            _until_interrupted()
    return FAILED if _errors(directory).exists() else code


def _require_model() -> None:
    from batchd.backends.local import installed_program  # noqa: PLC0415 - heavy

    try:
        installed_program()
    except ConfigError as error:
        raise CommandFailed(str(error)) from None


def prepare(directory: Path, url: str, lines: int) -> None:
    config = directory / "config.toml"
    if directory.exists() and not _is_ours(directory, config):
        raise CommandFailed(
            f"{directory} is there already and is not a demo's: name another with --directory"
        )
    directory.mkdir(parents=True, exist_ok=True)
    state = json.dumps(str(directory.resolve() / "state"), ensure_ascii=False)
    config.write_text(
        f"{_HEAD}local = true  # the small built-in model\n\n"
        f'[server]\nlisten = ["{url.removeprefix("http://")}"]\n\n'
        f"[storage]\ndirectory = {state}\n",
        encoding="utf-8",
    )
    for old in (_output(directory), _errors(directory)):
        old.unlink(missing_ok=True)
    with _input(directory).open("w", encoding="utf-8") as out:
        out.writelines(request_line(index) for index in range(lines))


def _is_ours(directory: Path, config: Path) -> bool:
    if config.is_file():
        return config.read_text(encoding="utf-8", errors="replace").startswith(_HEAD)
    return directory.is_dir() and not any(directory.iterdir())


def _input(directory: Path) -> Path:
    return directory / "prompts.jsonl"


def _output(directory: Path) -> Path:
    return directory / "prompts.output.jsonl"


def _errors(directory: Path) -> Path:
    return directory / "prompts.errors.jsonl"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def _daemon(directory: Path, url: str) -> Generator[Client]:
    """A daemon of our own, stopped on the way out."""
    log = directory / "daemon.log"
    command = [sys.executable, "-m", "batchd", "serve", "--config", str(directory / "config.toml")]
    with log.open("wb") as output:
        # Its own session: Ctrl-C in the terminal is for us, and we stop the daemon in good order.
        child = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    handlers = {ending: signal.signal(ending, signal.default_int_handler) for ending in _ENDINGS}
    try:
        click.echo("Starting batchd with its small local model…", err=True)
        client = Client(Http(url))
        _await(child, client, log)
        yield client
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for ending, handler in handlers.items():
            signal.signal(ending, handler)


def _await(child: "subprocess.Popen[bytes]", client: Client, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        try:
            client.healthy()
        except CommandFailed:
            time.sleep(0.1)
        else:
            return
    told = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["no word of why"]
    state = "did not start" if child.poll() is None else "stopped at once"
    raise CommandFailed(f"the daemon {state}: {told[-1].removeprefix('batchd: ')} (see {log})")


def _run(client: Client, directory: Path) -> int:
    targets = Targets.at(_output(directory), _errors(directory), force=True)
    job = Job(_input(directory), ENDPOINT, targets)
    submitted = {
        batch["id"]: done
        for done, batch in submit_all(client, [job], Terms(metadata={"made_by": "demo"}))
    }
    return wait_for(client, submitted, on_detach=_stopping)


def _stopping(_left: Sequence[str]) -> None:
    click.echo(
        "\nStopping. A daemon on the same settings goes on where this one stopped.", err=True
    )


def _show(directory: Path, lines: int) -> None:
    output = _output(directory)
    if not output.exists():
        return
    with output.open(encoding="utf-8") as answers:
        for question, answer in shown(answers):
            click.echo(f"\n{click.style(question, bold=True)}\n  {answer}")
    if lines > _SHOWN:
        click.echo(f"\n({lines - _SHOWN} more in {output})")


def shown(answers: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in islice(answers, _SHOWN):
        result: Any = json.loads(line)
        text = str(result["response"]["body"]["choices"][0]["message"]["content"])
        told = " ".join(printable(text).split())
        cut = told if len(told) <= _SHOWN_LENGTH else told[:_SHOWN_LENGTH].rstrip() + "…"
        yield prompt(index_of(result["custom_id"])), cut


def _say_where(directory: Path, url: str, *, keep: bool) -> None:
    config = directory / "config.toml"
    places = {
        "prompts": _input(directory),
        "answers": _output(directory),
        "failed lines": _errors(directory),
        "settings": config,
        "daemon's log": directory / "daemon.log",
    }
    click.echo()
    for name, path in places.items():
        if path.exists():
            click.echo(f"{name:<13} {path}")
    click.echo()
    start = "" if keep else f"  batchd serve --config {config}\n"
    click.echo(
        f"To go on, {'' if keep else 'start the daemon again and '}in another terminal:\n"
        f"{start}  export BATCHD_URL={url}\n"
        f"  batchd submit {_input(directory)} --wait --force\n  batchd list\n"
        "For your own model server put a [[backends]] table with its base_url in place of "
        "`local = true`."
    )


def _until_interrupted() -> None:
    click.echo("\nbatchd keeps running; Ctrl-C stops it.", err=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        click.echo("\nStopping…", err=True)
