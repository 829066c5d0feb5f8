import hashlib
import json
import re

import pytest

from tests.unit.cli.conftest import Run


def test_a_new_key_is_shown_with_the_line_that_lets_it_in(offline: Run) -> None:
    result = offline("keys", "new", "ci@host-1")
    shown = re.fullmatch(r"key   (bd-[\w-]{43})\nline  (ci@host-1) sha256:(\S+)\n", result.out)
    assert shown
    assert hashlib.sha256(shown[1].encode()).hexdigest() == shown[3]
    assert "keys_file" in result.err
    assert shown[1] not in result.err


def test_keys_differ_and_json_has_the_same_parts(offline: Run) -> None:
    one, two = (json.loads(offline("keys", "new", "a", "--json").out) for _ in range(2))
    assert one["key"] != two["key"]
    assert one["line"] == f"a sha256:{hashlib.sha256(one['key'].encode()).hexdigest()}"


@pytest.mark.parametrize("name", ["", "a b", "#a", "a\nb", "a" * 65])
def test_a_name_that_the_keys_file_could_not_hold_is_refused(offline: Run, name: str) -> None:
    assert offline("keys", "new", name).code == 2
