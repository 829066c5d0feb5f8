"""An older openai-python that many programs still use, in an interpreter of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Service
from tests.acceptance.scripts.lifecycle import STEPS

VERSION = "1.109.1"
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venvs" / f"openai-{VERSION}" / "bin" / "python"
SCRIPT = "tests.acceptance.scripts.lifecycle"


@pytest.fixture(scope="module")
def told(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script said of each step."""
    if not PYTHON.exists():
        pytest.skip(f"openai {VERSION} is not installed; `make clients` installs it")
    done = subprocess.run(  # noqa: S603 - our own script
        [PYTHON, "-m", SCRIPT, service.base_url, tmp_path_factory.mktemp("files")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *steps = [json.loads(text) for text in done.stdout.splitlines()]
    assert head == {"openai": VERSION}
    return {entry["step"]: entry["fault"] for entry in steps}


@pytest.mark.timeout(60)  # the first test waits for the whole script
@pytest.mark.parametrize("step", STEPS)
def test_openai_python_1_109(step: str, told: dict[str, Any]) -> None:
    assert told[step] is None, told[step]


def test_a_refused_cancel_is_asked_once(told: dict[str, Any], service: Service) -> None:
    assert told
    refused = service.proxy.paths(409)
    assert refused
    assert len(refused) == len(set(refused))
