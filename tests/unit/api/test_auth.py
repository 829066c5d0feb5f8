"""Keys of a file, and whose they are; the guard is tried over a socket in the integration tests."""

import hashlib
from pathlib import Path

import pytest

from batchd.api.auth import Keys
from batchd.errors import ConfigError, Unauthorized


def key_line(name: str, key: str) -> str:
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o640)
    return path


def test_without_a_file_everybody_is_local() -> None:
    keys = Keys.read(None)
    assert [keys.owner(given) for given in (None, "", "Bearer x", "junk")] == ["local"] * 4


def test_a_key_says_whose_the_request_is(tmp_path: Path) -> None:
    text = "# comment\n\n" + key_line("anna", "a-key") + "  " + key_line("bert.2", "ключ")
    keys = Keys.read(write(tmp_path / "keys", text))
    assert keys.owner("Bearer a-key") == "anna"
    assert keys.owner("bearer   ключ ") == "bert.2"


def test_a_key_may_be_replaced_while_the_old_one_still_works(tmp_path: Path) -> None:
    keys = Keys.read(write(tmp_path / "keys", key_line("anna", "old") + key_line("anna", "new")))
    assert [keys.owner(f"Bearer {key}") for key in ("old", "new")] == ["anna", "anna"]


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Basic a-key", "a-key"])
def test_no_key_is_no_key(tmp_path: Path, given: str | None) -> None:
    keys = Keys.read(write(tmp_path / "keys", key_line("anna", "a-key")))
    with pytest.raises(Unauthorized, match="You didn't provide an API key") as refused:
        keys.owner(given)
    assert refused.value.code is None


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("sk-0123456789", "sk-0***"),
        ("12345678", "***"),
        ("a\x00b\x1b[31mcdefgh", "ab[3***"),
        ("\udcff" * 20, "***"),
    ],
)
def test_of_a_wrong_key_at_most_four_characters_are_shown(
    tmp_path: Path, token: str, shown: str
) -> None:
    keys = Keys.read(write(tmp_path / "keys", key_line("anna", "a-key")))
    with pytest.raises(Unauthorized) as refused:
        keys.owner(f"Bearer {token}")
    assert refused.value.code == "invalid_api_key"
    assert str(refused.value) == (
        f"Incorrect API key provided: {shown}. Ask whoever runs this batchd for a key."
    )


@pytest.mark.parametrize(
    "bad",
    [
        "anna a-key",
        "anna sha256:" + "0" * 63,
        "anna sha256:" + "A" * 64,
        "sha256:" + "0" * 64,
        "an na sha256:" + "0" * 64,
        "n" * 65 + " sha256:" + "0" * 64,
    ],
)
def test_a_bad_line_is_named_by_its_number_and_not_repeated(tmp_path: Path, bad: str) -> None:
    path = write(tmp_path / "keys", key_line("anna", "x") + "\n" + bad)
    with pytest.raises(ConfigError, match="line 3: write 'NAME sha256:HEX'") as refused:
        Keys.read(path)
    assert bad not in str(refused.value)


@pytest.mark.parametrize("text", ["", "# nobody\n"])
def test_a_file_without_a_key_is_no_way_to_let_everybody_in(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="has no key"):
        Keys.read(write(tmp_path / "keys", text))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "none")
    (tmp_path / "keys").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "keys")


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", key_line("anna", "x"))
    path.chmod(0o646)
    with pytest.raises(ConfigError, match="writable by everybody"):
        Keys.read(path)
