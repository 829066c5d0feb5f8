"""The doing of ``batchd run``: its configuration, what is seen of it, and how it ended.

The order is the one that makes it safe to be interrupted: the place is locked, the input known by
its checksum, then the run (``oneshot.job``), then the results are handed over, then the place goes.
"""

import contextlib
import logging
import os
import shlex
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from batchd import config as configuration
from batchd.cli.errors import DONE, FAILED
from batchd.cli.objects import Batch, notes
from batchd.cli.screen import Screen, batch_of, so_far
from batchd.cli.show import batch_errors, echo_json, outcome, printable
from batchd.cli.streams import tell
from batchd.disk import Disk
from batchd.errors import BatchdError, ConfigError
from batchd.oneshot.handover import Target, Targets, deliver
from batchd.oneshot.job import Job, Standing, logging_to
from batchd.oneshot.place import Begun, Place, RunRefused, locked
from batchd.oneshot.settings import for_one_file, state_directory, with_backend, with_width
from batchd.oneshot.source import Source, opened
from batchd.process import die, leaves
from batchd.states import BatchStatus

if TYPE_CHECKING:
    from batchd.cli.run import Asked
    from batchd.config import Config

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """From where to where; None: standard input or output."""

    source: Path | None
    output: Path | None
    errors: Path | None


def carry_out(plan: Plan, asked: "Asked") -> int:
    """Do what is asked; the exit code."""
    environment = os.environ
    config = _config(asked, environment)
    targets = _targets(plan, force=asked["force"])
    beside, state = _state(plan, targets, asked, environment)
    disk = Disk()
    with opened(plan.source, beside) as source:
        directory = state or beside / source.sha256[:32]
        targets.check_outside(directory)
        with locked(directory, disk) as place:
            endpoint = _endpoint(source, asked, config)
            begun = place.settle(source.name, source.sha256, endpoint, force=asked["force"])
            if begun is None:
                targets.check_free()  # before anything is opened, or a model is loaded
            settings = for_one_file(config, directory)
            options = _options_with_a_file(targets, asked["state"])
            return _Running(
                settings, environment, place, source, endpoint, begun, options=options
            ).run(targets, in_order=asked["in_order"], as_json=asked["as_json"])


def _config(asked: "Asked", environment: Mapping[str, str]) -> "Config":
    """The configuration that was named; with --backend and no file, nothing but defaults."""
    backend, file = asked["backend"], asked["config_file"]
    if backend is None or file is not None:
        config = configuration.load(file, environment)
    else:
        config = configuration.Config()
    if backend is not None:
        try:
            config = with_backend(config, backend, asked["api_key_env"])
        except ValueError as error:
            text = str(error).replace("base_url", "the URL", 1)
            raise click.BadParameter(text, param_hint="--backend") from None
    if not config.backends and not config.local:
        raise ConfigError(
            "no model server is named: give its URL with --backend, or a configuration that has a "
            "[[backends]] table, or local = true to try the small built-in model"
        )
    width = asked["max_in_flight"]
    if width is None:
        return config
    if config.local:
        raise click.BadParameter(
            "the built-in model (local = true) has its own number: leave it out",
            param_hint="--max-in-flight",
        )
    return with_width(config, width)


def _targets(plan: Plan, *, force: bool) -> Targets:
    mask = os.umask(0o077)
    os.umask(mask)
    mode = 0o666 & ~mask
    targets = Targets(
        Target(path=plan.output, mode=mode, force=force),
        Target(path=plan.errors, mode=mode, force=force),
    )
    targets.output.check_place()
    targets.errors.check_place()
    return targets


def _state(
    plan: Plan, targets: Targets, asked: "Asked", environment: Mapping[str, str]
) -> tuple[Path, Path | None]:
    """Where the state goes and what it is called; None if only the input's checksum can say."""
    if asked["state"] is not None:
        state = asked["state"].resolve()
        return state.parent, state
    if plan.output is not None and not targets.output.is_stream:
        final = plan.output.resolve()
        return final.parent, final.with_name(f"{final.name}.batchd")
    shared = state_directory(environment)
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    return shared, None


def _options_with_a_file(targets: Targets, state: Path | None) -> str:
    """What a run of standard input must be told where its input is given as a file instead.

    Named after that file, results would be in the state, and go with it.
    """
    words = [
        *("-o", _word(targets.output.path)),
        *("--errors", _word(targets.errors.path)),
        *(("--state", _word(state)) if state is not None else ()),
    ]
    return shlex.join(words)


def _word(path: Path | None) -> str:
    return "-" if path is None else str(path)


