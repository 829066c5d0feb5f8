"""A file is judged in one pass; the index finds each of its requests again."""

import json
import tracemalloc
from pathlib import Path

import msgspec
import pytest

from batchd.engine.inspection import MAX_ERRORS, Inspection, Places, Rules, Stopped, Verdict
from batchd.grouping import open_order
from batchd.jsonl import IndexedLines
from batchd.wire.lines import request_line

CHAT = "/v1/chat/completions"
RULES = Rules(endpoint=CHAT, max_requests=50_000, max_embedding_inputs=50_000, mixed_models=True)


def line(custom_id: str, model: str = "m", messages: list[object] | None = None) -> bytes:
    body: dict[str, object] = {"model": model, "messages": messages or []}
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
    ).encode()


def places(folder: Path) -> Places:
    return Places(
        input=folder / "input",
        index=folder / "index",
        order=folder / "order",
        scratch=folder / "scratch",
    )


def inspection(folder: Path, content: bytes, rules: Rules = RULES) -> Inspection:
    (folder / "input").write_bytes(content)
    return Inspection(places(folder), rules, None)


def judge(folder: Path, content: bytes, rules: Rules = RULES) -> Verdict:
    return inspection(folder, content, rules).judge()


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \t\n", b"\r\n\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_the_index_finds_each_request(tmp_path: Path, bom: bytes, end: bytes, last: bool) -> None:
    content = bom + end.join(line(name) for name in "abc") + end * last
    assert judge(tmp_path, content) == Verdict(3, "m", [])
    indexed = IndexedLines(tmp_path / "input", tmp_path / "index")
    try:
        assert [indexed.read(at) for at in range(len(indexed))] == [line(name) for name in "abc"]
        assert [request_line(at, indexed.read(at)).custom_id for at in range(3)] == list("abc")
    finally:
        indexed.close()


def test_one_model_of_all_lines_is_told_and_several_are_not(tmp_path: Path) -> None:
    assert judge(tmp_path, line("a") + b"\n" + line("b")).model == "m"
    assert judge(tmp_path, line("a") + b"\n" + line("b", "n")).model is None


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf\r\n", b" \t\n\n"])
def test_a_file_of_nothing_has_no_requests(tmp_path: Path, content: bytes) -> None:
    verdict = judge(tmp_path, content)
    assert (verdict.total, [error.code for error in verdict.errors]) == (0, ["empty_file"])


def test_faults_of_the_file_come_first_then_lines_in_order(tmp_path: Path) -> None:
    rules = Rules(endpoint=CHAT, max_requests=4, max_embedding_inputs=1, mixed_models=True)
    content = b"\n".join([line("a"), line("a"), b"x", line("a"), line("b"), b"x"])
    errors = judge(tmp_path, content, rules).errors
    assert [(error.code, error.line) for error in errors] == [
        ("too_many_tasks", None),
        ("duplicate_custom_id", 2),
        ("invalid_json_line", 3),
        ("duplicate_custom_id", 4),
    ]


def test_a_million_faults_are_told_by_the_first_hundred(tmp_path: Path) -> None:
    errors = judge(tmp_path, b"{}\n" * 1_000).errors
    assert len(errors) == MAX_ERRORS == 100
    assert errors[-1].line == 25


def test_an_inspection_can_be_stopped(tmp_path: Path) -> None:
    stopped = inspection(tmp_path, (line("a") + b"\n") * 1_000)
    stopped.stop()
    with pytest.raises(Stopped):
        stopped.judge()


def ordered(folder: Path, total: int, model: str | None) -> list[int]:
    order = open_order(folder / "order", total=total, model=model)
    assert order is not None
    return list(order.read(0, total))


def test_lines_with_one_beginning_are_side_by_side_in_the_order(tmp_path: Path) -> None:
    content = b"\n".join(line(name, messages=[name in "bd", name]) for name in "abcd")
    assert judge(tmp_path, content) == Verdict(4, "m", [])
    assert ordered(tmp_path, 4, "m") == [0, 2, 1, 3]


def test_an_order_as_in_the_input_is_none_for_one_model(tmp_path: Path) -> None:
    rules = msgspec.structs.replace(RULES, order="input")
    content = [line(name, messages=[name in "bd", name]) for name in "abcd"]
    judge(tmp_path, b"\n".join(content))
    judge(tmp_path, b"\n".join(content), rules)
    assert not (tmp_path / "order").exists()
    assert judge(tmp_path, b"\n".join([*content, line("e", "n"), line("f")]), rules).model is None
    assert ordered(tmp_path, 6, None) == [0, 1, 2, 3, 5, 4]


