"""What fits the description of the API is accepted, what does not is refused, all as described.

schemathesis reads ``/openapi.json`` of a real daemon and sends it more than a thousand requests:
the bounds of every field and what lies beyond them, wrong types, wrong methods, and sequences in
which the answer to one request goes into the next. They are drawn alike in every run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartBatchd
from tests.support import fuzz_hooks
from tests.support.jobs import Jobs
from tests.support.model_process import ModelProcess

ROOT = Path(__file__).parents[2]
WITHIN = 240
FUZZ = [
    *(sys.executable, "-m", "schemathesis.cli", "run", "--generation-deterministic"),
    *("--max-examples", "30", "--continue-on-failure", "--no-color"),
    *("--request-timeout", "60", "--suppress-health-check", "too_slow"),  # machines are loaded
]


@pytest.mark.slow
@pytest.mark.timeout(WITHIN + 60)
def test_the_api_does_what_its_description_says(
    start_batchd: StartBatchd, model_process: ModelProcess, tmp_path: Path
) -> None:
    batchd = start_batchd(backend=model_process.base_url)
    environment = os.environ | fuzz_hooks.settings(Jobs(batchd.url)) | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(  # noqa: S603 - our own programs
        [*FUZZ, f"{batchd.url}/openapi.json"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "unhandled_error" not in batchd.log_text()
    assert batchd.exit_code is None
