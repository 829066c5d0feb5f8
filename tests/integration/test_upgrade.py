"""The real daemon on the database of another version: a later one that is made up, and back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchd.store.migrations import migrations
from tests.support.batchd_process import BatchdProcess
from tests.support.checker import check
from tests.support.jobs import Jobs, backends, request_lines
from tests.support.model_process import ModelProcess

NEWEST = migrations()[-1][0]
LATER = """
import sys
import batchd.store.migrations as upgrade
from batchd.cli.main import main

known = [*upgrade.migrations(), ({number}, "{script}")]
upgrade.migrations = lambda: known
sys.exit(main())
"""
GOOD = "CREATE TABLE more (a TEXT) STRICT;"
BAD = GOOD + GOOD


def program(script: str) -> list[str]:
    """A batchd that knows one version more."""
    return ["-c", LATER.format(number=NEWEST + 1, script=script)]


@pytest.fixture
def batchd(tmp_path: Path, model_process: ModelProcess) -> Iterator[BatchdProcess]:
    settings = {"backends": backends(model_process.base_url, max_in_flight=4)}
    process = BatchdProcess(tmp_path / "batchd", settings=settings)
    yield process
    process.kill()


def version(database: Path) -> object:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_a_batch_goes_on_through_an_upgrade_and_back(
    batchd: BatchdProcess, model_process: ModelProcess
) -> None:
    model_process.set(delay=0.05)
    ours, database = batchd.program, batchd.state / "batchd.db"
    before = database.with_name(f"batchd.db.before-{NEWEST + 1}")
    batchd.start()
    jobs, data = Jobs(batchd.url), request_lines(150)
    batch_id = jobs.start(data)
    jobs.wait_for(batch_id, lambda batch: batch["request_counts"]["completed"] > 20)
    assert batchd.terminate() == 0
    batchd.program = program(GOOD)
    batchd.start()
    assert f"database_copied version={NEWEST} copy={before}" in batchd.log_text()
    assert f"schema_migrated version={NEWEST + 1}" in batchd.log_text()
    jobs.wait_for(batch_id, lambda batch: batch["request_counts"]["completed"] > 60)
    assert batchd.terminate() == 0
    assert (version(database), version(before)) == (NEWEST + 1, NEWEST)
    before.rename(database)
    batchd.program = ours
    batchd.start()
    account = jobs.account(data, batch_id)
    assert check(account, log=model_process.events).output_lines == 150


def test_the_database_of_a_newer_version_is_refused_and_left_alone(batchd: BatchdProcess) -> None:
    batchd.start()
    assert batchd.terminate() == 0
    with closing(sqlite3.connect(batchd.state / "batchd.db")) as connection:
        connection.execute(f"PRAGMA user_version = {NEWEST + 1}")
    before = (batchd.state / "batchd.db").read_bytes()
    batchd.launch()
    assert batchd.wait() == 78
    assert batchd.log_text().endswith(
        f"batchd: the database has schema version {NEWEST + 1}, newer than this batchd's {NEWEST}: "
        "run the newer batchd that wrote it\n"
    )
    assert (batchd.state / "batchd.db").read_bytes() == before


def test_an_upgrade_that_fails_is_said_and_the_old_version_runs_again(
    batchd: BatchdProcess,
) -> None:
    batchd.start()
    jobs = Jobs(batchd.url)
    file_id = jobs.upload(request_lines(1))
    assert batchd.terminate() == 0
    ours, batchd.program = batchd.program, program(BAD)
    batchd.launch()
    assert batchd.wait() == 78
    last = batchd.log_text().splitlines()[-1]
    assert "could not be brought to schema version" in last
    assert f"batchd.db.before-{NEWEST + 1}: run the batchd that wrote it" in last
    batchd.program = ours
    batchd.start()
    assert jobs.content(file_id) == request_lines(1)