def test_a_faulty_file_gets_no_order(tmp_path: Path) -> None:
    judge(tmp_path, line("a") + b"\n" + line("b", "n") + b"\nx")
    assert not (tmp_path / "order").exists()


def test_a_file_with_too_many_names_of_models_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.engine.inspection.MAX_MODELS", 2)
    content = [line("a"), line("b", "n"), line("c", "m"), line("d", "o")]
    assert judge(tmp_path, b"\n".join(content[:3])).errors == []
    (error,) = judge(tmp_path, b"\n".join(content)).errors
    assert (error.code, error.param, error.line) == ("invalid_request", "body.model", None)


def test_nothing_is_left_beside_what_an_inspection_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchd.gathering._IN_MEMORY", 1)
    judge(tmp_path, b"\n".join([line("a"), line("b", "n")]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "input", "order"]


def test_an_inspection_can_be_made_again(tmp_path: Path) -> None:
    content = line("a") + b"\n" + line("b")
    assert judge(tmp_path, content) == judge(tmp_path, content) == Verdict(2, "m", [])
    assert (tmp_path / "index").stat().st_size == 32


def test_ids_that_a_typed_look_does_not_find_again_end_no_inspection(tmp_path: Path) -> None:
    twice = b'{"custom_id":5,"custom_id":"a","method":"POST","url":"/v1/chat/completions"}\n'
    errors = judge(tmp_path, twice + twice).errors
    assert {error.line for error in errors} == {1, 2}


@pytest.mark.parametrize("depth", [101, 986, 5000])
def test_lines_nested_too_deep_are_refused_and_end_no_inspection(
    tmp_path: Path, depth: int
) -> None:
    nested = b"[" * depth + b"]" * depth
    deep = line("a").replace(b'"messages": []', b'"messages": ' + nested)
    errors = judge(tmp_path, deep + b"\n" + deep).errors
    assert [(error.code, error.line) for error in errors] == [
        ("invalid_json_line", 1),
        ("invalid_json_line", 2),
    ]


def test_brackets_in_strings_are_no_nesting(tmp_path: Path) -> None:
    text = json.dumps('[{"' * 300)
    prompt = line("a").replace(b'"messages": []', b'"messages": [' + text.encode() + b"]")
    assert judge(tmp_path, prompt).errors == []


@pytest.mark.parametrize(
    "text",
    [b'"' + rb"\"" * 100_000, b'"' + b"\\\\" * 100_000, b'"x' * 100_000, b'"' + b"x" * 30_000_000],
    ids=["escaped quotes", "escapes", "quotes", "long"],
)
@pytest.mark.parametrize("end", [b"", b'"'], ids=["open", "closed"])
def test_no_text_holds_an_inspection_up(tmp_path: Path, text: bytes, end: bytes) -> None:
    """A broken line with many brackets and quotes took time by the square of its length."""
    broken = line("a").replace(b'"messages": []', b'"messages": ' + b"[" * 100 + text + end)
    errors = judge(tmp_path, line("b") + b"\n" + broken).errors
    assert [(error.code, error.line) for error in errors] == [("invalid_json_line", 2)]


@pytest.mark.parametrize(
    ("endpoint", "body", "codes"),
    [
        (CHAT, b'"messages":["%b"%b]' % (b"x" * 3_000_000, b",[]" * 200), []),
        (CHAT, b'"messages":[1%b]' % (b",1" * 2_000_000), []),
        (CHAT, b'"messages":[],"stream":true,"x":[1%b]' % (b",[]" * 1_000_000), ["stream"]),
        ("/v1/embeddings", b'"input":["a"%b]' % (b',""' * 1_500_000), []),
    ],
    ids=["a long text", "messages", "a faulty line", "inputs"],
)
def test_a_large_line_takes_little_more_memory_than_itself(
    tmp_path: Path, endpoint: str, body: bytes, codes: list[str]
) -> None:
    text = b'{"custom_id":"a","method":"POST","url":"%b","body":{"model":"m",%b}}' % (
        endpoint.encode(),
        body,
    )
    rules = msgspec.structs.replace(RULES, endpoint=endpoint, max_embedding_inputs=2_000_000)
    tracemalloc.start()
    try:
        errors = judge(tmp_path, text, rules).errors
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [error.param for error in errors] == [f"body.{code}" for code in codes]
    assert most < 8 * len(text)


def test_names_of_any_length_are_cut_in_messages(tmp_path: Path) -> None:
    long = "a" * 100_000
    errors = judge(tmp_path, line(long) + b"\n" + line(long)).errors
    assert [error.code for error in errors] == ["duplicate_custom_id"]
    assert len(errors[0].message) < 500
