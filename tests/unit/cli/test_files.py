import json
from pathlib import Path

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_api import FakeApi


def test_files_are_listed_with_their_names(run: Run, api: FakeApi) -> None:
    api.add_file("one.jsonl", b"x" * 2048)
    api.add_file("two\x1b[2J.jsonl", b"")
    result = run("files", "list")
    assert "one.jsonl" in result.out
    assert "2.0 KiB" in result.out
    assert "\x1b" not in result.out
    assert len(json.loads(run("files", "list", "--json").out)["data"]) == 2


def test_an_empty_list_is_said_in_words(run: Run) -> None:
    assert run("files", "list").err == "No files.\n"


def test_a_file_is_fetched_to_standard_output_or_to_a_file(
    run: Run, api: FakeApi, tmp_path: Path
) -> None:
    file_id = api.add_file("one.jsonl", b"line\n")["id"]
    assert run("files", "get", file_id).out == "line\n"
    assert run("files", "get", file_id, "-o", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == b"line\n"


def test_deleting_goes_on_after_a_file_that_is_not_there(run: Run, api: FakeApi) -> None:
    file_id = api.add_file("one.jsonl", b"")["id"]
    result = run("files", "delete", "file-none", file_id)
    assert result.code == 1
    assert result.out == f"deleted {file_id}\n"
    assert "No such File object: file-none" in result.err
    assert api.files == {}


def test_deleting_with_json_prints_what_the_api_said(run: Run, api: FakeApi) -> None:
    file_id = api.add_file("one.jsonl", b"")["id"]
    assert json.loads(run("files", "delete", file_id, "--json").out)["deleted"] is True


def test_get_can_tell_machines_where_the_content_is(run: Run, api: FakeApi, tmp_path: Path) -> None:
    file_id = api.add_file("in.jsonl", b"x")["id"]
    out = tmp_path / "out"
    told = json.loads(run("files", "get", file_id, "-o", out, "--json").out)
    assert told == {"id": file_id, "output": str(out)}
    assert run("files", "get", file_id, "--json").code == 2
