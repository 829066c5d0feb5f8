"""Equal beginnings of prompts have equal signatures, whatever comes behind."""

import json

import pytest

from batchd.prefix import decode, signature

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

SYSTEM = {"role": "system", "content": "Answer in one word."}
DOCUMENT = "é" * 300 + "\u2028 and so on. " * 100
TOOLS: list[object] = [{"type": "function", "function": {"name": "look"}}]


def of(url: str = CHAT, /, **body: object) -> tuple[int, int]:
    """Both levels of the signature of one line."""
    line = json.dumps({"url": url, "body": {"model": "m", **body}}, ensure_ascii=False)
    request = decode(line.encode())
    signed = signature(request.body, request.url)
    return signed >> 16, signed & 0xFFFF


def user(text: str) -> dict[str, object]:
    return {"role": "user", "content": text}


def chat(*texts: str, tools: list[object] | None = None) -> tuple[int, int]:
    """Of a system prompt and what the user says."""
    body = {} if tools is None else {"tools": tools}
    return of(messages=[SYSTEM, *map(user, texts)], **body)


def test_lines_with_one_system_prompt_have_one_level_1() -> None:
    assert chat("a") == chat("b") == chat("a", "b", "c")
    assert chat("a")[0] != 0
    assert chat("a")[1] == 0


def test_another_system_prompt_is_another_level_1() -> None:
    other = {**SYSTEM, "content": "Answer in two words."}
    assert of(messages=[other, user("a")])[0] != chat("a")[0]


def test_a_first_message_of_any_length_counts_whole() -> None:
    long = "x" * 5_000
    first, second = (of(messages=[user(long + end), user("a")]) for end in ("", "y"))
    assert first[0] != second[0]


def test_tools_stand_before_the_first_message() -> None:
    assert chat("a", tools=TOOLS) == chat("b", tools=TOOLS)
    assert chat("a", tools=TOOLS)[0] != chat("a")[0]
    assert chat("a", tools=TOOLS)[0] != chat("a", tools=[*TOOLS, None])[0]


def test_questions_about_one_document_have_one_level_2() -> None:
    assert chat(DOCUMENT + "who?") == chat(DOCUMENT + "what?")
    assert chat(DOCUMENT + "who?")[1] != 0
    assert chat(DOCUMENT + "who?")[0] == chat("é" + DOCUMENT)[0]
    assert chat(DOCUMENT + "who?")[1] != chat("é" + DOCUMENT)[1]


def test_a_level_2_goes_over_several_messages() -> None:
    turns = ["x" * 400, "y" * 400, "z" * 400]
    assert chat(*turns, "a") == chat(*turns, "b")
    assert chat(*turns, "a")[1] != 0
    assert chat(*turns)[1] != chat(turns[1], turns[0], turns[2])[1]


@pytest.mark.parametrize(("size", "level_2"), [(1023, False), (1024, True)])
def test_a_level_2_is_of_a_whole_kilobyte_or_none(size: int, level_2: bool) -> None:
    empty = json.dumps(user(""))
    assert (chat("x" * (size - len(empty)))[1] != 0) is level_2


def test_a_single_message_is_told_by_its_beginning() -> None:
    begun = "x" * 256
    first, second = (of(messages=[user(begun + end)]) for end in ("", "y" * 600))
    assert first == second
    assert first[0] != 0
    assert of(messages=[user("short")]) == (0, 0)


def test_a_single_message_with_a_document_has_a_level_2() -> None:
    first, second = (of(messages=[user(DOCUMENT + end)]) for end in "ab")
    assert first == second
    assert 0 not in first


def test_tools_and_a_single_message_are_one_beginning() -> None:
    tools: list[object] = [*TOOLS, {"description": "x" * 200}]
    assert of(messages=[user("a")], tools=tools)[0] == of(messages=[user("b")], tools=tools)[0] != 0


def test_a_completion_is_told_by_the_beginning_of_its_text() -> None:
    begun = "x" * 300
    assert of(COMPLETIONS, prompt=begun)[0] == of(COMPLETIONS, prompt=begun + "y")[0] != 0
    assert of(COMPLETIONS, prompt="y" + begun)[0] != of(COMPLETIONS, prompt=begun)[0]
    assert of(COMPLETIONS, prompt="short") == (0, 0)
    assert of(COMPLETIONS, prompt=DOCUMENT + "a") == of(COMPLETIONS, prompt=DOCUMENT + "b")


def test_embeddings_share_nothing() -> None:
    assert of(EMBEDDINGS, input="x" * 5_000) == (0, 0)


@pytest.mark.parametrize("messages", [None, "x" * 500, {"a": 1}, [], 5])
def test_messages_that_are_none_have_no_signature(messages: object) -> None:
    assert of(messages=messages) == (0, 0)


def test_a_body_without_a_prompt_has_no_signature() -> None:
    assert of() == of(COMPLETIONS) == (0, 0)


def test_a_huge_line_is_told_by_its_beginning() -> None:
    huge = "x" * 5_000_000
    assert chat(huge + "a") == chat(huge + "b")
    assert of(messages=[user(huge + "a"), SYSTEM]) != of(messages=[user(huge + "b"), SYSTEM])


def test_a_signature_is_the_same_in_every_process() -> None:
    assert chat(DOCUMENT) == (62800, 3241)


def test_a_line_that_is_not_what_it_was_is_told() -> None:
    assert decode(b'{"url":"u","body":{"model":"m"}}').body.model == "m"
    with pytest.raises(ValueError, match="model"):
        decode(b'{"url":"u","body":{}}')
