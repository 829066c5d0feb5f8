import json

from batchd.cli.prompts import ENDPOINT, index_of, prompt, request_line


def test_the_lines_are_a_valid_input() -> None:
    lines = [json.loads(request_line(index)) for index in range(200)]
    assert len({line["custom_id"] for line in lines}) == 200
    assert {(line["method"], line["url"]) for line in lines} == {("POST", ENDPOINT)}
    assert all(line["body"]["max_tokens"] == 48 for line in lines)


def test_the_prompts_differ_and_are_found_again_by_their_names() -> None:
    assert len({prompt(index) for index in range(96)}) == 96
    for index in (0, 23, 95):
        assert index_of(json.loads(request_line(index))["custom_id"]) == index
