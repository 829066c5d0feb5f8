"""Unix users as owners: by a line of the keys file, or by their number."""

import hashlib
from pathlib import Path

import pytest

from batchd.api.auth import Keys
from batchd.errors import ConfigError, Unauthorized


def key_line(name: str, key: str, more: str = "") -> str:
    return f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}{more}\n"


def read(tmp_path: Path, text: str, *, unix_owners: bool = True) -> Keys:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o640)
    return Keys.read(path, unix_owners=unix_owners)


def test_a_key_a_peer_and_a_dropped_file_are_one_owner(tmp_path: Path) -> None:
    keys = read(tmp_path, key_line("anna@host", "a-key", " uid=1000"))
    assert keys.owner("Bearer a-key") == "anna@host"
    assert keys.owner(None, 1000) == "anna@host"
    assert keys.owner_of_user(1000) == "anna@host"


def test_a_user_without_a_line_is_called_by_number(tmp_path: Path) -> None:
    keys = read(tmp_path, key_line("anna", "a-key"))
    assert keys.owner_of_user(1000) == "uid-1000"
    assert keys.owner(None, 0) == "uid-0"
    assert Keys.read(None, unix_owners=True).owner_of_user(7) == "uid-7"


def test_without_unix_owners_users_are_nobody_in_particular(tmp_path: Path) -> None:
    keys = read(tmp_path, key_line("anna", "a-key", "  uid=1000"), unix_owners=False)
    assert keys.owner_of_user(1000) == "local"
    with pytest.raises(Unauthorized):
        keys.owner(None, 1000)
    assert Keys.read(None).owner(None, 1000) == "local"


def test_a_key_that_is_shown_counts_more_than_the_peer(tmp_path: Path) -> None:
    keys = read(tmp_path, key_line("anna", "a-key", " uid=1000") + key_line("bert", "b-key"))
    assert keys.owner("Bearer b-key", 1000) == "bert"
    with pytest.raises(Unauthorized, match="Incorrect API key"):
        keys.owner("Bearer wrong-key", 1000)
    assert [keys.owner(text, 1000) for text in ("", "Bearer ", "Basic YTpi")] == ["anna"] * 3


def test_without_a_keys_file_a_token_says_nothing_and_the_peer_counts() -> None:
    keys = Keys.read(None, unix_owners=True)
    assert keys.owner("Bearer whatever", 1000) == "uid-1000"
    assert keys.owner("Bearer whatever") == "local"


def test_an_owner_may_have_several_keys_and_users(tmp_path: Path) -> None:
    text = key_line("anna", "a", " uid=1") + key_line("anna", "b", " uid=1")
    keys = read(tmp_path, text + key_line("anna", "c", " uid=2"))
    assert [keys.owner_of_user(uid) for uid in (1, 2)] == ["anna", "anna"]


def test_a_user_is_one_owner(tmp_path: Path) -> None:
    text = key_line("anna", "a", " uid=1") + key_line("bert", "b", " uid=01")
    with pytest.raises(ConfigError, match="line 2: uid=01 is anna in a line above"):
        read(tmp_path, text)


def test_nobody_takes_the_name_of_a_user_who_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1: uid-7 is what the user"):
        read(tmp_path, key_line("uid-7", "a"))
    with pytest.raises(ConfigError, match="line 1: uid-7 is what the user"):
        read(tmp_path, key_line("uid-7", "a", " uid=8"))
    assert read(tmp_path, key_line("uid-7", "a", " uid=7")).owner("Bearer a") == "uid-7"


@pytest.mark.parametrize("more", [" uid=", " uid=-1", " uid=x", " uid=1 uid=2", "uid=1", " gid=1"])
def test_a_bad_uid_is_a_bad_line(tmp_path: Path, more: str) -> None:
    with pytest.raises(ConfigError, match="line 1: write 'NAME sha256:HEX'"):
        read(tmp_path, key_line("anna", "a", more))


def test_a_reload_brings_other_names_for_users(tmp_path: Path) -> None:
    keys = read(tmp_path, key_line("anna", "a", " uid=1"))
    keys.replace(read(tmp_path, key_line("bert", "a", " uid=1"), unix_owners=False))
    assert (keys.owner_of_user(1), keys.owner_of_user(2)) == ("bert", "uid-2")
