"""The two looks at a line agree, and say nothing of a good one."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchd.engine.linecheck import Checked, LineChecker

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

values = st.none() | st.booleans() | st.integers(-9, 9) | st.just("") | st.just("m")
lists = st.lists(st.integers(0, 9) | st.just("x"), max_size=3)
bodies = st.dictionaries(
    st.sampled_from(["model", "messages", "stream", "input", "other"]), values | lists
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "custom_id": values | st.text(max_size=5),
        "method": values | st.sampled_from(["POST", "GET"]),
        "url": values | st.sampled_from([CHAT, EMBEDDINGS]),
        "body": values | lists | bodies,
        "more": values,
    },
)


def check(line: object, endpoint: str = CHAT, models: frozenset[str] | None = None) -> Checked:
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    return LineChecker(endpoint, models).check(text, 7)


def request(endpoint: str = CHAT, **body: object) -> dict[str, object]:
    full: dict[str, object] = {"model": "m", "messages": [], **body}
    return {"custom_id": "a", "method": "POST", "url": endpoint, "body": full}


def test_a_good_line_is_told_by_its_id_and_model() -> None:
    assert check(request()) == Checked("a", "m", 0, [])


def test_a_good_line_is_signed_if_wanted_and_a_faulty_one_never() -> None:
    texts = [json.dumps(request(messages=[1, end])).encode() for end in (2, 3)]
    signing = LineChecker(CHAT, None, signs=True)
    first, second = (signing.check(text, 7).signature for text in texts)
    assert first == second != 0
    assert LineChecker(CHAT, None).check(texts[0], 7).signature == 0
    assert signing.check(texts[0].replace(b"POST", b"PUT"), 7).signature == 0


def test_unknown_fields_are_let_be() -> None:
    assert check({**request(), "priority": 1, "extra": {"a": [1]}}).errors == []


@given(line=fields | values | lists)
def test_a_line_without_errors_is_one_that_can_be_sent(line: object) -> None:
    checked = check(line)
    assert all(error.line == 7 for error in checked.errors)
    if checked.errors:
        return
    request_ = msgspec.convert(line, dict[str, object])
    assert isinstance(request_["custom_id"], str)
    assert request_["custom_id"] != ""
    assert (request_["method"], request_["url"]) == ("POST", CHAT)
    body = msgspec.convert(request_["body"], dict[str, object])
    assert body["model"] == checked.model == "m"
    assert "messages" in body
    assert body.get("stream") in (None, False)


@given(text=st.binary(max_size=60))
def test_any_bytes_are_judged(text: bytes) -> None:
    checked = check(text)
    assert checked.errors != []


@given(at=st.integers(0, 200), byte=st.binary(min_size=1, max_size=1))
def test_a_good_line_with_one_byte_changed_is_judged_the_same_twice(at: int, byte: bytes) -> None:
    text = bytearray(json.dumps(request(other={"a": [1, None, True]})).encode())
    text[at % len(text)] = byte[0]
    assert check(bytes(text)) == check(bytes(text))


def test_the_last_of_several_equal_keys_counts() -> None:
    doubled = json.dumps(request()).replace('"model": "m"', '"model": "x", "model": "m"')
    assert check(doubled.encode()) == Checked("a", "m", 0, [])
    streaming = json.dumps(request(stream=False))[:-2] + ', "stream": true}}'
    assert [error.code for error in check(streaming.encode()).errors] == ["streaming_unsupported"]


@pytest.mark.parametrize("models", [frozenset({"m"}), None])
def test_a_model_in_the_list_or_no_list_at_all_is_good(models: frozenset[str] | None) -> None:
    assert check(request(), models=models).errors == []


def test_a_model_outside_the_list_is_told() -> None:
    [error] = check(request(), models=frozenset({"other"})).errors
    assert (error.code, error.param) == ("model_not_found", "body.model")


def test_a_faulty_line_keeps_its_id_for_the_search_for_duplicates() -> None:
    faulty = {**request(), "method": "GET"}
    assert check(faulty).custom_id == "a"
    assert check({**request(), "custom_id": 5}).custom_id is None
    assert check(b"x").custom_id is None


INPUTS: list[tuple[object, int]] = [
    ("text", 1),
    ([], 0),
    (["a"], 1),
    (["a", "b", "c"], 3),
    ([1, 2, 3], 1),
    ([[1, 2], [3]], 2),
    ([[]], 1),
    (None, 1),
    ({"a": 1}, 1),
]


@pytest.mark.parametrize(("given_", "counted"), INPUTS)
def test_embedding_inputs_are_counted(given_: object, counted: int) -> None:
    assert check(request(EMBEDDINGS, input=given_), EMBEDDINGS).inputs == counted


def test_a_request_without_input_counts_one() -> None:
    assert check(request(EMBEDDINGS), EMBEDDINGS).inputs == 1