def _endpoint(source: Source, asked: "Asked", config: "Config") -> str:
    endpoint = asked["endpoint"] or source.endpoint()
    if endpoint not in config.batches.endpoints:
        known = ", ".join(config.batches.endpoints)
        raise RunRefused(
            f"{endpoint} is not an endpoint that batchd knows ({known}): others can be named in a "
            "configuration, as batches.endpoints"
        )
    return endpoint


class _Running:
    """One run of the command, its place locked and its input open."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it runs, how and where
        self,
        config: "Config",
        environment: Mapping[str, str],
        place: Place,
        source: Source,
        endpoint: str,
        begun: Begun | None,
        *,
        options: str,
    ) -> None:
        self._config = config
        self._environment = environment
        self._place = place
        self._source = source
        self._endpoint = endpoint
        self._options = options
        self._screen = Screen(source.name, goes_on=begun is not None, drain=config.server.drain)

    def run(self, targets: Targets, *, in_order: bool, as_json: bool) -> int:
        with logging_to(self._place.log, self._config):
            job = self._job(targets)
            with self._looked_at():
                standing = job.run()
        if standing is None:
            raise RunRefused("interrupted before anything was sent")
        record = standing.record
        if record.is_terminal:
            if record.status is not BatchStatus.FAILED:
                deliver(self._place, job.spool, record, targets, in_order=in_order)
            self._place.end()
        self._tell(standing, targets, as_json=as_json)
        return DONE if record.status is BatchStatus.COMPLETED else FAILED

    def _job(self, targets: Targets) -> Job:
        return Job(
            self._config,
            self._environment,
            self._place,
            self._source,
            self._endpoint,
            check=targets.check_free,
            onlooker=self._screen,
            on_fatal=self._die,
        )

    @contextlib.contextmanager
    def _looked_at(self) -> Generator[None]:
        """Show how it goes, and say in one sentence why it could not."""
        try:
            yield
        except BaseExceptionGroup as group:
            unforeseen = [error for error in leaves(group) if not isinstance(error, BatchdError)]
            for error in unforeseen:
                log.critical("batchd_died", extra={"reason": type(error).__name__}, exc_info=error)
            if unforeseen:
                raise BatchdError(
                    f"a fault of batchd ended the run ({type(unforeseen[0]).__name__}; "
                    f"{self._place.log} has more). {self._how_to_go_on()}"
                ) from None
            raise next(iter(leaves(group))) from None
        except OSError as error:
            raise RunRefused(
                f"{error.filename or self._place.directory} cannot be read or written: "
                f"{error.strerror}; nothing is lost. {self._how_to_go_on()}"
            ) from None
        finally:
            self._screen.close()

    def _die(self, reason: str) -> None:
        self._screen.close()
        tell(f"batchd: {printable(reason)}. {self._how_to_go_on()}")
        die(reason)

    # -- how it ended

    def _tell(self, standing: Standing, targets: Targets, *, as_json: bool) -> None:
        batch = batch_of(standing)
        output, errors = targets.output, targets.errors
        is_over = standing.record.is_terminal
        has_answers = is_over and standing.record.status is not BatchStatus.FAILED
        has_errors = is_over and batch["error_file_id"] is not None
        if as_json:
            paths = {
                "input": self._source.name,
                "output_path": str(output.path) if has_answers else None,
                "errors_path": str(errors.path) if has_errors else None,
            }
            echo_json({**batch, **paths})
        told = self._told(batch, targets, is_over=is_over, has_errors=has_errors)
        to_stderr = as_json or not is_over or output.path is None or errors.path is None
        (tell if to_stderr else click.echo)("\n".join(told))

    def _told(
        self, batch: Batch, targets: Targets, *, is_over: bool, has_errors: bool
    ) -> list[str]:
        name = printable(self._source.name)
        if batch["status"] == BatchStatus.FAILED:
            return [f"{name} is not valid: nothing was sent.", *batch_errors(batch, most=None)]
        if not is_over:
            return [f"{name}: {so_far(batch)}. {self._how_to_go_on()}"]
        told = outcome({**batch, "id": name})
        if usage := batch.get("usage"):
            told[0] += f"; tokens: {usage['input_tokens']:,} in, {usage['output_tokens']:,} out"
        for target, what, is_there in (
            (targets.output, "answers", True),
            (targets.errors, "failed lines", has_errors),
        ):
            if is_there and target.path is not None:
                told.append(f"{what}: {printable(str(target.path))}")
        return [*told, *map(printable, notes(batch))]

    def _how_to_go_on(self) -> str:
        begun = self._place.begun()
        if begun is None or not self._source.is_stream:
            return "Run the same command to go on."
        kept = self._place.directory / "files" / begun.input_file_id
        return (
            "Run the same command with the same input to go on. What was read is kept, and can be "
            f"given in place of '-': {shlex.quote(str(kept))} {self._options}"
        )
