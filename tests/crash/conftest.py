"""What the crash tests share: what lies on disk after a kill, and what a sweep leaves of it."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.support.batchd_process import BatchdProcess
from tests.support.checker import Account
from tests.support.waiting import wait_until

# Sweeps soon and often, so that a test can wait for it.
SWEEPING: dict[str, dict[str, object]] = {
    "server": {"upload_timeout": 0.5},
    "retention": {"sweep_every": 0.2, "orphan_age": 1},
}

NoOrphans = Callable[..., None]


def ledger_lines(state: Path, *input_file_ids: str) -> list[bytes]:
    """Every whole line in the result files of all batches there are, finished or not."""
    files = [path for path in (state / "files").iterdir() if path.name not in input_file_ids]
    return [line for path in files for line in path.read_bytes().split(b"\n")[:-1]]


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _live(account: Account) -> Iterable[str]:
    batch = account.batch
    ids = (batch["input_file_id"], batch["output_file_id"], batch["error_file_id"])
    return [str(file_id) for file_id in ids if file_id is not None]


@pytest.fixture
def no_orphans() -> NoOrphans:
    """Says that after a sweep the spool holds the files of these batches and nothing else."""

    def check(batchd: BatchdProcess, *accounts: Account) -> None:
        live = {name for account in accounts for name in _live(account)}

        def is_clean() -> bool:
            state = batchd.state
            rest = _names(state / "incoming") | _names(state / "batches")
            return not rest and _names(state / "files") == live

        wait_until(is_clean, within=5)

    return check
