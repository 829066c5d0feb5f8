"""``batchd keys new`` prints lines that the daemon reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from batchd.api.auth import Keys

ROOT = Path(__file__).parents[2]


def new_key(*args: str) -> dict[str, str]:
    command = [sys.executable, "-m", "batchd", "keys", "new", *args, "--json"]
    done = subprocess.run(  # noqa: S603 - our own program
        command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["anna", "ci@host-1", "A.b_c-9"])
@pytest.mark.parametrize("uid", [None, 0, 1000, 2**32 - 2])
def test_the_line_lets_the_key_in(tmp_path: Path, name: str, uid: int | None) -> None:
    made = new_key(name, *(() if uid is None else ("--uid", str(uid))))
    assert made["line"].endswith("" if uid is None else f" uid={uid}")
    (tmp_path / "keys").write_text(made["line"] + "\n")
    keys = Keys.read(tmp_path / "keys", unix_owners=True)
    assert keys.owner(f"Bearer {made['key']}") == name
    if uid is not None:
        assert keys.owner(None, uid) == name


@pytest.mark.parametrize("uid", ["-1", "anna", str(2**32 - 1)])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        new_key("anna", "--uid", uid)
    assert refused.value.returncode == 2
