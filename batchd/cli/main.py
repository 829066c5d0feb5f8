"""``batchd``: finds the command, and turns what it comes to into an exit code.

0 done, 1 failed, 2 usage, 78 bad configuration. A module is imported when its command is used.
"""

import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import cast

import click

from batchd.cli.errors import BAD_CONFIGURATION, DONE, FAILED
from batchd.cli.show import printable
from batchd.cli.streams import end, if_heard, open_what_is_closed, tell
from batchd.errors import BatchdError, ConfigError

# Each command: where it is (module:name), and its help, so that `--help` imports none of them.
COMMANDS = {
    "serve": ("serve:serve", "Run the daemon, until SIGTERM or Ctrl-C."),
    "check": ("serve:check", "Validate the configuration and reach the model servers."),
    "run": ("run:run", "Run one file of requests here, without a daemon."),
    "submit": ("submit:submit", "Upload files of requests and have them run."),
    "list": ("batches:list_", "List batches, newest first."),
    "show": ("batches:show", "Show a batch, with what was wrong in its input."),
    "wait": ("batches:wait", "Wait until batches are done."),
    "results": ("fetch:results", "Download results, while a batch runs and after."),
    "retry": ("again:retry", "Run the lines again that failed, expired or were cancelled."),
    "pause": ("steering:pause", "Pause batches."),
    "resume": ("steering:resume", "Go on with batches that are paused."),
    "priority": ("steering:priority", "Give a batch more turns, or fewer, from now on."),
    "cancel": ("batches:cancel", "Cancel batches."),
    "backends": ("backends:backends", "Show the model servers, and what each is doing."),
    "files": ("files:files", "List, download and delete files."),
    "keys": ("keys:keys", "Make API keys."),
    "fsck": ("fsck:fsck", "Say what is damaged in the storage directory."),
    "backup": ("backup:backup", "Copy the storage directory to DIR, while the daemon runs or not."),
    "completion": ("completion:completion", "Print what makes a shell complete command lines."),
    "demo": ("demo:demo", "Run prompts through a small real model on this machine."),
}


class _Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        return cast("click.Command", getattr(importlib.import_module(f"batchd.cli.{module}"), name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `batchd demo`, or with `batchd serve` and `batchd submit FILE --wait`.",
)
@click.version_option(package_name="batchd", prog_name="batchd", message="%(prog)s %(version)s")
def batchd() -> None:
    """Run files of requests against your own model server.

    A file of requests (JSONL, as OpenAI's Batch API takes them) becomes a batch; batchd sends every
    line to the model server and hands back a file of answers.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    open_what_is_closed()
    _write_any_text()
    code = _done(args)
    for stream in (sys.stdout, sys.stderr):
        end(stream)
    return code


def _done(args: Sequence[str] | None) -> int:
    """What it came to, told in a sentence if that is not what was asked for."""
    try:
        code = cast("int | None", batchd.main(args, prog_name="batchd", standalone_mode=False))
        click.echo(nl=False)  # flushes
    except click.ClickException as error:
        with if_heard():
            error.show()
        return error.exit_code
    except BrokenPipeError:
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        tell("batchd: interrupted")
        return FAILED
    except BatchdError as error:
        tell(f"batchd: {printable(str(error))}")
        return BAD_CONFIGURATION if isinstance(error, ConfigError) else FAILED
    except OSError as error:
        what = "standard output cannot be written" if _was_printing(error) else error.filename
        told = ": ".join(str(part) for part in (what, error.strerror or error) if part)
        tell(f"batchd: {printable(told)}")
        return FAILED
    return code or DONE


def _was_printing(error: OSError) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code is click.echo.__code__ for frame, _ in frames)


def _write_any_text() -> None:
    """Let a terminal that does not know a character show another in its place."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
